package main

import (
	"context"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// poison sends one record that no decoder takes, and then 10,000 in a row. Each is a dead letter of every destination,
// and what is between and after them is stored.
func poison(ctx context.Context, e *env) (evidence, error) {
	run := pick(e, int64(2500), 10_000)
	bad := func(r *kgo.Record, seq int64) (must, may uint8) {
		if seq == 100 || (seq >= 500 && seq < 500+run) {
			r.Value = fmt.Appendf(nil, "no Avro: %d of %s", seq, r.Key)
			return toAll, 0
		}
		return 0, 0
	}
	if err := e.provision(ctx); err != nil {
		return evidence{}, err
	}
	p, err := e.consume("consumers", "")
	if err != nil {
		return evidence{}, err
	}
	w, err := e.produce(ctx, load{sources: 1, count: 500 + run + pick(e, int64(1000), 10_000), refusal: bad})
	if err != nil {
		return evidence{}, err
	}
	if err := until(ctx, 3*time.Minute, "all is sent", func(context.Context) error {
		select {
		case <-w.done:
			return nil
		default:
			return fmt.Errorf("%d are acknowledged", w.acked())
		}
	}); err != nil {
		return evidence{}, err
	}
	letters, err := e.awaitMetric(ctx, p, 3*time.Minute, float64(3*(run+1)), "millrace_stream_dead_letters_total")
	return evidence{
		Did:   fmt.Sprintf("one record, then %d in a row that do not decode: %.0f dead letters of three destinations", run, letters),
		Bites: map[string]int64{"dead letters": int64(letters)},
	}, err
}
