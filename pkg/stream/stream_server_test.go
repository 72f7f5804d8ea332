package stream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/pkg/kafka"
	"github.com/millrace/millrace/pkg/schema"
	"github.com/millrace/millrace/pkg/servertest"
	"github.com/millrace/millrace/pkg/telemetry"
)

// The runtime on the real Kafka: members come, go and die over a topic with a transaction at its end; everything is
// stored, the lag returns to 0, and the commits bear the append time.
func TestOnRealKafka(t *testing.T) {
	servers, ok := servertest.Require(t)
	if !ok {
		return
	}
	conf := kafka.Default()
	conf.Brokers = servers.Kafka
	opts, err := conf.Opts(telemetry.Discard())
	if err != nil {
		t.Fatal(err)
	}
	name := "stream" + strconv.FormatInt(time.Now().UnixNano(), 36)
	typ := &schema.Type{Name: name, Fields: make([]schema.Field, 2)}
	cl, err := kgo.NewClient(append(opts, kgo.RecordPartitioner(kgo.ManualPartitioner()))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	adm := kadm.NewClient(cl)
	stamp := "LogAppendTime"
	for topic, partitions := range map[string]int32{typ.TopicName(): 6, typ.DLQName(): 1} {
		if _, err := adm.CreateTopic(t.Context(), partitions, 1, map[string]*string{"message.timestamp.type": &stamp}, topic); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		_, err := adm.DeleteTopics(ctx, typ.TopicName(), typ.DLQName())
		_, err2 := adm.DeleteGroups(ctx, Group(name))
		if err := errors.Join(err, err2); err != nil {
			t.Logf("cleaning up: %v", err)
		}
	})

	const each = 3000
	var records []*kgo.Record
	for p := range int32(6) {
		for i := range each {
			records = append(records, &kgo.Record{Topic: typ.TopicName(), Partition: p, Value: fmt.Appendf(nil, "%d/%d", p, i)})
		}
	}
	records = append(records, &kgo.Record{Topic: typ.TopicName(), Partition: 2, Value: []byte("bad one")})
	if err := cl.ProduceSync(t.Context(), records...).FirstErr(); err != nil {
		t.Fatal(err)
	}
	endInTransaction(t, opts, typ.TopicName(), each)

	sink := newMemSink()
	sink.delay = 20 * time.Millisecond
	cfg := Default()
	cfg.Batch.Records, cfg.Drain = 100, 5*time.Second
	join := func() (stop func()) {
		c, err := New(cfg, name, sink, Deps{
			Kafka: opts, Decoder: func(string) Decoder { return &fakeDecoder{typ: typ} }, Types: []*schema.Type{typ},
			Telemetry: telemetry.Set{Log: slog.New(slog.NewTextHandler(t.Output(), nil)), Metrics: prometheus.NewRegistry()},
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- c.Run(ctx) }()
		return func() {
			cancel()
			if err := <-done; err != nil {
				t.Errorf("Run: %v", err)
			}
		}
	}
	a := join()
	soon(t, "the first member has begun", func() bool { return sink.len() > 500 })
	b := join()
	soon(t, "both are at it", func() bool { return sink.len() > 3000 })
	a()
	soon(t, "all is stored", func() bool { return sink.len() == 6*each+1 })
	lag := func() (sum int64) {
		rows, err := kafka.Lag(t.Context(), cl, []string{Group(name)}, []string{typ.TopicName()}, 5*time.Second, time.Now)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range rows {
			sum += r.Records
		}
		return sum
	}
	soon(t, "the lag is 0", func() bool { return lag() == 0 })
	b()
	offsets, err := adm.FetchOffsets(t.Context(), Group(name))
	if err != nil {
		t.Fatal(err)
	}
	offsets.Each(func(o kadm.OffsetResponse) {
		ms, err := strconv.ParseInt(strings.TrimPrefix(o.Metadata, "t="), 10, 64)
		if err != nil || time.Since(time.UnixMilli(ms)).Abs() > 10*time.Minute {
			t.Errorf("partition %d: the commit's metadata is %q, want the append time", o.Partition, o.Metadata)
		}
	})
	ends, err := adm.ListEndOffsets(t.Context(), typ.DLQName())
	if err != nil {
		t.Fatal(err)
	}
	if n, _ := ends.Lookup(typ.DLQName(), 0); n.Offset != 1 {
		t.Errorf("%d dead letters, want 1", n.Offset)
	}
}

// endInTransaction leaves a record and a marker, then an aborted record and a marker, at the end of partition 0.
func endInTransaction(t *testing.T, opts []kgo.Opt, topic string, n int) {
	t.Helper()
	cl, err := kgo.NewClient(append(opts, kgo.TransactionalID(topic), kgo.RecordPartitioner(kgo.ManualPartitioner()))...)
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	for i, end := range []kgo.TransactionEndTry{kgo.TryCommit, kgo.TryAbort} {
		if err := cl.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		if err := cl.ProduceSync(t.Context(), &kgo.Record{Topic: topic, Value: fmt.Appendf(nil, "0/%d", n+i)}).FirstErr(); err != nil {
			t.Fatal(err)
		}
		if err := cl.EndTransaction(t.Context(), end); err != nil {
			t.Fatal(err)
		}
	}
}

// soon waits two minutes at most.
func soon(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("in two minutes it was not seen that %s", what)
}
