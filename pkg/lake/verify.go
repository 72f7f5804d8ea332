package lake

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/apache/iceberg-go"
	iceio "github.com/apache/iceberg-go/io"
	"github.com/apache/iceberg-go/table"
	"github.com/parquet-go/parquet-go"

	"github.com/millrace/millrace/pkg/schema"
)

// Verification is what the rows of one snapshot say against the table's own account.
type Verification struct {
	Table      string              `json:"table"`
	Snapshot   int64               `json:"snapshot,omitempty"`
	Files      int                 `json:"files"`
	Rows       int64               `json:"rows"`
	Partitions []VerifiedPartition `json:"partitions"`
}

// OK says that every offset is accounted for, once.
func (v *Verification) OK() bool {
	return !slices.ContainsFunc(v.Partitions, func(p VerifiedPartition) bool { return !p.OK() })
}

// VerifiedPartition is the account of one source partition beside its rows: rows + dead + skipped = next − first.
type VerifiedPartition struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	Counts           // of the present log
	Former    int64  `json:"former,omitempty"`  // offsets of logs before an operator decided for the present one
	Repeats   int64  `json:"repeats,omitempty"` // rows that compaction dropped: the same event is there once
	Deleted   int64  `json:"deleted,omitempty"` // rows that Delete removed
	Found     int64  `json:"found"`             // rows in the table, of all logs
	// Missing counts offsets that have no row and are none of those that are to have none. Which of an account's offsets
	// were dead letters or skipped is not in the table: Absent names all without a row, where some are missing.
	Missing int64  `json:"missing"`
	Absent  Ranges `json:"absent,omitzero"`
	Double  Ranges `json:"double,omitzero"`  // offsets with more rows than logs that had them
	Strange Ranges `json:"strange,omitzero"` // rows at offsets that are in no account
	Surplus int64  `json:"surplus,omitempty"`
	Problem string `json:"problem,omitempty"` // of the account itself
}

// OK says that every offset is accounted for, once.
func (p *VerifiedPartition) OK() bool {
	return p.Missing == 0 && p.Double.Count == 0 && p.Strange.Count == 0 && p.Surplus == 0 && p.Problem == ""
}

// Verify reads where every row of the current snapshot is from and holds it against the account. Its bitmaps take at
// most so many bytes.
func (t *Table) Verify(ctx context.Context, memory int64) (*Verification, error) {
	ice := t.state()
	v, err := verify(ctx, t, ice, memory)
	if err != nil {
		return nil, fmt.Errorf("verifying table %s: %w", t.name, err)
	}
	return v, nil
}

func verify(ctx context.Context, t *Table, ice *table.Table, memory int64) (*Verification, error) {
	accounts, err := accountsOf(ice.Metadata())
	if err != nil {
		return nil, err
	}
	fs, err := t.files(ctx, ice)
	if err != nil {
		return nil, err
	}
	files, err := liveFiles(ctx, ice)
	if err != nil {
		return nil, err
	}
	v := &Verification{Table: t.name, Files: len(files)}
	if s := ice.CurrentSnapshot(); s != nil {
		v.Snapshot = s.SnapshotID
	}
	c := census{accounts: accounts, room: &room{left: memory}}
	for _, f := range files {
		if err := c.read(ctx, fs, f.FilePath()); err != nil {
			return nil, err
		}
	}
	for _, tp := range slices.SortedFunc(maps.Keys(accounts), TopicPartition.Compare) {
		p := accounts[tp].judge()
		v.Rows += p.Found
		v.Partitions = append(v.Partitions, p)
	}
	return v, nil
}

// account is what a table says of one source partition, and what was found.
type account struct {
	VerifiedPartition
	logs       []Counts  // the present one is the last
	layers     []*bitmap // the n-th holds the offsets that at least n+1 rows have
	double     *bitmap
	strange    *bitmap
	rolledBack error
	surplus    int64 // further rows at offsets that are in double or in strange already
}

// accountsOf reads the accounts from a table's properties.
func accountsOf(meta table.Metadata) (map[TopicPartition]*account, error) {
	props, accounts := meta.Properties(), map[TopicPartition]*account{}
	at := func(topic string, p int32) *account {
		tp := TopicPartition{topic, p}
		if accounts[tp] == nil {
			accounts[tp] = &account{VerifiedPartition: VerifiedPartition{Topic: topic, Partition: p}}
		}
		return accounts[tp]
	}
	for key := range props {
		topic, ok := strings.CutPrefix(key, keyCluster)
		if !ok {
			continue
		}
		former, err := formerIn(props, topic)
		if err != nil {
			return nil, err
		}
		for _, f := range former {
			for p, c := range f.Partitions {
				a := at(topic, p)
				a.logs = append(a.logs, c)
				a.Former += c.Next - c.First
			}
		}
		have, err := positions(meta, topic)
		if err != nil {
			return nil, err
		}
		for p, pos := range have.Partitions {
			a := at(topic, p)
			a.Counts = pos.Counts
			a.logs = append(a.logs, pos.Counts)
			switch {
			case pos.Err != nil:
				a.rolledBack, a.Problem = pos.Err, pos.Err.Error()
			case pos.Next != pos.Counts.Next:
				a.Problem = fmt.Sprintf("the table goes on at %d, its account ends at %d", pos.Next, pos.Counts.Next)
			}
		}
	}
	for _, a := range accounts {
		if err := a.complete(props); err != nil {
			return nil, err
		}
	}
	return accounts, nil
}

// complete adds what was removed, and looks whether the account adds up.
func (a *account) complete(props iceberg.Properties) error {
	for _, c := range a.logs {
		if c.Rows+c.Dead+c.Skipped != c.Next-c.First && a.Problem == "" {
			a.Problem = fmt.Sprintf("the account of the offsets %d to %d does not add up: %d rows, %d dead, %d skipped",
				c.First, c.Next, c.Rows, c.Dead, c.Skipped)
		}
	}
	var err, derr error
	tp := TopicPartition{a.Topic, a.Partition}
	a.Repeats, err = countIn(props, keyRepeats, tp)
	a.Deleted, derr = countIn(props, keyDeleted, tp)
	return errors.Join(err, derr)
}

// countIn reads a count of a partition's rows; 0 where there is none.
func countIn(props iceberg.Properties, prefix string, tp TopicPartition) (int64, error) {
	key := partitionKey(prefix, tp.Topic, tp.Partition)
	if props[key] == "" {
		return 0, nil
	}
	n, err := strconv.ParseInt(props[key], 10, 64)
	if err != nil {
		return 0, fmt.Errorf("reading table property %s: %w", key, err)
	}
	return n, nil
}

// add counts a row.
func (a *account) add(o int64, r *room) error {
	a.Found++
	covers := 0
	for _, c := range a.logs {
		if c.First <= o && o < c.Next {
			covers++
		}
	}
	for i := range covers {
		if i == len(a.layers) {
			a.layers = append(a.layers, newBitmap(r))
		}
		if fresh, err := a.layers[i].add(o); fresh || err != nil {
			return err
		}
	}
	odd := &a.double
	if covers == 0 {
		odd = &a.strange
	}
	if *odd == nil {
		*odd = newBitmap(r)
	}
	fresh, err := (*odd).add(o)
	if err == nil && !fresh {
		a.surplus++
	}
	return err
}

// judge says what is missing and what is too much.
func (a *account) judge() VerifiedPartition {
	p := a.VerifiedPartition
	p.Surplus = a.surplus
	if a.double != nil {
		a.double.present(&p.Double)
	}
	if a.strange != nil {
		a.strange.present(&p.Strange)
	}
	edges := map[int64]bool{}
	without := p.Repeats + p.Deleted
	for _, c := range a.logs {
		edges[c.First], edges[c.Next] = true, true
		without += c.Dead + c.Skipped
	}
	cuts := slices.Sorted(maps.Keys(edges))
	for i := range max(len(cuts)-1, 0) {
		covers := 0
		for _, c := range a.logs {
			if c.First <= cuts[i] && cuts[i] < c.Next {
				covers++
			}
		}
		for n := range covers {
			if n < len(a.layers) {
				a.layers[n].absent(cuts[i], cuts[i+1], &p.Absent)
			} else {
				p.Absent.add(cuts[i], cuts[i+1])
			}
		}
	}
	switch d := p.Absent.Count - without; {
	case d > 0:
		p.Missing = d
	default:
		p.Absent = Ranges{}
		p.Surplus -= d // rows at offsets that were counted as dead letters or as skipped
	}
	return p
}

// census goes through the rows.
type census struct {
	accounts map[TopicPartition]*account
	room     *room
	last     *account
}

var sourceColumns = []string{schema.LakeTopic, schema.LakePartition, schema.LakeOffset}

func (c *census) read(ctx context.Context, fs iceio.IO, path string) error {
	return scanColumns(ctx, fs, path, sourceColumns, func(columns [][]parquet.Value) error {
		for i := range columns[0] {
			if err := c.row(columns[0][i].ByteArray(), columns[1][i].Int32(), columns[2][i].Int64()); err != nil {
				return err
			}
		}
		return nil
	})
}

func (c *census) row(topic []byte, partition int32, o int64) error {
	if o < 0 {
		return fmt.Errorf("a row has offset %d", o)
	}
	if c.last == nil || c.last.Partition != partition || c.last.Topic != string(topic) {
		tp := TopicPartition{string(topic), partition}
		if c.accounts[tp] == nil {
			c.accounts[tp] = &account{VerifiedPartition: VerifiedPartition{Topic: tp.Topic, Partition: partition, Problem: "rows without an account"}}
		}
		c.last = c.accounts[tp]
	}
	return c.last.add(o, c.room)
}
