package lake

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/apache/iceberg-go"
	iceio "github.com/apache/iceberg-go/io"
	"github.com/apache/iceberg-go/table"
	"github.com/parquet-go/parquet-go"
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
	if err := m.table.Commit(ctx, commit); err != nil {
		settling, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
		defer cancel()
		if in, serr := m.table.Settle(settling, commit); !in && serr == nil {
			w.Discard()
		}
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
	out := &output{merge: m, w: w}
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

// output writes sorted rows into files of the target's size.
type output struct {
	merge *merge
	w     *Writer
	file  *fileWriter
	group []parquet.Row
	held  int64
	added []iceberg.DataFile
}

func (o *output) put(r parquet.Row) error {
	o.group = append(o.group, r)
	for _, v := range r {
		o.held += valueMemory(v)
	}
	if len(o.group) < o.merge.cfg.GroupRows && o.held < o.merge.cfg.Memory/4 {
		return nil
	}
	return o.flush()
}

// flush writes a row group, and ends the file when it is large enough.
func (o *output) flush() error {
	if len(o.group) == 0 {
		return nil
	}
	if o.file == nil {
		path, err := o.w.newPath(o.merge.q)
		if err != nil {
			return err
		}
		if o.file, err = newFileWriter(o.w.fs, path, o.w.layout, o.w.sorted); err != nil {
			return err
		}
		o.w.paths = append(o.w.paths, path)
		order := o.merge.table.state().SortOrder()
		id := order.OrderID()
		o.file.sorted = &id
	}
	if err := o.file.writeRows(o.group); err != nil {
		return err
	}
	clear(o.group)
	o.group, o.held = o.group[:0], 0
	if o.file.w.Size() < o.merge.cfg.Target {
		return nil
	}
	return o.end()
}

func (o *output) end() error {
	file := o.file
	o.file = nil
	if err := file.close(); err != nil {
		return err
	}
	df, err := file.dataFile(o.w.parts.spec, o.w.parts.value(o.merge.q))
	if err != nil {
		return err
	}
	o.added = append(o.added, df)
	return nil
}

func (o *output) finish() error {
	if err := o.flush(); err != nil || o.file == nil {
		return err
	}
	return o.end()
}

func (o *output) abandon() {
	if o.file != nil {
		o.file.abandon()
	}
}

// writeRows writes rows that are sorted already, and in the layout's order, as one row group.
func (f *fileWriter) writeRows(rows []parquet.Row) error {
	for _, r := range rows {
		for _, v := range r {
			if k := v.Kind(); (k == parquet.Double && v.Double() != v.Double()) || (k == parquet.Float && v.Float() != v.Float()) {
				f.nans[f.layout.leaves[v.Column()].id]++
			}
		}
	}
	if _, err := f.w.WriteRows(rows); err != nil {
		return fmt.Errorf("writing rows of %s: %w", f.path, err)
	}
	if err := f.w.Flush(); err != nil {
		return fmt.Errorf("writing row group of %s: %w", f.path, err)
	}
	f.rows += int64(len(rows))
	return nil
}

// compaction is the commit that puts merged files in the place of others.
type compaction struct {
	gone, added []iceberg.DataFile
	live        map[string]bool // what the repeats were found in has to be there still
	repeats     map[TopicPartition]int64
}

// check implements change. A table that was rolled back would look as if it was not: this commit's summary would say the
// same as the properties.
func (c *compaction) check(meta table.Metadata) error {
	accounts, err := accountsOf(meta)
	if err != nil {
		return err
	}
	for tp, a := range accounts {
		if a.rolledBack != nil {
			return fmt.Errorf("partition %d of %s: %w", tp.Partition, tp.Topic, a.rolledBack)
		}
	}
	return nil
}

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
	props := iceberg.Properties{}
	for tp, n := range c.repeats {
		before, err := repeatsIn(base.Properties(), tp)
		if err != nil {
			return nil, err
		}
		props[partitionKey(keyRepeats, tp.Topic, tp.Partition)] = strconv.FormatInt(before+n, 10)
	}
	summary := offsetsOf(base.Properties())
	maps.Copy(summary, props)
	summary[keyCommit] = id
	if through := base.Properties()[keyThrough]; through != "" {
		summary[keyThrough] = through
	}
	tx := base.NewTransaction()
	if err := tx.AssertRefSnapshotID(""); err != nil {
		return nil, err
	}
	if err := tx.SetProperties(props); err != nil {
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
	if _, had := base.Properties()[table.DefaultNameMappingKey]; !had {
		return tx, tx.RemoveProperties([]string{table.DefaultNameMappingKey}) // our files have field ids, and columns are renamed
	}
	return tx, nil
}
