package stream_test

import (
	"context"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace/pkg/stream"
)

// server is a destination that works on so many requests at once and turns the others away.
type server struct {
	mu                  sync.Mutex
	capacity, busy      int
	stored, turned, max int
	latency             func() time.Duration
}

func (s *server) set(capacity int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.capacity, s.stored, s.turned, s.max = capacity, 0, 0, 0
}

func (s *server) seen() (stored, turned, most int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stored, s.turned, s.max
}

func (s *server) request() error {
	s.mu.Lock()
	if s.busy >= s.capacity {
		s.turned++
		s.mu.Unlock()
		time.Sleep(time.Millisecond)
		return stream.ErrThrottle
	}
	s.busy++
	s.max = max(s.max, s.busy)
	s.mu.Unlock()
	time.Sleep(s.latency())
	s.mu.Lock()
	defer s.mu.Unlock()
	s.busy--
	s.stored++
	return nil
}

// load keeps as many requests under way as the limiter allows, until the test ends.
func (s *server) load(t *testing.T, limiter *stream.Limiter) {
	ended := make(chan struct{})
	scatter := stream.NewScatter(limiter, stream.Batch{}, func(error) { close(ended) })
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		for ctx.Err() == nil && scatter.Go(ctx, s.request) {
			continue
		}
		scatter.Close()
	}()
	t.Cleanup(func() { cancel(); <-ended })
}

func TestLimiterLeavesAHealthyDestinationAlone(t *testing.T) {
	for name, latency := range map[string]func() time.Duration{
		"constant": func() time.Duration { return 20 * time.Millisecond },
		"uneven":   func() time.Duration { return time.Millisecond << rand.N(8) },
		"with pauses": func() time.Duration {
			if time.Now().UnixMilli()%10000 < 1500 { // a collection of garbage, of which all requests know
				return 1500 * time.Millisecond
			}
			return 5*time.Millisecond + rand.N(10*time.Millisecond)
		},
	} {
		synctest.Test(t, func(t *testing.T) {
			const most = 32
			limiter := stream.NewLimiter(most)
			s := &server{capacity: most, latency: latency}
			s.load(t, limiter)
			time.Sleep(5 * time.Second)
			lowest := most
			for range 600 {
				time.Sleep(100 * time.Millisecond)
				lowest = min(lowest, limiter.Limit())
			}
			if lowest < most {
				t.Errorf("%s: the limit fell to %d", name, lowest)
			}
		})
	}
}

func TestLimiterFollowsADestinationThatTurnsWorkAway(t *testing.T) {
	for _, most := range []int{4, 32} {
		synctest.Test(t, func(t *testing.T) {
			limiter := stream.NewLimiter(most)
			s := &server{capacity: most, latency: func() time.Duration { return 20 * time.Millisecond }}
			s.load(t, limiter)
			// phase changes the capacity, waits for the limit to follow and gives what was done in the half minute after.
			phase := func(capacity, low, high int) (stored, turned int) {
				t.Helper()
				s.set(capacity)
				begun := time.Now()
				for limiter.Limit() < low || limiter.Limit() > high {
					if time.Since(begun) > 30*time.Second {
						t.Fatalf("of %d: half a minute after the capacity became %d the limit is %d", most, capacity, limiter.Limit())
					}
					time.Sleep(100 * time.Millisecond)
				}
				took := time.Since(begun)
				s.set(capacity)
				time.Sleep(30 * time.Second)
				stored, turned, _ = s.seen()
				t.Logf("of %d, capacity %d: limit %d after %v; in 30 s %d stored and %d turned away", most, capacity, limiter.Limit(), took, stored, turned)
				return stored, turned
			}
			phase(most, most, most)
			stored, turned := phase(2, 1, 3)
			if best := 2 * 50 * 30; stored < best*8/10 || turned > stored/5 {
				t.Errorf("of %d: with room for 2, %d were stored, %d at best, and %d turned away", most, stored, best, turned)
			}
			if _, turned := phase(0, 1, 1); turned > 30*100 {
				t.Errorf("of %d: %d requests were turned away in half a minute", most, turned)
			}
			if stored, turned = phase(most, most, most); turned > 0 || stored < most*50*30*9/10 {
				t.Errorf("of %d: after it recovered, %d were stored and %d turned away", most, stored, turned)
			}
		})
	}
}

// TestLimiterGoesOnSoonAfterProgress: a request that is taken part by part does not wait as one that is not taken at all.
func TestLimiterGoesOnSoonAfterProgress(t *testing.T) {
	for err, most := range map[error]time.Duration{stream.ErrThrottlePart: 5 * time.Second, stream.ErrThrottle: 2 * time.Minute} {
		synctest.Test(t, func(t *testing.T) {
			ended := make(chan error, 1)
			scatter := stream.NewScatter(stream.NewLimiter(4), stream.Batch{}, func(err error) { ended <- err })
			begun, parts := time.Now(), 0
			scatter.Go(t.Context(), func() error {
				if parts++; parts == 20 {
					return nil
				}
				return err
			})
			scatter.Close()
			if err := <-ended; err != nil {
				t.Error(err)
			}
			if took := time.Since(begun); took > most || took < most/4 {
				t.Errorf("%v 19 times took %v, want at most %v and not far from it", err, took, most)
			}
		})
	}
}
