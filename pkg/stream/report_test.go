package stream

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace/pkg/lag"
)

func (w *world) report(m *member) *lag.Report {
	w.Helper()
	r := m.Report(time.Now())
	if r.Group != group || !r.At.Equal(time.Now()) {
		w.Errorf("report of group %q as of %v", r.Group, r.At)
	}
	return r
}

// first is what a report says of partition 0.
func (w *world) first(r *lag.Report) lag.PartitionReport {
	w.Helper()
	for _, p := range r.Partitions {
		if p.Topic == topic && p.Partition == 0 {
			return p
		}
	}
	w.Fatalf("partition 0 is not in the report %+v", r)
	return lag.PartitionReport{}
}

// blocked is the counter's value.
func (m *member) blockedOn(on string) float64 {
	families, err := m.reg.Gather()
	if err != nil {
		return -1
	}
	for _, f := range families {
		if f.GetName() != "millrace_stream_blocked_seconds_total" {
			continue
		}
		for _, x := range f.GetMetric() {
			for _, l := range x.GetLabel() {
				if l.GetName() == "on" && l.GetValue() == on {
					return x.GetCounter().GetValue()
				}
			}
		}
	}
	return 0
}

// A consumer that is idle says so; one whose destination is out says since which record, how often it tried and why.
func TestReportOfAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.produce(0, 0, 25)
		m := w.join(w.sink)
		w.applied(25)
		w.until("the lag is 0", func() bool { return w.lag() == 0 })
		time.Sleep(time.Minute)
		w.report(m) // what was before is in it
		time.Sleep(time.Minute)
		r := w.report(m)
		if r.Blocked != (lag.Blocked{}) {
			t.Errorf("idle, and blocked on %+v", r.Blocked)
		}
		if p := w.first(r); p.Applied != 25 || p.Committed != 25 || p.Fetched != 25 || p.Head != 0 || p.State != stateRunning ||
			p.Waits != "" || p.Failures != 0 || p.Error != "" {
			t.Errorf("idle: %+v", p)
		}

		w.sink.set(func(s *memSink) {
			s.fail = func(Batch) error { return errors.New("no room " + strings.Repeat("x", 1000)) }
		})
		w.produce(0, 25, 25)
		begun := time.Now()
		time.Sleep(10 * time.Minute)
		r = w.report(m)
		p := w.first(r)
		if p.Applied != 25 || p.Fetched != 50 || p.State != "waiting: writing" || p.Waits != "writing" || p.Failures < 10 ||
			!strings.HasPrefix(p.Error, "no room") || len(p.Error) != maxReportedError {
			t.Errorf("out: %+v", p)
		}
		if d := time.UnixMilli(p.Head).Sub(begun).Abs(); d > time.Second {
			t.Errorf("the head is %v from when it was produced", d)
		}
		if r.Blocked.Sink != 1 {
			t.Errorf("blocked on %+v, want the sink alone", r.Blocked)
		}
		if s := m.blockedOn(onSink); s < 590 || s > 610 {
			t.Errorf("%v s were counted in ten minutes", s)
		}

		w.sink.set(func(s *memSink) { s.fail = nil })
		w.applied(50)
		if p := w.first(w.report(m)); p.Failures != 0 || p.Error != "" || p.Waits != "" {
			t.Errorf("when it is over: %+v", p)
		}
		w.stop(m)
	})
}

// Each stage that holds a partition up is named, and no other.
func TestReportOfWhatBlocks(t *testing.T) {
	for on, blocks := range map[string]func(w *world, m *member){
		onSink: func(w *world, m *member) { w.sink.set(func(s *memSink) { s.delay = 20 * time.Second }) },
		onDecode: func(w *world, m *member) {
			w.decoder.set(func(d *fakeDecoder) { d.out = errors.New("no registry") })
		},
		onFetch: func(w *world, m *member) { // the end is known, and nothing comes
			m.mu.Lock()
			defer m.mu.Unlock()
			for k, p := range m.parts {
				if k.Partition == 0 {
					p.end = 1000
				}
			}
		},
		onCommit: func(w *world, m *member) { m.commit <- struct{}{} },
	} {
		t.Run(on, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				m := w.join(w.sink)
				w.until("it is assigned", func() bool { return m.Ready() == nil })
				w.produce(0, 0, 10)
				w.applied(10)
				w.until("the lag is 0", func() bool { return w.lag() == 0 })
				time.Sleep(2 * time.Second)
				w.report(m)
				blocks(w, m)
				if on != onFetch {
					w.produce(0, 10, 10)
				}
				time.Sleep(15 * time.Second)
				r := w.report(m)
				want := map[string]lag.Blocked{onSink: {Sink: 1}, onDecode: {Decode: 1}, onFetch: {Fetch: 1}, onCommit: {Commit: 1}}[on]
				if r.Blocked != want {
					t.Errorf("blocked on %+v, want %+v", r.Blocked, want)
				}
				if on == onDecode {
					p := w.first(r)
					if p.Waits != "decoding" || p.Failures < 2 || p.Error != "no registry" || p.Head == 0 {
						t.Errorf("%+v", p)
					}
				}
				if on == onCommit {
					<-m.commit
				}
				w.decoder.set(func(d *fakeDecoder) { d.out = nil })
				if on != onFetch {
					w.applied(20)
				}
				w.stop(m)
			})
		})
	}
}

// What the decoder waits for is said for as long as it waits, also when what was decoded before it is written meanwhile.
func TestReportOfTheDecoderBehindAWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.sink.set(func(s *memSink) { s.delay = 3 * time.Second })
		w.decoder.set(func(d *fakeDecoder) {
			d.out, d.outAt = errors.New("no registry"), 10
		})
		m := w.join(w.sink)
		w.produce(0, 0, 20)
		w.applied(10)
		time.Sleep(5 * time.Second)
		if p := w.first(w.report(m)); p.Waits != "decoding" || p.State != "waiting: decoding" || p.Applied != 10 {
			t.Errorf("while the decoder waits: %+v", p)
		}
		w.decoder.set(func(d *fakeDecoder) { d.out = nil })
		w.applied(20)
		if p := w.first(w.report(m)); p.Waits != "" {
			t.Errorf("when it is over: %+v", p)
		}
		w.stop(m)
	})
}

// A few records a second, each of which is committed in time, are no blocking.
func TestReportOfATrickle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		m := w.join(w.sink)
		w.until("it is assigned", func() bool { return m.Ready() == nil })
		for i := range 100 {
			w.produce(0, i, 1)
			time.Sleep(737 * time.Millisecond)
		}
		if s := m.blockedOn(onCommit) + m.blockedOn(onSink) + m.blockedOn(onDecode) + m.blockedOn(onFetch); s != 0 {
			t.Errorf("blocked for %v s", s)
		}
		w.stop(m)
	})
}

// A Keeper may keep what it has accepted until its next commit: as long as it takes more, it does not hold up the reading.
func TestReportOfAKeeper(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		m := w.join(newMemKeeper(t, newTable()))
		w.produce(0, 0, 10)
		w.until("it is held", func() bool { return m.metric("batch_records") > 0 })
		time.Sleep(2 * time.Second)
		w.report(m)
		time.Sleep(10 * time.Second)
		if r := w.report(m); r.Blocked != (lag.Blocked{Sink: 1}) {
			t.Errorf("blocked on %+v while all there is waits for the commit", r.Blocked)
		}
		m.mu.Lock()
		for k, p := range m.parts {
			if k.Partition == 0 {
				p.end = 1000
			}
		}
		m.mu.Unlock()
		time.Sleep(10 * time.Second)
		if r := w.report(m); r.Blocked != (lag.Blocked{Fetch: 1}) {
			t.Errorf("blocked on %+v while the log has more and none comes", r.Blocked)
		}
		w.stop(m)
	})
}
