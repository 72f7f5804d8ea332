package stream

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"time"

	"github.com/millrace/millrace/pkg/lag"
)

// aloneTries is how often a record panics on its own before it is a dead letter.
const aloneTries = 3

// ErrBatch is what a sink reports when some record of a batch is refused and the destination does not say which. The
// batch is then written in smaller parts until the record is alone, and a dead letter. A destination that is down must
// not be reported so. For a Keeper it means no more than any other error.
var ErrBatch = errors.New("some record of the batch is refused, and the destination does not say which")

// panicError is a panic of the sink or the decoder.
type panicError struct {
	who, value string
	stack      []byte
}

func newPanicError(who string, value any) *panicError {
	return &panicError{who: who, value: bounded(fmt.Sprint(value), 300), stack: debug.Stack()}
}

// Panicked makes the error of a panic that a sink caught itself, as where it found out which record it comes of.
func Panicked(value string, stack []byte) error {
	return &panicError{who: "sink", value: bounded(value, 300), stack: stack}
}

func (e *panicError) Error() string {
	return fmt.Sprintf("the %s panicked: %s\n%.1600s", e.who, e.value, e.stack)
}

// isPanic says whether the sink or the decoder panicked.
func isPanic(err error) bool {
	var p *panicError
	return errors.As(err, &p)
}

// history is what is known of one record's writes, in company and alone.
type history struct {
	tries int
	first time.Time // that one failed
}

// bisect writes a batch of which some record is to blame, in parts: a part that fails is halved, and after one that
// succeeds the next is twice as large. So a single bad record costs about 2·log n writes, and a run of bad ones costs
// one write each after ErrBatch and aloneTries after a panic, not log n. The size is kept for the partition's next batch,
// until a batch went through whole.
func (d *delivery) bisect(ctx context.Context, size int) error {
	records := d.batch.Records
	d.histories = make([]history, len(records))
	for i := range d.histories {
		d.histories[i] = history{d.attempts, d.failed}
	}
	bad := map[int]error{}
	alone := 0      // times that the record at the front failed on its own
	brakeOn := true // see probe
	for at := 0; at < len(records); {
		n := min(max(1, size), len(records)-at)
		err := d.sendPart(ctx, at, at+n)
		class, _ := failed(err)
		var partial *PartialError
		switch {
		case err == nil, errors.As(err, &partial):
			if partial != nil {
				for i, err := range partial.Failed {
					bad[at+i] = err
				}
			}
			at, size, alone = at+n, max(size, 2*n), 0
		case class != ClassBug:
			return err
		case n > 1:
			size = n / 2
		case isPanic(err) && alone+1 < aloneTries:
			alone++
			// What broke the sink may pass, as a connection being made anew; but not after a record that was bad.
			if bad[at-1] == nil && !pause(ctx, d.c.backoff(alone)) {
				return errGone
			}
		case isPanic(err) && brakeOn && d.brake():
			if err := d.probe(ctx, err); err != nil {
				return err
			}
			// It works for some record, so the others are to blame, or it was repaired: all of them are tried again.
			brakeOn = false
			clear(bad)
			at, size, alone = 0, 1, 0
		default:
			bad[at] = err
			at, size, alone = at+1, 1, 0
		}
	}
	d.keepSize(size)
	if len(bad) > 0 {
		return &PartialError{Failed: bad}
	}
	return nil
}

// sendPart writes some records of the batch and notes it in their histories.
func (d *delivery) sendPart(ctx context.Context, from, to int) error {
	before := d.attempts
	d.failed = time.Time{}
	err := d.send(ctx, d.batch.part(from, to))
	for i := from; i < to; i++ {
		h := &d.histories[i]
		h.tries += d.attempts - before
		if h.first.IsZero() {
			h.first = d.failed
		}
	}
	return err
}

// brake says that too many records in a row panicked, over all batches of the partition, for them to be to blame.
func (d *delivery) brake() bool {
	d.c.mu.Lock()
	defer d.c.mu.Unlock()
	d.bugs++
	return d.bugs > d.c.cfg.Retry.Bugs
}

// unbroken notes that the sink stored something, or named what it refuses.
func (d *delivery) unbroken() {
	d.c.mu.Lock()
	defer d.c.mu.Unlock()
	d.bugs, d.broken = 0, ""
}

// probe waits until a sink that panicked at every record works for one: a defect that came with a new version must not
// make dead letters of a whole topic. It tries single records of the batch, any of them, since the first may be bad on
// its own account. Its error is that the partition was given up.
func (d *delivery) probe(ctx context.Context, err error) error {
	for failures := 1; ; failures++ {
		d.c.mu.Lock()
		d.broken = fmt.Sprintf("the sink panicked at the last %d records and stored none; no more dead letters are made: "+
			"repair the sink, or raise stream.retry.bugs where the records are to blame: %.300v", d.bugs, err)
		d.waiting = lag.WaitsPanics
		d.c.mu.Unlock()
		if d.c.quiet.allow("panics " + d.key.Topic) {
			d.c.tel.Log.Error("the sink panics at every record; no more dead letters are made, and single records are tried",
				"topic", d.key.Topic, "partition", d.key.Partition, "first", d.batch.First, "err", err)
		}
		if !pause(ctx, d.c.backoff(failures)) {
			return errGone
		}
		i := rand.N(len(d.batch.Records)) //nolint:gosec // any will do
		err = d.sendPart(ctx, i, i+1)
		switch class, bad := failed(err); {
		case err == nil, class == ClassRecord:
			return nil
		case !bad, class != ClassBug:
			return err
		}
	}
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
