package lake

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/apache/iceberg-go"
	iceio "github.com/apache/iceberg-go/io"
	"github.com/apache/iceberg-go/table"
	"github.com/google/uuid"

	"github.com/millrace/millrace/pkg/codec"
	"github.com/millrace/millrace/pkg/schema"
)

// WriterConfig bounds a Writer.
type WriterConfig struct {
	Memory    int64 // bytes of rows held before the largest table partition's are written out
	GroupRows int   // rows of a row group at most
}

// A Writer collects rows for one commit: one file per table partition, any number of them open, under one bound of
// memory. It is not safe for concurrent use.
type Writer struct {
	table  *Table
	cfg    WriterConfig
	fs     iceio.WriteFileIO
	files  creator
	remote bool   // the files are uploads
	stop   func() // breaks those off
	where  table.LocationProvider
	sorted []string
	layout *layout
	words  *words
	parts  partitioner
	open   map[int64]*openPart
	held   int64 // memory of the rows that are in no row group yet
	done   []iceberg.DataFile
	paths  []string       // of all files created
	spilt  map[int32]bool // source partitions that have rows in a row group
}

// openPart is what is held for one table partition.
type openPart struct {
	rows *rowBuffer
	file *fileWriter
}

// NewWriter makes an empty writer; it creates no file.
func (t *Table) NewWriter(ctx context.Context, cfg WriterConfig) (*Writer, error) {
	t.mu.Lock()
	ice, l := t.ice, t.layout
	t.mu.Unlock()
	fs, err := t.files(ctx, ice)
	if err != nil {
		return nil, err
	}
	parts, err := newPartitioner(ice.Spec())
	if err != nil {
		return nil, fmt.Errorf("writing to table %s: %w", t.name, err)
	}
	where, err := ice.LocationProvider()
	if err != nil {
		return nil, fmt.Errorf("writing to table %s: %w", t.name, err)
	}
	files, remote, stop := uploads(ctx, fs)
	return &Writer{
		table: t, cfg: cfg, fs: fs, files: files, remote: remote, stop: stop, where: where, sorted: sortColumns(ice), layout: l,
		words: newWords(l, cfg.Memory), parts: parts,
		open: map[int64]*openPart{}, spilt: map[int32]bool{},
	}, nil
}

// Held is the memory of the rows that are in no row group yet, and of their words.
func (w *Writer) Held() int64 { return w.held + w.words.size }

// Prepare makes the table fit for records of a type, evolving it where it is older. An error leaves the writer as it was.
func (w *Writer) Prepare(ctx context.Context, t *schema.Type) error {
	_, _, err := w.table.prepare(ctx, t)
	return err
}

// Add holds the rows of records of one type. It does not keep the records. After an error, among them a *PanicError, the writer is only good
// for Discard.
func (w *Writer) Add(ctx context.Context, t *schema.Type, records []codec.Record) error {
	l, p, err := w.table.prepare(ctx, t)
	if err != nil {
		return err
	}
	if l != w.layout {
		if err := w.guarded(nil, nil, w.finishFiles); err != nil {
			return err
		}
		w.layout, w.words = l, newWords(l, w.cfg.Memory)
	}
	return w.guarded(records, p, func() error {
		for i := range records {
			if err := w.add(&records[i], p); err != nil {
				return err
			}
		}
		return nil
	})
}

func (w *Writer) add(r *codec.Record, p *plan) error {
	q := w.parts.of(r.TimeMicros())
	part := w.open[q]
	if part == nil {
		part = &openPart{rows: newRowBuffer(w.layout, w.words)}
		w.open[q] = part
	}
	size, err := part.rows.add(r, p)
	if err != nil {
		return err
	}
	w.held += size
	if len(part.rows.refs) >= w.cfg.GroupRows {
		return w.spill(q, part)
	}
	if w.Held() >= w.cfg.Memory {
		q, part = w.largest()
		return w.spill(q, part)
	}
	return nil
}

func (w *Writer) largest() (q int64, most *openPart) {
	for k, part := range w.open {
		if most == nil || part.rows.size > most.rows.size || (part.rows.size == most.rows.size && k < q) {
			q, most = k, part
		}
	}
	return q, most
}

// spill writes the rows held for a table partition as a row group of its file.
func (w *Writer) spill(q int64, part *openPart) error {
	if part.file == nil {
		if err := w.makeRoom(); err != nil {
			return err
		}
		path, err := w.newPath(w.parts.folder(q))
		if err != nil {
			return err
		}
		if part.file, err = newFileWriter(w.files, path, w.layout, w.sorted); err != nil {
			return err
		}
		w.paths = append(w.paths, path)
	}
	if err := part.file.writeGroup(part.rows); err != nil {
		return err
	}
	for _, r := range part.rows.refs {
		w.spilt[r.partition] = true
	}
	w.held -= part.rows.size
	part.rows.reset()
	return nil
}

func (w *Writer) newPath(folder string) (string, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return "", fmt.Errorf("naming data file of table %s: %w", w.table.name, err)
	}
	return w.where.NewDataLocation(folder + "/" + id.String() + ".parquet"), nil
}

// finishFiles closes all files and describes them.
func (w *Writer) finishFiles() error {
	for _, q := range slices.Sorted(maps.Keys(w.open)) {
		part := w.open[q]
		if len(part.rows.refs) > 0 {
			if err := w.spill(q, part); err != nil {
				return err
			}
		}
		if part.file == nil {
			continue
		}
		if err := w.finishFile(q, part); err != nil {
			return err
		}
	}
	clear(w.open)
	return w.syncFolders()
}

// finishFile closes a table partition's file, which then is durable, and describes it.
func (w *Writer) finishFile(q int64, part *openPart) error {
	if err := part.file.close(); err != nil {
		return err
	}
	df, err := part.file.dataFile(w.parts.spec, w.parts.value(q))
	if err != nil {
		return err
	}
	w.done = append(w.done, df)
	part.file = nil
	return nil
}

// Finish writes what is held, closes the files, makes them durable and describes them for a commit.
func (w *Writer) Finish() ([]iceberg.DataFile, error) {
	if err := w.guarded(nil, nil, w.finishFiles); err != nil {
		return nil, err
	}
	w.stop()
	return w.done, nil
}

// Forget drops the held rows of a source partition. It reports false where some are in a row group already and cannot
// be taken out.
func (w *Writer) Forget(partition int32) bool {
	if w.spilt[partition] {
		return false
	}
	for _, part := range w.open {
		part.rows.forget(partition)
		if len(part.rows.refs) == 0 {
			w.held -= part.rows.size
			part.rows.reset()
		}
	}
	return true
}

// Discard drops everything and removes the files. It is not for files that a commit of unknown outcome may have added.
func (w *Writer) Discard() {
	w.stop()
	for _, part := range w.open {
		if part.file != nil {
			part.file.abandon()
		}
	}
	clear(w.open)
	w.held = 0
	for _, path := range w.paths {
		if err := w.fs.Remove(path); err != nil {
			w.table.lake.tel.Log.Debug("leaving data file behind", "path", path, "err", err)
		}
	}
	w.paths, w.done = nil, nil
}
