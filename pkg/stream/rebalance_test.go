package stream

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace/millrace/pkg/schema"
	"github.com/millrace/millrace/pkg/stream/ledger"
	"github.com/millrace/millrace/pkg/telemetry"
)

// feed produces to all partitions until it is told to stop, and gives how many records each has.
func (w *world) feed(every time.Duration) (stop func() []int) {
	quit, done := make(chan struct{}), make(chan []int)
	go func() {
		counts := make([]int, 3)
		for {
			select {
			case <-quit:
				done <- counts
				return
			case <-time.After(every):
			}
			for p := range counts {
				w.produce(int32(p), counts[p], 12)
				counts[p] += 12
			}
		}
	}()
	return func() []int { close(quit); return <-done }
}

func TestRebalancesLoseNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.cfg.Drain = 5 * time.Second
		w.sink.set(func(s *memSink) { s.delay = 300 * time.Millisecond })
		stop := w.feed(time.Second)
		a := w.join(w.sink)
		time.Sleep(30 * time.Second)
		b, c := w.join(w.sink), w.join(w.sink)
		time.Sleep(2 * time.Minute)
		for i, m := range []*member{a, b, c} {
			if n := len(m.Status()); n != 1 {
				t.Errorf("member %d has %d partitions, want one each", i, n)
			}
		}
		w.stop(a)
		time.Sleep(time.Minute)
		w.kill(c)
		time.Sleep(2 * time.Minute)
		counts := stop()
		w.until("the lag is 0", func() bool { return w.lag() == 0 })
		w.stop(b)
		w.want(counts...)
	})
}

// A join has its partitions in the time of a drain, however slow the sink is.
func TestSlowSinkDoesNotBlockRebalances(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.cfg.Drain = 2 * time.Second
		for p := range int32(3) {
			w.produce(p, 0, 200)
		}
		w.sink.set(func(s *memSink) { s.delay = 10 * time.Minute })
		w.cfg.Retry.Attempt = time.Hour
		a := w.join(w.sink)
		time.Sleep(30 * time.Second)
		begun := time.Now()
		b := w.join(w.sink)
		w.until("both have partitions", func() bool { return len(a.Status()) > 0 && len(b.Status()) > 0 })
		if took := time.Since(begun); took > 15*time.Second {
			t.Errorf("the second member waited %v for a partition", took)
		}
		w.stop(b)
		w.stop(a)
		if l := w.lag(); l != 600 {
			t.Errorf("lag %d, want 600", l)
		}
	})
}

func TestMemoryBoundPauses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.cfg.Memory, w.cfg.Batch.Bytes = 1<<20, 64<<10
		value := strings.Repeat("x", 2000)
		for p := range int32(3) {
			records := make([]*kgo.Record, 3000) // 6 MB a partition
			for i := range records {
				records[i] = &kgo.Record{Topic: topic, Partition: p, Value: fmt.Appendf(nil, "%d/%d %s", p, i, value)}
			}
			w.cluster.Produce(t, records...)
		}
		var stuck atomic.Bool // partition 0's writes hang
		stuck.Store(true)
		m := w.join(sinkFunc(func(ctx context.Context, b Batch, done func(error)) error {
			if b.Partition == 0 && stuck.Load() {
				<-ctx.Done()
				return ctx.Err()
			}
			return w.sink.Write(ctx, b, done)
		}))
		w.until("the other partitions are read", func() bool { return w.sink.len() >= 6000 })
		time.Sleep(time.Minute)
		held, paused := m.budget.held(m.Consumer)
		if paused != 1 {
			t.Errorf("%d partitions are paused, want the stuck one", paused)
		}
		// One poll may pass the bound: here, what one fetch brings of a partition.
		if limit := 1<<20 + 2<<20; held > limit {
			t.Errorf("%d bytes are held, want at most %d", held, limit)
		}
		if s := m.Status()[0]; s.State != "paused" && !strings.HasPrefix(s.State, "waiting") {
			t.Errorf("state %q", s.State)
		}
		stuck.Store(false)
		w.until("all is read", func() bool { return w.sink.len() == 9000 })
		w.stop(m)
		if held, _ := m.budget.held(m.Consumer); held != 0 {
			t.Errorf("%d bytes are still held", held)
		}
	})
}

// The consumers of a process share one budget: a destination that is down fills its part, and the other goes on.
func TestConsumersShareABudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.cfg.Memory, w.cfg.Batch.Bytes = 1<<20, 64<<10
		w.budget, w.opts = NewBudget(w.cfg.Memory), []kgo.Opt{kgo.FetchMaxPartitionBytes(64 << 10)}
		cl := w.cluster.Client(t, kgo.ProducerBatchMaxBytes(32<<10), kgo.RecordPartitioner(kgo.ManualPartitioner()))
		value := strings.Repeat("x", 2000)
		for p := range int32(3) {
			records := make([]*kgo.Record, 3000) // 6 MB a partition
			for i := range records {
				records[i] = &kgo.Record{Topic: topic, Partition: p, Value: fmt.Appendf(nil, "%d/%d %s", p, i, value)}
			}
			if err := cl.ProduceSync(t.Context(), records...).FirstErr(); err != nil {
				t.Fatal(err)
			}
		}
		down := sinkFunc(func(context.Context, Batch, func(error)) error { return errors.New("down") })
		a := w.joinAs("down", down)
		w.until("the first is full", func() bool { _, paused := a.budget.held(a.Consumer); return paused == 3 })
		b := w.join(w.sink)
		w.until("the second has read all", func() bool { return w.sink.len() == 9000 })
		c := w.joinAs("down too", down)
		time.Sleep(time.Minute)
		held := 0
		for _, m := range []*member{a, b, c} {
			n, _ := m.budget.held(m.Consumer)
			held += n
		}
		// One poll of each may pass the bound: here, what one fetch brings of three partitions.
		if limit := 1<<20 + 3*3*100<<10; held > limit {
			t.Errorf("%d bytes are held, want at most %d", held, limit)
		}
		for _, m := range []*member{a, b, c} {
			w.stop(m)
		}
		for _, m := range []*member{a, b, c} {
			if n, _ := m.budget.held(m.Consumer); n != 0 {
				t.Errorf("%d bytes are still held", n)
			}
		}
	})
}

func TestTransactionMarkersAtTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		cl := w.cluster.Client(t, kgo.TransactionalID("tx"), kgo.RecordPartitioner(kgo.ManualPartitioner()))
		for n, end := range []kgo.TransactionEndTry{kgo.TryCommit, kgo.TryAbort} {
			if err := cl.BeginTransaction(); err != nil {
				t.Fatal(err)
			}
			for i := range 10 {
				r := &kgo.Record{Topic: topic, Value: fmt.Appendf(nil, "0/%d", n*10+i)}
				if err := cl.ProduceSync(t.Context(), r).FirstErr(); err != nil {
					t.Fatal(err)
				}
			}
			if err := cl.EndTransaction(t.Context(), end); err != nil {
				t.Fatal(err)
			}
		}
		m := w.join(w.sink)
		w.until("the lag is 0", func() bool { return w.lag() == 0 })
		w.stop(m)
		w.want(10) // none of the aborted ones
		if got := w.cluster.Committed(t, group, topic)[0]; got != 22 {
			t.Errorf("committed %d, want 22: ten records, a marker, ten aborted records, a marker", got)
		}
	})
}

func TestExpiredRecordsAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.produce(0, 0, 10)
		m := w.join(w.sink)
		w.until("the lag is 0", func() bool { return w.lag() == 0 })
		w.stop(m)
		w.produce(0, 10, 90)
		if err := w.cluster.DeleteRecords(topic, 0, 60); err != nil {
			t.Fatal(err)
		}
		m = w.join(w.sink)
		w.until("the rest is read", func() bool { return w.sink.times("0/99") > 0 && w.lag() == 0 })
		w.stop(m)
		if n := m.metric("expired_records_total"); n != 50 {
			t.Errorf("%v expired records counted, want 50", n)
		}
		if n := w.sink.len(); n != 50 {
			t.Errorf("%d records are stored, want 50", n)
		}
		if n := strings.Count(w.logs.String(), "records expired"); n != 1 {
			t.Errorf("logged %d times, want once", n)
		}
	})
}

// Where retention took all that was left, nothing comes after it by which the position could move on: it moves all the
// same, or the same records would be counted as lost at each start.
func TestALossIsCountedOnce(t *testing.T) {
	for name, keeper := range map[string]bool{"sink": false, "keeper": true} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			w.produce(0, 0, 60)
			if err := w.cluster.DeleteRecords(topic, 0, 60); err != nil {
				t.Fatal(err)
			}
			w.commitAt(w.cluster.Client(t), 10)
			tb := newTable()
			tb.next[0] = 10
			expired := 0.0
			for range 3 {
				var sink Sink = w.sink
				if keeper {
					sink = newMemKeeper(t, tb).run(time.Second)
				}
				m := w.join(sink)
				time.Sleep(time.Minute)
				w.stop(m)
				expired += m.metric("expired_records_total")
			}
			if expired != 50 {
				t.Errorf("%s: %v expired records counted over three starts, want 50", name, expired)
			}
			if got := w.cluster.Committed(t, group, topic)[0]; got != 60 {
				t.Errorf("%s: committed %d, want the log's start at 60", name, got)
			}
			// And what comes then is none of them.
			w.produce(0, 60, 5)
			var sink Sink = w.sink
			if keeper {
				sink = newMemKeeper(t, tb).run(time.Second)
			}
			m := w.join(sink)
			w.until("the lag is 0", func() bool { return w.lag() == 0 })
			w.stop(m)
			if rows, doubles := tb.total(); !keeper && w.sink.len() != 5 || keeper && (rows != 5 || doubles != 0) {
				t.Errorf("%s: %d stored in the sink, %d rows", name, w.sink.len(), rows)
			}
		})
	}
}

// Retention can go on before the first fetch at where the log began, of a consumer that starts or of one that reads.
func TestALossThatGoesOnIsCountedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.produce(0, 0, 100)
		w.commitAt(w.cluster.Client(t), 10)
		cut := func(at int64) {
			if err := w.cluster.DeleteRecords(topic, 0, at); err != nil {
				t.Error(err)
			}
		}
		cut(40)
		for _, next := range []int64{60, 80} {
			w.cluster.ControlKey(int16(kmsg.Fetch), func(req kmsg.Request) (kmsg.Response, error, bool) {
				at := int64(-1)
				for _, of := range req.(*kmsg.FetchRequest).Topics {
					for _, p := range of.Partitions {
						if p.Partition == 0 {
							at = p.FetchOffset
						}
					}
				}
				if at != next-20 {
					w.cluster.KeepControl()
					return nil, nil, false
				}
				w.cluster.SleepControl(func() { cut(next) })
				return nil, nil, false
			})
		}
		m := w.join(w.sink)
		w.until("the rest is read", func() bool { return w.lag() == 0 })
		w.stop(m)
		if n := m.metric("expired_records_total"); n != 70 || w.sink.len() != 20 {
			t.Errorf("%v expired records are counted and %d are stored, want 70 and 20", n, w.sink.len())
		}
	})
}

// Retention can also overtake a consumer that reads: what it holds in memory is still written.
func TestExpiryWhileReading(t *testing.T) {
	for _, start := range []int64{4500, 5000} { // of the log, after it was cut; its end is 5000
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			w.cfg.Memory, w.cfg.Batch.Bytes = 1<<20, 64<<10
			value := strings.Repeat("x", 2000)
			records := make([]*kgo.Record, 5000)
			for i := range records {
				records[i] = &kgo.Record{Topic: topic, Value: fmt.Appendf(nil, "0/%d %s", i, value)}
			}
			w.cluster.Produce(t, records...)
			w.sink.set(func(s *memSink) { s.fail = func(Batch) error { return errors.New("down") } })
			m := w.join(w.sink)
			time.Sleep(time.Minute)
			fetched := m.Status()[0].Fetched
			if fetched >= 4000 || fetched < 100 {
				t.Fatalf("fetched up to %d, want a part", fetched)
			}
			if err := w.cluster.DeleteRecords(topic, 0, start); err != nil {
				t.Fatal(err)
			}
			w.sink.set(func(s *memSink) { s.fail = nil })
			w.until("all is committed", func() bool { return w.cluster.Committed(t, group, topic)[0] == 5000 })
			w.stop(m)
			expired := int64(m.metric("expired_records_total"))
			if got := int64(w.sink.len()); got+expired != 5000 || expired != start-fetched {
				t.Errorf("cut at %d: %d stored and %d expired, want %d and %d", start, got, expired, 5000-start+fetched, start-fetched)
			}
		})
	}
}

func TestCommitBeyondTheEndStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.produce(0, 0, 10)
		w.produce(1, 0, 10)
		m := w.join(w.sink)
		w.until("the lag is 0", func() bool { return w.lag() == 0 })
		w.stop(m)
		// kfake drops commits with their topic, so the log is made shorter than the commit another way.
		cl := w.cluster.Client(t)
		w.commitAt(cl, 50)
		m = w.join(w.sink)
		w.until("the partition is stopped", func() bool {
			s := m.Status()
			return len(s) == 3 && s[0].State == stateRecreated
		})
		w.produce(0, 10, 10)
		w.produce(1, 10, 10)
		w.until("the other partition is read", func() bool { return w.sink.times("1/19") > 0 })
		if err := m.Ready(); err == nil || !strings.Contains(err.Error(), "partition 0 of "+topic+" is stopped: recreated") {
			t.Errorf("Ready is %v, want the stopped partition", err)
		}
		if w.sink.times("0/10") != 0 {
			t.Error("the stopped partition was read")
		}
		w.stop(m)
	})
}

// A topic that is deleted and made again is read from its start, by every member, and it is said while it is gone.
func TestTopicMadeAnewIsReadFromItsStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		for p := range int32(3) {
			w.produce(p, 0, 20)
		}
		members := []*member{w.join(w.sink), w.join(w.sink)}
		w.until("both members read", func() bool {
			for _, m := range members {
				s := m.Status()
				if len(s) == 0 || slices.ContainsFunc(s, func(p PartitionStatus) bool { return p.State != stateRunning }) {
					return false
				}
			}
			return w.lag() == 0
		})
		if err := w.cluster.DeleteTopic(topic); err != nil {
			t.Fatal(err)
		}
		for _, m := range members {
			w.until("it is said that the topic is gone", func() bool {
				err := m.Ready()
				return err != nil && strings.Contains(err.Error(), "topic "+topic+" was deleted")
			})
		}
		w.cluster.Create(t, topic, 3)
		for p := range int32(3) { // fewer than before: an old commit would pass over all of them
			w.produce(p, 20, 10)
		}
		w.until("the new topic is read", func() bool { return w.sink.len() == 90 && w.lag() == 0 })
		w.want(30, 30, 30)
		for i, m := range members {
			w.until(fmt.Sprintf("member %d is ready afterwards", i), func() bool { return m.Ready() == nil })
			if n := m.metric("poll_errors_total"); n > 1000 {
				t.Errorf("%v poll errors: the loop runs hot", n)
			}
			if n := m.metric("recreated_topics_total"); n != 1 {
				t.Errorf("member %d counted %v times that the topic was deleted, want 1", i, n)
			}
			w.stop(m)
		}
	})
}

// A member without a partition is ready: there is nothing it could do.
func TestStandbyIsReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		var members []*member
		for range 4 {
			members = append(members, w.join(w.sink))
		}
		time.Sleep(10 * time.Minute)
		for i, m := range members {
			if err := m.Ready(); err != nil {
				t.Errorf("member %d: %v", i, err)
			}
		}
		for _, m := range members {
			w.stop(m)
		}
	})
}

// A stop is in time also when nothing answers any more.
func TestStopIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.produce(0, 0, 100)
		w.sink.set(func(s *memSink) { s.delay = time.Hour })
		m := w.join(w.sink)
		time.Sleep(5 * time.Second)
		begun := time.Now()
		w.kill(m)
		if took := time.Since(begun); took > w.cfg.Drain+10*time.Second {
			t.Errorf("the stop took %v, want little more than the drain of %v", took, w.cfg.Drain)
		}

		k := &absentKeeper{newMemKeeper(t, newTable())}
		m = w.join(k)
		time.Sleep(3 * time.Minute)
		if err := m.Ready(); err == nil || !strings.Contains(err.Error(), "starting") {
			t.Errorf("Ready is %v, want partitions that wait to start", err)
		}
		begun = time.Now()
		w.stop(m)
		if took := time.Since(begun); took > w.cfg.Drain+10*time.Second {
			t.Errorf("the stop took %v while the destination was out", took)
		}
	})
}

// absentKeeper does not answer.
type absentKeeper struct{ *memKeeper }

func (absentKeeper) Assigned(context.Context, string, []int32) (map[int32]int64, error) {
	return nil, errors.New("connection refused")
}

// A commit that was collected before its partition was lost must not be sent after, whatever generation it would bear:
// it would rewind the next owner.
func TestCommitIsFenced(t *testing.T) {
	c, err := New(Default(), "mem", newMemSink(), Deps{
		Decoder: func(string) Decoder { return nil }, Types: []*schema.Type{{Name: "a"}}, Telemetry: telemetry.Discard(),
	})
	if err != nil {
		t.Fatal(err)
	}
	k := ledger.Key{Topic: topic}
	fetch := func(claim ledger.Claim, to int64) {
		first, _ := c.ledger.Fetched(claim, to)
		c.ledger.Done(claim, first, to, ledger.Mark{})
	}
	send := func(positions []ledger.Position) error {
		byKey := map[ledger.Key]stampedPosition{}
		req := kmsg.NewPtrOffsetCommitRequest()
		for _, p := range positions {
			byKey[p.Claim.Key] = stampedPosition{Position: p}
			req.Topics = append(req.Topics, kmsg.OffsetCommitRequestTopic{
				Topic: topic, Partitions: []kmsg.OffsetCommitRequestTopicPartition{{Offset: p.Offset}},
			})
		}
		return c.check(req, byKey)
	}
	claim := c.ledger.Assign(k, 0, 0)
	fetch(claim, 50)
	collected := c.ledger.Uncommitted()
	if err := send(collected); err != nil {
		t.Fatalf("a current commit: %v", err)
	}
	fetch(claim, 100)
	c.ledger.Committed(c.ledger.Uncommitted()[0])
	if err := send(collected); err == nil {
		t.Error("a commit of 50 was sent after 100 was committed")
	}
	fetch(claim, 150)
	collected = c.ledger.Uncommitted()
	c.ledger.Revoke(claim)
	c.ledger.Assign(k, 100, 100)
	if err := send(collected); err == nil {
		t.Error("a commit was sent under a claim that had ended")
	}
}

// The client keeps a pause when a partition goes and comes back.
func TestPauseEndsWithTheAssignment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.cfg.Memory, w.cfg.Batch.Bytes, w.cfg.Drain = 1<<20, 64<<10, time.Second
		value := strings.Repeat("x", 2000)
		for p := range int32(3) {
			records := make([]*kgo.Record, 1000)
			for i := range records {
				records[i] = &kgo.Record{Topic: topic, Partition: p, Value: fmt.Appendf(nil, "%d/%d %s", p, i, value)}
			}
			w.cluster.Produce(t, records...)
		}
		w.sink.set(func(s *memSink) { s.fail = func(Batch) error { return errors.New("down") } })
		m := w.join(w.sink)
		w.until("all are paused", func() bool { _, paused := m.budget.held(m.Consumer); return paused == 3 })
		m.link.Cut()
		time.Sleep(3 * time.Minute)
		m.link.Mend()
		w.sink.set(func(s *memSink) { s.fail = nil })
		w.applied(3000)
		w.stop(m)
	})
}
