package spool

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"
)

// Sender publishes events in the order they come and tries each again until Kafka has it. Only a refused event is
// given up. It holds no bound of its own: whoever calls Put counts what is out.
type Sender struct {
	target Target
	log    *slog.Logger
	retry  func() // counts one retry

	mu    sync.Mutex
	queue []item
	again []item // failed after they were accepted; they go first
	out   int    // accepted by the target, not answered
	wake  chan struct{}
	down  bool // the last attempt failed: said once
}

type item struct {
	event []byte
	done  func(refused error)
}

// An event that was not accepted is tried again after retryMin, then twice as long up to retryMax. One that failed
// after it was accepted was paced by the client's own time-outs; retryPace only keeps it from spinning.
const (
	retryMin  = 100 * time.Millisecond
	retryMax  = 15 * time.Second
	retryPace = 10 * time.Millisecond
)

// NewSender makes a sender. retry is called at each attempt that has to be made again.
func NewSender(t Target, log *slog.Logger, retry func()) *Sender {
	return &Sender{target: t, log: log, retry: retry, wake: make(chan struct{}, 1)}
}

// Put takes an event. It never blocks. Once Kafka has acknowledged the event, done(nil) is called, and done(err) when
// it can never be published; neither, if the process ends first. done must not block.
func (s *Sender) Put(event []byte, done func(refused error)) {
	s.mu.Lock()
	s.queue = append(s.queue, item{event, done})
	s.mu.Unlock()
	s.signal()
}

// Idle says whether everything that was put is acknowledged or refused.
func (s *Sender) Idle() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.out == 0 && len(s.queue) == 0 && len(s.again) == 0
}

func (s *Sender) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Run publishes until ctx ends. After ctx ended answers may still come, for as long as the target's client lives.
func (s *Sender) Run(ctx context.Context) {
	wait := retryMin
	for {
		it, retried, ok := s.take()
		if !ok {
			select {
			case <-ctx.Done():
				return
			case <-s.wake:
			}
			continue
		}
		if ctx.Err() != nil {
			s.putBack(it)
			return
		}
		pause := time.Duration(0)
		switch err := s.publish(ctx, it); {
		case err != nil:
			s.putBack(it)
			s.failed(err)
			pause = wait/2 + rand.N(wait/2) //nolint:gosec // jitter needs no secret
			wait = min(wait*2, retryMax)
		case retried:
			pause = retryPace
		default:
			wait = retryMin
		}
		if pause == 0 {
			continue
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

// publish hands one event over. Its error means that the event has to be tried again.
func (s *Sender) publish(ctx context.Context, it item) error {
	s.mu.Lock()
	s.out++
	s.mu.Unlock()
	err := s.target.Publish(ctx, it.event, func(err error) { s.answered(it, err) })
	if err == nil {
		return nil
	}
	s.mu.Lock()
	s.out--
	s.mu.Unlock()
	if refused := (*RefusedError)(nil); errors.As(err, &refused) {
		it.done(err)
		return nil
	}
	return err
}

// answered is called by the target.
func (s *Sender) answered(it item, err error) {
	refused := (*RefusedError)(nil)
	final := err == nil || errors.As(err, &refused)
	if final {
		it.done(err)
	} else {
		s.failed(err)
	}
	s.mu.Lock()
	s.out--
	if !final {
		s.again = append(s.again, it)
	}
	recovered := err == nil && s.down
	if recovered {
		s.down = false
	}
	s.mu.Unlock()
	if recovered {
		s.log.Info("publishing works again")
	}
	s.signal()
}

// failed counts a failure and logs the first of a row.
func (s *Sender) failed(err error) {
	s.retry()
	s.mu.Lock()
	first := !s.down
	s.down = true
	s.mu.Unlock()
	if first && !errors.Is(err, context.Canceled) {
		s.log.Warn("publishing fails; trying again until it works", "err", err)
	}
}

func (s *Sender) take() (it item, retried, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.again) > 0 {
		it, s.again = s.again[0], s.again[1:]
		return it, true, true
	}
	if len(s.queue) > 0 {
		it, s.queue = s.queue[0], s.queue[1:]
		return it, false, true
	}
	return item{}, false, false
}

func (s *Sender) putBack(it item) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.again = append([]item{it}, s.again...)
}
