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
		if err := app.Run(ctx, r.part("a", nil), r.part("b", nil), r.part("c", nil)); err != nil {
			t.Error(err)
		}
		if got := strings.Join(r.log, " "); got != "c b a" {
			t.Errorf("stopped in the order %s, want c b a", got)
		}
	})
}

func TestRunEndsWithTheFirstPartThatFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r recorder
		bad := errors.New("disk on fire")
		failing := app.Part{Name: "bad", Run: func(context.Context) error { return bad }}
		err := app.Run(t.Context(), r.part("a", nil), failing, r.part("c", errors.New("slow drain")))
		if !errors.Is(err, bad) || !strings.Contains(err.Error(), "bad: disk on fire") || !strings.Contains(err.Error(), "c: slow drain") {
			t.Errorf("got %v", err)
		}
		if got := strings.Join(r.log, " "); got != "c a" {
			t.Errorf("stopped in the order %s, want c a", got)
		}
	})
}

func TestRunDoesNotTakeAnEarlyReturnForSuccess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r recorder
		quiet := app.Part{Name: "quiet", Run: func(context.Context) error { return nil }}
		err := app.Run(t.Context(), r.part("a", nil), quiet)
		if err == nil || !strings.Contains(err.Error(), "quiet: ended before it was told to") {
			t.Errorf("got %v", err)
		}
	})
}

func TestRunSurvivesAPanic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r recorder
		err := app.Run(t.Context(), r.part("a", nil), app.Part{Name: "p", Run: func(context.Context) error { panic("boom") }}) //nolint:forbidigo // what a part must not do
		if err == nil || !strings.Contains(err.Error(), "p: panic: boom") {
			t.Errorf("got %v", err)
		}
		if got := strings.Join(r.log, " "); got != "a" {
			t.Errorf("a was not drained: %q", got)
		}
	})
}
