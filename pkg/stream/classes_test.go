package stream

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace/pkg/codec"
)

func TestClassify(t *testing.T) {
	for _, c := range []struct {
		err  error
		want Class
	}{
		{&PartialError{Failed: map[int]error{0: errors.New("too long")}}, ClassRecord},
		{fmt.Errorf("writing: %w", &PartialError{}), ClassRecord},
		{fmt.Errorf("decoding: %w", &codec.BadRecord{Reason: "malformed"}), ClassRecord},
		{fmt.Errorf("status 429: %w", ErrThrottle), ClassThrottle},
		{fmt.Errorf("writing: %w", ErrBatch), ClassBug},
		{newPanicError("sink", "no such field"), ClassBug},
		{errors.New("connection refused"), ClassOutage},
		{errors.New("401 Unauthorized"), ClassOutage},
		{errors.New("400 Bad Request: validation_exception"), ClassOutage},
		{context.DeadlineExceeded, ClassOutage},
		{errors.Join(errors.New("down"), ErrThrottle), ClassThrottle},
	} {
		if got := Classify(c.err); got != c.want {
			t.Errorf("%v is %s, want %s", c.err, got, c.want)
		}
	}
}

// Whatever is nobody's fault is waited for, however long, and makes no dead letter.
func TestWhatIsWaitedFor(t *testing.T) {
	for _, c := range []struct {
		err         error
		class       Class
		state       string
		most, least int // tries in an hour
	}{
		{errors.New("401 Unauthorized"), ClassOutage, "waiting: writing", 1000, 60},
		{errors.New("403 Forbidden: missing authentication"), ClassOutage, "waiting: writing", 1000, 60},
		{errors.New("404 no such index"), ClassOutage, "waiting: writing", 1000, 60},
		{errors.New("400 validation_exception: this action would add [2] shards"), ClassOutage, "waiting: writing", 1000, 60},
		{fmt.Errorf("429 Too Many Requests: %w", ErrThrottle), ClassThrottle, "waiting: throttled", 4000, 200},
	} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			w.produce(0, 0, 100)
			tries := 0
			w.sink.set(func(s *memSink) { s.fail = func(Batch) error { tries++; return c.err } })
			m := w.join(w.sink)
			time.Sleep(time.Hour)
			if l := w.lag(); l != 100 {
				t.Errorf("%v: lag %d, want 100", c.err, l)
			}
			if s := m.Status()[0].State; s != c.state {
				t.Errorf("%v: state %q, want %q", c.err, s, c.state)
			}
			if err := m.Ready(); err == nil || !strings.Contains(err.Error(), c.state) {
				t.Errorf("%v: Ready is %v, want that it is %s", c.err, err, c.state)
			}
			if tries < c.least || tries > c.most {
				t.Errorf("%v: %d tries in an hour", c.err, tries)
			}
			if n := m.retries(c.class); int(n) != tries {
				t.Errorf("%v: %v retries of class %s are counted, %d were made", c.err, n, c.class, tries)
			}
			if opened := strings.Contains(w.logs.String(), "single probes until one succeeds"); opened == (c.class == ClassThrottle) {
				t.Errorf("%v: the breaker has opened: %v", c.err, opened)
			}
			w.sink.set(func(s *memSink) { s.fail = nil })
			w.until("the lag is 0", func() bool { return w.lag() == 0 })
			w.want(100)
			w.stop(m)
			if n := len(w.letters()); n != 0 {
				t.Errorf("%v: %d dead letters", c.err, n)
			}
		})
	}
}

// A request that a Scatter tries again by itself is seen, though the batch fails nowhere; so is what was there already.
func TestWhatAScatterTells(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.produce(0, 0, 10)
		limiter := NewLimiter(2)
		var idle atomic.Bool
		var writes atomic.Int32
		m := w.join(sinkFunc(func(ctx context.Context, b Batch, done func(error)) error {
			writes.Add(1)
			s := NewScatter(limiter, b, done)
			s.Go(ctx, func() error {
				if !idle.Load() {
					return fmt.Errorf("429: %w", ErrThrottle)
				}
				s.Repeated(3)
				return w.sink.store(b, nil)
			})
			s.Go(ctx, func() error { s.Repeated(1); return nil })
			s.Close()
			return nil
		}))
		w.until("it is throttled", func() bool { s := m.Status(); return len(s) > 0 && s[0].State == "waiting: throttled" })
		time.Sleep(5 * time.Second)
		idle.Store(true)
		w.until("the lag is 0", func() bool { return w.lag() == 0 })
		if s := m.Status()[0].State; s != stateRunning {
			t.Errorf("state %q after it", s)
		}
		w.stop(m)
		if n := m.retries(ClassThrottle); n < 3 || writes.Load() != 1 {
			t.Errorf("%v retries are counted in %d writes", n, writes.Load())
		}
		if n := m.metric("redelivered_records_total"); n != 4 {
			t.Errorf("%v redelivered records are counted, want 4", n)
		}
		if !strings.Contains(w.logs.String(), "the destination turns work away") {
			t.Error("it was not logged")
		}
	})
}

// retries counts those of a class.
func (m *member) retries(class Class) float64 {
	families, err := m.reg.Gather()
	if err != nil {
		return -1
	}
	sum := 0.0
	for _, f := range families {
		if f.GetName() != "millrace_stream_retries_total" {
			continue
		}
		for _, x := range f.GetMetric() {
			for _, l := range x.GetLabel() {
				if l.GetName() == "class" && l.GetValue() == string(class) {
					sum += x.GetCounter().GetValue()
				}
			}
		}
	}
	return sum
}
