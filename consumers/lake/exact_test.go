package lake

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/millrace/millrace/pkg/codec"
	"github.com/millrace/millrace/pkg/lake"
	"github.com/millrace/millrace/pkg/lake/laketest"
	"github.com/millrace/millrace/pkg/schema/schematest"
	"github.com/millrace/millrace/pkg/stream"
	"github.com/millrace/millrace/pkg/stream/sinktest"
	"github.com/millrace/millrace/pkg/telemetry"
)

const (
	logLength  = 400 // offsets per partition
	partitions = 3
	processes  = 2
)

// world is a log, and processes that write it to one table, with everything that can go wrong.
type world struct {
	*bench
	rnd   *rand.Rand
	maker sinktest.Maker
	procs []*process
	owner [partitions]int // who the group says reads the partition
}

// process is one consumer process: it does what stream.Consumer does, and can die at any point.
type process struct {
	sink    *Sink
	catalog *laketest.Catalog
	ctx     context.Context //nolint:containedctx // it is the process's life
	kill    context.CancelFunc
	next    map[int32]int64 // where it reads on, by partition that it believes to own
}

var errKilled = errors.New("killed")

func newWorld(t *testing.T, seed uint64) *world {
	t.Helper()
	b := newBench(t, schematest.Type(t, "log"))
	b.cfg.Memory, b.cfg.GroupRows = 128<<10, 23
	w := &world{
		bench: b, rnd: rand.New(rand.NewPCG(seed, 1)),
		// The log crosses midnight, so that commits have several table partitions.
		maker: sinktest.Maker{Type: b.typ, Base: time.Date(2026, 3, 1, 23, 59, 59, 800_000_000, time.UTC), Seed: strconv.FormatUint(seed, 10)},
	}
	for range processes {
		w.procs = append(w.procs, w.newProcess())
	}
	for p := range w.owner {
		w.owner[p] = w.rnd.IntN(processes)
	}
	return w
}

func (w *world) newProcess() *process {
	w.t.Helper()
	cat, err := laketest.New(w.cfg.Table.Warehouse)
	if err != nil {
		w.t.Fatal(err)
	}
	l, err := lake.NewOn(w.cfg.Table, telemetry.Discard(), cat.Open)
	if err != nil {
		w.t.Fatal(err)
	}
	s := w.newSink()
	s.lake = l
	ctx, kill := context.WithCancel(w.t.Context())
	return &process{sink: s, catalog: cat, ctx: ctx, kill: kill, next: map[int32]int64{}}
}

// batch is the log from an offset on: some offsets are dead letters, some hold no record.
func (w *world) batch(p int32, first, next int64) stream.Batch {
	b := w.maker.Batch(p, first, next)
	var kept []codec.Record
	for _, r := range b.Records {
		switch {
		case r.Source.Offset%17 == 0:
			b.Dead++
		case r.Source.Offset%13 == 0: // a control record
		default:
			kept = append(kept, r)
		}
	}
	b.Records = kept
	return b
}

// read has a process write its next batch of a partition.
func (w *world) read(pr *process, p int32) {
	next, ours := pr.next[p]
	if !ours {
		starts, err := pr.sink.Assigned(pr.ctx, w.maker.Type.Topic.Name, []int32{p})
		if err != nil {
			return // an outage; it is asked again
		}
		next = starts[p]
		pr.next[p] = next
	}
	end := min(next+1+w.rnd.Int64N(40), logLength)
	if next >= logLength {
		return
	}
	// A done with an error makes the partition start again.
	failed := func(err error) {
		if err != nil {
			delete(pr.next, p)
		}
	}
	if err := pr.sink.Write(pr.ctx, w.batch(p, next, end), failed); err != nil {
		pr.sink.Lost(w.maker.Type.Topic.Name, []int32{p})
		delete(pr.next, p)
		return
	}
	if _, ours := pr.next[p]; ours {
		pr.next[p] = end
	}
}

// step does one random thing.
func (w *world) step() {
	i := w.rnd.IntN(processes)
	pr := w.procs[i]
	p := int32(w.rnd.IntN(partitions))
	switch n := w.rnd.IntN(100); {
	case n < 60:
		if w.owner[p] == i || w.rnd.IntN(10) == 0 { // at times a zombie that does not know
			w.read(pr, p)
		}
	case n < 75:
		w.flushOf(pr)
	case n < 80: // killed, holding whatever it holds
		w.restart(i)
	case n < 84: // killed after the files, before the commit
		pr.catalog.Before(func() error { pr.kill(); return errKilled })
		w.flushOf(pr)
		w.restart(i)
	case n < 88: // killed after the commit, before anyone is told
		pr.catalog.After(func() error { pr.kill(); return errKilled })
		w.flushOf(pr)
		w.restart(i)
	case n < 91: // the catalog's answer is lost
		tries := 0
		pr.catalog.After(func() error {
			if tries++; tries == 1 {
				return errors.New("connection reset")
			}
			return nil
		})
		w.flushOf(pr)
		pr.catalog.After(nil)
	case n < 96: // a rebalance, in order or after a lost session
		topic := w.maker.Type.Topic.Name
		old := w.procs[w.owner[p]]
		if w.rnd.IntN(2) == 0 {
			_ = old.sink.Revoked(old.ctx, topic, []int32{p})
		} else {
			old.sink.Lost(topic, []int32{p})
		}
		delete(old.next, p)
		w.owner[p] = w.rnd.IntN(processes)
	default: // a rebalance that the old owner does not notice
		w.owner[p] = w.rnd.IntN(processes)
	}
}

func (w *world) flushOf(pr *process) {
	ctx, cancel := context.WithTimeout(pr.ctx, 20*time.Second)
	defer cancel()
	for _, c := range pr.sink.committers() {
		_ = c.flush(ctx) // what fails comes again
	}
}

func (w *world) restart(i int) {
	w.procs[i].kill()
	w.procs[i] = w.newProcess()
}

// finish lets the owners read to the end.
func (w *world) finish() {
	for range 200 {
		done := true
		for p, i := range w.owner {
			pr := w.procs[i]
			w.read(pr, int32(p))
			done = done && pr.next[int32(p)] == logLength
		}
		for _, pr := range w.procs {
			w.flushOf(pr)
		}
		if done {
			return
		}
	}
	w.t.Fatal("the log was not read to its end")
}

// check holds the table against the log: each row once, and every offset accounted for.
func (w *world) check() {
	w.t.Helper()
	got := map[string]int{}
	w.query(w.t, "SELECT _topic_partition, _offset, id FROM log", func(row []any) {
		got[fmt.Sprint(row...)]++
	})
	want := 0
	for p := range int32(partitions) {
		for _, r := range w.batch(p, 0, logLength).Records {
			want++
			if n := got[fmt.Sprint(p, r.Source.Offset, string(r.ID()))]; n != 1 {
				w.t.Errorf("partition %d offset %d is there %d times", p, r.Source.Offset, n)
			}
		}
	}
	if len(got) != want {
		w.t.Errorf("%d rows, want %d", len(got), want)
	}
	l, err := lake.New(w.cfg.Table, telemetry.Discard())
	if err != nil {
		w.t.Fatal(err)
	}
	table, err := l.Open(w.t.Context(), w.typ)
	if err != nil {
		w.t.Fatal(err)
	}
	at, err := table.Positions(w.typ.Topic.Name)
	if err != nil {
		w.t.Fatal(err)
	}
	for p := range int32(partitions) {
		b, pos := w.batch(p, 0, logLength), at.Partitions[p]
		c := pos.Counts
		c.Through = 0
		wanted := lake.Counts{
			First: 0, Next: logLength, Rows: int64(len(b.Records)), Dead: int64(b.Dead),
			Skipped: logLength - int64(len(b.Records)) - int64(b.Dead),
		}
		if pos.Err != nil || pos.Next != logLength || c != wanted {
			w.t.Errorf("partition %d: the table accounts for %+v at %d (%v), want %+v", p, c, pos.Next, pos.Err, wanted)
		}
	}
}

// TestExactlyOnce kills, cuts off, rebalances and races two processes at random points: whatever happens, each record
// is in the table once.
func TestExactlyOnce(t *testing.T) {
	for seed := range uint64(6) {
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, seed)
			for range 120 {
				w.step()
			}
			w.finish()
			w.check()
		})
	}
}

// TestARacingOwnerStartsAgain has two processes hold rows of the same partition: the second to commit is told to start
// again, and finds where.
func TestARacingOwnerStartsAgain(t *testing.T) {
	b := newBench(t, schematest.Type(t, "log"))
	m := sinktest.Maker{Type: b.typ, Base: time.Now().UTC().Truncate(time.Microsecond), Seed: "x"}
	topic := b.typ.Topic.Name
	first, second := b.sink, b.newSink()
	var results [2][]error
	for i, s := range []*Sink{first, second} {
		if _, err := s.Assigned(t.Context(), topic, []int32{0, 1}); err != nil {
			t.Fatal(err)
		}
		for p := range int32(2) {
			if i == 0 && p == 1 {
				continue
			}
			if err := s.Write(t.Context(), m.Batch(p, 0, 10), func(err error) { results[i] = append(results[i], err) }); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := b.flush(first); err != nil {
		t.Fatal(err)
	}
	if err := b.flush(second); !errors.Is(err, lake.ErrReseek) {
		t.Errorf("the second commit gave %v, want lake.ErrReseek", err)
	}
	if !slices.Equal(results[0], []error{nil}) || len(results[1]) != 2 || !errors.Is(results[1][0], stream.ErrReseek) {
		t.Errorf("dones got %v", results)
	}
	if err := second.Write(t.Context(), m.Batch(0, 10, 20), func(error) {}); !errors.Is(err, stream.ErrReseek) {
		t.Errorf("writing on gave %v, want stream.ErrReseek", err)
	}
	at, err := second.Assigned(t.Context(), topic, []int32{0, 1})
	if err != nil || at[0] != 10 {
		t.Errorf("starts again at %v (%v), want 10", at, err)
	}
	if _, known := at[1]; known {
		t.Errorf("partition 1 starts at %d, want nothing known", at[1])
	}
}

// TestStoppedPartitions shows what makes a partition wait for an operator.
func TestStoppedPartitions(t *testing.T) {
	b := newBench(t, schematest.Type(t, "log"))
	m := sinktest.Maker{Type: b.typ, Base: time.Now().UTC().Truncate(time.Microsecond), Seed: "x"}
	topic := b.typ.Topic.Name
	for first := int64(0); first < 20; first += 10 {
		if _, err := b.sink.Assigned(t.Context(), topic, []int32{0}); err != nil {
			t.Fatal(err)
		}
		if err := b.sink.Write(t.Context(), m.Batch(0, first, first+10), func(error) {}); err != nil {
			t.Fatal(err)
		}
		if err := b.flush(b.sink); err != nil {
			t.Fatal(err)
		}
	}
	b.id.TopicID = "made anew"
	stops(t, b.newSink(), topic, lake.ErrOtherSource)
	b.id.TopicID = "topic"
	rollBack(t, b)
	stops(t, b.newSink(), topic, lake.ErrRolledBack)
}

func stops(t *testing.T, s *Sink, topic string, want error) {
	t.Helper()
	at, err := s.Assigned(t.Context(), topic, []int32{0, 1})
	var stopped *stream.StoppedError
	if !errors.As(err, &stopped) || !errors.Is(stopped.Partitions[0], want) {
		t.Fatalf("assigning gave %v, want partition 0 stopped by %v", err, want)
	}
	if len(at) != 0 {
		t.Errorf("it starts at %v", at)
	}
}

// rollBack does what an operator can do with any Iceberg tool.
func rollBack(t *testing.T, b *bench) {
	t.Helper()
	cat, err := laketest.New(b.cfg.Table.Warehouse)
	if err != nil {
		t.Fatal(err)
	}
	table, err := cat.LoadTable(t.Context(), []string{b.cfg.Table.Namespace, b.typ.Lake.Table})
	if err != nil {
		t.Fatal(err)
	}
	tx := table.NewTransaction()
	if err := tx.RollbackToSnapshot(*table.CurrentSnapshot().ParentSnapshotID); err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
}
