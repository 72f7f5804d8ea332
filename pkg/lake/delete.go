package lake

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/apache/iceberg-go"
	iceio "github.com/apache/iceberg-go/io"
	"github.com/apache/iceberg-go/table"
)

// Condition says which rows of a table are meant. It gives the same for a file each time.
type Condition interface {
	// Filter is true wherever the condition may be, in the columns of the table's schema; nil leaves out nothing.
	Filter() iceberg.BooleanExpression
	// Rows gives the numbers, from 0, of the rows of a data file for which the condition is true.
	Rows(ctx context.Context, file File, each func(row int64) error) error
}

// Deletion says which rows Delete removes.
type Deletion struct {
	Where     Condition
	Reason    string // stays in the summary of each commit; the condition does not, for it may name a person
	Memory    int64  // for the numbers of a file's rows, and for rows on their way into another file, in turn
	GroupRows int    // rows of a row group at most
	Batch     int64  // bytes of files that are rewritten for one commit, about
	DryRun    bool
}

// Deleted is what came of it.
type Deleted struct {
	Partitions map[string]*DeletedIn // by the folder of the table partition
	Rows       int64
	Files      int // that had such rows,
	Gone       int // of them, that had no others
	Commits    int
	Complete   Point // the newest state that was found to have no such row any more, or was rid of all
}

// DeletedIn is what was removed from one table partition.
type DeletedIn struct {
	Files int
	Rows  int64 // removed,
	Of    int64 // of so many in these files
}

// Point is a state of the table: what came later is not in it.
type Point struct {
	Snapshot int64 // 0: nothing was committed yet
	Next     map[TopicPartition]int64
}

// deletePasses is how often the table is looked through: files that others have added or replaced meanwhile are new.
const deletePasses = 10

// Delete removes the rows that a condition is true of. Their files are rewritten without them, in as many commits as there
// are batches, each proven before it: the rows that stay are those that were there and are not meant. The table is looked
// through again until there is nothing to remove, so that rows are found that others have added or moved meanwhile; Complete
// says up to where. ErrLost says that others replace the files all the time, and that the rest is to be done again.
func (t *Table) Delete(ctx context.Context, cfg Deletion) (Deleted, error) {
	done := Deleted{Partitions: map[string]*DeletedIn{}}
	if !cfg.DryRun && strings.TrimSpace(cfg.Reason) == "" {
		return done, fmt.Errorf("deleting from table %s: no reason is given", t.name)
	}
	if err := t.delete(ctx, cfg, &done); err != nil {
		return done, fmt.Errorf("deleting from table %s: %w", t.name, err)
	}
	return done, nil
}

func (t *Table) delete(ctx context.Context, cfg Deletion, done *Deleted) error {
	schemaID := t.state().Schema().ID
	clean := map[string]bool{}
	complete := false
	for range deletePasses {
		if err := t.Refresh(ctx); err != nil {
			return err
		}
		if t.state().Schema().ID != schemaID {
			return fmt.Errorf("%w: its schema is another; begin again", ErrLost)
		}
		d, err := t.newDeleting(ctx, cfg, done, clean)
		if err != nil {
			return err
		}
		at, err := pointOf(d.ice)
		if err != nil {
			return err
		}
		if err := d.run(ctx); err != nil {
			return err
		}
		if d.lost == 0 {
			complete, done.Complete = true, at
		}
		if cfg.DryRun || d.found == 0 && d.lost == 0 {
			return nil
		}
	}
	if !complete {
		return fmt.Errorf("%w, and is all the time; what is left is to be deleted again", ErrLost)
	}
	return nil
}

// pointOf says where a state stands.
func pointOf(ice *table.Table) (Point, error) {
	p := Point{Next: map[TopicPartition]int64{}}
	if s := ice.CurrentSnapshot(); s != nil {
		p.Snapshot = s.SnapshotID
	}
	accounts, err := accountsOf(ice.Metadata())
	if err != nil {
		return p, err
	}
	for tp, a := range accounts {
		p.Next[tp] = a.Next
	}
	return p, nil
}

// deleting goes through one state of a table.
type deleting struct {
	table  *Table
	cfg    Deletion
	ice    *table.Table
	fs     iceio.WriteFileIO
	layout *layout
	parts  partitioner
	done   *Deleted
	clean  map[string]bool // files that are known to have no such row
	found  int             // files that have some
	lost   int             // files that somebody else has replaced or removed
}

func (t *Table) newDeleting(ctx context.Context, cfg Deletion, done *Deleted, clean map[string]bool) (*deleting, error) {
	t.mu.Lock()
	d := &deleting{table: t, cfg: cfg, ice: t.ice, layout: t.layout, done: done, clean: clean}
	t.mu.Unlock()
	err := notRolledBack(d.ice.Metadata())
	if err != nil {
		return nil, err
	}
	if d.fs, err = t.files(ctx, d.ice); err != nil {
		return nil, err
	}
	d.parts, err = newPartitioner(d.ice.Spec())
	return d, err
}

func (d *deleting) run(ctx context.Context) error {
	files, err := liveFiles(ctx, d.ice, table.WithRowFilter(d.cfg.Where.Filter()))
	if err != nil {
		return err
	}
	b := &batch{deleting: d}
	defer b.discard()
	for _, f := range files {
		if d.clean[f.FilePath()] {
			continue
		}
		err := b.file(ctx, f)
		if err != nil && missing(d.fs, f.FilePath()) {
			d.lost++
			continue
		}
		if err != nil {
			return err
		}
		if b.bytes >= d.cfg.Batch {
			if err := b.commit(ctx); err != nil {
				return err
			}
		}
	}
	return b.commit(ctx)
}

// folder is that of a file's table partition. A file of a former partition spec is kept in its own.
func (d *deleting) folder(f iceberg.DataFile) string {
	if q, ok := d.parts.has(f); ok {
		return d.parts.folder(q)
	}
	return path.Base(path.Dir(f.FilePath()))
}

// count adds a file to what is said of the deletion.
func (d *deleting) count(r *rewritten) {
	name := d.folder(r.old)
	in := d.done.Partitions[name]
	if in == nil {
		in = &DeletedIn{}
		d.done.Partitions[name] = in
	}
	in.Files, in.Rows, in.Of = in.Files+1, in.Rows+r.rows, in.Of+r.old.Count()
	d.done.Files, d.done.Rows = d.done.Files+1, d.done.Rows+r.rows
	if r.rows == r.old.Count() {
		d.done.Gone++
	}
}

// rewritten is a file that has rows that are meant, and the one in its place.
type rewritten struct {
	old   iceberg.DataFile
	rows  int64            // that are meant
	fresh iceberg.DataFile // nil where no other is in it
	w     *Writer          // of fresh
	from  map[TopicPartition]int64
}

// batch is what one commit changes.
type batch struct {
	*deleting
	files []*rewritten
	bytes int64
}

func (b *batch) discard() {
	for _, r := range b.files {
		r.w.Discard()
	}
}

// file takes in a file, if it has rows that are meant.
func (b *batch) file(ctx context.Context, f iceberg.DataFile) error {
	meant := newBitmap(&room{left: b.cfg.Memory})
	r := &rewritten{old: f, from: map[TopicPartition]int64{}}
	err := b.cfg.Where.Rows(ctx, File{Location: f.FilePath(), Bytes: f.FileSizeBytes()}, func(row int64) error {
		fresh, err := meant.add(row)
		if fresh {
			r.rows++
		}
		return err
	})
	if err != nil {
		return err
	}
	switch {
	case r.rows == 0:
		b.clean[f.FilePath()] = true
		return nil
	case b.cfg.DryRun:
		b.count(r)
		return nil
	}
	if r.w, err = b.table.NewWriter(ctx, WriterConfig{}); err != nil {
		return err
	}
	if r.w.layout != b.layout {
		return fmt.Errorf("%w: its schema is another; begin again", ErrLost)
	}
	if r.rows < f.Count() {
		r.fresh, err = b.rewrite(ctx, r.w, f, meant)
	}
	if err == nil {
		err = b.prove(ctx, r, meant)
	}
	if err != nil {
		r.w.Discard()
		return err
	}
	b.found++
	b.files, b.bytes = append(b.files, r), b.bytes+f.FileSizeBytes()
	return nil
}

// rewrite makes a file of the rows that stay, in the row groups that they were in, so that what is sorted stays so.
func (b *batch) rewrite(ctx context.Context, w *Writer, f iceberg.DataFile, meant *bitmap) (fresh iceberg.DataFile, err error) {
	specs := b.ice.Metadata().PartitionSpecs()
	i := slices.IndexFunc(specs, func(s iceberg.PartitionSpec) bool { return s.ID() == int(f.SpecID()) })
	if i < 0 {
		return nil, fmt.Errorf("data file %s is of partition spec %d, which the table does not have", f.FilePath(), f.SpecID())
	}
	out := &output{
		w: w, path: func() (string, error) { return w.newPath(b.folder(f)) }, spec: specs[i], partition: f.Partition(),
		rows: b.cfg.GroupRows, memory: b.cfg.Memory / 4,
	}
	if id := f.SortOrderID(); id != nil && *id != 0 {
		out.sorted = id
	}
	file, closer, err := openParquet(b.fs, f.FilePath())
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, closer.Close()) }()
	var ends []int64
	rows := int64(0)
	for _, g := range file.RowGroups() {
		rows += g.NumRows()
		ends = append(ends, rows)
	}
	err = rowsOf(ctx, &ordering{layout: b.layout}, file, func(n int64, r sortRow, _ int64) error {
		for ; n >= ends[0]; ends = ends[1:] {
			if err := out.flush(); err != nil {
				return err
			}
		}
		if meant.has(n) {
			return nil
		}
		return out.put(r.row)
	})
	if err == nil {
		err = out.finish()
	}
	if err != nil {
		out.abandon()
		return nil, fmt.Errorf("rewriting data file %s: %w", f.FilePath(), err)
	}
	if len(out.added) != 1 {
		return nil, fmt.Errorf("rewriting data file %s: it became %d files; nothing was changed", f.FilePath(), len(out.added))
	}
	return out.added[0], w.syncFolders()
}

// prove reads both sides and compares: the rows that stay are in the new file.
func (b *batch) prove(ctx context.Context, r *rewritten, meant *bitmap) error {
	hashed := newSeeds()
	before, err := tally(ctx, b.fs, hashed, r.old.FilePath(), meant.has, func(tp TopicPartition) { r.from[tp]++ })
	if err != nil {
		return err
	}
	if n := before.rows + r.rows; n != r.old.Count() {
		return fmt.Errorf("file %s has %d rows, the table says %d", r.old.FilePath(), n, r.old.Count())
	}
	var after checksum
	if r.fresh != nil {
		if after, err = tally(ctx, b.fs, hashed, r.fresh.FilePath(), nil, nil); err != nil {
			return err
		}
	}
	if before != after {
		return fmt.Errorf("of %s %d rows of sum %x stay, in its place are %d of sum %x; nothing was changed",
			r.old.FilePath(), before.rows, before.sum, after.rows, after.sum)
	}
	return nil
}

// commit puts the new files in the place of the old ones, but for those that are not there any more.
func (b *batch) commit(ctx context.Context) error {
	if len(b.files) == 0 {
		return nil
	}
	commit := &Commit{}
	e := &erasure{batch: b, commit: commit}
	commit.change = e
	for _, r := range b.files {
		if r.fresh != nil {
			commit.Files = append(commit.Files, r.fresh)
		}
	}
	if err := b.table.commitChange(ctx, commit, b.discard); err != nil {
		lost := len(b.files)
		b.files, b.bytes = nil, 0
		if errors.Is(err, ErrLost) {
			b.lost += lost
			return nil
		}
		return err
	}
	left := b.files
	b.files, b.bytes = nil, 0
	for _, r := range left {
		if !slices.Contains(e.kept, r) {
			b.lost++
			r.w.Discard()
			continue
		}
		b.count(r)
		if r.w.stop(); r.fresh != nil {
			b.clean[r.fresh.FilePath()] = true
		}
	}
	b.done.Commits++
	return nil
}

// erasure is the commit of a batch.
type erasure struct {
	*batch
	commit *Commit
	kept   []*rewritten // what the last attempt has changed
}

// check implements change.
func (e *erasure) check(meta table.Metadata) error { return notRolledBack(meta) }

// stage implements change. Files that somebody else has replaced are left to the next pass.
func (e *erasure) stage(ctx context.Context, base *table.Table, id string) (*table.Transaction, error) {
	there, _, err := dataFiles(ctx, base)
	if err != nil {
		return nil, err
	}
	before := e.kept
	e.kept = nil
	var gone, added []iceberg.DataFile
	from, rows := map[TopicPartition]int64{}, int64(0)
	for _, r := range e.files {
		if there[r.old.FilePath()] == nil {
			continue
		}
		e.kept, gone, rows = append(e.kept, r), append(gone, r.old), rows+r.rows
		if r.fresh != nil {
			added = append(added, r.fresh)
		}
		for tp, n := range r.from {
			from[tp] += n
		}
	}
	if len(gone) == 0 || e.commit.Unknown && !slices.Equal(before, e.kept) { // what an earlier attempt has changed is known by e.kept
		return nil, fmt.Errorf("%w: files that hold the rows are not in it any more", ErrLost)
	}
	tx, summary, err := restate(base, id, keyDeleted, from)
	if err != nil {
		return nil, err
	}
	summary[keyErased], summary[keyErasedRows] = e.cfg.Reason, strconv.FormatInt(rows, 10)
	if err := tx.ReplaceDataFilesWithDataFiles(ctx, gone, added, summary, table.WithoutAutoNameMapping()); err != nil {
		return nil, err
	}
	return tx, nil
}
