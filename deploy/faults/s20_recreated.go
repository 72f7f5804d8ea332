package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// recreated deletes the topic under consumers and sources and makes it again. It is said while it is gone. The stores read
// the new one from its start, and the sources publish to it, without a restart; the lake, whose table knows the old one by
// its id, stops until an operator decides, and then goes on by itself.
func recreated(ctx context.Context, e *env) (evidence, error) {
	p, w, err := e.flow(ctx, load{sources: 2, rate: pick(e, 500.0, 2000)}, pick(e, int64(3000), 20_000))
	if err != nil {
		return evidence{}, err
	}
	if err := w.pause(ctx); err != nil {
		return evidence{}, err
	}
	if err := e.awaitCaughtUp(ctx); err != nil { // or what is deleted would be lost to somebody
		return evidence{}, err
	}
	before := w.acked()
	if _, err := e.world.adm.DeleteTopic(ctx, e.topic()); err != nil {
		return evidence{}, fmt.Errorf("deleting the topic: %w", err)
	}
	if err := e.awaitReadiness(ctx, p, "topic "+e.topic()+" was deleted"); err != nil {
		return evidence{}, err
	}
	// Fewer records than before: an offset of the old log would pass over all of them.
	if err := e.command(ctx, "apply-again", "topics", "apply", "--config", e.config); err != nil {
		return evidence{}, err
	}
	w.resume()
	if err := w.awaitAcked(ctx, before/2, 2*time.Minute); err != nil {
		return evidence{}, fmt.Errorf("into the new topic: %w", err)
	}
	if err := e.awaitReadiness(ctx, p, "is stopped: halted"); err != nil {
		return evidence{}, fmt.Errorf("of the lake: %w", err)
	}
	halted, err := p.metric(ctx, "millrace_stream_stopped_partitions_total")
	if err != nil {
		return evidence{}, err
	}
	if err := e.command(ctx, "adopt", "lake", "adopt", e.typ.Name, "--config", e.config, "--reason", "made again", "--yes"); err != nil {
		return evidence{}, fmt.Errorf("adopting the new topic: %w", err)
	}
	if err := w.stop(ctx); err != nil {
		return evidence{}, err
	}
	if err := e.awaitCaughtUp(ctx); err != nil {
		return evidence{}, err
	}
	if err := e.command(ctx, "verify", "lake", "verify", e.typ.Name, "--config", e.config); err != nil {
		return evidence{}, fmt.Errorf("verifying the table of both topics: %w", err)
	}
	times, err := p.metric(ctx, "millrace_stream_recreated_topics_total")
	if err != nil {
		return evidence{}, err
	}
	after := w.acked() - before
	return evidence{
		Did: fmt.Sprintf("deleted the topic after %d records and made it again; %d more were published into it; the lake halted until it was told to adopt the new one",
			before, after),
		Bites: map[string]int64{
			"consumers that saw it": int64(times), "partitions of the lake that halted": int64(halted),
			"records of the old topic": before, "records of the new topic": after,
		},
	}, nil
}

// awaitReadiness waits until a process says that it is not ready, in these words.
func (e *env) awaitReadiness(ctx context.Context, p *process, words string) error {
	return until(ctx, time.Minute, fmt.Sprintf("readiness that says %q", words), func(ctx context.Context) error {
		_, err := p.get(ctx, "/-/ready")
		if err == nil {
			return errors.Join(errors.New("it is ready"), e.health())
		}
		if !strings.Contains(err.Error(), words) {
			return errors.Join(fmt.Errorf("it says: %w", err), e.health())
		}
		return nil
	})
}
