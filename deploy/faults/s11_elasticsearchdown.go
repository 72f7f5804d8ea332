package main

import (
	"context"
	"fmt"
	"time"

	"github.com/millrace/millrace/pkg/servertest/esproxy"
)

// elasticsearchDown has Elasticsearch answer 503 to everything and then refuse connections, at full rate. It is waited
// for: nothing becomes a dead letter, what is held stays within the budget, and the other destinations go on.
func elasticsearchDown(ctx context.Context, e *env) (evidence, error) {
	e.set("stream.memory", 16<<20) // so that it is reached
	proxy, err := e.elasticsearchProxy()
	if err != nil {
		return evidence{}, err
	}
	p, w, err := e.flow(ctx, load{sources: 4, rate: pick(e, 1500.0, 6000)}, pick(e, int64(1000), 10_000))
	if err != nil {
		return evidence{}, err
	}
	outages := func() (float64, error) {
		return p.metric(ctx, "millrace_stream_retries_total", `class="outage"`, `consumer="elasticsearch"`)
	}
	before, err := outages()
	if err != nil {
		return evidence{}, err
	}
	most := 0.0
	for _, f := range []esproxy.Faults{{Status: 503}, {Refuse: true}} {
		if err := proxy.Set(f); err != nil {
			return evidence{}, err
		}
		if _, err := e.awaitMetric(ctx, p, time.Minute, before+1, "millrace_stream_retries_total", `class="outage"`, `consumer="elasticsearch"`); err != nil {
			return evidence{}, err
		}
		for _, d := range []string{"cassandra", "lake"} { // they go on
			if err := e.awaitCommitted(ctx, d, pick(e, int64(3000), 100_000), 5*time.Minute); err != nil {
				return evidence{}, fmt.Errorf("while Elasticsearch is out: %w", err)
			}
		}
		held, err := p.metric(ctx, "millrace_stream_held_bytes")
		if err != nil {
			return evidence{}, err
		}
		most = max(most, held)
		if before, err = outages(); err != nil {
			return evidence{}, err
		}
	}
	end, committed, err := e.positions(ctx, "elasticsearch")
	if err != nil {
		return evidence{}, err
	}
	if err := e.awaitCause(ctx); err != nil {
		return evidence{}, err
	}
	if err := proxy.Set(esproxy.Faults{}); err != nil {
		return evidence{}, err
	}
	if limit := float64(16<<20 + 3*8<<20); most > limit { // a poll of each consumer may pass it
		return evidence{}, fmt.Errorf("%.0f bytes were held, want at most %.0f", most, limit)
	}
	return evidence{
		Did: fmt.Sprintf("503 and then no connection, %d records behind at the end of it, %.0f attempts failed, %.1f MiB held at most",
			end-committed, before, most/(1<<20)),
		Bites: map[string]int64{
			"attempts that failed": int64(before), "records behind": end - committed, "answers of 503": proxy.Counts().Status[503],
		},
	}, w.awaitAcked(ctx, 500, time.Minute)
}
