package stream_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"github.com/millrace/millrace/pkg/stream"
)

func TestScatter(t *testing.T) {
	outage := errors.New("down")
	refused := errors.New("too long")
	// run scatters requests over two slots and gives what done was called with.
	run := func(t *testing.T, requests ...func(*stream.Scatter) error) (begun int, result error) {
		t.Helper()
		calls := 0
		slots := make(chan struct{}, 2)
		s := stream.NewScatter(slots, func(err error) { calls++; result = err })
		for _, r := range requests {
			if !s.Go(t.Context(), func() error { return r(s) }) {
				break
			}
			begun++
			synctest.Wait()
		}
		s.Close()
		synctest.Wait()
		if calls != 1 || len(slots) != 0 {
			t.Errorf("done was called %d times, %d slots are taken", calls, len(slots))
		}
		return begun, result
	}
	good := func(*stream.Scatter) error { return nil }
	bad := func(*stream.Scatter) error { return outage }
	partly := func(s *stream.Scatter) error { s.Refuse(7, refused); return good(s) }
	synctest.Test(t, func(t *testing.T) {
		if _, err := run(t); err != nil {
			t.Errorf("without requests: %v", err)
		}
		if n, err := run(t, good, good, good); err != nil || n != 3 {
			t.Errorf("%v after %d requests", err, n)
		}
		_, err := run(t, good, partly, good)
		var partial *stream.PartialError
		if !errors.As(err, &partial) || len(partial.Failed) != 1 || !errors.Is(partial.Failed[7], refused) {
			t.Errorf("with a refused record: %v", err)
		}
		if n, err := run(t, partly, bad, good, good); !errors.Is(err, outage) || errors.As(err, &partial) || n != 2 {
			t.Errorf("with an outage: %v after %d requests", err, n)
		}
	})
	synctest.Test(t, func(t *testing.T) { // cancelled while it waits for a slot
		ctx, cancel := context.WithCancelCause(t.Context())
		slots := make(chan struct{}, 1)
		slots <- struct{}{} // another batch's
		var result error
		s := stream.NewScatter(slots, func(err error) { result = err })
		began := make(chan bool)
		go func() { began <- s.Go(ctx, func() error { return nil }) }()
		synctest.Wait()
		cancel(outage)
		if <-began {
			t.Error("a request began without a slot")
		}
		s.Close()
		if !errors.Is(result, outage) {
			t.Errorf("done got %v, want why the context ended", result)
		}
	})
}
