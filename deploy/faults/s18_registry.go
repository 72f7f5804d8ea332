package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// registryDown stops the schema registry. Records of known schemas flow on; one of an unknown schema waits, as nobody can
// say what it is, and holds its partition up; when the registry is back and does not know it either, it is a dead letter.
func registryDown(ctx context.Context, e *env) (evidence, error) {
	p, w, err := e.flow(ctx, load{sources: 4, rate: pick(e, 800.0, 3000)}, pick(e, int64(1000), 10_000))
	if err != nil {
		return evidence{}, err
	}
	if err := e.world.servers.stop(ctx, "registry"); err != nil {
		return evidence{}, err
	}
	started := false
	defer func() {
		if !started {
			_ = e.world.servers.start(context.WithoutCancel(ctx), "registry") // for the next scenario; what failed is told
		}
	}()
	for _, d := range e.destinations {
		if err := e.awaitCommitted(ctx, d, pick(e, int64(1000), 20_000), time.Minute); err != nil {
			return evidence{}, fmt.Errorf("without the registry: %w", err)
		}
	}
	unknown := &kgo.Record{Topic: e.topic(), Value: append([]byte{0, 0x7f, 0xff, 0xff, 0xf0}, "of a schema that nobody knows"...)}
	i := e.ledger.intent(entry{key: bytesKey(unknown.Value), source: e.nextSource(), must: toAll})
	err = e.world.client.ProduceSync(ctx, unknown).FirstErr()
	e.ledger.outcome(i, err)
	if err != nil {
		return evidence{}, err
	}
	waits, err := e.awaitMetric(ctx, p, time.Minute, pick(e, 3.0, 30), "millrace_stream_retries_total", `what="decoding"`)
	if err != nil {
		return evidence{}, err
	}
	if err := e.awaitCause(ctx); err != nil {
		return evidence{}, err
	}
	letters, err := p.metric(ctx, "millrace_stream_dead_letters_total")
	if err != nil {
		return evidence{}, err
	}
	if letters > 0 {
		return evidence{}, fmt.Errorf("%.0f dead letters while the registry is out: nobody knows whether they are bad", letters)
	}
	body, err := p.get(ctx, "/api/v1/consumers")
	if err != nil {
		return evidence{}, err
	}
	started = true
	paused := w.pause(ctx) // which leaves the machine to the server that starts
	if err := errors.Join(paused, e.world.servers.start(ctx, "registry")); err != nil {
		return evidence{}, err
	}
	w.resume()
	after, err := e.awaitMetric(ctx, p, 2*time.Minute, 3, "millrace_stream_dead_letters_total", `reason="unknown_schema"`)
	if err != nil {
		return evidence{}, err
	}
	if !strings.Contains(string(body), "lag_records") {
		return evidence{}, errors.New("/api/v1/consumers says nothing while the registry is out")
	}
	return evidence{
		Did:   fmt.Sprintf("registry stopped: known schemas flowed, an unknown one waited through %.0f tries, then %.0f dead letters", waits, after),
		Bites: map[string]int64{"tries to decode that waited": int64(waits), "dead letters afterwards": int64(after)},
	}, w.awaitAcked(ctx, 300, time.Minute)
}
