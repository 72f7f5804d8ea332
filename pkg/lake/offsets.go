package lake

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/apache/iceberg-go"
	"github.com/apache/iceberg-go/table"
)

// Keys under which a table keeps where it stands, in its properties and in the summary of each snapshot. The topic may
// hold dots, the partition cannot.
const (
	keyOffset     = "millrace.offsets."      // + topic.partition: the next offset
	keyCounts     = "millrace.counts."       // + topic.partition: Counts since the table began, as JSON
	keyCluster    = "millrace.cluster."      // + topic: the Kafka cluster's id
	keyTopic      = "millrace.topic."        // + topic: the topic's id
	keyFormer     = "millrace.former."       // + topic: []Former, as JSON
	keyRepeats    = "millrace.repeats."      // + topic.partition: rows that compaction dropped as repeats
	keyDeleted    = "millrace.deleted."      // + topic.partition: rows that Delete removed
	keySpan       = "millrace.span."         // + topic.partition: Counts of this commit, as JSON; in the summary only
	keyCommit     = "millrace.commit"        // this commit's own id; in the summary only
	keyAdopted    = "millrace.adopted"       // why an operator's decision was made; in the summary only
	keyErased     = "millrace.deleted"       // why rows were deleted; in the summary only
	keyErasedRows = "millrace.deleted-rows"  // how many; in the summary only
	keyThrough    = "millrace.valid-through" // RFC 3339
	keyRenamed    = "millrace.renamed"       // JSON: column to its former names
)

// Reasons for which a partition stops until an operator decides.
var (
	// ErrRolledBack says that the table's snapshots and its offsets disagree: someone rolled it back.
	ErrRolledBack = errors.New("rolled_back")
	// ErrOtherSource says that the table was filled from another cluster, or from a topic since deleted and made anew.
	ErrOtherSource = errors.New("other_source")
)

// Source is where a topic's offsets come from. Offsets of another cluster or topic id mean nothing here.
type Source struct {
	Cluster string
	TopicID string
}

// Counts is the account of one source partition: rows + dead + skipped = next − first.
type Counts struct {
	First   int64 `json:"first"`
	Next    int64 `json:"next"`
	Rows    int64 `json:"rows"`
	Dead    int64 `json:"dead,omitempty"`    // went to the dead letters
	Skipped int64 `json:"skipped,omitempty"` // control markers, aborted records, compaction holes
	// Replayed is how many of the rows are of dead letters that were published again; the offset that each had first is
	// counted under Dead.
	Replayed int64 `json:"replayed,omitempty"`
	Through  int64 `json:"through,omitempty"` // append time of the last record, microseconds
}

// Add gives the account of two adjoining ranges.
func (c Counts) Add(d Counts) Counts {
	return Counts{
		First: c.First, Next: d.Next, Rows: c.Rows + d.Rows, Dead: c.Dead + d.Dead,
		Skipped: c.Skipped + d.Skipped, Replayed: c.Replayed + d.Replayed, Through: max(c.Through, d.Through),
	}
}

// Position is where a table stands with one source partition.
type Position struct {
	Next   int64
	Counts Counts
	Err    error // ErrRolledBack
}

// Positions is where a table stands with one topic.
type Positions struct {
	Source     Source // empty where nothing of the topic is in the table
	Partitions map[int32]Position
}

// Check says whether the table's offsets are those of the given source.
func (p Positions) Check(s Source) error {
	if p.Source == (Source{}) || p.Source == s {
		return nil
	}
	return fmt.Errorf("%w: the table was filled from cluster %s, topic id %s; this is cluster %s, topic id %s",
		ErrOtherSource, p.Source.Cluster, p.Source.TopicID, s.Cluster, s.TopicID)
}

func partitionKey(prefix, topic string, partition int32) string {
	return prefix + topic + "." + strconv.FormatInt(int64(partition), 10)
}

// positions reads where the table stands with a topic, from its properties, and compares with the newest snapshot of
// the current ancestry that says so too. Snapshots by others (compaction by Spark) say nothing of offsets and are
// passed over; where expiry has left none that does, the properties stand alone.
func positions(meta table.Metadata, topic string) (Positions, error) {
	props := meta.Properties()
	p := Positions{
		Source:     Source{Cluster: props[keyCluster+topic], TopicID: props[keyTopic+topic]},
		Partitions: map[int32]Position{},
	}
	summary, complete := newestSummary(meta)
	for key, value := range props {
		partition, ok := partitionOf(key, topic)
		if !ok {
			continue
		}
		next, err := strconv.ParseInt(value, 10, 64)
		if err != nil {
			return p, fmt.Errorf("reading table property %s: %w", key, err)
		}
		pos := Position{Next: next}
		if c := props[partitionKey(keyCounts, topic, partition)]; c != "" {
			if err := json.Unmarshal([]byte(c), &pos.Counts); err != nil {
				return p, fmt.Errorf("reading table property %s: %w", partitionKey(keyCounts, topic, partition), err)
			}
		}
		if seen, ok := summary[key]; (ok || complete) && seen != value {
			pos.Err = fmt.Errorf("%w: the table's property says that offset %s is next, its current snapshot's history says %q",
				ErrRolledBack, value, seen)
		}
		for _, prefix := range []string{keyRepeats, keyDeleted} {
			key := partitionKey(prefix, topic, partition)
			if seen, ok := summary[key]; pos.Err == nil && (ok || complete) && seen != props[key] {
				pos.Err = fmt.Errorf("%w: the table's property %s says %q, its current snapshot's history says %q", ErrRolledBack, key, props[key], seen)
			}
		}
		p.Partitions[partition] = pos
	}
	return p, nil
}

func partitionOf(key, topic string) (int32, bool) {
	rest, ok := strings.CutPrefix(key, keyOffset+topic+".")
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseInt(rest, 10, 32)
	return int32(n), err == nil
}

// newestSummary gives the summary of the newest snapshot on main's ancestry that was committed by us, each of which
// holds all offsets of the table. complete says that what it gives is all there ever was: such a snapshot, or an
// ancestry known to its root that has none.
func newestSummary(meta table.Metadata) (summary iceberg.Properties, complete bool) {
	for s := range ancestry(meta) {
		if s.Summary != nil && s.Summary.Properties[keyCommit] != "" {
			return s.Summary.Properties, true
		}
		if s.ParentSnapshotID == nil {
			return nil, true
		}
	}
	return nil, meta.CurrentSnapshot() == nil
}

// ancestry walks from main's current snapshot to the oldest ancestor that is still known.
func ancestry(meta table.Metadata) func(func(*table.Snapshot) bool) {
	return func(yield func(*table.Snapshot) bool) {
		for s := meta.CurrentSnapshot(); s != nil; {
			if !yield(s) || s.ParentSnapshotID == nil {
				return
			}
			s = meta.SnapshotByID(*s.ParentSnapshotID)
		}
	}
}
