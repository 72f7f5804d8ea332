package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/millrace/millrace/pkg/servertest/cqlproxy"
)

// cassandraFails has writes to Cassandra time out after they were applied, and others be refused as unavailable or too
// many; then the process is stopped and started again. Each row is there once, and nothing is a dead letter.
func cassandraFails(ctx context.Context, e *env) (evidence, error) {
	e.destinations = []string{"cassandra"}
	proxy, err := cqlproxy.Start(e.world.servers.cassandra, e.seed)
	if err != nil {
		return evidence{}, err
	}
	e.onClose(proxy.Close)
	e.set("cassandra.hosts", []string{proxy.Address()})
	p, w, err := e.flow(ctx, load{sources: 4, rate: pick(e, 800.0, 3000)}, pick(e, int64(500), 10_000))
	if err != nil {
		return evidence{}, err
	}
	proxy.Set(cqlproxy.Faults{TimeOut: 0.05, Unavailable: 0.05, Overloaded: 0.02})
	if err := w.awaitAcked(ctx, pick(e, int64(3000), 60_000), 2*time.Minute); err != nil {
		return evidence{}, err
	}
	if err := until(ctx, time.Minute, "writes that time out and are unavailable", func(context.Context) error {
		if c := proxy.Counts(); c.TimedOut < 3 || c.Unavailable < 3 {
			return fmt.Errorf("%+v", c)
		}
		return e.health()
	}); err != nil {
		return evidence{}, err
	}
	proxy.Set(cqlproxy.Faults{})
	if err := e.awaitCommitted(ctx, "cassandra", 200, time.Minute); err != nil {
		return evidence{}, err
	}
	before, err := p.metric(ctx, "millrace_stream_retries_total", `class="outage"`)
	if err != nil {
		return evidence{}, err
	}
	stopped := time.Now()
	if err := e.world.servers.stop(ctx, "cassandra"); err != nil {
		return evidence{}, err
	}
	// What was sent until now waits. The sources rest meanwhile, which leaves the machine to the server that starts.
	if err := w.awaitAcked(ctx, 500, time.Minute); err != nil {
		return evidence{}, err
	}
	_, failed := e.awaitMetric(ctx, p, time.Minute, before+pick(e, 1.0, 20), "millrace_stream_retries_total", `class="outage"`)
	paused := w.pause(ctx)
	if err := errors.Join(paused, e.world.servers.start(ctx, "cassandra")); err != nil { // also for the next scenario
		return evidence{}, err
	}
	w.resume()
	if failed != nil {
		return evidence{}, failed
	}
	after, err := p.metric(ctx, "millrace_stream_retries_total", `class="outage"`)
	if err != nil {
		return evidence{}, err
	}
	c := proxy.Counts()
	return evidence{
		Did: fmt.Sprintf("of %d writes %d timed out, %d were unavailable, %d too many; then Cassandra was away for %.0f s, %.0f attempts failed",
			c.Writes, c.TimedOut, c.Unavailable, c.Overloaded, time.Since(stopped).Seconds(), after-before),
		Bites: map[string]int64{
			"writes that timed out": c.TimedOut, "writes that were unavailable": c.Unavailable, "attempts that failed while it was away": int64(after - before),
		},
	}, w.awaitAcked(ctx, 300, time.Minute)
}
