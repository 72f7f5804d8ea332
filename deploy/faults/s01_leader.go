package main

import (
	"context"
	"fmt"
	"time"
)

// leaderKilled kills the broker that leads a partition, with records in flight, and starts it again once the others
// have taken over and records flow.
func leaderKilled(ctx context.Context, e *env) (evidence, error) {
	if err := e.provision(ctx); err != nil {
		return evidence{}, err
	}
	if _, err := e.consume("consumers", ""); err != nil {
		return evidence{}, err
	}
	flow := pick(e, int64(800), 20_000) // records on each side of the fault
	w, err := e.produce(ctx, load{sources: 4, rate: pick(e, 500.0, 4000)})
	if err != nil {
		return evidence{}, err
	}
	if err := w.awaitAcked(ctx, flow, time.Minute); err != nil {
		return evidence{}, err
	}
	gone, led, inFlight, err := e.aim(ctx, w)
	if err != nil {
		return evidence{}, err
	}
	killed := time.Now()
	if err := gone.kill(ctx); err != nil {
		return evidence{}, err
	}
	shrunk, err := e.world.awaitFailover(ctx, e.topic(), gone)
	if err != nil {
		return evidence{}, err
	}
	took := time.Since(killed)
	if err := e.awaitCause(ctx); err != nil {
		return evidence{}, err
	}
	if err := w.awaitAcked(ctx, flow, 2*time.Minute); err != nil {
		return evidence{}, err
	}
	if err := e.world.cluster.heal(ctx, e.world.adm); err != nil {
		return evidence{}, err
	}
	if err := w.awaitAcked(ctx, flow/2, time.Minute); err != nil {
		return evidence{}, err
	}
	return evidence{
		Did: fmt.Sprintf("killed %s, which led %d partitions, with %d records in flight; other leaders after %.1f s, %d requests cut off",
			gone, led, inFlight, took.Seconds(), w.failed.Load()),
		Bites: map[string]int64{
			"records in flight": inFlight, "partitions led": led, "in-sync sets that shrank": shrunk,
			"produce requests cut off": w.failed.Load(),
		},
	}, nil
}
