package stream

import (
	"context"
	"fmt"
	"sync"
)

// A Scatter is one batch that a sink writes in several requests, some of them at once, and what came of them. Its slots
// are the sink's own: they bound the requests over all its batches.
type Scatter struct {
	slots chan struct{}
	done  func(error)

	mu      sync.Mutex
	pending int           // requests, and one until Close
	refused map[int]error // by index into the batch's records
	err     error         // the first outage: nothing is known of the batch
}

// NewScatter makes one. After Close and the last request, done is called once: with nil, with a *PartialError of the
// records that were refused, or with the first error that a request returned.
func NewScatter(slots chan struct{}, done func(error)) *Scatter {
	return &Scatter{slots: slots, done: done, pending: 1}
}

// Go starts a request once there is a slot. It says whether to go on: after an outage the batch comes again as a whole,
// so the rest of it need not be tried.
func (s *Scatter) Go(ctx context.Context, request func() error) bool {
	s.mu.Lock()
	failed := s.err != nil
	s.mu.Unlock()
	if failed {
		return false
	}
	select {
	case s.slots <- struct{}{}:
	case <-ctx.Done():
		s.begin()
		s.finish(fmt.Errorf("waiting for a request to end: %w", context.Cause(ctx)))
		return false
	}
	s.begin()
	go func() {
		err := guarded(request)
		<-s.slots
		s.finish(err)
	}()
	return true
}

// guarded makes a panic an error: on a goroutine of its own it would take the process.
func guarded(request func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = newPanicError(r)
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
	last, err, refused := s.pending == 0, s.err, s.refused
	s.mu.Unlock()
	switch {
	case !last:
	case err != nil:
		s.done(err)
	case len(refused) > 0:
		s.done(&PartialError{Failed: refused})
	default:
		s.done(nil)
	}
}
