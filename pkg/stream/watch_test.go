package stream

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// wedge is a place where calls hang, whatever their context says, until it opens.
type wedge struct {
	shut atomic.Bool
	open chan struct{}
}

func newWedge(t *testing.T) *wedge {
	w := &wedge{open: make(chan struct{})}
	w.shut.Store(true)
	t.Cleanup(w.release)
	return w
}

func (w *wedge) hang() {
	if w.shut.Load() {
		<-w.open
	}
}

func (w *wedge) release() {
	if w.shut.CompareAndSwap(true, false) {
		close(w.open)
	}
}

// stuckInWrite is named so that the log can be asked for it.
func (w *wedge) stuckInWrite(next Sink) sinkFunc {
	return func(ctx context.Context, b Batch, done func(error)) error {
		if b.Partition == 1 {
			w.hang()
		}
		return next.Write(ctx, b, done)
	}
}

// A write that hangs is named with its stack, its partition starts again once it came back, and nothing is lost.
func TestWedgedWriteThatComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		for p := range int32(3) {
			w.produce(p, 0, 100)
		}
		hung := newWedge(t)
		m := w.join(hung.stuckInWrite(w.sink))
		w.applied(200) // the others are not held up
		begun := time.Now()
		w.until("it is named", func() bool {
			err := m.Ready()
			return err != nil && strings.Contains(err.Error(), "writing a batch of partition 1 of "+topic) && strings.Contains(err.Error(), "does not come back")
		})
		if took := time.Since(begun); took > w.cfg.Retry.Attempt+w.cfg.Wedge+5*time.Second {
			t.Errorf("it took %v to be seen", took)
		}
		if s := m.Status()[1]; s.State != stateWedged {
			t.Errorf("state %q, want %q", s.State, stateWedged)
		}
		w.until("it is logged", func() bool { return strings.Contains(w.logs.String(), "does not come back") })
		if log := w.logs.String(); strings.Count(log, "does not come back") != 1 || !strings.Contains(log, "stuckInWrite") {
			t.Errorf("the log does not name it once with its stack:\n%s", log)
		}
		hung.release()
		w.applied(300)
		w.until("it is ready", func() bool { return m.Ready() == nil && w.lag() == 0 })
		if n := m.metric("wedged_calls_total"); n != 1 {
			t.Errorf("%v wedged calls counted, want 1", n)
		}
		w.stop(m)
		w.want(100, 100, 100)
	})
}

// A done that never comes is as bad as a Write that never returns, but for that the goroutine is the runtime's own: the
// partition starts again by itself. What comes late is void.
func TestDoneThatNeverComes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.produce(0, 0, 100)
		var held []func(error)
		m := w.join(sinkFunc(func(ctx context.Context, b Batch, done func(error)) error {
			if len(held) < w.cfg.InFlight {
				held = append(held, done)
				return nil
			}
			return w.sink.Write(ctx, b, done)
		}))
		w.applied(100)
		w.until("the lag is 0", func() bool { return w.lag() == 0 })
		for _, done := range held {
			done(nil)
		}
		if err := m.Ready(); err != nil {
			t.Error(err)
		}
		w.stop(m)
		w.want(100)
	})
}

// A partition that starts again goes on where it is durable, also past what is committed, and that is committed in time.
func TestARestartKeepsWhatIsDurable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.cfg.Commit = 2 * time.Minute
		w.produce(0, 0, 100)
		hung := newWedge(t)
		m := w.join(sinkFunc(func(ctx context.Context, b Batch, done func(error)) error {
			if b.First == 50 {
				hung.hang()
			}
			return w.sink.Write(ctx, b, done)
		}))
		w.until("it hangs", func() bool { return m.metric("wedged_calls_total") == 1 })
		hung.release()
		w.applied(100)
		w.until("the lag is 0", func() bool { return w.lag() == 0 })
		w.stop(m)
		if n := w.sink.times("0/0"); n != 1 {
			t.Errorf("a durable record was written %d times", n)
		}
	})
}

// A call that stays away ends the consumer, and another member has its partitions at once.
func TestWedgedCallEndsTheConsumer(t *testing.T) {
	type setup func(w *world, hung *wedge) Sink
	for name, sink := range map[string]setup{
		"write": func(w *world, hung *wedge) Sink { return hung.stuckInWrite(w.sink) },
		"decode": func(w *world, hung *wedge) Sink {
			w.decoder.set(func(d *fakeDecoder) {
				d.hook = func(r *kgo.Record) {
					if r.Partition == 1 && r.Offset == 42 {
						hung.hang()
					}
				}
			})
			return w.sink
		},
		"keeper's write": func(w *world, hung *wedge) Sink {
			return keeperFunc{hung.stuckInWrite(w.sink)}
		},
		"keeper's offsets": func(w *world, hung *wedge) Sink {
			return &hungKeeper{keeperFunc{w.sink.Write}, hung}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				for p := range int32(3) {
					w.produce(p, 0, 100)
				}
				hung := newWedge(t)
				begun := time.Now()
				m := w.join(sink(w, hung))
				err := <-m.done
				w.decoder.set(func(d *fakeDecoder) { d.hook = nil })
				if !errors.Is(err, errWedged) {
					t.Errorf("Run returned %v", err)
				}
				bound := w.cfg.Retry.Attempt + 2*w.cfg.Wedge + w.cfg.Drain + 2*leaveTimeout + 5*time.Second
				if took := time.Since(begun); took > bound {
					t.Errorf("Run returned after %v, want at most %v", took, bound)
				}
				b := w.join(w.sink)
				w.applied(300)
				w.until("the lag is 0", func() bool { return w.lag() == 0 })
				hung.release()
				w.stop(b)
				w.want(100, 100, 100)
			})
		})
	}
}

type hungKeeper struct {
	keeperFunc

	hung *wedge
}

func (k *hungKeeper) Assigned(ctx context.Context, topic string, partitions []int32) (map[int32]int64, error) {
	k.hung.hang()
	return k.keeperFunc.Assigned(ctx, topic, partitions)
}

// An outage is not a wedge, however long it lasts, and however long an attempt takes to fail.
func TestAnOutageIsNotAWedge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.produce(0, 0, 100)
		var down atomic.Bool
		down.Store(true)
		m := w.join(sinkFunc(func(ctx context.Context, b Batch, done func(error)) error {
			if !down.Load() {
				return w.sink.Write(ctx, b, done)
			}
			go func() { <-ctx.Done(); done(ctx.Err()) }()
			return nil
		}))
		w.decoder.set(func(d *fakeDecoder) { d.out = errors.New("no registry") })
		time.Sleep(time.Hour)
		w.decoder.set(func(d *fakeDecoder) { d.out = nil })
		time.Sleep(time.Hour)
		if n := m.metric("wedged_calls_total"); n != 0 {
			t.Errorf("%v calls were taken for wedged", n)
		}
		down.Store(false)
		w.applied(100)
		w.stop(m)
	})
}

// With a write that hangs, a revoke and a stop are over in their bounds, and what the other partitions had in flight is
// committed.
func TestWedgedWriteDoesNotHoldARevokeUp(t *testing.T) {
	for name, keeper := range map[string]bool{"sink": false, "keeper": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				for p := range int32(3) {
					w.produce(p, 0, 100)
				}
				hung := newWedge(t)
				var sink Sink = hung.stuckInWrite(w.sink)
				if keeper {
					sink = keeperFunc{hung.stuckInWrite(w.sink)}
				}
				m := w.join(sink)
				w.applied(200)
				begun := time.Now()
				m.revoked(context.Background(), map[string][]int32{topic: {0, 1, 2}})
				if took := time.Since(begun); took > w.cfg.Drain+leaveTimeout {
					t.Errorf("the revoke took %v, want at most the drain of %v and the commit", took, w.cfg.Drain)
				}
				if !keeper {
					if l := w.lag(); l != 100 {
						t.Errorf("lag %d, want that of the partition that hangs", l)
					}
				}
				begun = time.Now()
				m.stopFn()
				err := <-m.done
				if took := time.Since(begun); took > w.cfg.Drain+2*leaveTimeout {
					t.Errorf("the stop took %v", took)
				}
				if err == nil || !strings.Contains(err.Error(), "did not come back") {
					t.Errorf("Run returned %v, want what hangs", err)
				}
			})
		})
	}
}
