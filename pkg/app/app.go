// Package app runs the parts of a process: it starts them in order and stops them in reverse.
package app

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"time"
)

// Part is something that runs until its context ends. Run drains and returns nil when ctx ends; a return before that
// ends the whole process, since a process with a part missing looks alive and is not.
type Part struct {
	Name string
	Run  func(ctx context.Context) error
}

type running struct {
	name   string
	cancel context.CancelFunc
	done   chan error
}

// Run starts the parts in order. When ctx ends, or when any part returns, it ends them one after the other in reverse
// order, each given the time that it needs, but all of them together no more than within: a part that hangs must not
// keep the process, whose work another cannot take over as long as it is there. It returns what went wrong, each error
// with its part's name; a part that is given up is among it, and its goroutine is left behind.
//
// The order is the caller's statement of who needs whom: a part may rely on all parts before it until its own Run has
// returned.
func Run(ctx context.Context, within time.Duration, parts ...Part) error {
	return run(ctx, within, func() {}, parts)
}

// run is Run, and says when the stop begins.
func run(ctx context.Context, within time.Duration, stopping func(), parts []Part) error {
	base := context.WithoutCancel(ctx) // each part is cancelled in its turn, not all at once
	started := make([]running, 0, len(parts))
	ended := make(chan struct{}, len(parts))
	for _, p := range parts {
		pctx, cancel := context.WithCancel(base)
		r := running{name: p.Name, cancel: cancel, done: make(chan error, 1)}
		go func() {
			r.done <- guarded(pctx, p.Run)
			ended <- struct{}{}
		}()
		started = append(started, r)
	}
	select {
	case <-ctx.Done():
	case <-ended:
	}
	stopping()
	stop, cancel := context.WithTimeout(base, within)
	defer cancel()
	var errs []error
	for _, r := range slices.Backward(started) {
		if err := r.end(stop, ctx.Err() != nil); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", r.name, err))
		}
	}
	return errors.Join(errs...)
}

// end stops a part and waits for it until stop ends.
func (r *running) end(stop context.Context, told bool) error {
	select {
	case err := <-r.done: // it ended on its own
		r.cancel()
		if err == nil && !told {
			err = errors.New("ended before it was told to")
		}
		return err
	default:
	}
	r.cancel()
	select {
	case err := <-r.done:
		return err
	case <-stop.Done():
		return errors.New("did not end within the time of a stop and was left behind")
	}
}

// Together makes one part of several rows of parts that do not need each other. They are started and stopped at the same
// time, each row as by Run: one that takes long to stop does not take the others' time. Where one row has to stop, all do.
func Together(name string, within time.Duration, rows ...[]Part) Part {
	return Part{Name: name, Run: func(ctx context.Context) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		results := make(chan error, len(rows))
		for _, row := range rows {
			go func() { results <- run(ctx, within, cancel, row) }()
		}
		var errs []error
		for range rows {
			errs = append(errs, <-results)
		}
		return errors.Join(errs...)
	}}
}

// guarded turns a panic into an error, so that the other parts still drain.
func guarded(ctx context.Context, run func(context.Context) error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	return run(ctx)
}
