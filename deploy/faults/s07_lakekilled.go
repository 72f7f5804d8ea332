package main

import (
	"context"
	"fmt"
	"time"
)

// lakeKilled kills the lake's writer at every step from a row group to the commit in the group, one after the other.
// Readers never see a file that is not whole, and each record has one row.
func lakeKilled(ctx context.Context, e *env) (evidence, error) {
	e.destinations = []string{"lake"}
	e.set("lake.age", "300ms")
	if err := e.provision(ctx); err != nil {
		return evidence{}, err
	}
	w, err := e.produce(ctx, load{sources: 2, rate: pick(e, 600.0, 3000)})
	if err != nil {
		return evidence{}, err
	}
	if err := w.awaitAcked(ctx, 500, time.Minute); err != nil {
		return evidence{}, err
	}
	ev := evidence{Bites: map[string]int64{}}
	for i, place := range []string{
		"lake.row_group", "lake.footer", "lake.close", "lake.before_commit", "lake.after_commit", "lake.before_group_commit", "stream.before_commit",
	} {
		order := fmt.Sprintf("%s=%d:kill", place, 1+e.rnd.IntN(pick(e, 3, 30)))
		behind, err := e.killAt(ctx, "lake", fmt.Sprintf("lake-%d", i+1), order)
		if err != nil {
			return ev, err
		}
		ev.Bites["records not committed when it died at "+order] = behind
	}
	ev.Did = fmt.Sprintf("killed the writer at %d steps", len(ev.Bites))
	if _, err := e.consume("lake-last", "", "lake"); err != nil {
		return ev, err
	}
	return ev, w.awaitAcked(ctx, 300, time.Minute)
}
