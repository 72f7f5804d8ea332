package lake

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"time"

	"github.com/apache/iceberg-go"
	iceio "github.com/apache/iceberg-go/io"
	"github.com/apache/iceberg-go/table"
)

// Compaction says how a table's small files are merged.
type Compaction struct {
	Target    int64         // bytes of a merged file
	Memory    int64         // for rows, and for finding repeats
	GroupRows int           // rows of a row group at most
	After     time.Duration // how long after its end a table partition is closed
	Now       time.Time
	DryRun    bool
}

// Compacted is what came of it.
type Compacted struct {
	Partitions int   // that had something to merge
	Before     int   // files
	After      int   // files they became
	Bytes      int64 // of the files before
	Size       int64 // of the files after
	Rows       int64 // in the files after
	Repeats    int64 // rows dropped
	Lost       int   // partitions left to the next time, since somebody else changed their files
}

// jobTargets is how many targets of files are merged in one commit: what is lost to another writer is at most that.
const jobTargets = 4

// settleTimeout is for reading the table a last time, after a merge that was given up.
const settleTimeout = 5 * time.Second

// Compact merges the small files of closed table partitions: sorted, each event once. Each commit is pinned, and verified
// before by the number of rows and a sum over their ids. Rows that come meanwhile are not touched; where somebody else
// changes the files that are being merged, the merge is given up.
func (t *Table) Compact(ctx context.Context, cfg Compaction) (Compacted, error) {
	var done Compacted
	err := t.compact(ctx, cfg, &done)
	if err != nil {
		return done, fmt.Errorf("compacting table %s: %w", t.name, err)
	}
	return done, nil
}

func (t *Table) compact(ctx context.Context, cfg Compaction, done *Compacted) error {
	t.mu.Lock()
	ice, l := t.ice, t.layout
	t.mu.Unlock()
	parts, err := newPartitioner(ice.Spec())
	if err != nil {
		return err
	}
	order, err := newOrdering(ice, l)
	if err != nil {
		return err
	}
	files, err := liveFiles(ctx, ice)
	if err != nil {
		return err
	}
	storage, err := t.files(ctx, ice)
	if err != nil {
		return err
	}
	byPartition := map[int64][]iceberg.DataFile{}
	for _, f := range files {
		if q, ok := parts.has(f); ok && (q+1)*parts.unit <= cfg.Now.Add(-cfg.After).UnixMicro() {
			byPartition[q] = append(byPartition[q], f)
		}
	}
	for _, q := range slices.Sorted(maps.Keys(byPartition)) {
		m := &merge{table: t, cfg: cfg, fs: storage, order: order, q: q, files: byPartition[q], done: done}
		if !m.due() {
			continue
		}
		done.Partitions++
		if cfg.DryRun {
			m.count()
			continue
		}
		err := m.run(ctx)
		if errors.Is(err, ErrLost) {
			done.Lost++
			t.lake.tel.Log.Info("leaving a partition uncompacted that another has changed", "table", t.name, "partition", parts.folder(q), "err", err)
			continue
		}
		if err != nil {
			return fmt.Errorf("partition %s: %w", parts.folder(q), err)
		}
	}
	return nil
}

// has gives the table partition of a file of the present partition spec.
func (p partitioner) has(f iceberg.DataFile) (int64, bool) {
	if int(f.SpecID()) != p.spec.ID() {
		return 0, false
	}
	switch v := f.Partition()[p.id].(type) {
	case iceberg.Date:
		return int64(v), true
	case int32:
		return int64(v), true
	default:
		return 0, false
	}
}

// merge is the compaction of one table partition.
type merge struct {
	table *Table
	cfg   Compaction
	fs    iceio.WriteFileIO
	order *ordering
	q     int64
	files []iceberg.DataFile
	done  *Compacted

	repeats *repeats
	live    map[string]bool // files that the repeats were found in and that are not merged yet
}

func (m *merge) small(f iceberg.DataFile) bool { return f.FileSizeBytes() < m.cfg.Target/4*3 }

// due says whether there is anything to merge: several small files, or one as the consumer wrote it.
func (m *merge) due() bool {
	small, raw := 0, false
	for _, f := range m.files {
		if m.small(f) {
			small++
			raw = raw || f.SortOrderID() == nil || *f.SortOrderID() == 0
		}
	}
	return small > 1 || raw && !m.table.unsorted()
}

// unsorted says that the table has no sort order that a merged file could be told by.
func (t *Table) unsorted() bool {
	order := t.state().SortOrder()
	return order.IsUnsorted()
}

func (m *merge) count() {
	for _, f := range m.files {
		if m.small(f) {
			m.done.Before++
			m.done.Bytes += f.FileSizeBytes()
		}
	}
}

func (m *merge) run(ctx context.Context) (err error) {
	if m.repeats, err = findRepeats(ctx, m.fs, m.files, m.cfg.Memory); err != nil {
		return gone(err)
	}
	m.live = map[string]bool{}
	for _, f := range m.files {
		m.live[f.FilePath()] = true
	}
	var job []int
	size := int64(0)
	for i, f := range m.files {
		if !m.small(f) && m.repeats.counts[i] == 0 {
			continue
		}
		if len(job) > 0 && size+f.FileSizeBytes() > jobTargets*m.cfg.Target {
			if err := m.job(ctx, job); err != nil {
				return err
			}
			job, size = nil, 0
		}
		job, size = append(job, i), size+f.FileSizeBytes()
	}
	return m.job(ctx, job)
}

// gone takes a file that is not there for one that somebody else has merged and removed.
func gone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %w", ErrLost, err)
	}
	return err
}

// job merges some files and commits the outcome.
func (m *merge) job(ctx context.Context, job []int) error {
	w, err := m.table.NewWriter(ctx, WriterConfig{})
	if err != nil {
		return err
	}
	if w.layout != m.order.layout {
		return fmt.Errorf("%w: its schema is another", ErrLost)
	}
	c := &compaction{live: m.live, repeats: map[TopicPartition]int64{}}
	added, err := m.write(ctx, w, job)
	if err == nil {
		err = m.prove(ctx, job, added, c)
	}
	if err != nil {
		w.Discard()
		return gone(err)
	}
	commit := &Commit{Files: added, change: c}
	c.added = added
	if err := m.table.commitChange(ctx, commit, w.Discard); err != nil {
		return err
	}
	for _, i := range job {
		f := m.files[i]
		delete(m.live, f.FilePath())
		m.done.Before++
		m.done.Bytes += f.FileSizeBytes()
		m.done.Repeats += m.repeats.counts[i]
	}
	for _, f := range added {
		m.live[f.FilePath()] = true
		m.done.After++
		m.done.Size += f.FileSizeBytes()
		m.done.Rows += f.Count()
	}
	return nil
}

// write makes the merged files.
func (m *merge) write(ctx context.Context, w *Writer, job []int) (added []iceberg.DataFile, err error) {
	s := &sorter{order: m.order, memory: m.cfg.Memory}
	defer func() { err = errors.Join(err, s.close()) }()
	for _, i := range job {
		dropped := func(row int64) bool { return m.repeats.has(i, row) }
		if err := s.readFile(ctx, m.fs, m.files[i].FilePath(), dropped); err != nil {
			return nil, err
		}
	}
	sorted := m.table.state().SortOrder()
	id := sorted.OrderID()
	out := &output{
		w: w, path: func() (string, error) { return w.newPath(w.parts.folder(m.q)) }, spec: w.parts.spec, partition: w.parts.value(m.q),
		sorted: &id, rows: m.cfg.GroupRows, memory: m.cfg.Memory / 4, target: m.cfg.Target,
	}
	err = s.each(ctx, out.put)
	if err == nil {
		err = out.finish()
	}
	if err != nil {
		out.abandon()
		return nil, err
	}
	return out.added, w.syncFolders()
}

// prove reads both sides and compares: the merged files hold the rows of the others, but for the repeats.
func (m *merge) prove(ctx context.Context, job []int, added []iceberg.DataFile, c *compaction) error {
	hashed := newSeeds()
	var before, after checksum
	for _, i := range job {
		f := m.files[i]
		c.gone = append(c.gone, f)
		dropped := func(row int64) bool { return m.repeats.has(i, row) }
		sum, err := tally(ctx, m.fs, hashed, f.FilePath(), dropped, func(tp TopicPartition) { c.repeats[tp]++ })
		if err != nil {
			return err
		}
		if n := sum.rows + m.repeats.counts[i]; n != f.Count() {
			return fmt.Errorf("file %s has %d rows, the table says %d", f.FilePath(), n, f.Count())
		}
		before = before.plus(sum)
	}
	for _, f := range added {
		sum, err := tally(ctx, m.fs, hashed, f.FilePath(), nil, nil)
		if err != nil {
			return err
		}
		after = after.plus(sum)
	}
	if before != after {
		return fmt.Errorf("the merged files hold %d rows of sum %x, the files before %d of sum %x; nothing was changed",
			after.rows, after.sum, before.rows, before.sum)
	}
	return nil
}

// compaction is the commit that puts merged files in the place of others.
type compaction struct {
	gone, added []iceberg.DataFile
	live        map[string]bool // what the repeats were found in has to be there still
	repeats     map[TopicPartition]int64
}

// check implements change.
func (c *compaction) check(meta table.Metadata) error { return notRolledBack(meta) }

// stage implements change.
func (c *compaction) stage(ctx context.Context, base *table.Table, id string) (*table.Transaction, error) {
	now, err := liveFiles(ctx, base)
	if errors.Is(err, ErrDeletes) {
		return nil, fmt.Errorf("%w: %w", ErrLost, err)
	}
	if err != nil {
		return nil, err
	}
	there := map[string]bool{}
	for _, f := range now {
		there[f.FilePath()] = true
	}
	for name := range c.live {
		if !there[name] {
			return nil, fmt.Errorf("%w: %s is not in it any more", ErrLost, name)
		}
	}
	tx, summary, err := restate(base, id, keyRepeats, c.repeats)
	if err != nil {
		return nil, err
	}
	rewrite := tx.NewRewrite(summary)
	for _, f := range c.gone {
		rewrite.DeleteFile(f)
	}
	for _, f := range c.added {
		rewrite.AddDataFile(f)
	}
	if err := rewrite.Commit(ctx); err != nil {
		return nil, err
	}
	return tx, unmapped(tx, base)
}
