package stream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/pkg/codec"
	"github.com/millrace/millrace/pkg/kafka/kafkatest"
	"github.com/millrace/millrace/pkg/schema"
	"github.com/millrace/millrace/pkg/telemetry"
)

// world is a virtual cluster with one topic of three partitions, and a destination.
type world struct {
	*testing.T

	cluster *kafkatest.Cluster
	sink    *memSink
	typ     *schema.Type
	decoder *fakeDecoder
	cfg     Config
	budget  *Budget
	opts    []kgo.Opt
	logs    *logBuffer
}

const (
	topic = "millrace.a"
	group = "millrace-mem"
)

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{
		T: t, cluster: kafkatest.NewVirtual(t, topic, topic+".dlq"), sink: newMemSink(),
		typ: &schema.Type{Name: "a", Fields: make([]schema.Field, 2)}, decoder: &fakeDecoder{}, cfg: Default(),
		logs: &logBuffer{},
	}
	w.decoder.typ = w.typ
	w.cfg.Batch.Records, w.cfg.Batch.Age = 10, 100*time.Millisecond
	w.cfg.Drain = 10 * time.Second
	return w
}

// produce writes records with ids "p/0", "p/1", ... to a partition, from the given number on.
func (w *world) produce(partition int32, from, n int) {
	w.Helper()
	records := make([]*kgo.Record, n)
	for i := range records {
		records[i] = &kgo.Record{Topic: topic, Partition: partition, Value: fmt.Appendf(nil, "%d/%d", partition, from+i)}
	}
	w.cluster.Produce(w.T, records...)
}

// member is a running consumer.
type member struct {
	*Consumer

	link   *kafkatest.Link
	reg    *prometheus.Registry
	stopFn context.CancelFunc
	done   chan error
}

func (w *world) join(sink Sink) *member { return w.joinAs("mem", sink) }

func (w *world) joinAs(name string, sink Sink) *member {
	w.Helper()
	m := &member{link: w.cluster.Link(), reg: prometheus.NewRegistry(), done: make(chan error, 1)}
	c, err := New(w.cfg, name, sink, Deps{
		Kafka: m.link.Opts(w.opts...), Decoder: func(string) Decoder { return w.decoder }, Types: []*schema.Type{w.typ}, Budget: w.budget,
		Telemetry: telemetry.Set{Log: slog.New(slog.NewTextHandler(w.logs, nil)), Metrics: m.reg},
	})
	if err != nil {
		w.Fatal(err)
	}
	m.Consumer = c
	ctx, cancel := context.WithCancel(context.Background())
	m.stopFn = cancel
	ended := make(chan struct{})
	go func() { defer close(ended); m.done <- c.Run(ctx) }()
	w.Cleanup(func() { cancel(); <-ended }) // a bubble may not end before its goroutines
	return m
}

// stop ends a member in order.
func (w *world) stop(m *member) {
	w.Helper()
	m.stopFn()
	select {
	case err := <-m.done:
		if err != nil {
			w.Errorf("Run returned %v, want nil", err)
		}
	case <-time.After(w.cfg.Drain + 15*time.Second):
		w.Fatal("Run did not return")
	}
}

// kill ends a member as kill -9 does, as far as the cluster can see: it says nothing any more.
func (w *world) kill(m *member) {
	m.link.Cut()
	m.stopFn()
	if err := <-m.done; err != nil {
		w.Logf("killed: %v", err)
	}
}

// until waits for a condition, for an hour of virtual time at most.
func (w *world) until(what string, ok func() bool) {
	w.Helper()
	for range 3600 * 10 {
		if ok() {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	w.Fatalf("in an hour it was not seen that %s", what)
}

func (w *world) applied(n int) {
	w.Helper()
	w.until(fmt.Sprintf("%d records are stored (%d are)", n, w.sink.len()), func() bool { return w.sink.len() >= n })
}

// lag is end minus commit over all partitions; no commit counts as the start.
func (w *world) lag() int64 {
	w.Helper()
	committed := w.cluster.Committed(w.T, group, topic)
	var sum int64
	for _, p := range w.cluster.PartitionInfos(topic) {
		sum += p.LastStableOffset - max(committed[p.Partition], p.LogStartOffset)
	}
	return sum
}

// want checks that exactly these records are stored, of each partition the first n.
func (w *world) want(counts ...int) {
	w.Helper()
	total := 0
	for p, n := range counts {
		total += n
		for i := range n {
			if id := fmt.Sprintf("%d/%d", p, i); w.sink.times(id) == 0 {
				w.Errorf("record %s is not stored", id)
				return
			}
		}
	}
	if got := w.sink.len(); got != total {
		w.Errorf("%d records are stored, want %d", got, total)
	}
}

func (m *member) metric(name string) float64 {
	families, err := m.reg.Gather()
	if err != nil {
		return -1
	}
	sum := 0.0
	for _, f := range families {
		if f.GetName() != "millrace_stream_"+name {
			continue
		}
		for _, x := range f.GetMetric() {
			sum += x.GetCounter().GetValue() + x.GetGauge().GetValue() + float64(x.GetHistogram().GetSampleCount())
		}
	}
	return sum
}

// memSink is a destination in memory.
type memSink struct {
	mu     sync.Mutex
	n      map[string]int
	writes int
	last   Batch
	fail   func(b Batch) error // nil: nothing fails
	delay  time.Duration       // until done
}

func newMemSink() *memSink { return &memSink{n: map[string]int{}} }

func (s *memSink) Write(ctx context.Context, b Batch, done func(error)) error {
	s.mu.Lock()
	s.writes++
	s.last = b
	fail, delay := s.fail, s.delay
	s.mu.Unlock()
	if delay == 0 {
		err := s.store(b, fail)
		done(err)
		return nil
	}
	go func() {
		if err := sleep(ctx, delay); err != nil {
			done(err)
			return
		}
		done(s.store(b, fail))
	}()
	return nil
}

func (s *memSink) store(b Batch, fail func(Batch) error) error {
	var err error
	if fail != nil {
		err = fail(b)
	}
	var partial *PartialError
	if err != nil && !errors.As(err, &partial) {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range b.Records {
		if partial == nil || partial.Failed[i] == nil {
			s.n[b.Records[i].Values[schema.ID].String()]++
		}
	}
	return err
}

func (s *memSink) set(f func(*memSink)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(s)
}

func (s *memSink) len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.n)
}

func (s *memSink) times(id string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.n[id]
}

// fakeDecoder takes the value as the id; "bad..." is a bad record.
type fakeDecoder struct {
	mu    sync.Mutex
	typ   *schema.Type
	out   error // an outage, of what is from offset outAt on
	outAt int64
	// From offset at on, records are of the newer type.
	at    int64
	newer *schema.Type
	hook  func(*kgo.Record)
}

func (d *fakeDecoder) set(f func(*fakeDecoder)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f(d)
}

func (d *fakeDecoder) Decode(_ context.Context, r *kgo.Record) (codec.Record, error) {
	d.mu.Lock()
	typ, out, outAt, hook := d.typ, d.out, d.outAt, d.hook
	if d.newer != nil && r.Offset >= d.at {
		typ = d.newer
	}
	d.mu.Unlock()
	if hook != nil {
		hook(r)
	}
	if out != nil && r.Offset >= outAt {
		return codec.Record{}, out
	}
	if bytes.HasPrefix(r.Value, []byte("bad")) {
		return codec.Record{}, &codec.BadRecord{Reason: "malformed", Err: errors.New("it is bad")}
	}
	values := []codec.Value{codec.BytesValue(r.Value), codec.LongValue(r.Timestamp.UnixMicro())}
	return codec.Record{Source: r, Type: typ, Values: values}, nil
}

type logBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// commitAt sets the group's offset on partition 0, as an operator would.
func (w *world) commitAt(cl *kgo.Client, at int64) {
	w.Helper()
	var offsets kadm.Offsets
	offsets.AddOffset(topic, 0, at, -1)
	if err := kadm.NewClient(cl).CommitAllOffsets(w.Context(), group, offsets); err != nil {
		w.Fatalf("committing: %v", err)
	}
}
