package stream

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"pgregory.net/rapid"

	"github.com/millrace/millrace/pkg/stream/ledger"
)

// gapsOf is a counter's value.
func (m *member) gapsOf(kind string) float64 {
	families, err := m.reg.Gather()
	if err != nil {
		return -1
	}
	for _, f := range families {
		if f.GetName() != "millrace_stream_gap_records_total" {
			continue
		}
		for _, x := range f.GetMetric() {
			for _, l := range x.GetLabel() {
				if l.GetName() == "kind" && l.GetValue() == kind {
					return x.GetCounter().GetValue()
				}
			}
		}
	}
	return -1
}

func dataAt(offset int64) *kgo.Record { return &kgo.Record{Topic: topic, Offset: offset} }

func abortAt(offset int64) *kgo.Record {
	return &kgo.Record{
		Topic: topic, Offset: offset, Key: []byte{0, 0, 0, 0},
		Attrs: kgo.NewRecordAttrs(kgo.RecordAttrsOpts{Transactional: true, Control: true}),
	}
}

// A log of plain records and transactions, with some records lost, is read in fetches of any size, each of which tells a
// high watermark that is as old as it may be. Without losses there is never an unexplained gap; a loss behind the last abort
// is found exactly.
func TestGapsAgainstAnyLog(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		type entry struct {
			record  *kgo.Record // nil is one that the client drops: it is of an aborted transaction
			ending  int64       // where that one's marker is
			missing bool
		}
		var log []entry
		open := map[int][]int{} // of each producer, where its records are
		n := rapid.IntRange(1, 60).Draw(t, "entries")
		end := func(who int, abort bool) {
			at := len(log)
			if abort {
				log = append(log, entry{record: abortAt(int64(at))})
			} else {
				log = append(log, entry{record: dataAt(int64(at))}) // a commit's marker explains nothing
			}
			for _, i := range open[who] {
				log[i].ending = int64(at)
				if abort {
					log[i].record = nil
				}
			}
			delete(open, who)
		}
		for len(log) < n {
			who := rapid.IntRange(0, 3).Draw(t, "producer")
			switch {
			case who == 0:
				log = append(log, entry{record: dataAt(int64(len(log)))})
			case len(open[who]) > 0 && rapid.Bool().Draw(t, "ends"):
				end(who, rapid.Bool().Draw(t, "aborts"))
			default:
				open[who] = append(open[who], len(log))
				log = append(log, entry{record: dataAt(int64(len(log)))})
			}
		}
		for who := range 4 {
			if len(open[who]) > 0 {
				end(who, rapid.Bool().Draw(t, "aborts"))
			}
		}
		log = append(log, entry{record: dataAt(int64(len(log)))})
		lossy, lost, lastAbort := rapid.Bool().Draw(t, "lossy"), int64(0), -1
		for i := range log {
			if r := log[i].record; r != nil && isAbort(r) {
				lastAbort = i
			}
		}
		if lossy {
			for i := range log[:len(log)-1] {
				if i > lastAbort && log[i].record != nil && rapid.IntRange(0, 4).Draw(t, "loss") == 0 {
					log[i].missing = true
					lost++
				}
			}
		}
		var g gaps
		got := int64(0)
		count := func(gs []gap) {
			for _, one := range gs {
				got += one.offsets
			}
		}
		needed := int64(0) // below which the watermark cannot be once this much was readable
		for at := 0; at < len(log); {
			next := min(len(log), at+rapid.IntRange(1, 10).Draw(t, "fetch"))
			f := &kgo.FetchPartition{}
			needed = max(needed, int64(next))
			for _, e := range log[at:next] {
				if e.record != nil && !e.missing {
					f.Records = append(f.Records, e.record)
				}
				needed = max(needed, e.ending+1)
			}
			f.HighWatermark = rapid.Int64Range(int64(at), int64(len(log))).Draw(t, "old watermark")
			out := g.scan(f)
			count(out.unexplained)
			if out.ask > 0 {
				count(g.answer(out.ask, rapid.Int64Range(needed, int64(len(log))).Draw(t, "watermark"), false))
			}
			at = next
		}
		out := g.scan(&kgo.FetchPartition{Records: []*kgo.Record{dataAt(int64(len(log)))}, HighWatermark: int64(len(log)) + 1})
		count(out.unexplained)
		if out.ask > 0 {
			count(g.answer(out.ask, int64(len(log))+1, false))
		}
		if got != lost {
			t.Fatalf("%d offsets are unexplained, want %d", got, lost)
		}
	})
}

// Too many gaps to tell apart are counted all the same.
func TestManyGaps(t *testing.T) {
	var g gaps
	f := &kgo.FetchPartition{HighWatermark: 1000}
	for i := int64(1); i < 1000; i += 2 {
		f.Records = append(f.Records, dataAt(i))
	}
	out := g.scan(f)
	sum := int64(0)
	for _, one := range g.answer(out.ask, 1000, false) {
		sum += one.offsets
	}
	if sum != 500 || len(g.open) != 0 {
		t.Errorf("%d offsets are unexplained and %d gaps open, want 500 and 0", sum, len(g.open))
	}
	f.Records = []*kgo.Record{dataAt(2000)}
	if g.answer(g.scan(f).ask, 2001, true); len(g.open) != 0 {
		t.Error("gaps of a compacted topic are open")
	}
	f.Records = []*kgo.Record{dataAt(3000)}
	if out := g.scan(f); out.ask != 0 {
		t.Error("a compacted topic is asked for again")
	}
}

// What the client passes over for no reason that there is gets counted, and named.
func TestUnexplainedGapIsCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.produce(0, 0, 20)
		m := w.join(w.sink)
		w.applied(20)
		if n := m.gapsOf(gapUnexplained); n != 0 {
			t.Errorf("%v to begin with", n)
		}
		m.mu.Lock()
		p := m.parts[ledger.Key{Topic: topic}]
		m.mu.Unlock()
		p.accept(&kgo.FetchPartition{HighWatermark: 26, LastStableOffset: 26, Records: []*kgo.Record{
			{Topic: topic, Offset: 25, Value: []byte("0/25"), Timestamp: time.Now()},
		}})
		w.until("it is counted", func() bool { return m.gapsOf(gapUnexplained) == 5 })
		if want := fmt.Sprintf("topic=%s partition=0 first=20 next=25", topic); !strings.Contains(w.logs.String(), want) {
			t.Errorf("the log does not say %q", want)
		}
		w.stop(m)
	})
}

// What retention took is counted as such, and only as such.
func TestExpiredGapIsCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.produce(0, 0, 20)
		m := w.join(w.sink)
		w.applied(20)
		w.stop(m)
		w.produce(0, 20, 20)
		if err := w.cluster.DeleteRecords(topic, 0, 30); err != nil {
			t.Fatal(err)
		}
		m = w.join(w.sink)
		w.applied(30)
		if e, u := m.gapsOf(gapExpired), m.gapsOf(gapUnexplained); e != 10 || u != 0 {
			t.Errorf("%v expired and %v unexplained, want 10 and 0", e, u)
		}
		w.stop(m)
	})
}
