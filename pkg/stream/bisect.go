package stream

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
)

// aloneTries is how often a record panics on its own before it is a dead letter.
const aloneTries = 3

// ErrBatch is what a sink reports when some record of a batch is refused and the destination does not say which. The
// batch is then written in smaller parts until the record is alone, and a dead letter. A destination that is down must
// not be reported so. For a Keeper it means no more than any other error.
var ErrBatch = errors.New("some record of the batch is refused, and the destination does not say which")

// panicError is a panic of the sink.
type panicError struct {
	value string
	stack []byte
}

func newPanicError(value any) *panicError {
	return &panicError{value: bounded(fmt.Sprint(value), 300), stack: debug.Stack()}
}

func (e *panicError) Error() string {
	return fmt.Sprintf("the sink panicked: %s\n%.1600s", e.value, e.stack)
}

// aloneError is the end of a record that failed on its own.
type aloneError struct {
	err      error
	attempts int
}

func (e *aloneError) Error() string { return e.err.Error() }
func (e *aloneError) Unwrap() error { return e.err }

// isPanic and isSuspect say that one record may be to blame, of which nothing is known but that it is in the batch.
func isPanic(err error) bool {
	var p *panicError
	return errors.As(err, &p)
}

func isSuspect(err error) bool { return isPanic(err) || errors.Is(err, ErrBatch) }

// outage says whether trying the same again can help. A Keeper's batches are never split, since it must see each range
// once and whole; so for a Keeper a panic is an outage, too.
func (c *Consumer) outage(err error) bool {
	return isOutage(err) && (c.keeper != nil || !isSuspect(err))
}

// bisect writes a batch of which some record is to blame, in parts: a part that fails is halved, and after one that
// succeeds the next is twice as large. So a single bad record costs about 2·log n writes, and a run of bad ones costs
// aloneTries writes each, not log n. The size is kept for the partition's next batch, until a batch went through whole.
func (d *delivery) bisect(ctx context.Context, size int) error {
	records := d.batch.Records
	failed := map[int]error{}
	alone := 0 // times that the record at the front failed on its own
	for at := 0; at < len(records); {
		n := min(max(1, size), len(records)-at)
		err := d.send(ctx, d.batch.part(at, at+n))
		var partial *PartialError
		switch {
		case err == nil, errors.As(err, &partial):
			if partial != nil {
				for i, err := range partial.Failed {
					failed[at+i] = err
				}
			}
			at, size, alone = at+n, 2*n, 0
		case !isSuspect(err):
			return err
		case n > 1:
			size = n / 2
		default:
			if alone++; isPanic(err) && alone < aloneTries {
				// What broke the sink may pass, as a connection being made anew; but not after a record that was bad.
				if failed[at-1] == nil && !pause(ctx, d.c.backoff(alone)) {
					return errGone
				}
				continue
			}
			failed[at] = &aloneError{err: err, attempts: alone}
			at, size, alone = at+1, 1, 0
		}
	}
	d.keepSize(size)
	if len(failed) > 0 {
		return &PartialError{Failed: failed}
	}
	return nil
}

// keepSize remembers how much to write at once after this batch.
func (d *delivery) keepSize(size int) {
	if size >= len(d.batch.Records) {
		size = 0 // all
	}
	d.c.mu.Lock()
	defer d.c.mu.Unlock()
	d.size = size
}

// part is the range of a batch from one record up to another.
func (b *batch) part(from, to int) Batch {
	out := b.Batch
	out.Records = b.Records[from:to]
	if from > 0 {
		out.First, out.Dead = b.Records[from].Source.Offset, 0
	}
	if to < len(b.Records) {
		out.Next = b.Records[to].Source.Offset
	}
	out.Bytes = 0
	for i := range out.Records {
		out.Bytes += len(out.Records[i].Source.Key) + len(out.Records[i].Source.Value)
	}
	return out
}
