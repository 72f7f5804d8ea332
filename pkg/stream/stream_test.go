package stream

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

func TestRestartResumes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.produce(0, 0, 50)
		w.produce(1, 0, 25)
		m := w.join(w.sink)
		w.applied(75)
		w.stop(m)
		if l := w.lag(); l != 0 {
			t.Errorf("lag %d after the stop, want 0", l)
		}
		w.produce(0, 50, 10)
		m = w.join(w.sink)
		w.applied(85)
		w.stop(m)
		w.want(60, 25)
		if n := w.sink.times("0/0"); n != 1 {
			t.Errorf("the first record was written %d times, want once: the restart began at the start", n)
		}
		if l := w.lag(); l != 0 {
			t.Errorf("lag %d, want 0", l)
		}
	})
}

func TestStopDuringOutageCommitsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.produce(0, 0, 1000)
		w.sink.set(func(s *memSink) { s.fail = func(Batch) error { return errors.New("down") } })
		m := w.join(w.sink)
		time.Sleep(time.Hour)
		w.stop(m)
		if l := w.lag(); l != 1000 {
			t.Errorf("lag %d, want 1000: offsets were committed for records the sink never stored", l)
		}
		w.sink.set(func(s *memSink) { s.fail = nil })
		w.join(w.sink)
		w.applied(1000)
	})
}
