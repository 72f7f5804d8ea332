package stream

import (
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// commits gives the group's commit of partition 0 and counts the requests from then on.
func (w *world) commits() (last func() (int64, string), requests *atomic.Int64) {
	w.Helper()
	adm := kadm.NewClient(w.cluster.Client(w.T))
	requests = new(atomic.Int64)
	w.cluster.ControlKey(int16(kmsg.OffsetCommit), func(kmsg.Request) (kmsg.Response, error, bool) {
		w.cluster.KeepControl()
		requests.Add(1)
		return nil, nil, false
	})
	return func() (int64, string) {
		offsets, err := adm.FetchOffsets(w.Context(), group)
		if err != nil {
			return -1, err.Error()
		}
		o, ok := offsets.Lookup(topic, 0)
		if !ok {
			return -1, ""
		}
		return o.At, o.Metadata
	}, requests
}

// stampOf is when a record of partition 0 was appended, in milliseconds.
func (w *world) stampOf(offset int64) int64 {
	w.Helper()
	for _, r := range w.cluster.Records(w.T, topic) {
		if r.Partition == 0 && r.Offset == offset {
			return r.Timestamp.UnixMilli()
		}
	}
	w.Fatalf("there is no offset %d", offset)
	return 0
}

// A commit says when the first record was appended that it does not cover: at once if that is held, and once more, for the
// same offset, if it comes later and waits. Whoever comes after the consumer's death reads it there.
func TestCommitsSayWhatWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		last, requests := w.commits()
		var down atomic.Bool
		sink := sinkFunc(w.sink.Write)
		w.sink.set(func(s *memSink) {
			s.fail = func(b Batch) error {
				if down.Load() || b.First >= 20 && b.First < 30 {
					return errors.New("down")
				}
				return nil
			}
		})
		w.produce(0, 0, 20)
		time.Sleep(time.Minute)
		m := w.join(sink)
		w.until("20 are committed", func() bool { at, _ := last(); return at == 20 })
		time.Sleep(time.Minute)
		if _, meta := last(); meta != fmt.Sprintf("t=%d", w.stampOf(19)) {
			t.Errorf("with no lag the metadata is %q", meta)
		}

		w.produce(0, 20, 20) // of which the first ten wait
		before := requests.Load()
		time.Sleep(4 * time.Second)
		want := fmt.Sprintf("t=%d;h=%d", w.stampOf(19), w.stampOf(20))
		if at, meta := last(); at != 20 || meta != want {
			t.Errorf("committed %d with %q, want 20 with %q", at, meta, want)
		}
		time.Sleep(10 * time.Minute)
		if n := requests.Load() - before; n != 1 {
			t.Errorf("the same offset was committed %d times, want once", n)
		}

		down.Store(true)
		w.sink.set(func(s *memSink) {
			s.fail = func(b Batch) error {
				if down.Load() && b.First >= 40 {
					return errors.New("down")
				}
				return nil
			}
		})
		w.produce(0, 40, 10) // held when 40 is committed
		w.until("40 are committed", func() bool { at, _ := last(); return at == 40 })
		if _, meta := last(); meta != fmt.Sprintf("t=%d;h=%d", w.stampOf(39), w.stampOf(40)) {
			t.Errorf("with records that are held the metadata is %q", meta)
		}
		w.kill(m)
		down.Store(false)
		m = w.join(sink)
		w.until("50 are committed", func() bool { at, _ := last(); return at == 50 })
		w.stop(m)
		w.want(50)
	})
}

// Who starts while the destination is out says what waits, too, over the commit that there is; where there is none it
// makes none.
func TestACommitOfBeforeIsStamped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		last, requests := w.commits()
		m := w.join(w.sink)
		w.produce(0, 0, 10)
		w.until("10 are committed", func() bool { at, _ := last(); return at == 10 })
		w.stop(m)
		time.Sleep(time.Minute)
		w.produce(0, 10, 10)
		w.produce(1, 0, 10) // of which nothing was ever committed
		w.sink.set(func(s *memSink) { s.fail = func(Batch) error { return errors.New("down") } })
		before := requests.Load()
		m = w.join(w.sink)
		time.Sleep(time.Minute)
		if at, meta := last(); at != 10 || meta != fmt.Sprintf("h=%d", w.stampOf(10)) {
			t.Errorf("committed %d with %q", at, meta)
		}
		if n := requests.Load() - before; n != 1 {
			t.Errorf("%d commits, want 1", n)
		}
		if committed := w.cluster.Committed(t, group, topic); len(committed) != 1 {
			t.Errorf("committed %v, want the one partition that was", committed)
		}
		w.stop(m)
	})
}

// A marker of a transaction is no record: what a batch of markers alone has for a stamp goes into no commit.
func TestAMarkerIsNoHead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		m := w.join(w.sink)
		w.produce(0, 0, 10)
		w.applied(10)
		w.until("the lag is 0", func() bool { return w.lag() == 0 })
		m.mu.Lock()
		for k, p := range m.parts {
			if k.Partition != 0 {
				continue
			}
			pos, ok := m.ledger.Standing(p.claim)
			p.heads = []head{{first: pos.Offset, next: pos.Offset + 1}}
			if at := m.headAt(pos); !ok || at != 0 {
				t.Errorf("before a marker the head is from %d", at)
			}
			p.heads = nil
		}
		m.mu.Unlock()
		w.stop(m)
	})
}
