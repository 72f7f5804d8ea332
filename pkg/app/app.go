// Package app runs the parts of a process: it starts them in order and stops them in reverse.
package app

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
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
// order, each given the time that it needs, and returns what went wrong, each error with its part's name.
//
// The order is the caller's statement of who needs whom: a part may rely on all parts before it until its own Run has
// returned.
func Run(ctx context.Context, parts ...Part) error {
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
	var errs []error
	for _, r := range slices.Backward(started) {
		select {
		case err := <-r.done: // it ended on its own
			if err == nil && ctx.Err() == nil {
				err = errors.New("ended before it was told to")
			}
			r.done <- err
		default:
		}
		r.cancel()
		if err := <-r.done; err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", r.name, err))
		}
	}
	return errors.Join(errs...)
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
