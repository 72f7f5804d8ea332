package lake

import (
	"fmt"
	"io"
	"runtime/debug"
	"slices"

	iceio "github.com/apache/iceberg-go/io"
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

// guarded runs what writes rows. After a panic it finds out which of the rows, of those that are held and of more, are to
// blame. The writer is only good for Discard then.
func (w *Writer) guarded(more []row, write func() error) (err error) {
	defer func() {
		if e, ok := err.(*PanicError); ok { //nolint:errorlint // from just below
			rows := slices.Clone(more)
			for _, part := range w.open {
				rows = append(rows, part.rows...)
			}
			e.Rows = map[RowID]*PanicError{}
			w.blame(rows, e.Rows)
			if len(e.Rows) > mostAlike && len(e.Rows) == len(distinct(rows)) {
				clear(e.Rows)
			}
		}
	}()
	defer recovered(&err)
	return write()
}

func distinct(rows []row) map[RowID]bool {
	ids := make(map[RowID]bool, len(rows))
	for i := range rows {
		ids[rows[i].id()] = true
	}
	return ids
}

func (r *row) id() RowID { return RowID{r.rec.Source.Partition, r.rec.Source.Offset} }

// blame finds the rows that panic, by halves.
func (w *Writer) blame(rows []row, found map[RowID]*PanicError) {
	if len(rows) == 0 {
		return
	}
	e := w.try(rows)
	switch {
	case e == nil:
		return
	case len(rows) > 1:
		w.blame(rows[:len(rows)/2], found)
		w.blame(rows[len(rows)/2:], found)
		return
	}
	for range aloneTries - 1 {
		if w.try(rows) == nil {
			return
		}
	}
	found[rows[0].id()] = e
}

// try writes rows as they would be written, but to nowhere. Only a panic counts: there is no disk that could be full.
func (w *Writer) try(rows []row) *PanicError {
	err := func() (err error) {
		defer recovered(&err)
		f, err := newFileWriter(nowhere{}, "nowhere", w.layout, w.sorted)
		if err != nil {
			return err
		}
		for i := range rows {
			w.parts.of(rows[i].rec.TimeMicros())
			memory(&rows[i].rec)
			compareRows(&rows[i], &rows[i]) // alone it is held against no other
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
