package stream

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/failsafe-go/failsafe-go"
	"github.com/failsafe-go/failsafe-go/adaptivelimiter"
	"github.com/failsafe-go/failsafe-go/retrypolicy"
	"github.com/prometheus/client_golang/prometheus"
)

// ErrThrottle is what a sink's error wraps when the destination is up and turns work away: it is overloaded, its queue
// is full, a write timed out. Within a Scatter the request is tried again, with fewer at once; an error that the runtime
// sees delays the batch, and never makes a dead letter.
var ErrThrottle = errors.New("the destination turns work away")

// ErrThrottlePart is ErrThrottle for a part of a request, of which the rest was taken: what is left is tried again soon,
// however often that was so.
var ErrThrottlePart = fmt.Errorf("%w, but took a part of the request", ErrThrottle)

// A Limiter bounds the requests of a sink that are under way, over all its batches, and lowers the bound while the
// destination turns work away. Each request has a slot for its whole life, of which there are as many as the bound at
// best, and each of its tries a permit, of which there are fewer while the destination is overloaded. A request that
// waits to be tried again keeps its slot, so that no other takes its turn: the load falls at once.
type Limiter struct {
	slots     chan struct{}
	permits   adaptivelimiter.AdaptiveLimiter[any]
	throttled atomic.Bool // since the limit was last looked at

	// Only under the lock of permits.
	most, limit float64
	changed     time.Time // when the limit was last lowered
}

const (
	// The limit moves by one, at most once per window: a Limiter of 32 is down at one, or up again, within seconds.
	limiterWindow, limiterWindowMax = 100 * time.Millisecond, time.Second
	// limiterSettle is how long a limit that was found too high is not tried again.
	limiterSettle = time.Second

	throttleMin, throttleMax = 100 * time.Millisecond, 5 * time.Second
)

// NewLimiter makes one for most requests at once.
//
// The adaptive limiter by itself goes by latency, which is no sign here: a store that merges or collects garbage answers
// late and is well, and one that turns work away answers early. So its windows of latencies are set to one, where they
// say nothing, and what it goes by is the bound that it asks for in each window. See DESIGN.md.
func NewLimiter(most int) *Limiter {
	l := &Limiter{slots: make(chan struct{}, most), most: float64(most), limit: float64(most)}
	l.permits = adaptivelimiter.NewBuilder[any]().
		WithLimits(1, uint(most), uint(most)).
		WithMaxLimitFunc(l.bound).
		WithRecentWindow(limiterWindow, limiterWindowMax, 1).
		WithBaselineWindow(1).
		WithCorrelationWindow(1).
		Build()
	return l
}

// bound is one less after a window in which work was turned away, the same for a while, then one more with each window.
func (l *Limiter) bound(int) float64 {
	now := time.Now()
	switch {
	case l.throttled.Swap(false):
		l.limit, l.changed = max(1, l.limit-1), now
	case now.Sub(l.changed) >= limiterSettle:
		l.limit = min(l.most, l.limit+1)
	}
	return l.limit
}

// Limit is how many requests may be under way now.
func (l *Limiter) Limit() int { return l.permits.Limit() }

// InFlight is how many requests are under way, without those that wait to be tried again.
func (l *Limiter) InFlight() int { return l.permits.Inflight() }

// Metrics shows the limiter of a sink of that name.
func (l *Limiter) Metrics(sink string) []prometheus.Collector {
	return []prometheus.Collector{
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "millrace_" + sink + "_requests_in_flight", Help: "Write requests that are under way.",
		}, func() float64 { return float64(l.InFlight()) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "millrace_" + sink + "_concurrency_limit",
			Help: "Write requests that may be under way at once: fewer while the destination turns work away.",
		}, func() float64 { return float64(l.Limit()) }),
	}
}

// enter waits for a slot.
func (l *Limiter) enter(ctx context.Context) error {
	select {
	case l.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("waiting for a request to end: %w", context.Cause(ctx))
	}
}

// Wait waits until a request would have a slot.
func (l *Limiter) Wait(ctx context.Context) error {
	if err := l.enter(ctx); err != nil {
		return err
	}
	l.leave()
	return nil
}

func (l *Limiter) leave() { <-l.slots }

// run tries a request until it is not turned away, or ctx ends, and says each time that it was. It is called with a slot.
func (l *Limiter) run(ctx context.Context, request func() error, throttled func(error)) error {
	begun := time.Now()
	tries, waits := 0, 0 // waits since the destination took a part
	var last error       // for which it was turned away
	try := func() error {
		err := l.try(ctx, request)
		tries++
		if Classify(err) == ClassThrottle {
			last = err
			throttled(err)
			if errors.Is(err, ErrThrottlePart) {
				waits = 0
			}
		}
		return err
	}
	err := try()
	if last == nil { // as nearly always
		return err
	}
	retry := retrypolicy.NewBuilder[any]().
		HandleIf(func(_ any, err error) bool { return Classify(err) == ClassThrottle }).
		WithMaxRetries(-1).
		WithDelayFunc(func(failsafe.ExecutionAttempt[any]) time.Duration {
			bound := min(throttleMax, throttleMin<<min(waits, 10))
			waits++
			return bound/2 + rand.N(bound/2) //nolint:gosec // jitter needs no secrecy
		}).
		Build()
	made := true                                                 // the first try was, above
	_ = failsafe.With(retry).WithContext(ctx).Run(func() error { // its own error is that of the last try, or that ctx ended
		if !made {
			err = try()
		}
		made = false
		return err
	})
	if err != nil && ctx.Err() != nil { // what was wrong is that it was turned away, whatever the end of its time struck
		return fmt.Errorf("turned away in %d tries within %v: %w", tries, time.Since(begun).Round(time.Millisecond), last)
	}
	return err
}

func (l *Limiter) try(ctx context.Context, request func() error) error {
	permit, err := l.permits.AcquirePermit(ctx)
	if err != nil {
		return fmt.Errorf("waiting for a request to end: %w", context.Cause(ctx))
	}
	err = guarded(request)
	if Classify(err) == ClassThrottle {
		l.throttled.Store(true)
		_ = sleep(ctx, limiterWindow) // or who waits for the permit would be turned away at once, and who comes then
	}
	permit.Record()
	return err
}
