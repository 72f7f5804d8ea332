package lake

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/apache/iceberg-go"
	"github.com/apache/iceberg-go/catalog/rest"
	"github.com/apache/iceberg-go/table"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/millrace/millrace/pkg/failpoint"
)

// ErrReseek says that a partition of a commit no longer starts where the commit does: someone else has advanced it.
// Nothing was committed; the rows come again, from where the table stands now.
var ErrReseek = errors.New("the table has moved on")

// TopicPartition names a source partition.
type TopicPartition struct {
	Topic     string
	Partition int32
}

// A Commit adds files to a table and advances source partitions, in one transaction. It may be tried again, also after
// an error: the same commit takes effect once.
type Commit struct {
	Files   []iceberg.DataFile
	Spans   map[TopicPartition]Counts // First is where the table must stand
	Sources map[string]Source         // by topic
	// Unknown says that an attempt ended without an answer, so that the files may be in the table.
	Unknown   bool
	Conflicts int         // attempts lost to others
	Failed    func(error) // is told of each attempt that failed and comes again, but for conflicts; may be nil
	change    change      // nil where the commit adds files and advances partitions
	id        string
	staged    []string // manifests and manifest lists of attempts that are not known to be in the table
}

// A change is what upkeep does to a table instead.
type change interface {
	// check says why the change will never be made on the table as it is now.
	check(meta table.Metadata) error
	// stage builds the transaction of the commit with this id, pinned as Commit's own is. ErrLost ends the tries.
	stage(ctx context.Context, base *table.Table, id string) (*table.Transaction, error)
}

// ErrLost says that a change of upkeep lost to another: the table is no longer what it was made from.
var ErrLost = errors.New("the table was changed by another meanwhile")

const (
	minPause = 20 * time.Millisecond
	maxPause = 2 * time.Second
)

// Commit makes c durable. It tries until it knows: nil when c is in the table, ErrReseek, ErrRolledBack or
// ErrOtherSource when it never will be, and any other error when ctx ends first.
func (t *Table) Commit(ctx context.Context, c *Commit) error {
	if err := t.acquire(ctx); err != nil {
		return err
	}
	defer t.release()
	first := c.id == ""
	if first {
		id, err := uuid.NewV7()
		if err != nil {
			return fmt.Errorf("naming commit to table %s: %w", t.name, err)
		}
		c.id = id.String()
	}
	err := errFirst
	if !first {
		err = t.Refresh(ctx)
	}
	for pause := minPause; ; pause = min(2*pause, maxPause) {
		if err == nil || errors.Is(err, errFirst) {
			var done bool
			if done, err = t.attempt(ctx, c); done {
				return t.committed(err)
			}
		}
		if c.Failed != nil && !isConflict(err) {
			c.Failed(err)
		}
		if werr := wait(ctx, pause); werr != nil {
			return fmt.Errorf("committing to table %s: %w; last: %w", t.name, werr, err)
		}
		err = t.Refresh(ctx)
	}
}

// errFirst stands for a first attempt, which trusts the state at hand: the pin refuses it if that is stale.
var errFirst = errors.New("not tried yet")

// attempt stages c on the state at hand and submits it. done says that the outcome is known for good.
func (t *Table) attempt(ctx context.Context, c *Commit) (done bool, err error) {
	base := t.state()
	if has(base.Metadata(), c.id) {
		c.staged = nil
		return true, nil
	}
	t.sweep(c)
	if err := c.check(base.Metadata()); err != nil {
		return true, err
	}
	fs, err := t.files(ctx, base)
	if err != nil {
		return false, err
	}
	notes := &staging{WriteFileIO: fs}
	tx, err := c.stage(ctx, notes.table(base, t.cat))
	c.staged = append(c.staged, notes.files()...)
	if err != nil {
		t.sweep(c)
		return errors.Is(err, ErrLost), fmt.Errorf("staging commit: %w", err)
	}
	failpoint.Hit("lake.before_commit")
	_, err = tx.Commit(ctx)
	switch {
	case err == nil:
		failpoint.Hit("lake.after_commit")
		return t.readBack(ctx, c)
	case isConflict(err):
		c.Conflicts++
	default:
		// It may be in or not, and it may still arrive; reading the table tells, now or at the next conflict.
		c.Unknown = true
	}
	return false, err
}

// formatVersion is that of the tables that are made and written here. Version 3 wants row ids that iceberg-go does not give.
const formatVersion = 2

var errVersion = errors.New("the table's format is not one that is written here: another engine upgraded it. Nothing is lost while the " +
	"records are in Kafka; see docs/lake.md, Rows that another engine deletes")

func writable(m table.Metadata) error {
	if v := m.Version(); v != formatVersion {
		return fmt.Errorf("version %d: %w", v, errVersion)
	}
	return nil
}

// readBack looks whether a commit that was told to be in the table is. The hadoop catalog takes a version over from a
// process that was silent for a minute; if that process was only stopped, and goes on, it is told a success of its own.
func (t *Table) readBack(ctx context.Context, c *Commit) (done bool, err error) {
	c.Unknown = true
	if err := t.Refresh(ctx); err != nil {
		return false, err
	}
	if !has(t.state().Metadata(), c.id) {
		return false, errors.New("the catalog took the commit, and the table does not have it")
	}
	c.staged = nil
	return true, nil
}

// Settle ends the tries of a commit: it says whether c is in the table, or removes what the tries have left. An error
// says that it is not known, and that nothing was removed.
func (t *Table) Settle(ctx context.Context, c *Commit) (in bool, err error) {
	if err := t.acquire(ctx); err != nil {
		return false, err
	}
	defer t.release()
	if err := t.Refresh(ctx); err != nil {
		return false, err
	}
	if has(t.state().Metadata(), c.id) {
		return true, nil
	}
	t.sweep(c)
	if c.Unknown {
		return false, fmt.Errorf("settling a commit to table %s: it may still arrive", t.name)
	}
	return false, nil
}

// isConflict says that a commit was refused because the table is not what it was built on. iceberg-go has a typed
// error for a lost race and an untyped one for a requirement that no longer holds; PostgreSQL refuses whoever would break
// its isolation. A server that did not say how it ended may have taken the commit, whatever words it used.
func isConflict(err error) bool {
	if errors.Is(err, rest.ErrCommitStateUnknown) {
		return false
	}
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		return pg.Code == "40001" || pg.Code == "40P01" // serialization failure, deadlock: both undo all of it
	}
	return errors.Is(err, table.ErrCommitFailed) || strings.Contains(strings.ToLower(err.Error()), "requirement failed")
}

// has says whether a commit is in the current history.
func has(meta table.Metadata, id string) bool {
	for s := range ancestry(meta) {
		if s.Summary != nil && s.Summary.Properties[keyCommit] == id {
			return true
		}
	}
	return false
}

// check holds every partition of c against where the table stands.
func (c *Commit) check(meta table.Metadata) error {
	if err := c.fresh(); err != nil {
		return err
	}
	if c.change != nil {
		return c.change.check(meta)
	}
	for topic, source := range c.Sources {
		have, err := positions(meta, topic)
		if err != nil {
			return err
		}
		if err := have.Check(source); err != nil {
			return err
		}
		for tp, span := range c.Spans {
			pos, known := have.Partitions[tp.Partition]
			switch {
			case tp.Topic != topic || !known:
			case pos.Err != nil:
				return fmt.Errorf("committing partition %d of %s: %w", tp.Partition, topic, pos.Err)
			case pos.Next != span.First:
				return fmt.Errorf("committing partition %d of %s from offset %d: %w: it stands at %d",
					tp.Partition, topic, span.First, ErrReseek, pos.Next)
			}
		}
	}
	return nil
}

// stage builds the transaction. It is pinned to the snapshot it is built on, also where there is none yet; without
// the pin a retry would be put on top of another writer's commit unseen. Without rows it makes an empty snapshot.
func (c *Commit) stage(ctx context.Context, base *table.Table) (*table.Transaction, error) {
	if c.change != nil {
		return c.change.stage(ctx, base, c.id)
	}
	if err := writable(base.Metadata()); err != nil {
		return nil, err
	}
	props, summary, err := c.entries(base.Properties())
	if err != nil {
		return nil, err
	}
	tx := base.NewTransaction()
	if err := tx.AssertRefSnapshotID(""); err != nil {
		return nil, err
	}
	if err := tx.SetProperties(props); err != nil {
		return nil, err
	}
	if len(c.Files) == 0 {
		return tx, tx.AddFiles(ctx, nil, summary, false)
	}
	return tx, tx.AddDataFiles(ctx, c.Files, summary, table.WithoutAutoNameMapping(), table.WithoutDuplicateCheck())
}

// entries gives what the commit writes into the table's properties, and into the snapshot's summary, which holds the
// offsets of all partitions, not only those that advance.
func (c *Commit) entries(have iceberg.Properties) (props, summary iceberg.Properties, err error) {
	props, summary = iceberg.Properties{}, offsetsOf(have)
	summary[keyCommit] = c.id
	for topic, s := range c.Sources {
		props[keyCluster+topic], props[keyTopic+topic] = s.Cluster, s.TopicID
	}
	for _, tp := range slices.SortedFunc(maps.Keys(c.Spans), TopicPartition.Compare) {
		span := c.Spans[tp]
		total := span
		countsKey := partitionKey(keyCounts, tp.Topic, tp.Partition)
		if old := have[countsKey]; old != "" {
			var before Counts
			if err := json.Unmarshal([]byte(old), &before); err != nil {
				return nil, nil, fmt.Errorf("reading table property %s: %w", countsKey, err)
			}
			total = before.Add(span)
		}
		if props[countsKey], err = toJSON(total); err != nil {
			return nil, nil, err
		}
		if summary[partitionKey(keySpan, tp.Topic, tp.Partition)], err = toJSON(span); err != nil {
			return nil, nil, err
		}
		props[partitionKey(keyOffset, tp.Topic, tp.Partition)] = strconv.FormatInt(span.Next, 10)
	}
	if through, ok := validThrough(have, props); ok {
		props[keyThrough] = through
	}
	maps.Copy(summary, props)
	return props, summary, nil
}

// offsetsOf picks what a table's properties, or a summary, say of where the table stands.
func offsetsOf(have iceberg.Properties) iceberg.Properties {
	picked := iceberg.Properties{}
	for key, value := range have {
		if isOffsetKey(key) {
			picked[key] = value
		}
	}
	return picked
}

func isOffsetKey(key string) bool {
	for _, prefix := range []string{keyOffset, keyCounts, keyCluster, keyTopic, keyFormer, keyRepeats, keyDeleted} {
		if strings.HasPrefix(key, prefix) {
			return true
		}
	}
	return false
}

func toJSON(c Counts) (string, error) {
	b, err := json.Marshal(c)
	return string(b), err
}

// Compare orders by topic and partition.
func (a TopicPartition) Compare(b TopicPartition) int {
	return cmp.Or(strings.Compare(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition))
}

// validThrough is the oldest of the append times up to which each partition is in the table. A partition that has
// fallen silent holds it back: that is safe, if slow.
func validThrough(have, props iceberg.Properties) (string, bool) {
	var oldest int64
	all := maps.Clone(have)
	if all == nil {
		all = iceberg.Properties{}
	}
	maps.Copy(all, props)
	for key, value := range all {
		var c Counts
		if !strings.HasPrefix(key, keyCounts) || json.Unmarshal([]byte(value), &c) != nil || c.Through == 0 {
			continue
		}
		if oldest == 0 || c.Through < oldest {
			oldest = c.Through
		}
	}
	return time.UnixMicro(oldest).UTC().Format(time.RFC3339Nano), oldest != 0
}

// wait sleeps for about d: several processes that lost the same race must not meet again.
func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d/2 + rand.N(d)) //nolint:gosec // not a secret
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}

// committed makes a commit's metadata durable. A failure here is only told: the commit stands, and the next one syncs
// what follows.
func (t *Table) committed(err error) error {
	if err != nil {
		return err
	}

	if err := t.syncMetadata(); err != nil {
		t.lake.tel.Log.Warn("syncing metadata", "table", t.name, "err", err)
	}
	return nil
}
