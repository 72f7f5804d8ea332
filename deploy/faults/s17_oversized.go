package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// oversized sends a record that is larger than Kafka takes, through the SDK and through the gateway, has the broker's limit
// lowered while records flow, and puts batches into the topic that decompress to more than any consumer takes. The first
// are refused to whoever sends them; the batches are dead letters; all else flows, in bounded memory.
func oversized(ctx context.Context, e *env) (evidence, error) {
	e.set("stream.memory", 64<<20)
	p, w, err := e.flow(ctx, load{sources: 2, rate: pick(e, 500.0, 2000)}, pick(e, int64(500), 10_000))
	if err != nil {
		return evidence{}, err
	}
	refused, err := e.refusedForSize(ctx)
	if err != nil {
		return evidence{}, err
	}
	limited, err := e.lowerLimit(ctx, w)
	if err != nil {
		return evidence{}, err
	}
	before, err := p.peak()
	if err != nil {
		return evidence{}, err
	}
	var offsets int64
	for i, codec := range []kgo.CompressionCodec{kgo.ZstdCompression(), kgo.GzipCompression()} {
		n, err := e.bomb(ctx, codec, int32(i))
		if err != nil {
			return evidence{}, err
		}
		offsets += n
	}
	letters, err := e.awaitMetric(ctx, p, time.Minute, float64(3*offsets), "millrace_stream_dead_letters_total", `reason="oversized_batch"`)
	if err != nil {
		return evidence{}, err
	}
	for _, d := range e.destinations {
		if err := e.awaitCommitted(ctx, d, 300, time.Minute); err != nil {
			return evidence{}, fmt.Errorf("after the batches: %w", err)
		}
	}
	peak, err := p.peak()
	if err != nil {
		return evidence{}, err
	}
	// Each of three consumers decompresses 64 MiB into a buffer that doubles as it grows, and the collector lets as much
	// garbage be: a bound, far above what is held otherwise.
	if limit := int64(3 << 29); peak > limit {
		return evidence{}, fmt.Errorf("the process had %d MiB in memory, want at most %d", peak>>20, limit>>20)
	}
	return evidence{
		Did: fmt.Sprintf("%d oversized records refused, %d by a lowered limit; two batches of %d records that decompress to %d MiB each: "+
			"%.0f dead letters; %d MiB in memory at most, %d before", refused, limited, offsets, bombBytes>>20, letters, peak>>20, before>>20),
		Bites: map[string]int64{
			"oversized records refused": refused, "records over the lowered limit": limited, "dead letters": int64(letters),
		},
	}, nil
}

const bombBytes = 72 << 20 // a consumer takes 64 MiB

// bomb produces one batch that decompresses to bombBytes, and gives how many records it has.
func (e *env) bomb(ctx context.Context, codec kgo.CompressionCodec, partition int32) (int64, error) {
	const parts = 3
	client, err := kgo.NewClient(kgo.SeedBrokers(e.world.cluster.addresses()...), kgo.ProducerBatchCompression(codec),
		kgo.ProducerBatchMaxBytes(96<<20), kgo.BrokerMaxWriteBytes(100<<20), kgo.ProducerLinger(time.Second),
		kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.MaxDecompressBatchBytes(bombBytes+1<<20))
	if err != nil {
		return 0, err
	}
	defer client.Close()
	records := make([]*kgo.Record, parts)
	intents := make([]int32, parts)
	source := e.nextSource()
	for i := range records {
		records[i] = &kgo.Record{Topic: e.topic(), Partition: partition, Value: make([]byte, bombBytes/parts)}
		records[i].Value[0] = byte(i)
		intents[i] = e.ledger.intent(entry{
			key: bytesKey(fmt.Appendf(nil, "bomb %d of %d", i, source)), seq: uint32(i), source: source, must: toAll,
		})
	}
	results := client.ProduceSync(ctx, records...)
	for i, r := range records {
		e.ledger.outcome(intents[i], results[i].Err)
		if results[i].Err != nil {
			return 0, fmt.Errorf("producing a batch that decompresses to %d MiB: %w", bombBytes>>20, results[i].Err)
		}
		e.unread[place{r.Partition, r.Offset}] = bytesKey(fmt.Appendf(nil, "bomb %d of %d", i, source))
	}
	if last := records[parts-1].Offset - records[0].Offset; last != parts-1 {
		return 0, fmt.Errorf("the records lie %d offsets apart, want one batch", last)
	}
	return parts, nil
}

// refusedForSize sends records of 2 MiB that do not compress, through the SDK and through a gateway.
func (e *env) refusedForSize(ctx context.Context) (refused int64, err error) {
	p, err := e.consume("gateway", "", "gateway")
	if err != nil {
		return 0, err
	}
	if err := p.ready(ctx, time.Minute); err != nil {
		return 0, err
	}
	address, err := p.address(ctx)
	if err != nil {
		return 0, err
	}
	const hex = "0123456789abcdef"
	text := make([]byte, 2<<20)
	random := rand.NewChaCha8([32]byte{byte(e.seed % 256)})
	_, _ = random.Read(text) // never fails
	for i := range text {
		text[i] = hex[text[i]%16]
	}
	body := append(append([]byte(`{"service":"s","body":"`), text...), `"}`...)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, address+"/v1/events/"+e.typ.Name, bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusRequestEntityTooLarge {
		return 0, fmt.Errorf("the gateway answers %s to a record of 2 MiB, want 413", res.Status)
	}
	err = e.world.client.ProduceSync(ctx, &kgo.Record{Topic: e.topic(), Value: body}).FirstErr()
	if !errors.Is(err, kerr.MessageTooLarge) {
		return 0, fmt.Errorf("producing a record of 2 MiB gives %w, want that it is too large", err)
	}
	return 2, p.stop(ctx)
}

// lowerLimit has the topic take almost nothing until some records were refused for it.
func (e *env) lowerLimit(ctx context.Context, w *workload) (refused int64, err error) {
	set := func(value string) error {
		changed, err := e.world.adm.AlterTopicConfigs(ctx, []kadm.AlterConfig{{Op: kadm.SetConfig, Name: "max.message.bytes", Value: &value}}, e.topic())
		if err == nil {
			_, err = changed.On(e.topic(), func(r *kadm.AlterConfigsResponse) error { return r.Err })
		}
		if err != nil {
			return fmt.Errorf("setting max.message.bytes of %s to %s: %w", e.topic(), value, err)
		}
		return nil
	}
	if err := set("200"); err != nil {
		return 0, err
	}
	err = until(ctx, time.Minute, "records that are refused", func(context.Context) error {
		if refused = w.ledger.sums().Failed; refused < 20 {
			return fmt.Errorf("there are %d", refused)
		}
		return e.health()
	})
	if err := errors.Join(err, set("1048588")); err != nil {
		return 0, err
	}
	return refused, w.awaitAcked(ctx, 500, time.Minute)
}
