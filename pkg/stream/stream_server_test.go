package stream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/pkg/kafka"
	"github.com/millrace/millrace/pkg/schema"
	"github.com/millrace/millrace/pkg/servertest"
	"github.com/millrace/millrace/pkg/telemetry"
)

// onKafka is a topic of a type of its own on the real Kafka, with dead letters.
type onKafka struct {
	name string // of the type and of its consumer
	typ  *schema.Type
	opts []kgo.Opt
	cl   *kgo.Client
	adm  *kadm.Client
}

func newOnKafka(t *testing.T, servers servertest.Servers, partitions int32) *onKafka {
	t.Helper()
	conf := kafka.Default()
	conf.Brokers = servers.Kafka
	opts, err := conf.Opts(telemetry.Discard())
	if err != nil {
		t.Fatal(err)
	}
	name := servertest.Name(t)
	k := &onKafka{name: name, typ: &schema.Type{Name: name, Fields: make([]schema.Field, 2)}, opts: opts}
	if k.cl, err = kgo.NewClient(append(opts, kgo.RecordPartitioner(kgo.ManualPartitioner()))...); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.cl.Close)
	k.adm = kadm.NewClient(k.cl)
	stamp := "LogAppendTime"
	for topic, partitions := range map[string]int32{k.typ.TopicName(): partitions, k.typ.DLQName(): 1} {
		if _, err := k.adm.CreateTopic(t.Context(), partitions, 1, map[string]*string{"message.timestamp.type": &stamp}, topic); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		_, err := k.adm.DeleteTopics(ctx, k.typ.TopicName(), k.typ.DLQName())
		_, err2 := k.adm.DeleteGroups(ctx, Group(name))
		if err := errors.Join(err, err2); err != nil {
			t.Logf("cleaning up: %v", err)
		}
	})
	return k
}

// join starts a member over a sink.
func (k *onKafka) join(t *testing.T, cfg Config, sink Sink) (c *Consumer, stop func()) {
	t.Helper()
	c, err := New(cfg, k.name, sink, Deps{
		Kafka: k.opts, Decoder: func(string) Decoder { return &fakeDecoder{typ: k.typ} }, Types: []*schema.Type{k.typ},
		Telemetry: telemetry.Set{Log: slog.New(slog.NewTextHandler(t.Output(), nil)), Metrics: prometheus.NewRegistry()},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	return c, func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	}
}

// The runtime on the real Kafka: members come, go and die over a topic with a transaction at its end; everything is
// stored, the lag returns to 0, and the commits bear the append time.
func TestOnRealKafka(t *testing.T) {
	servers, ok := servertest.Require(t)
	if !ok {
		return
	}
	k := newOnKafka(t, servers, 6)
	typ, cl, adm := k.typ, k.cl, k.adm
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
	endInTransaction(t, k.opts, typ.TopicName(), each)

	sink := newMemSink()
	sink.delay = 20 * time.Millisecond
	cfg := Default()
	cfg.Batch.Records, cfg.Drain = 100, 5*time.Second
	_, a := k.join(t, cfg, sink)
	soon(t, "the first member has begun", func() bool { return sink.len() > 500 })
	_, b := k.join(t, cfg, sink)
	soon(t, "both are at it", func() bool { return sink.len() > 3000 })
	a()
	soon(t, "all is stored", func() bool { return sink.len() == 6*each+1 })
	lag := func() (sum int64) {
		ends, err := adm.ListCommittedOffsets(t.Context(), typ.TopicName())
		if err != nil {
			t.Fatal(err)
		}
		offsets, err := adm.FetchOffsets(t.Context(), Group(k.name))
		if err != nil {
			t.Fatal(err)
		}
		ends.Each(func(end kadm.ListedOffset) {
			o, _ := offsets.Lookup(end.Topic, end.Partition)
			sum += end.Offset - o.At
		})
		return sum
	}
	soon(t, "the lag is 0", func() bool { return lag() == 0 })
	b()
	offsets, err := adm.FetchOffsets(t.Context(), Group(k.name))
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

// One member, then four, then two under load on the real Kafka. What a change costs each partition is printed; that
// nothing is lost or doubled, and that what stays is never given up, must hold on any day.
func TestScaleOutAndInOnRealKafka(t *testing.T) {
	servers, ok := servertest.Require(t)
	if !ok {
		return
	}
	k := newOnKafka(t, servers, scalePartitions)
	s := newScaling(t, k.typ, k.name, func() []kgo.Opt { return k.opts }, t.Output())
	s.run(soon)
}

// What was deleted before it was read is counted exactly, once, however often the consumer is started.
func TestLossIsCountedOnRealKafka(t *testing.T) {
	servers, ok := servertest.Require(t)
	if !ok {
		return
	}
	k := newOnKafka(t, servers, 1)
	topic := k.typ.TopicName()
	produce := func(from, n int) {
		t.Helper()
		records := make([]*kgo.Record, n)
		for i := range records {
			records[i] = &kgo.Record{Topic: topic, Value: fmt.Appendf(nil, "0/%d", from+i)}
		}
		if err := k.cl.ProduceSync(t.Context(), records...).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	committed := func() int64 {
		offsets, err := k.adm.FetchOffsets(t.Context(), Group(k.name))
		if err != nil {
			t.Fatal(err)
		}
		o, _ := offsets.Lookup(topic, 0)
		return o.At
	}
	sink := newMemSink()
	lost := 0.0
	run := func(until int64) {
		t.Helper()
		c, stop := k.join(t, Default(), sink)
		soon(t, fmt.Sprintf("%d is committed", until), func() bool { return committed() == until })
		stop()
		var counted dto.Metric
		if err := c.metrics.expired.WithLabelValues(topic).Write(&counted); err != nil {
			t.Fatal(err)
		}
		lost += counted.GetCounter().GetValue()
	}
	produce(0, 10)
	run(10)
	produce(10, 90)
	var deleted kadm.Offsets
	deleted.AddOffset(topic, 0, 100, -1)
	if _, err := k.adm.DeleteRecords(t.Context(), deleted); err != nil {
		t.Fatal(err)
	}
	run(100)
	run(100)
	produce(100, 5)
	run(105)
	if lost != 90 || sink.len() != 15 {
		t.Errorf("%v records are counted as lost and %d are stored, want 90 and 15", lost, sink.len())
	}
}

// What a consumer's last commit says of the record behind it outlives the consumer: on the real Kafka that is the broker's
// stamp of that record.
func TestCommitsSayWhatWaitsOnRealKafka(t *testing.T) {
	servers, ok := servertest.Require(t)
	if !ok {
		return
	}
	k := newOnKafka(t, servers, 1)
	produce := func(from, n int) (stamp time.Time) {
		t.Helper()
		begun := time.Now()
		for i := range n {
			r := &kgo.Record{Topic: k.typ.TopicName(), Value: fmt.Appendf(nil, "0/%d", from+i)}
			if err := k.cl.ProduceSync(t.Context(), r).FirstErr(); err != nil {
				t.Fatal(err)
			}
			time.Sleep(5 * time.Millisecond) // each has a stamp of its own
		}
		return begun
	}
	committed := func() (int64, string) {
		offsets, err := k.adm.FetchOffsets(t.Context(), Group(k.name))
		if err != nil {
			t.Fatal(err)
		}
		o, _ := offsets.Lookup(k.typ.TopicName(), 0)
		return o.At, o.Metadata
	}
	sink := newMemSink()
	var link cutter
	cfg := Default()
	cfg.Session = 6 * time.Second
	k.opts = append(k.opts, kgo.Dialer(link.dial))
	_, stop := k.join(t, cfg, sink)
	produce(0, 20)
	soon(t, "all is committed", func() bool { at, _ := committed(); return at == 20 })
	sink.set(func(s *memSink) { s.fail = func(Batch) error { return errors.New("down") } })
	begun := produce(20, 20)
	soon(t, "the commit says what waits", func() bool { _, meta := committed(); return strings.Contains(meta, ";h=") })
	link.cut() // to Kafka it is dead
	stop()
	time.Sleep(time.Second)
	at, meta := committed()
	_, after, _ := strings.Cut(meta, "h=")
	ms, err := strconv.ParseInt(after, 10, 64)
	if err != nil || at != 20 {
		t.Fatalf("committed %d with %q", at, meta)
	}
	head := recordAt(t, k, 20)
	if head.Attrs.TimestampType() != 1 || head.Timestamp.UnixMilli() != ms || head.Timestamp.Sub(begun).Abs() > 10*time.Second {
		t.Errorf("the commit says %d, and the record was appended at %d", ms, head.Timestamp.UnixMilli())
	}
}

// recordAt reads one record of partition 0.
func recordAt(t *testing.T, k *onKafka, offset int64) *kgo.Record {
	t.Helper()
	cl, err := kgo.NewClient(append(slices.Clip(k.opts), kgo.Dialer((&net.Dialer{}).DialContext),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{k.typ.TopicName(): {0: kgo.NewOffset().At(offset)}}))...)
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		fetches := cl.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			t.Fatal(err)
		}
		for _, r := range fetches.Records() {
			return r
		}
	}
}

// cutter dials until it is cut, and then ends all connections: to the brokers that is like kill -9.
type cutter struct {
	mu    sync.Mutex
	over  bool
	conns []net.Conn
}

func (c *cutter) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, network, addr)
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case err != nil:
		return nil, err
	case c.over:
		_ = conn.Close()
		return nil, &net.OpError{Op: "dial", Net: network, Err: syscall.ECONNREFUSED}
	}
	c.conns = append(c.conns, conn)
	return conn, nil
}

func (c *cutter) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.over = true
	for _, conn := range c.conns {
		_ = conn.Close()
	}
}
