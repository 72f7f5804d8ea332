package lake

import (
	"errors"
	"fmt"
	"runtime/debug"

	"github.com/millrace/millrace/pkg/lake"
	"github.com/millrace/millrace/pkg/stream"
)

// guarded makes a panic an error: a commit is on a goroutine of its own, and would take the process.
func guarded(commit func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = stream.Panicked(fmt.Sprint(p), debug.Stack())
		}
	}()
	return commit()
}

// bad are the records that panic when they are written. Found out when a file was written, with all that was held given up,
// they are refused when they come again.
type bad map[lake.RowID]error

// most bounds them, beyond which the writer is to blame.
const mostBad = 10_000

// note keeps those of an error.
func (m *bad) note(err error) {
	e, ok := errors.AsType[*lake.PanicError](err)
	if !ok {
		return
	}
	if *m == nil {
		*m = bad{}
	}
	for id, row := range e.Rows {
		if len(*m) < mostBad {
			(*m)[id] = stream.Panicked(row.Value, row.Stack)
		}
	}
}

// in gives a *stream.PartialError of those in a batch.
func (m bad) in(b *stream.Batch) error {
	if len(m) == 0 {
		return nil
	}
	failed := map[int]error{}
	for i := range b.Records {
		if err := m[lake.RowID{Partition: b.Partition, Offset: b.Records[i].Source.Offset}]; err != nil {
			failed[i] = err
		}
	}
	if len(failed) == 0 {
		return nil
	}
	return &stream.PartialError{Failed: failed}
}

// past forgets those that a commit has passed.
func (m bad) past(spans map[int32]lake.Counts) {
	for id := range m {
		if span, ok := spans[id.Partition]; ok && id.Offset < span.Next {
			delete(m, id)
		}
	}
}
