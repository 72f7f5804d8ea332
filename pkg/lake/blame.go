package lake

import (
	"fmt"
	"io"
	"runtime/debug"

	iceio "github.com/apache/iceberg-go/io"

	"github.com/millrace/millrace/pkg/codec"
)

// RowID says which record a row is of, within its topic.
type RowID struct {
	Partition int32
	Offset    int64
}

// PanicError is a panic while rows were written, with the rows that are to blame: each panics also when it is written
// alone, three times. There are none where it took several rows, or where every row panics and they are many: then the
// writer is to blame.
type PanicError struct {
	Value string
	Stack []byte
	Rows  map[RowID]*PanicError
}

func (e *PanicError) Error() string { return fmt.Sprintf("panic: %s\n%.1600s", e.Value, e.Stack) }

const (
	aloneTries = 3
	// mostAlike is up to how many rows are to blame together where no other row passes.
	mostAlike = 100
)

// recovered makes an error of a panic, if there is one.
func recovered(err *error) {
	if p := recover(); p != nil {
		*err = &PanicError{Value: fmt.Sprintf("%.300s", fmt.Sprint(p)), Stack: debug.Stack()}
	}
}

// guarded runs what writes rows. After a panic it finds out which of the rows, of those that are held and of those of
// records that come to them, are to blame. The writer is only good for Discard then.
func (w *Writer) guarded(records []codec.Record, p *plan, write func() error) (err error) {
	defer func() {
		if e, ok := err.(*PanicError); ok { //nolint:errorlint // from just below
			e.Rows = w.toBlame(records, p)
		}
	}()
	defer recovered(&err)
	return write()
}

// toBlame finds the rows that panic, and none where it is all of them.
func (w *Writer) toBlame(records []codec.Record, p *plan) map[RowID]*PanicError {
	found, all := map[RowID]*PanicError{}, map[RowID]bool{}
	coming := newRowBuffer(w.layout, newWords(w.layout, w.cfg.Memory))
	for i := range records {
		src := records[i].Source
		id := RowID{src.Partition, src.Offset}
		all[id] = true
		if e := alone(func() *PanicError { return w.tryHolding(coming, &records[i], p) }); e != nil {
			found[id] = e
		}
	}
	w.blame(coming, found)
	for _, part := range w.open {
		for _, r := range part.rows.refs {
			all[r.id()] = true
		}
		w.blame(part.rows, found)
	}
	if len(found) > mostAlike && len(found) == len(all) {
		clear(found)
	}
	return found
}

func (r rowRef) id() RowID { return RowID{r.partition, r.offset} }

// alone tries something three times: what passes once is not to blame.
func alone(try func() *PanicError) (e *PanicError) {
	for range aloneTries {
		if e = try(); e == nil {
			return nil
		}
	}
	return e
}

// tryHolding puts a record's row to others.
func (w *Writer) tryHolding(rows *rowBuffer, r *codec.Record, p *plan) *PanicError {
	err := func() (err error) {
		defer recovered(&err)
		w.parts.of(r.TimeMicros())
		_, err = rows.add(r, p)
		return err
	}()
	e, _ := err.(*PanicError) //nolint:errorlint // from just above
	return e
}

// blame finds the rows that panic when they are written, by halves.
func (w *Writer) blame(rows *rowBuffer, found map[RowID]*PanicError) {
	switch n := len(rows.refs); n {
	case 0:
	case 1:
		if e := alone(func() *PanicError { return w.try(rows) }); e != nil {
			found[rows.refs[0].id()] = e
		}
	default:
		if w.try(rows) == nil {
			return
		}
		for _, half := range [][]rowRef{rows.refs[:n/2], rows.refs[n/2:]} {
			w.blame(&rowBuffer{layout: rows.layout, words: rows.words, blocks: rows.blocks, refs: half}, found)
		}
	}
}

// try writes rows as they would be written, but to nowhere. Only a panic counts: there is no disk that could be full.
func (w *Writer) try(rows *rowBuffer) *PanicError {
	err := func() (err error) {
		defer recovered(&err)
		f, err := newFileWriter(nowhere{}, "nowhere", w.layout, w.sorted)
		if err != nil {
			return err
		}
		if err := f.writeGroup(rows); err != nil {
			return err
		}
		return f.close()
	}()
	e, _ := err.(*PanicError) //nolint:errorlint // from just above
	return e
}

// nowhere takes files and keeps nothing.
type nowhere struct{}

func (nowhere) Create(string) (iceio.FileWriter, error) { return nowhereFile{}, nil }

type nowhereFile struct{}

func (nowhereFile) Write(p []byte) (int, error)         { return len(p), nil }
func (nowhereFile) ReadFrom(r io.Reader) (int64, error) { return io.Copy(io.Discard, r) }
func (nowhereFile) Close() error                        { return nil }
