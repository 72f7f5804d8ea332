package app_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace/pkg/app"
)

// recorder makes parts that write down when they stop.
type recorder struct {
	mu  sync.Mutex
	log []string
}

func (r *recorder) note(s string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.log = append(r.log, s)
}

func (r *recorder) stopped() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Join(r.log, " ")
}

func (r *recorder) part(name string, err error) app.Part {
	return app.Part{Name: name, Run: func(ctx context.Context) error {
		<-ctx.Done()
		time.Sleep(time.Second) // draining; virtual time
		r.note(name)
		return err
	}}
}

func TestRunStopsInReverse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r recorder
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := app.Run(ctx, time.Minute, r.part("a", nil), r.part("b", nil), r.part("c", nil)); err != nil {
			t.Error(err)
		}
		if got := r.stopped(); got != "c b a" {
			t.Errorf("stopped in the order %s, want c b a", got)
		}
	})
}

func TestRunEndsWithTheFirstPartThatFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r recorder
		bad := errors.New("disk on fire")
		failing := app.Part{Name: "bad", Run: func(context.Context) error { return bad }}
		err := app.Run(t.Context(), time.Minute, r.part("a", nil), failing, r.part("c", errors.New("slow drain")))
		if !errors.Is(err, bad) || !strings.Contains(err.Error(), "bad: disk on fire") || !strings.Contains(err.Error(), "c: slow drain") {
			t.Errorf("got %v", err)
		}
		if got := r.stopped(); got != "c a" {
			t.Errorf("stopped in the order %s, want c a", got)
		}
	})
}

func TestRunDoesNotTakeAnEarlyReturnForSuccess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r recorder
		quiet := app.Part{Name: "quiet", Run: func(context.Context) error { return nil }}
		err := app.Run(t.Context(), time.Minute, r.part("a", nil), quiet)
		if err == nil || !strings.Contains(err.Error(), "quiet: ended before it was told to") {
			t.Errorf("got %v", err)
		}
	})
}

func TestRunSurvivesAPanic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r recorder
		err := app.Run(t.Context(), time.Minute, r.part("a", nil), app.Part{Name: "p", Run: func(context.Context) error { panic("boom") }}) //nolint:forbidigo // what a part must not do
		if err == nil || !strings.Contains(err.Error(), "p: panic: boom") {
			t.Errorf("got %v", err)
		}
		if got := r.stopped(); got != "a" {
			t.Errorf("a was not drained: %q", got)
		}
	})
}

// A part that does not end must not keep the process, nor the others from their end.
func TestRunLeavesBehindWhatDoesNotEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r recorder
		release := make(chan struct{})
		hung := app.Part{Name: "hung", Run: func(context.Context) error { <-release; return nil }}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		begun := time.Now()
		err := app.Run(ctx, 10*time.Second, r.part("a", nil), hung, r.part("c", nil))
		if err == nil || !strings.Contains(err.Error(), "hung: did not end within") {
			t.Errorf("got %v", err)
		}
		if took := time.Since(begun); took != 70*time.Second {
			t.Errorf("it took %v, want the minute and the time of a stop", took)
		}
		synctest.Wait()
		if got := r.stopped(); got != "c" {
			t.Errorf("stopped %q in time, want c", got)
		}
		close(release)
		time.Sleep(time.Minute) // until the rest has drained after all
	})
}

// Rows stop side by side, each in its order, when they are told to or when one of them has to.
func TestTogether(t *testing.T) {
	for name, failing := range map[string]bool{"told": false, "a part fails": true} {
		synctest.Test(t, func(t *testing.T) {
			var r recorder
			bad := errors.New("disk on fire")
			second := app.Part{Name: "second", Run: func(ctx context.Context) error {
				if failing {
					time.Sleep(30 * time.Second)
					return bad
				}
				<-ctx.Done()
				return nil
			}}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			begun := time.Now()
			err := app.Run(ctx, time.Minute, r.part("below", nil), app.Together("rows", time.Minute,
				[]app.Part{r.part("sink", nil), r.part("consumer", nil)},
				[]app.Part{r.part("first", nil), second},
				[]app.Part{r.part("single", nil)},
			))
			if failing != errors.Is(err, bad) || failing && err.Error() != "rows: second: disk on fire" {
				t.Errorf("%s: got %v", name, err)
			}
			want := time.Minute + 3*time.Second // two of a row, and below
			if failing {
				want = 33 * time.Second
			}
			if took := time.Since(begun); took != want {
				t.Errorf("%s: it took %v, want %v: the rows did not stop side by side", name, took, want)
			}
			got := r.stopped()
			if len(r.log) != 5 || r.log[4] != "below" || strings.Index(got, "consumer") > strings.Index(got, "sink") {
				t.Errorf("%s: stopped in the order %s", name, got)
			}
		})
	}
}
