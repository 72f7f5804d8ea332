package main

import (
	"context"
	"fmt"
	"syscall"
	"time"
)

// frozen stops a broker that leads partitions for longer than its session lasts, and lets it go on: it then believes for a
// moment that it leads what others lead by now. It is done again and again.
func frozen(ctx context.Context, e *env) (evidence, error) {
	_, w, err := e.flow(ctx, load{sources: 4, rate: pick(e, 400.0, 3000)}, pick(e, int64(500), 10_000))
	if err != nil {
		return evidence{}, err
	}
	rounds, stopped, going := pick(e, 2, 5), pick(e, 8*time.Second, 45*time.Second), pick(e, time.Second, 20*time.Second)
	var led, inFlight, shrunk int64
	for i := range rounds {
		gone, leads, n, err := e.aim(ctx, w)
		if err != nil {
			return evidence{}, err
		}
		inFlight += n
		led += leads
		begun := time.Now()
		if err := gone.signal(syscall.SIGSTOP); err != nil {
			return evidence{}, err
		}
		n, err = e.world.awaitFailover(ctx, e.topic(), gone)
		if err != nil {
			return evidence{}, err
		}
		shrunk += n
		if err := e.awaitCause(ctx); err != nil {
			return evidence{}, err
		}
		if err := w.awaitAcked(ctx, pick(e, int64(500), 10_000), 2*time.Minute); err != nil {
			return evidence{}, fmt.Errorf("while %s is frozen, round %d: %w", gone, i+1, err)
		}
		if err := sleep(ctx, stopped-time.Since(begun)); err != nil {
			return evidence{}, err
		}
		if err := gone.signal(syscall.SIGCONT); err != nil {
			return evidence{}, err
		}
		if err := sleep(ctx, going); err != nil {
			return evidence{}, err
		}
		if err := e.world.cluster.heal(ctx, e.world.adm); err != nil {
			return evidence{}, fmt.Errorf("after round %d: %w", i+1, err)
		}
	}
	return evidence{
		Did: fmt.Sprintf("froze leaders %d times for %.0f s, which led %d partitions in sum, with %d records in flight; %d requests were cut off",
			rounds, stopped.Seconds(), led, inFlight, w.failed.Load()),
		Bites: map[string]int64{
			"records in flight": inFlight, "partitions led": led, "in-sync sets that shrank": shrunk, "produce requests cut off": w.failed.Load(),
		},
	}, w.awaitAcked(ctx, 500, time.Minute)
}
