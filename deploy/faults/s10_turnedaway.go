package main

import (
	"context"
	"fmt"

	"github.com/millrace/millrace/pkg/servertest/esproxy"
)

// itemsTurnedAway has three of ten documents answered 429 inside of an HTTP 200. They alone are sent again, with fewer
// requests at once, and none of them is a dead letter.
func itemsTurnedAway(ctx context.Context, e *env) (evidence, error) {
	e.destinations = []string{"elasticsearch"}
	proxy, err := e.elasticsearchProxy()
	if err != nil {
		return evidence{}, err
	}
	if err := proxy.Set(esproxy.Faults{TurnAway: 0.3}); err != nil {
		return evidence{}, err
	}
	p, w, err := e.flow(ctx, load{sources: 4, rate: pick(e, 800.0, 3000)}, pick(e, int64(4000), 60_000))
	if err != nil {
		return evidence{}, err
	}
	if err := w.stop(ctx); err != nil {
		return evidence{}, err
	}
	if err := e.awaitCaughtUp(ctx); err != nil { // while items are still turned away
		return evidence{}, err
	}
	throttled, err := p.metric(ctx, "millrace_stream_retries_total", `class="throttle"`)
	if err != nil {
		return evidence{}, err
	}
	c := proxy.Counts()
	return evidence{
		Did: fmt.Sprintf("turned %d of %d items away, %d requests were throttled", c.TurnedAway, c.Items, int64(throttled)),
		Bites: map[string]int64{
			"items turned away": c.TurnedAway, "requests seen as throttled": int64(throttled),
		},
	}, nil
}
