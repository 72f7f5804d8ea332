package stream_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace/pkg/stream"
)

func TestScatter(t *testing.T) {
	outage := errors.New("down")
	refused := errors.New("too long")
	// run scatters requests, two at once, and gives what done was called with.
	run := func(t *testing.T, requests ...func(*stream.Scatter) error) (begun int, result error) {
		t.Helper()
		calls := 0
		limiter := stream.NewLimiter(2)
		s := stream.NewScatter(limiter, stream.Batch{Topic: "t", First: 42}, func(err error) { calls++; result = err })
		for _, r := range requests {
			if !s.Go(t.Context(), func() error { return r(s) }) {
				break
			}
			begun++
			synctest.Wait()
		}
		s.Close()
		synctest.Wait()
		if calls != 1 || limiter.InFlight() != 0 {
			t.Errorf("done was called %d times, %d requests are under way", calls, limiter.InFlight())
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
		n, err := run(t, partly, bad, good, good)
		if !errors.Is(err, outage) || errors.As(err, &partial) || n != 2 || !strings.Contains(err.Error(), "t/0@42") {
			t.Errorf("with an outage: %v after %d requests", err, n)
		}
	})
	synctest.Test(t, func(t *testing.T) { // cancelled while it waits for room
		ctx, cancel := context.WithCancelCause(t.Context())
		limiter := stream.NewLimiter(1)
		end := make(chan struct{})
		other := stream.NewScatter(limiter, stream.Batch{}, func(error) {})
		other.Go(t.Context(), func() error { <-end; return nil })
		var result error
		s := stream.NewScatter(limiter, stream.Batch{}, func(err error) { result = err })
		began := make(chan bool)
		go func() { began <- s.Go(ctx, func() error { return nil }) }()
		synctest.Wait()
		cancel(outage)
		if <-began {
			t.Error("a request began without room for it")
		}
		s.Close()
		if !errors.Is(result, outage) {
			t.Errorf("done got %v, want why the context ended", result)
		}
		close(end)
		other.Close()
	})
}

// Where the time is over while a request is tried once more, it is still that it was turned away which is wrong.
func TestScatterKeepsThatItWasTurnedAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		var result error
		s := stream.NewScatter(stream.NewLimiter(4), stream.Batch{}, func(err error) { result = err })
		tries := 0
		s.Go(ctx, func() error {
			if tries++; tries < 3 {
				return stream.ErrThrottle
			}
			<-ctx.Done()
			return ctx.Err()
		})
		s.Close()
		time.Sleep(40 * time.Second)
		synctest.Wait()
		if class := stream.Classify(result); class != stream.ClassThrottle {
			t.Errorf("done got %v, of class %s", result, class)
		}
	})
}

// A request that is turned away comes again by itself; when the context ends first, that it was turned away is kept.
func TestScatterTriesAgainWhatIsTurnedAway(t *testing.T) {
	turnedAway := fmt.Errorf("status 429: %w", stream.ErrThrottle)
	for name, c := range map[string]struct {
		times int
		want  error
	}{
		"for a while":                        {5, nil},
		"for longer than the batch may take": {1000, stream.ErrThrottle},
	} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			var result error
			s := stream.NewScatter(stream.NewLimiter(4), stream.Batch{}, func(err error) { result = err })
			tries, others := 0, 0
			s.Go(ctx, func() error {
				if tries++; tries <= c.times {
					return turnedAway
				}
				return nil
			})
			s.Go(ctx, func() error { others++; return nil })
			s.Close()
			time.Sleep(40 * time.Second)
			synctest.Wait()
			if !errors.Is(result, c.want) || others != 1 || tries < 6 || tries > 40 {
				t.Errorf("%s: done got %v after %d tries; the other request was made %d times", name, result, tries, others)
			}
		})
	}
}
