package main

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// consumerKilled kills each destination's consumer twice: when the destination has acknowledged a batch, and right
// before a commit. The destination then holds what is not committed, and gets it again from the next process. The stores
// die the second time with a write that has not come back over some commits: what is in it must be in none of them.
func consumerKilled(ctx context.Context, e *env) (evidence, error) {
	if err := e.provision(ctx); err != nil {
		return evidence{}, err
	}
	w, err := e.produce(ctx, load{sources: 4, rate: pick(e, 800.0, 4000)})
	if err != nil {
		return evidence{}, err
	}
	ev := evidence{Bites: map[string]int64{}, Notes: map[string]any{}}
	var mu sync.Mutex
	var wg sync.WaitGroup
	errs := make(chan error, len(e.destinations))
	for _, d := range e.destinations {
		orders := []string{
			fmt.Sprintf("stream.acked.%s=%d:kill", d, 2+e.rnd.IntN(pick(e, 8, 60))),
			"stream.before_commit=3:kill",
		}
		if d != "lake" { // its commits are the table's, and cover no row that is not in it
			orders[1] += fmt.Sprintf(",sink.write=%d:wedge", 1+e.rnd.IntN(4))
		}
		wg.Go(func() {
			for i, order := range orders {
				behind, err := e.killAt(ctx, d, fmt.Sprintf("%s-%d", d, i+1), order)
				if err != nil {
					errs <- err
					return
				}
				mu.Lock()
				ev.Bites[fmt.Sprintf("records not committed when %s died at %s", d, order)] = behind
				mu.Unlock()
			}
			_, err := e.consume(d+"-3", "", d)
			errs <- err
		})
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		if err != nil {
			return ev, err
		}
	}
	ev.Did = fmt.Sprintf("killed %d consumers between acknowledgement and commit", len(ev.Bites))
	return ev, w.awaitAcked(ctx, 500, time.Minute)
}

// killAt runs a destination's consumer until it dies at its failpoint, and gives how many records were not committed
// then.
func (e *env) killAt(ctx context.Context, destination, name, failpoint string) (behind int64, err error) {
	p, err := e.consume(name, failpoint, destination)
	if err != nil {
		return 0, err
	}
	if err := p.awaitKilled(ctx, 2*time.Minute); err != nil {
		return 0, fmt.Errorf("%s: %w", failpoint, err)
	}
	end, committed, err := e.positions(ctx, destination)
	return end - committed, err
}
