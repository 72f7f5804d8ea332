package stream

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace/millrace/pkg/schema"
)

// table is a lake: rows and offsets change together, and only if the offsets are those the writer started from.
type table struct {
	mu   sync.Mutex
	next map[int32]int64
	rows map[string]int
}

func newTable() *table { return &table{next: map[int32]int64{}, rows: map[string]int{}} }

func (tb *table) total() (rows, doubles int) {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	for _, n := range tb.rows {
		rows++
		doubles += n - 1
	}
	return rows, doubles
}

// memKeeper writes a table with a commit every interval.
type memKeeper struct {
	t     *testing.T
	table *table
	delay time.Duration // of a Write, whatever its context says

	mu   sync.Mutex
	stop error           // why partition 0 must not be read
	base map[int32]int64 // the table's offset this writer started from
	at   map[int32]int64 // the next batch's first offset
	held map[int32][]heldBatch
}

type heldBatch struct {
	Batch
	done func(error)
}

func newMemKeeper(t *testing.T, tb *table) *memKeeper {
	return &memKeeper{t: t, table: tb, base: map[int32]int64{}, at: map[int32]int64{}, held: map[int32][]heldBatch{}}
}

func (k *memKeeper) Assigned(_ context.Context, _ string, partitions []int32) (map[int32]int64, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.table.mu.Lock()
	defer k.table.mu.Unlock()
	out := map[int32]int64{}
	for _, p := range partitions {
		if len(k.held[p]) > 0 {
			k.t.Errorf("partition %d is assigned while %d of its batches are held", p, len(k.held[p]))
		}
		if p == 0 && k.stop != nil {
			continue
		}
		k.base[p], k.at[p] = k.table.next[p], k.table.next[p]
		if next, ok := k.table.next[p]; ok {
			out[p] = next
		}
	}
	if k.stop != nil {
		return out, &StoppedError{Partitions: map[int32]error{0: k.stop}}
	}
	return out, nil
}

func (k *memKeeper) Write(_ context.Context, b Batch, done func(error)) error {
	time.Sleep(k.delay)
	k.mu.Lock()
	defer k.mu.Unlock()
	if b.First != k.at[b.Partition] {
		k.t.Errorf("partition %d: batch [%d, %d) comes where %d is next", b.Partition, b.First, b.Next, k.at[b.Partition])
	}
	k.at[b.Partition] = b.Next
	k.held[b.Partition] = append(k.held[b.Partition], heldBatch{b, done})
	return nil
}

func (k *memKeeper) commit(p int32) {
	k.mu.Lock()
	defer k.mu.Unlock()
	held := k.held[p]
	delete(k.held, p)
	if len(held) == 0 {
		return
	}
	k.table.mu.Lock()
	defer k.table.mu.Unlock()
	var err error
	if k.table.next[p] != k.base[p] {
		err = fmt.Errorf("committing: %w", ErrReseek)
	} else {
		for _, h := range held {
			for i := range h.Records {
				k.table.rows[h.Records[i].Values[schema.ID].String()]++
			}
		}
		k.table.next[p], k.base[p] = k.at[p], k.at[p]
	}
	for _, h := range held {
		h.done(err) // under the lock, as a sink may
	}
}

func (k *memKeeper) Revoked(_ context.Context, _ string, partitions []int32) error {
	for _, p := range partitions {
		k.commit(p)
	}
	k.Lost("", partitions)
	return nil
}

func (k *memKeeper) Lost(_ string, partitions []int32) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, p := range partitions {
		delete(k.held, p)
		delete(k.base, p)
		delete(k.at, p)
	}
}

// run commits until the test ends.
func (k *memKeeper) run(every time.Duration) *memKeeper {
	ctx := k.t.Context()
	go func() {
		for sleep(ctx, every) == nil {
			for p := range int32(3) {
				k.commit(p)
			}
		}
	}()
	return k
}

func TestKeeperStartsFromItsOwnOffset(t *testing.T) {
	for committed, redelivered := range map[int64]float64{90: 0, 30: 0, 20: 10, -1: 30} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			w.produce(0, 0, 100)
			tb := newTable()
			tb.next[0] = 30
			if committed >= 0 { // what the group says does not count, but for what it would give again
				w.commitAt(w.cluster.Client(t), committed)
			}
			m := w.join(newMemKeeper(t, tb).run(time.Minute))
			w.until("the group's commit follows", func() bool { return w.cluster.Committed(t, group, topic)[0] == 100 })
			if rows, doubles := tb.total(); rows != 70 || doubles != 0 {
				t.Errorf("%d rows and %d doubles, want 70 and none", rows, doubles)
			}
			w.stop(m)
			if n := m.metric("redelivered_records_total"); n != redelivered {
				t.Errorf("committed at %d: %v redelivered records are counted, want %v", committed, n, redelivered)
			}
		})
	}
}

// A process died, or lost its partitions, between its table's commit and the group's, and nothing came since: the group's
// commit must follow all the same, or a lag would be shown for ever that is none.
func TestKeeperIsCommittedWithoutNewRecords(t *testing.T) {
	for _, committed := range []int64{-1, 10, 30} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			w.produce(0, 0, 30)
			tb := newTable()
			tb.next[0] = 30
			if committed >= 0 {
				w.commitAt(w.cluster.Client(t), committed)
			}
			m := w.join(newMemKeeper(t, tb).run(time.Minute))
			w.until("the group's commit follows", func() bool { return w.lag() == 0 })
			w.stop(m)
		})
	}
}

// Another writer's commit takes a Keeper's rows from it, and nothing comes after.
func TestKeeperThatRestartsIsCommittedWithoutNewRecords(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.produce(0, 0, 50)
		tb := newTable()
		m := w.join(newMemKeeper(t, tb).run(time.Minute))
		time.Sleep(10 * time.Second)
		tb.mu.Lock()
		tb.next[0] = 50 // another writer stored all of them
		tb.mu.Unlock()
		w.until("the partition starts again", func() bool { return m.metric("reseeks_total") == 1 })
		w.until("the group's commit follows", func() bool { return w.lag() == 0 })
		w.stop(m)
	})
}

// A table that was made from another log stops a partition, until an operator decides: the others go on, and so does it
// after that, from where the table then stands.
func TestAStoppedPartitionGoesOnOnceTheKeeperAllowsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.produce(0, 0, 50)
		w.produce(1, 0, 50)
		w.commitAt(w.cluster.Client(t), 30) // of the other log
		k := newMemKeeper(t, newTable()).run(time.Second)
		k.stop = errors.New("another log")
		m := w.join(k)
		w.until("the other partition is stored", func() bool { rows, _ := k.table.total(); return rows == 50 })
		time.Sleep(5 * reconsiderEvery)
		if rows, _ := k.table.total(); rows != 50 {
			t.Errorf("%d rows, want the 50 of the other partition", rows)
		}
		if err := m.Ready(); err == nil || !strings.Contains(err.Error(), "partition 0 of "+topic+" is stopped: halted") {
			t.Errorf("Ready is %v, want the stopped partition", err)
		}
		if n := m.metric("stopped_partitions_total"); n != 1 {
			t.Errorf("%v stopped partitions are counted, want 1", n)
		}
		k.mu.Lock()
		k.stop = nil
		k.mu.Unlock()
		k.table.mu.Lock()
		k.table.next[0] = 10
		k.table.mu.Unlock()
		w.until("it goes on", func() bool { rows, _ := k.table.total(); return rows == 90 && w.lag() == 0 })
		w.produce(0, 50, 10)
		w.until("and on", func() bool { rows, _ := k.table.total(); return rows == 100 && w.lag() == 0 })
		if err := m.Ready(); err != nil {
			t.Errorf("Ready: %v", err)
		}
		w.stop(m)
		if _, doubles := k.table.total(); doubles != 0 {
			t.Errorf("%d doubles", doubles)
		}
	})
}

// A stopped partition that moves to another member is no longer asked about by the first, which stops in time.
func TestAStoppedPartitionMoves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.produce(0, 0, 50)
		tb := newTable()
		a, b := newMemKeeper(t, tb).run(time.Second), newMemKeeper(t, tb).run(time.Second)
		a.stop = errors.New("another log")
		first := w.join(a)
		w.until("it is stopped", func() bool { return first.metric("stopped_partitions_total") == 1 })
		second := w.join(b)
		time.Sleep(reconsiderEvery)
		w.stop(first)
		w.until("all is stored", func() bool { rows, _ := tb.total(); return rows == 50 && w.lag() == 0 })
		w.stop(second)
		if _, doubles := tb.total(); doubles != 0 {
			t.Errorf("%d doubles", doubles)
		}
	})
}

// What a Keeper holds until its next commit must not stop the fetch, however little memory there is.
func TestKeeperHoldsMoreThanTheMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.cfg.Memory, w.cfg.Batch.Bytes = 1<<20, 64<<10
		value := strings.Repeat("x", 2000)
		records := make([]*kgo.Record, 3000)
		for i := range records {
			records[i] = &kgo.Record{Topic: topic, Value: fmt.Appendf(nil, "0/%d %s", i, value)}
		}
		w.cluster.Produce(t, records...)
		k := newMemKeeper(t, newTable()).run(time.Hour)
		m := w.join(k)
		time.Sleep(time.Minute)
		k.mu.Lock()
		at := k.at[0]
		k.mu.Unlock()
		if at != 3000 {
			t.Errorf("the keeper has %d of 3000 records before its first commit", at)
		}
		if err := m.Ready(); err != nil {
			t.Errorf("Ready: %v", err)
		}
		w.stop(m) // which makes them durable
		if rows, doubles := k.table.total(); rows != 3000 || doubles != 0 {
			t.Errorf("%d rows and %d doubles, want 3000 and none", rows, doubles)
		}
		if l := w.lag(); l != 0 {
			t.Errorf("lag %d, want 0", l)
		}
	})
}

func TestKeeperSeeksWhenItsOffsetIsStale(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.produce(0, 0, 50)
		tb := newTable()
		k := newMemKeeper(t, tb)
		k.delay = 5 * time.Second // so that one is under way when the table's offset turns out stale
		m := w.join(k.run(time.Minute))
		time.Sleep(10 * time.Second)
		tb.mu.Lock()
		tb.next[0] = 20 // another writer stored the first twenty
		for i := range 20 {
			tb.rows[fmt.Sprintf("0/%d", i)]++
		}
		tb.mu.Unlock()
		time.Sleep(47 * time.Second)
		w.produce(0, 50, 10)
		w.until("all is stored", func() bool { rows, _ := tb.total(); return rows == 60 && w.lag() == 0 })
		if _, doubles := tb.total(); doubles != 0 {
			t.Errorf("%d doubles", doubles)
		}
		if n := m.metric("reseeks_total"); n != 1 {
			t.Errorf("%v reseeks, want 1", n)
		}
		if n := m.metric("redelivered_records_total"); n != 20 {
			t.Errorf("%v redelivered records are counted, want the other writer's 20", n)
		}
		w.stop(m)
	})
}

func TestKeeperIsExactAcrossRebalancesAndKills(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.cfg.Drain = 5 * time.Second
		tb := newTable()
		stop := w.feed(time.Second)
		join := func() *member { return w.join(newMemKeeper(t, tb).run(7 * time.Second)) }
		a := join()
		time.Sleep(20 * time.Second)
		b, c := join(), join()
		time.Sleep(time.Minute)
		w.kill(a)
		time.Sleep(time.Minute)
		w.stop(c)
		d := join()
		time.Sleep(time.Minute)
		counts := stop()
		w.until("the lag is 0", func() bool { return w.lag() == 0 })
		w.stop(b)
		w.stop(d)
		want := counts[0] + counts[1] + counts[2]
		if rows, doubles := tb.total(); rows != want || doubles != 0 {
			t.Errorf("%d rows and %d doubles, want %d and none", rows, doubles, want)
		}
	})
}

// A member that was cut off, and lost its partitions to another, holds batches that it must forget.
func TestKeeperForgetsWhatItLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.cfg.Drain = 5 * time.Second
		tb := newTable()
		stop := w.feed(time.Second)
		a := w.join(newMemKeeper(t, tb).run(time.Hour))
		time.Sleep(time.Minute)
		a.link.Cut()
		b := w.join(newMemKeeper(t, tb).run(40 * time.Second))
		time.Sleep(3 * time.Minute)
		a.link.Mend()
		time.Sleep(2 * time.Minute)
		counts := stop()
		if len(a.Status()) == 0 {
			t.Error("the member did not come back")
		}
		w.stop(a)
		w.until("the lag is 0", func() bool { return w.lag() == 0 })
		w.stop(b)
		want := counts[0] + counts[1] + counts[2]
		if rows, doubles := tb.total(); rows != want || doubles != 0 {
			t.Errorf("%d rows and %d doubles, want %d and none", rows, doubles, want)
		}
	})
}

// An empty range still moves a Keeper's offset.
func TestKeeperSeesRangesWithoutRecords(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.cluster.Produce(t, &kgo.Record{Topic: topic, Value: []byte("bad")}, &kgo.Record{Topic: topic, Value: []byte("bad")})
		tb := newTable()
		m := w.join(newMemKeeper(t, tb).run(10 * time.Second))
		w.until("the lag is 0", func() bool { return w.lag() == 0 })
		tb.mu.Lock()
		if tb.next[0] != 2 {
			t.Errorf("the table's offset is %d, want 2", tb.next[0])
		}
		tb.mu.Unlock()
		w.stop(m)
	})
}

// What a Keeper refuses before it has it is a dead letter first, and then the batch comes again without it: its commit is
// past the offset.
func TestKeeperRefusesRecords(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.produce(0, 0, 30)
		tb := newTable()
		k := &refusingKeeper{newMemKeeper(t, tb).run(5 * time.Second)}
		fault := w.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: topic + ".dlq", Err: kerr.NotEnoughReplicas, Count: -1})
		m := w.join(k)
		time.Sleep(10 * time.Minute)
		if rows, _ := tb.total(); rows != 0 || w.lag() != 30 {
			t.Errorf("%d rows are stored of a batch whose dead letters are not, lag %d", rows, w.lag())
		}
		fault.Remove()
		w.until("the lag is 0", func() bool { return w.lag() == 0 })
		w.stop(m)
		letters := w.letters()
		for id, class := range map[string]string{"0/3": "record", "0/5": "bug", "0/25": "record"} {
			if letters[id]["millrace.class"] != class {
				t.Errorf("the dead letter of %s has headers %v, want class %s", id, letters[id], class)
			}
		}
		if rows, doubles := tb.total(); rows != 27 || doubles != 0 || len(letters) != 3 {
			t.Errorf("%d rows, %d doubles, %d dead letters; want 27, none and 3", rows, doubles, len(letters))
		}
	})
}

// refusingKeeper finds fault with some records.
type refusingKeeper struct{ *memKeeper }

func (k *refusingKeeper) Write(ctx context.Context, b Batch, done func(error)) error {
	failed := map[int]error{}
	for i := range b.Records {
		switch b.Records[i].Values[schema.ID].String() {
		case "0/3", "0/25":
			failed[i] = errors.New("it is odd")
		case "0/5":
			failed[i] = Panicked("five", []byte("keeper_test.go"))
		}
	}
	if len(failed) > 0 {
		return &PartialError{Failed: failed}
	}
	return k.memKeeper.Write(ctx, b, done)
}
