package stream

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/pkg/kafka/kafkatest"
	"github.com/millrace/millrace/pkg/schema"
	"github.com/millrace/millrace/pkg/stream/ledger"
	"github.com/millrace/millrace/pkg/telemetry"
)

// scaling is a group that grows and shrinks while records flow, and what its members applied.
type scaling struct {
	*testing.T

	name       string
	typ        *schema.Type
	partitions int
	opts       func() []kgo.Opt
	logs       io.Writer

	mu      sync.Mutex
	applied [][]application // by partition, in the order of time
	times   map[string]int  // by record
	stalled time.Duration   // the longest that the load itself waited for Kafka, since it was last reported
}

// application is a batch that a member made durable.
type application struct {
	at     time.Time
	member int
}

const (
	scalePartitions = 12
	loadEvery       = 50 * time.Millisecond
	loadRecords     = 5 // of each partition, each time
)

func newScaling(t *testing.T, typ *schema.Type, name string, opts func() []kgo.Opt, logs io.Writer) *scaling {
	return &scaling{
		T: t, name: name, typ: typ, partitions: scalePartitions, opts: opts, logs: logs,
		applied: make([][]application, scalePartitions), times: map[string]int{},
	}
}

// sink is one member's destination: a store that has a batch at once and says so after 20 ms. Whoever does not wait for
// that has it stored twice.
func (s *scaling) sink(member int) Sink {
	return sinkFunc(func(ctx context.Context, b Batch, done func(error)) error {
		s.mu.Lock()
		for i := range b.Records {
			s.times[b.Records[i].Values[schema.ID].String()]++
		}
		s.mu.Unlock()
		go func() {
			if err := sleep(ctx, 20*time.Millisecond); err != nil {
				done(err)
				return
			}
			s.mu.Lock()
			s.applied[b.Partition] = append(s.applied[b.Partition], application{time.Now(), member})
			s.mu.Unlock()
			done(nil)
		}()
		return nil
	})
}

// load produces to all partitions until it is told to stop, and gives how many records each has.
func (s *scaling) load() (stop func() []int) {
	cl, err := kgo.NewClient(append(s.opts(), kgo.RecordPartitioner(kgo.ManualPartitioner()))...)
	if err != nil {
		s.Fatal(err)
	}
	quit, ended := make(chan struct{}), make(chan []int)
	go func() {
		defer cl.Close()
		counts := make([]int, s.partitions)
		tick := time.NewTicker(loadEvery)
		defer tick.Stop()
		for {
			select {
			case <-quit:
				ended <- counts
				return
			case <-tick.C:
			}
			var records []*kgo.Record
			for p := range counts {
				for range loadRecords {
					records = append(records, &kgo.Record{
						Topic: s.typ.TopicName(), Partition: int32(p), Value: fmt.Appendf(nil, "%d/%d", p, counts[p]),
					})
					counts[p]++
				}
			}
			begun := time.Now()
			if err := cl.ProduceSync(context.Background(), records...).FirstErr(); err != nil {
				s.Errorf("producing: %v", err)
			}
			s.mu.Lock()
			s.stalled = max(s.stalled, time.Since(begun))
			s.mu.Unlock()
		}
	}()
	return func() []int { close(quit); return <-ended }
}

// scaleMember is a running member.
type scaleMember struct {
	*Consumer

	number int
	cancel context.CancelFunc
	done   chan error
}

func (s *scaling) join(number int) *scaleMember {
	s.Helper()
	cfg := Default()
	cfg.Batch.Age, cfg.Drain = 50*time.Millisecond, 10*time.Second
	c, err := New(cfg, s.name, s.sink(number), Deps{
		Kafka: s.opts(), Decoder: func(string) Decoder { return &fakeDecoder{typ: s.typ} }, Types: []*schema.Type{s.typ},
		Telemetry: telemetry.Set{Log: slog.New(slog.NewTextHandler(s.logs, nil)), Metrics: prometheus.NewRegistry()},
	})
	if err != nil {
		s.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	m := &scaleMember{Consumer: c, number: number, cancel: cancel, done: make(chan error, 1)}
	ended := make(chan struct{})
	go func() { defer close(ended); m.done <- c.Run(ctx) }()
	s.Cleanup(func() { cancel(); <-ended })
	return m
}

// held are the partitions of a member that is at work on them, as it holds them: one that it got again is another.
func (m *scaleMember) held() map[ledger.Key]*part {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := map[ledger.Key]*part{}
	for k, p := range m.parts {
		if p.state == stateRunning {
			out[k] = p
		}
	}
	return out
}

// settle waits until the members share the partitions evenly and each partition was applied by its owner.
func (s *scaling) settle(until func(*testing.T, string, func() bool), members ...*scaleMember) {
	s.Helper()
	share := s.partitions / len(members)
	until(s.T, fmt.Sprintf("%d members have %d partitions each", len(members), share), func() bool {
		for _, m := range members {
			if len(m.held()) != share {
				return false
			}
		}
		return true
	})
	begun := time.Now()
	until(s.T, "all partitions are applied by their owners", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		for p := range s.applied {
			if n := len(s.applied[p]); n == 0 || s.applied[p][n-1].at.Before(begun) {
				return false
			}
		}
		return true
	})
}

// change is what a change of the group did to a partition.
type change struct {
	moved bool
	pause time.Duration // the longest time between two batches around it
}

// changes looks at what was applied from a moment on.
func (s *scaling) changes(begun time.Time) []change {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]change, s.partitions)
	for p, all := range s.applied {
		first := max(1, slices.IndexFunc(all, func(a application) bool { return a.at.After(begun) }))
		out[p].moved = all[first-1].member != all[len(all)-1].member
		for i := first; i < len(all); i++ {
			out[p].pause = max(out[p].pause, all[i].at.Sub(all[i-1].at))
		}
	}
	return out
}

// report prints the pauses and gives the longest of the partitions that moved, and of those that stayed.
func (s *scaling) report(what string, changes []change) (moved, stayed time.Duration) {
	s.Helper()
	s.mu.Lock()
	s.Logf("%s: the load itself waited %v for Kafka at most", what, s.stalled.Round(time.Millisecond))
	s.stalled = 0
	s.mu.Unlock()
	var by [2][]time.Duration
	for _, c := range changes {
		i := 0
		if c.moved {
			i = 1
		}
		by[i] = append(by[i], c.pause)
	}
	for i, name := range []string{"stayed", "moved"} {
		slices.SortFunc(by[i], cmp.Compare[time.Duration])
		if n := len(by[i]); n > 0 {
			s.Logf("%s: of %d partitions that %s the pause was %v to %v, %v in the middle", what, n, name,
				by[i][0].Round(time.Millisecond), by[i][n-1].Round(time.Millisecond), by[i][n/2].Round(time.Millisecond))
		}
	}
	return slices.Max(append(by[1], 0)), slices.Max(append(by[0], 0))
}

// run is one member, then four, then two. It gives the longest pauses of each change.
func (s *scaling) run(until func(*testing.T, string, func() bool)) (moved, stayed time.Duration) {
	s.Helper()
	stop := s.load()
	first := s.join(0)
	s.settle(until, first)
	quiet := time.Now()
	time.Sleep(5 * time.Second) // under load and without a change
	s.report("one member", s.changes(quiet))

	alone, begun := first.held(), time.Now()
	members := []*scaleMember{first, s.join(1), s.join(2), s.join(3)}
	s.settle(until, members...)
	moved, stayed = s.report("from one member to four", s.changes(begun))
	s.kept("scaling out", alone, first)
	s.moves(begun, 9)

	before := []map[ledger.Key]*part{members[0].held(), members[2].held()}
	begun = time.Now()
	for _, m := range []*scaleMember{members[1], members[3]} {
		m.cancel()
	}
	for _, m := range []*scaleMember{members[1], members[3]} {
		if err := <-m.done; err != nil {
			s.Errorf("member %d: %v", m.number, err)
		}
	}
	s.settle(until, members[0], members[2])
	m, st := s.report("from four members to two", s.changes(begun))
	moved, stayed = max(moved, m), max(stayed, st)
	s.kept("scaling in", before[0], members[0])
	s.kept("scaling in", before[1], members[2])
	s.moves(begun, 6)

	counts := stop()
	total := 0
	for _, n := range counts {
		total += n
	}
	until(s.T, "all is stored", func() bool { s.mu.Lock(); defer s.mu.Unlock(); return len(s.times) == total })
	for _, m := range []*scaleMember{members[0], members[2]} {
		m.cancel()
		if err := <-m.done; err != nil {
			s.Errorf("member %d: %v", m.number, err)
		}
	}
	s.exactly(counts)
	return moved, stayed
}

// kept wants the partitions that a member has still never to have been given up: that is what cooperative means.
func (s *scaling) kept(when string, before map[ledger.Key]*part, m *scaleMember) {
	s.Helper()
	now := m.held()
	same := 0
	for k, p := range before {
		switch now[k] {
		case p:
			same++
		case nil:
		default:
			s.Errorf("%s: member %d gave partition %d up and got it again", when, m.number, k.Partition)
		}
	}
	if want := min(len(before), len(now)); same != want {
		s.Errorf("%s: member %d kept %d partitions, want %d", when, m.number, same, want)
	}
}

// moves wants no more partitions to have moved than must.
func (s *scaling) moves(begun time.Time, want int) {
	s.Helper()
	moved := 0
	for _, c := range s.changes(begun) {
		if c.moved {
			moved++
		}
	}
	if moved != want {
		s.Errorf("%d partitions moved, want %d", moved, want)
	}
}

// exactly wants each record once.
func (s *scaling) exactly(counts []int) {
	s.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	lost, doubled, total := 0, 0, 0
	for p, n := range counts {
		total += n
		for i := range n {
			switch s.times[fmt.Sprintf("%d/%d", p, i)] {
			case 0:
				lost++
			case 1:
			default:
				doubled++
			}
		}
	}
	s.Logf("of %d records %d are lost and %d doubled", total, lost, doubled)
	if lost+doubled > 0 || len(s.times) != total {
		s.Errorf("%d records are stored of %d, %d lost, %d doubled", len(s.times), total, lost, doubled)
	}
}

// A group of one, then four, then two members under load. The time is virtual, so what is asserted of the pauses is what
// the protocol costs: a member hears of a change with its next heartbeat, every 3 s.
func TestScaleOutAndIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cluster := kafkatest.NewVirtual(t)
		cluster.Create(t, topic, scalePartitions)
		s := newScaling(t, &schema.Type{Name: "a", Fields: make([]schema.Field, 2)}, "mem", func() []kgo.Opt { return cluster.Opts() }, io.Discard)
		moved, stayed := s.run(func(t *testing.T, what string, ok func() bool) {
			t.Helper()
			for range 6000 {
				if ok() {
					return
				}
				time.Sleep(10 * time.Millisecond)
			}
			t.Fatalf("in a minute it was not seen that %s", what)
		})
		if stayed > time.Second {
			t.Errorf("a partition that stayed was not applied for %v", stayed)
		}
		if moved > 7*time.Second {
			t.Errorf("a partition that moved was not applied for %v, want at most two heartbeats", moved)
		}
	})
}
