package lake

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/pkg/codec"
	"github.com/millrace/millrace/pkg/kafka/kafkatest"
	"github.com/millrace/millrace/pkg/schema"
	"github.com/millrace/millrace/pkg/schema/schematest"
	"github.com/millrace/millrace/pkg/stream"
	"github.com/millrace/millrace/pkg/stream/sinktest"
	"github.com/millrace/millrace/pkg/telemetry"
)

// byOffset decodes a record to what the maker makes at its offset.
type byOffset struct{ maker sinktest.Maker }

func (d byOffset) Decode(_ context.Context, r *kgo.Record) (codec.Record, error) {
	made := d.maker.Record(r.Partition, r.Offset)
	made.Source = r
	return made, nil
}

// TestFromKafkaOverRestarts reads a topic with the real runtime, which is stopped in the middle, twice in order and
// once without a chance to commit.
func TestFromKafkaOverRestarts(t *testing.T) {
	const each = 300
	b := newBench(t, schematest.Type(t, "log"))
	b.cfg.Age = 100 * time.Millisecond
	topic := b.typ.Topic.Name
	cluster := kafkatest.New(t, topic)
	maker := sinktest.Maker{Type: b.typ, Base: time.Now().Add(-time.Minute).UTC().Truncate(time.Microsecond), Seed: "kafka"}
	for run := range 4 {
		b.publish(t, cluster, each)
		sink, consumer := b.fromKafka(t, cluster, byOffset{maker})
		runUntil(t, sink, consumer, func() bool { return run == 2 || b.count(t) == (run+1)*each })
	}
	seen := map[string]bool{}
	b.query(t, "SELECT _topic_partition, _offset, id FROM log", func(row []any) {
		key := fmt.Sprint(row[0], row[1])
		if want := maker.Record(row[0].(int32), row[1].(int64)); seen[key] || string(want.ID()) != row[2] {
			t.Errorf("row %v is wrong or double", row)
		}
		seen[key] = true
	})
	if len(seen) != 4*each {
		t.Errorf("%d rows, want %d", len(seen), 4*each)
	}
}

// publish appends n records, whose content is their decoder's affair.
func (b *bench) publish(t *testing.T, cluster *kafkatest.Cluster, n int) {
	t.Helper()
	records := make([]*kgo.Record, 0, n)
	for i := range n {
		records = append(records, &kgo.Record{Topic: b.typ.Topic.Name, Key: fmt.Append(nil, i), Value: []byte("v")})
	}
	cluster.Produce(t, records...)
}

// fromKafka makes a sink and the runtime that feeds it.
func (b *bench) fromKafka(t *testing.T, cluster *kafkatest.Cluster, decoder stream.Decoder) (*Sink, *stream.Consumer) {
	t.Helper()
	sink, err := New(b.cfg, b.types, cluster.Opts(), telemetry.Discard())
	if err != nil {
		t.Fatal(err)
	}
	consumer, err := stream.New(stream.Default(), "lake", sink, stream.Deps{
		Kafka: cluster.Opts(), Types: []*schema.Type{b.typ}, Telemetry: telemetry.Discard(),
		Decoder: func(string) stream.Decoder { return decoder },
	})
	if err != nil {
		t.Fatal(err)
	}
	return sink, consumer
}

func (b *bench) count(t *testing.T) (n int) {
	t.Helper()
	b.query(t, "SELECT count(*)::int FROM "+b.typ.Name, func(row []any) { n = int(row[0].(int32)) })
	return n
}

// runUntil runs a consumer and its sink as a process does: the consumer stops first.
func runUntil(t *testing.T, sink *Sink, consumer *stream.Consumer, done func() bool) {
	t.Helper()
	sinkCtx, stopSink := context.WithCancel(context.Background())
	defer stopSink()
	ctx, stop := context.WithTimeout(sinkCtx, time.Minute)
	defer stop()
	sinkDone, consumerDone := make(chan error, 1), make(chan error, 1)
	go func() { sinkDone <- sink.Run(sinkCtx) }()
	go func() { consumerDone <- consumer.Run(ctx) }()
	for !done() {
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			t.Fatal("the rows did not come")
		}
	}
	stop()
	if err := <-consumerDone; err != nil {
		t.Error(err)
	}
	stopSink()
	if err := <-sinkDone; err != nil {
		t.Error(err)
	}
}
