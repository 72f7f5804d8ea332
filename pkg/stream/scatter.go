package stream

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// A Scatter is one batch that a sink writes in several requests, some of them at once, and what came of them. Its
// Limiter is the sink's own: it bounds the requests over all its batches.
type Scatter struct {
	limiter *Limiter
	batch   Batch
	done    func(error)

	mu      sync.Mutex
	pending int           // requests, and one until Close
	refused map[int]error // by index into the batch's records
	err     error         // the first that a request gave: nothing is known of the batch
	known   int           // records that were in the destination already
}

// NewScatter makes one for b. After Close and the last request, done is called once: with nil, with a *PartialError of
// the records that were refused, or with the first error that a request returned, and of which batch it is.
func NewScatter(limiter *Limiter, b Batch, done func(error)) *Scatter {
	return &Scatter{limiter: limiter, batch: b, done: done, pending: 1}
}

// Go starts a request once there is room for it. It says whether to go on: after an error the batch comes again as a
// whole, so the rest of it need not be tried. A request that gives ErrThrottle is called again after a while, until ctx
// ends; it may keep for itself what is left to do.
func (s *Scatter) Go(ctx context.Context, request func() error) bool {
	return !s.Failed() && Together(ctx, []*Scatter{s}, request)
}

// Together starts a request that several batches share, as Go does for one. What it returns counts for each of them. The
// batches' sink has one Limiter.
func Together(ctx context.Context, batches []*Scatter, request func() error) bool {
	limiter := batches[0].limiter
	for _, s := range batches {
		s.begin()
	}
	finish := func(err error) {
		for _, s := range batches {
			s.finish(err)
		}
	}
	if err := limiter.enter(ctx); err != nil {
		finish(err)
		return false
	}
	go func() {
		err := limiter.run(ctx, request, func(err error) {
			for _, s := range batches {
				s.throttled(err)
			}
		})
		limiter.leave()
		finish(err)
	}()
	return true
}

// Failed says whether a request gave an error: the batch comes again as a whole, so the rest of it need not be tried.
func (s *Scatter) Failed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err != nil
}

// Fail is for what went wrong outside of a request, before Close.
func (s *Scatter) Fail(err error) {
	s.begin()
	s.finish(err)
}

func (s *Scatter) throttled(err error) {
	if s.batch.source != nil {
		s.batch.source.throttled(err)
	}
}

// guarded makes a panic an error: on a goroutine of its own it would take the process.
func guarded(request func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = newPanicError("sink", r)
		}
	}()
	return request()
}

// Refuse notes a record that can never be stored.
func (s *Scatter) Refuse(record int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refused == nil {
		s.refused = make(map[int]error)
	}
	s.refused[record] = err
}

// Repeated notes records that the destination had already. They count once the batch is through.
func (s *Scatter) Repeated(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.known += n
}

// Close says that no request follows.
func (s *Scatter) Close() { s.finish(nil) }

func (s *Scatter) begin() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pending++
}

func (s *Scatter) finish(err error) {
	s.mu.Lock()
	if err != nil && s.err == nil {
		s.err = err
	}
	s.pending--
	last, err, refused, known := s.pending == 0, s.err, s.refused, s.known
	s.mu.Unlock()
	if last && err == nil && known > 0 && s.batch.source != nil {
		s.batch.source.repeated(known)
	}
	switch {
	case !last:
	case err != nil:
		s.done(fmt.Errorf("writing %s/%d@%d: %w", s.batch.Topic, s.batch.Partition, s.batch.First, err))
	case len(refused) > 0:
		s.done(&PartialError{Failed: refused})
	default:
		s.done(nil)
	}
}

// A Gate counts the batches that a sink has under way, so that whoever closes its connections can wait for them. Its
// zero value is open.
type Gate struct {
	mu      sync.Mutex
	closed  bool
	running sync.WaitGroup
}

// ErrClosed answers whoever enters a Gate after Close.
var ErrClosed = errors.New("the sink is closed")

// Enter counts a batch as under way until Leave, unless the gate was closed.
func (g *Gate) Enter() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return ErrClosed
	}
	g.running.Add(1)
	return nil
}

// Leave ends what Enter began.
func (g *Gate) Leave() { g.running.Done() }

// Close lets no other batch in and waits for those under way.
func (g *Gate) Close() {
	g.mu.Lock()
	g.closed = true
	g.mu.Unlock()
	g.running.Wait()
}

// Leaving is done with a Leave after it.
func (g *Gate) Leaving(done func(error)) func(error) {
	return func(err error) {
		defer g.Leave()
		done(err)
	}
}
