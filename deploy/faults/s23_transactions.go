package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/pkg/client"
	"github.com/millrace/millrace/pkg/codec"
	"github.com/millrace/millrace/pkg/event"
	"github.com/millrace/millrace/pkg/schema"
)

// transactions has a transactional producer commit, abort, and hang until Kafka aborts for it, beside other sources. What
// was aborted is nowhere, what lies behind an open transaction waits and is not lost, and the lag ends at 0 although the
// last offsets are markers.
func transactions(ctx context.Context, e *env) (evidence, error) {
	_, w, err := e.flow(ctx, load{sources: 2, rate: pick(e, 300.0, 2000)}, pick(e, int64(500), 10_000))
	if err != nil {
		return evidence{}, err
	}
	t, err := e.transactional(ctx)
	if err != nil {
		return evidence{}, err
	}
	var committed, aborted, hung int64
	n := pick(e, 50, 500)
	for range pick(e, 3, 30) {
		for _, end := range []kgo.TransactionEndTry{kgo.TryCommit, kgo.TryAbort} {
			if err := t.play(ctx, n, end); err != nil {
				return evidence{}, err
			}
			if end == kgo.TryCommit {
				committed += int64(n)
			} else {
				aborted += int64(n)
			}
		}
	}
	intents, err := t.begin(ctx, n) // and nothing more
	if err != nil {
		return evidence{}, err
	}
	hung = int64(n)
	begun := time.Now()
	if err := w.awaitAcked(ctx, 300, time.Minute); err != nil {
		return evidence{}, err
	}
	held, err := e.heldBack(ctx)
	if err != nil {
		return evidence{}, err
	}
	if err := until(ctx, time.Minute, "Kafka's end of the transaction", func(ctx context.Context) error {
		left, err := e.heldBack(ctx)
		if err == nil && left > 0 {
			err = fmt.Errorf("%d offsets are held back", left)
		}
		return err
	}); err != nil {
		return evidence{}, err
	}
	took := time.Since(begun)
	t.client.Close()
	for _, i := range intents {
		e.ledger.settle(i, client.Failed, errAborted) // it is certainly not there to be read
	}
	if err := w.stop(ctx); err != nil {
		return evidence{}, err
	}
	last, err := e.transactional(ctx) // so that the last offsets are markers
	if err != nil {
		return evidence{}, err
	}
	if err := last.play(ctx, n, kgo.TryAbort); err != nil {
		return evidence{}, err
	}
	last.client.Close()
	return evidence{
		Did: fmt.Sprintf("%d records committed in transactions, %d aborted, %d left open for %.0f s, which held %d offsets back",
			committed, aborted+int64(n), hung, took.Seconds(), held),
		Bites: map[string]int64{"records aborted": aborted, "records left open": hung, "offsets held back": held},
	}, nil
}

var errAborted = errors.New("the transaction was aborted")

// heldBack is how many offsets of the topic nobody may read, as they lie behind the start of an open transaction.
func (e *env) heldBack(ctx context.Context) (n int64, err error) {
	ends, err := listed(ctx, e.world.adm.ListEndOffsets, e.topic())
	if err != nil {
		return 0, err
	}
	stable, err := listed(ctx, e.world.adm.ListCommittedOffsets, e.topic())
	if err != nil {
		return 0, err
	}
	ends.Each(func(o kadm.ListedOffset) {
		s, _ := stable.Lookup(o.Topic, o.Partition)
		n += o.Offset - s.Offset
	})
	return n, nil
}

// transactor is a producer that writes in transactions.
type transactor struct {
	*env

	client  *kgo.Client
	encoder *codec.Encoder
	source  uint16
	seq     uint32
}

func (e *env) transactional(ctx context.Context) (*transactor, error) {
	cdc, err := e.codec()
	if err != nil {
		return nil, err
	}
	t := &transactor{env: e, source: e.nextSource()}
	if t.encoder, err = cdc.Encoder(ctx, e.typ.Name); err != nil {
		return nil, err
	}
	t.client, err = kgo.NewClient(kgo.SeedBrokers(e.world.cluster.addresses()...), kgo.DefaultProduceTopic(e.topic()),
		kgo.TransactionalID(fmt.Sprintf("%s-%d", e.run, t.source)), kgo.TransactionTimeout(10*time.Second))
	return t, err
}

// begin writes n records in a transaction, and leaves it open.
func (t *transactor) begin(ctx context.Context, n int) (intents []int32, err error) {
	if err := t.client.BeginTransaction(); err != nil {
		return nil, fmt.Errorf("beginning a transaction: %w", err)
	}
	records := make([]*kgo.Record, n)
	for i := range records {
		now := time.Now()
		values := append([]codec.Value{}, t.encoder.Defaults()...)
		id := event.NewID(now)
		for name, text := range map[string]string{
			"id": id, "service": fmt.Sprintf("s%d", i%7), "host": "h", "datacenter": "d", "tenant": "default", "severity": "INFO",
			"body": fmt.Sprintf("record %d of source %d", t.seq, t.source),
		} {
			values[t.typ.Index(name)] = codec.StringValue(text)
		}
		values[schema.Time] = codec.LongValue(now.UnixMicro())
		if records[i], err = t.encoder.Encode(values); err != nil {
			return nil, err
		}
		k, err := idKey([]byte(id))
		if err != nil {
			return nil, err
		}
		intents = append(intents, t.ledger.intent(entry{key: k, hash: hashOf(codec.Fingerprint(t.typ, values, "")), seq: t.seq, source: t.source}))
		t.seq++
	}
	if err := t.client.ProduceSync(ctx, records...).FirstErr(); err != nil {
		return nil, fmt.Errorf("producing in a transaction: %w", err)
	}
	return intents, nil
}

// play writes n records in a transaction and ends it.
func (t *transactor) play(ctx context.Context, n int, end kgo.TransactionEndTry) error {
	intents, err := t.begin(ctx, n)
	if err != nil {
		return err
	}
	if err := t.client.EndTransaction(ctx, end); err != nil {
		return fmt.Errorf("ending a transaction: %w", err)
	}
	for _, i := range intents {
		if end == kgo.TryCommit {
			t.ledger.outcome(i, nil)
		} else {
			t.ledger.settle(i, client.Failed, errAborted)
		}
	}
	return nil
}
