package lake

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/apache/iceberg-go"
	"github.com/apache/iceberg-go/table"
)

// Log is a topic as Kafka has it now.
type Log struct {
	Source     Source
	Partitions map[int32]Bounds
}

// Bounds are the first offset that a partition still has, and the one that the next record gets.
type Bounds struct{ Start, End int64 }

// Former is the account of a log that the table was filled from before an operator decided for another. Its rows are
// still there, under offsets that the present log may have too.
type Former struct {
	Cluster    string           `json:"cluster"`
	TopicID    string           `json:"topic_id"`
	Partitions map[int32]Counts `json:"partitions"`
}

// States of a partition in an Adoption.
const (
	AsItIs    = ""           // goes on by itself
	BeyondEnd = "beyond_end" // the table stands past the log's end: the log lost records
	// and the texts of ErrRolledBack and ErrOtherSource
)

// An Adoption is an operator's decision that a table goes on from a log as it is now: made out by Table.Adoption, shown,
// and then made by Table.Adopt, or not.
type Adoption struct {
	Topic        string
	Table, Kafka Source
	FromEnd      bool // of another log only the records to come are wanted
	Partitions   []AdoptedPartition

	log   Log
	after iceberg.Properties // where the table would stand
}

// AdoptedPartition is where one partition stands, and from where it would go on. -1 is unknown.
type AdoptedPartition struct {
	Partition  int32
	State      string // AsItIs, BeyondEnd or the text of ErrRolledBack or ErrOtherSource
	Next       int64  // as the table's properties say
	History    int64  // as the newest snapshot of the current history says
	Start, End int64  // of the log
	From       int64  // where it would go on
}

// Needed says whether any partition waits for the decision.
func (a *Adoption) Needed() bool {
	return slices.ContainsFunc(a.Partitions, func(p AdoptedPartition) bool { return p.State != AsItIs })
}

// Adoption makes out what accepting a log would change, on the state last read.
func (t *Table) Adoption(topic string, log Log, fromEnd bool) (*Adoption, error) {
	a, err := adoption(t.state().Metadata(), topic, log, fromEnd)
	if err != nil {
		return nil, fmt.Errorf("comparing table %s with topic %s: %w", t.name, topic, err)
	}
	return a, nil
}

// Adopt makes the decision, in one commit that is pinned to the state on which it was made out: ErrLost where the table
// has changed since. The reason stays in the snapshot's summary.
func (t *Table) Adopt(ctx context.Context, a *Adoption, reason string) error {
	if strings.TrimSpace(reason) == "" {
		return fmt.Errorf("adopting topic %s for table %s: no reason is given", a.Topic, t.name)
	}
	return t.Commit(ctx, &Commit{change: &adopt{a, reason}})
}

// adoption is pure: the same metadata and log give the same decision.
func adoption(meta table.Metadata, topic string, log Log, fromEnd bool) (*Adoption, error) {
	have, err := positions(meta, topic)
	if err != nil {
		return nil, err
	}
	a := &Adoption{Topic: topic, Table: have.Source, Kafka: log.Source, FromEnd: fromEnd, log: log}
	a.after = offsetsOf(meta.Properties())
	summary, _ := newestSummary(meta)
	rolledBack := map[int32]bool{}
	for p, pos := range have.Partitions {
		rolledBack[p] = pos.Err != nil
	}
	if slices.Contains(slices.Collect(maps.Values(rolledBack)), true) {
		a.after = offsetsOf(summary)
	}
	a.list(have, summary, rolledBack)
	if err := a.accept(); err != nil {
		return nil, err
	}
	return a, nil
}

// list puts the partitions of the table and of the log side by side.
func (a *Adoption) list(have Positions, summary iceberg.Properties, rolledBack map[int32]bool) {
	all := map[int32]bool{}
	for p := range have.Partitions {
		all[p] = true
	}
	for p := range a.log.Partitions {
		all[p] = true
	}
	for _, p := range slices.Sorted(maps.Keys(all)) {
		row := AdoptedPartition{Partition: p, Next: -1, Start: -1, End: -1, From: -1}
		if pos, ok := have.Partitions[p]; ok {
			row.Next = pos.Next
		}
		row.History = offsetIn(summary, a.Topic, p)
		if rolledBack[p] {
			row.State = ErrRolledBack.Error()
		}
		if b, ok := a.log.Partitions[p]; ok {
			row.Start, row.End = b.Start, b.End
		}
		a.Partitions = append(a.Partitions, row)
	}
}

func offsetIn(props iceberg.Properties, topic string, p int32) int64 {
	n, err := strconv.ParseInt(props[partitionKey(keyOffset, topic, p)], 10, 64)
	if err != nil {
		return -1
	}
	return n
}

// accept works out where each partition goes on, in a.after, which is where the table's history says that it stands.
func (a *Adoption) accept() error {
	source := Source{Cluster: a.after[keyCluster+a.Topic], TopicID: a.after[keyTopic+a.Topic]}
	other := source != (Source{}) && source != a.Kafka
	gone := Former{Cluster: source.Cluster, TopicID: source.TopicID, Partitions: map[int32]Counts{}}
	for i := range a.Partitions {
		p := &a.Partitions[i]
		p.From = offsetIn(a.after, a.Topic, p.Partition)
		switch {
		case other:
			p.State = cmp.Or(p.State, ErrOtherSource.Error())
			if err := a.leave(&gone, p.Partition); err != nil {
				return err
			}
			if p.From = -1; p.End >= 0 {
				a.begin(p, p.Start)
			}
		case p.End >= 0 && p.From > p.End:
			p.State = cmp.Or(p.State, BeyondEnd)
			if err := a.leave(&gone, p.Partition); err != nil {
				return err
			}
			a.begin(p, p.End)
		}
	}
	if other {
		a.after[keyCluster+a.Topic], a.after[keyTopic+a.Topic] = a.Kafka.Cluster, a.Kafka.TopicID
	}
	return a.remember(gone)
}

// leave takes a partition's account out of the present ones.
func (a *Adoption) leave(gone *Former, p int32) error {
	key := partitionKey(keyCounts, a.Topic, p)
	if text := a.after[key]; text != "" {
		var c Counts
		if err := json.Unmarshal([]byte(text), &c); err != nil {
			return fmt.Errorf("reading table property %s: %w", key, err)
		}
		if c.Next > c.First {
			gone.Partitions[p] = c
		}
	}
	delete(a.after, key)
	delete(a.after, partitionKey(keyOffset, a.Topic, p))
	return nil
}

// begin starts a new account.
func (a *Adoption) begin(p *AdoptedPartition, from int64) {
	if a.FromEnd {
		from = p.End
	}
	p.From = from
	a.after[partitionKey(keyOffset, a.Topic, p.Partition)] = strconv.FormatInt(from, 10)
	a.after[partitionKey(keyCounts, a.Topic, p.Partition)] = fmt.Sprintf(`{"first":%d,"next":%d,"rows":0}`, from, from)
}

func (a *Adoption) remember(gone Former) error {
	if len(gone.Partitions) == 0 {
		return nil
	}
	all, err := formerIn(a.after, a.Topic)
	if err != nil {
		return err
	}
	text, err := json.Marshal(append(all, gone))
	if err != nil {
		return err
	}
	a.after[keyFormer+a.Topic] = string(text)
	return nil
}

// formerIn reads the accounts of the logs before the present one.
func formerIn(props iceberg.Properties, topic string) ([]Former, error) {
	var all []Former
	if text := props[keyFormer+topic]; text != "" {
		if err := json.Unmarshal([]byte(text), &all); err != nil {
			return nil, fmt.Errorf("reading table property %s: %w", keyFormer+topic, err)
		}
	}
	return all, nil
}

// adopt is the commit of an Adoption.
type adopt struct {
	*Adoption
	reason string
}

// ErrNothingToAdopt says that no partition waits for a decision.
var ErrNothingToAdopt = errors.New("no partition waits for a decision")

// check implements change.
func (a *adopt) check(meta table.Metadata) error {
	now, err := adoption(meta, a.Topic, a.log, a.FromEnd)
	switch {
	case err != nil:
		return err
	case !now.Needed():
		return fmt.Errorf("adopting topic %s: %w", a.Topic, ErrNothingToAdopt)
	case !maps.Equal(now.after, a.after) || !slices.Equal(now.Partitions, a.Partitions):
		return fmt.Errorf("adopting topic %s: %w; look again, and decide again", a.Topic, ErrLost)
	}
	return nil
}

// stage implements change.
func (a *adopt) stage(ctx context.Context, base *table.Table, id string) (*table.Transaction, error) {
	props, summary := maps.Clone(a.after), maps.Clone(a.after)
	var gone []string
	for key := range base.Properties() {
		if _, stays := props[key]; !stays && (isOffsetKey(key) || key == keyThrough) {
			gone = append(gone, key)
		}
	}
	if through, ok := validThrough(nil, a.after); ok {
		props[keyThrough], summary[keyThrough] = through, through
		gone = slices.DeleteFunc(gone, func(key string) bool { return key == keyThrough })
	}
	slices.Sort(gone)
	summary[keyCommit], summary[keyAdopted] = id, a.reason
	tx := base.NewTransaction()
	if err := tx.AssertRefSnapshotID(""); err != nil {
		return nil, err
	}
	if err := tx.SetProperties(props); err != nil {
		return nil, err
	}
	if len(gone) > 0 {
		if err := tx.RemoveProperties(gone); err != nil {
			return nil, err
		}
	}
	return tx, tx.AddFiles(ctx, nil, summary, false)
}
