package main

import (
	"context"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/pkg/codec"
	"github.com/millrace/millrace/pkg/servertest/esproxy"
)

// contentErrors has Elasticsearch refuse one record of a hundred for what it holds, and then answer that it may have no
// more shards. The first are dead letters of Elasticsearch alone, with its reason; the second is an outage.
func contentErrors(ctx context.Context, e *env) (evidence, error) {
	proxy, err := e.elasticsearchProxy()
	if err != nil {
		return evidence{}, err
	}
	var failed error
	attributes := e.typ.Index("attributes")
	cdc, err := e.codec()
	if err != nil {
		return evidence{}, err
	}
	decoder := cdc.Decoder(e.typ.Name)
	bad := func(r *kgo.Record, seq int64) (must, may uint8) {
		if seq%100 != 7 || failed != nil {
			return 0, 0
		}
		// Elasticsearch takes no NUL in the key of a flattened field.
		failed = e.change(ctx, cdc, decoder, r, func(v []codec.Value) {
			pairs := map[string]string{"nul\x00": "no"}
			for k, val := range v[attributes].Pairs() {
				pairs[string(k)] = string(val)
			}
			v[attributes] = codec.MapValue(pairs)
		})
		return toElasticsearch, 0
	}
	p, w, err := e.flow(ctx, load{sources: 1, rate: pick(e, 800.0, 3000), refusal: bad}, pick(e, int64(3000), 60_000))
	if err != nil {
		return evidence{}, err
	}
	letters, err := e.awaitMetric(ctx, p, time.Minute, 10, "millrace_stream_dead_letters_total", `consumer="elasticsearch"`)
	if err != nil {
		return evidence{}, err
	}
	before, err := p.metric(ctx, "millrace_stream_retries_total", `class="outage"`, `consumer="elasticsearch"`)
	if err != nil {
		return evidence{}, err
	}
	if err := proxy.Set(esproxy.Faults{ShardLimit: 0.2}); err != nil {
		return evidence{}, err
	}
	outages, err := e.awaitMetric(ctx, p, time.Minute, before+pick(e, 2.0, 20), "millrace_stream_retries_total", `class="outage"`, `consumer="elasticsearch"`)
	if err != nil {
		return evidence{}, err
	}
	if err := e.awaitCause(ctx); err != nil {
		return evidence{}, err
	}
	if err := proxy.Set(esproxy.Faults{}); err != nil {
		return evidence{}, err
	}
	if err := w.awaitAcked(ctx, 300, time.Minute); err != nil {
		return evidence{}, err
	}
	return evidence{
		Did: fmt.Sprintf("%.0f records refused for their content so far, %d items met the shard limit, %.0f attempts failed of it",
			letters, proxy.Counts().ShardLimit, outages-before),
		Bites: map[string]int64{
			"records refused": int64(letters), "items at the shard limit": proxy.Counts().ShardLimit, "attempts that failed of it": int64(outages - before),
		},
	}, failed
}

// change decodes a record, has its values changed and encodes it again.
func (e *env) change(ctx context.Context, cdc *codec.Codec, d *codec.Decoder, r *kgo.Record, change func([]codec.Value)) error {
	asWritten := *r
	asWritten.Timestamp = time.Now()
	rec, err := d.Decode(ctx, &asWritten)
	if err != nil {
		return err
	}
	change(rec.Values)
	enc, err := cdc.Encoder(ctx, e.typ.Name)
	if err != nil {
		return err
	}
	made, err := enc.Encode(rec.Values)
	if err != nil {
		return err
	}
	r.Value = made.Value
	return nil
}
