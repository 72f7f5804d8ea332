package main

import (
	"context"
	"fmt"
	"time"
)

// bounces kills the leader of a partition or the controller and starts it again at once, five times in turn, each with
// records in flight.
func bounces(ctx context.Context, e *env) (evidence, error) {
	_, w, err := e.flow(ctx, load{sources: 4, rate: pick(e, 300.0, 4000)}, pick(e, int64(500), 10_000))
	if err != nil {
		return evidence{}, err
	}
	var led, inFlight, controllers int64
	for i := range 5 {
		victim, err := e.world.leader(ctx, e.topic(), int32(e.rnd.IntN(e.typ.Topic.Partitions))) //nolint:gosec // few
		if err == nil && i%2 == 1 {
			victim, err = e.world.controller(ctx)
			controllers++
		}
		if err != nil {
			return evidence{}, err
		}
		leads, n, err := e.aimAt(ctx, w, victim)
		if err != nil {
			return evidence{}, err
		}
		inFlight += n
		led += leads
		if err := victim.kill(ctx); err != nil {
			return evidence{}, err
		}
		if err := victim.start(); err != nil {
			return evidence{}, err
		}
		if err := w.awaitAcked(ctx, pick(e, int64(200), 10_000), 2*time.Minute); err != nil {
			return evidence{}, fmt.Errorf("after bounce %d, of %s: %w", i+1, victim, err)
		}
		if err := e.world.cluster.heal(ctx, e.world.adm); err != nil {
			return evidence{}, fmt.Errorf("after bounce %d, of %s: %w", i+1, victim, err)
		}
	}
	return evidence{
		Did: fmt.Sprintf("bounced leaders and controllers five times, which led %d partitions in sum, with %d records in flight, %d requests cut off",
			led, inFlight, w.failed.Load()),
		Bites: map[string]int64{
			"records in flight": inFlight, "partitions led": led, "controllers": controllers, "produce requests cut off": w.failed.Load(),
		},
	}, nil
}
