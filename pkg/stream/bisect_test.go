package stream

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// boom is a sink's bug.
func boom(what string) error {
	panic(what) //nolint:forbidigo // that is what is tested
}

// badAt makes a sink that fails at batches with records whose number bad names.
func (w *world) badAt(writes *int, fail func() error, bad func(n int) bool) Sink {
	return sinkFunc(func(ctx context.Context, b Batch, done func(error)) error {
		w.sink.mu.Lock()
		*writes++
		w.sink.mu.Unlock()
		for i := range b.Records {
			if b.Records[i].Source.Offset < b.First || b.Records[i].Source.Offset >= b.Next {
				w.Errorf("record %d is outside of its batch, %d to %d", b.Records[i].Source.Offset, b.First, b.Next)
			}
			if bad(int(b.Records[i].Source.Offset)) {
				return fail()
			}
		}
		return w.sink.Write(ctx, b, done)
	})
}

func (w *world) letters() map[string]map[string]string {
	w.Helper()
	out := map[string]map[string]string{}
	for _, r := range w.cluster.Records(w.T, topic+".dlq") {
		headers := map[string]string{}
		for _, h := range r.Headers {
			headers[h.Key] = string(h.Value)
		}
		if out[string(r.Value)] != nil {
			w.Errorf("two dead letters of %s", r.Value)
		}
		out[string(r.Value)] = headers
	}
	return out
}

func TestRecordThatPanicsIsFoundAndItsNeighboursStored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for name, c := range map[string]struct {
			fail          func() error
			class, reason string
		}{
			"panic":    {func() error { return boom("no such field") }, "bug", "panic"},
			"ErrBatch": {func() error { return fmt.Errorf("writing: %w", ErrBatch) }, "record", "refused"},
		} {
			w := newWorld(t)
			w.cfg.Batch.Records = 1000
			w.produce(0, 0, 1000)
			writes := 0
			m := w.join(w.badAt(&writes, c.fail, func(n int) bool { return n == 0 || n == 637 || n == 638 || n == 999 }))
			w.until(name+": the lag is 0", func() bool { return w.lag() == 0 })
			w.stop(m)
			if n := w.sink.len(); n != 996 {
				t.Errorf("%s: %d records are stored, want 996", name, n)
			}
			letters := w.letters()
			for _, id := range []string{"0/0", "0/637", "0/638", "0/999"} {
				h := letters[id]
				if w.sink.times(id) != 0 || h["millrace.class"] != c.class || h["millrace.reason"] != c.reason {
					t.Errorf("%s: the dead letter of %s has headers %v", name, id, h)
				}
				if e := h["millrace.error"]; name == "panic" && (!strings.Contains(e, "no such field") || !strings.Contains(e, "bisect_test.go")) {
					t.Errorf("the letter's error is without the panic's value or stack: %s", e)
				}
			}
			if len(letters) != 4 {
				t.Errorf("%s: %d dead letters, want 4", name, len(letters))
			}
			if writes > 100 {
				t.Errorf("%s: %d writes for 4 bad records of 1000", name, writes)
			}
		}
	})
}

// A run of bad records costs one write each, the good ones before and behind it cost few, and what comes after is
// written in whole batches again.
func TestManyBadRecordsInARow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.cfg.Batch.Records = 500
		w.produce(0, 0, 15000)
		writes := 0
		m := w.join(w.badAt(&writes, func() error { return ErrBatch }, func(n int) bool { return n >= 1000 && n < 11000 }))
		w.until("the lag is 0", func() bool { return w.lag() == 0 })
		w.stop(m)
		if n, letters := w.sink.len(), len(w.letters()); n != 5000 || letters != 10000 {
			t.Errorf("%d records are stored and %d are dead letters, want 5000 and 10000", n, letters)
		}
		t.Logf("%d writes, %d of them stored 5000 good records", writes, w.sink.writes)
		if writes > 10200 || w.sink.writes > 100 {
			t.Errorf("%d writes, of which %d succeeded, for 10000 bad records in a row", writes, w.sink.writes)
		}
		if n := len(w.sink.last.Records); n < 400 {
			t.Errorf("the last batch has %d records: it is still split", n)
		}
	})
}

// Bad records that alternate with good ones are the worst case for parts: it costs three writes a pair.
func TestEverySecondRecordIsBad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.cfg.Batch.Records = 500
		w.produce(0, 0, 2000)
		writes := 0
		m := w.join(w.badAt(&writes, func() error { return ErrBatch }, func(n int) bool { return n%2 == 1 }))
		w.until("the lag is 0", func() bool { return w.lag() == 0 })
		w.stop(m)
		if n, letters := w.sink.len(), len(w.letters()); n != 1000 || letters != 1000 {
			t.Errorf("%d records are stored and %d are dead letters, want 1000 of each", n, letters)
		}
		if writes > 3200 {
			t.Errorf("%d writes for 1000 good and 1000 bad records", writes)
		}
	})
}

// The next batch begins with parts of the size that went last, and grows from there.
func TestPartSizeIsRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.cfg.Batch.Records = 64
		w.produce(0, 0, 192)
		var sizes []int
		writes := 0
		bad := w.badAt(&writes, func() error { return ErrBatch }, func(n int) bool { return n == 60 })
		m := w.join(sinkFunc(func(ctx context.Context, b Batch, done func(error)) error {
			if b.First >= 64 {
				sizes = append(sizes, len(b.Records))
			}
			return bad.Write(ctx, b, done)
		}))
		w.until("the lag is 0", func() bool { return w.lag() == 0 })
		w.stop(m)
		// 60 alone, then 1 and 2 records to the end of its batch.
		if got, want := fmt.Sprint(sizes), "[4 8 16 32 4 64]"; got != want {
			t.Errorf("the batches after the one with a bad record came in parts of %s, want %s", got, want)
		}
	})
}

// A letter says how often its record was written, in company and alone, and when that failed first.
func TestLettersHistory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for name, c := range map[string]struct {
			fail     func() error
			attempts string
		}{
			// All four, 2 and 3, then 2 alone.
			"panic":    {func() error { return boom("bad") }, "5"},
			"ErrBatch": {func() error { return ErrBatch }, "3"},
		} {
			w := newWorld(t)
			w.cfg.Batch.Records = 4
			w.produce(0, 0, 4)
			writes := 0
			var first, last time.Time
			bad := w.badAt(&writes, c.fail, func(n int) bool { return n == 2 })
			m := w.join(sinkFunc(func(ctx context.Context, b Batch, done func(error)) error {
				time.Sleep(time.Second) // virtual
				if last = time.Now(); first.IsZero() {
					first = last
				}
				return bad.Write(ctx, b, done)
			}))
			w.until("the lag is 0", func() bool { return w.lag() == 0 })
			w.stop(m)
			h := w.letters()["0/2"]
			failed, err := time.Parse(time.RFC3339Nano, h["millrace.first_failure"])
			if err != nil || failed.Sub(first).Abs() > 100*time.Millisecond || last.Sub(first) < time.Second {
				t.Errorf("%s: first failure at %s (%v), want %s", name, h["millrace.first_failure"], err, first)
			}
			if h["millrace.attempts"] != c.attempts {
				t.Errorf("%s: %s attempts, want %s", name, h["millrace.attempts"], c.attempts)
			}
			w.cluster.Close()
		}
	})
}

// A sink that panics at whatever it gets makes few dead letters, is not ready, and goes on where it was once it works.
func TestSinkThatPanicsAtEveryRecord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.cfg.Batch.Records, w.cfg.Retry.Bugs = 30, 100
		w.produce(0, 0, 3000)
		writes := 0
		made := func() int { w.sink.mu.Lock(); defer w.sink.mu.Unlock(); return writes }
		var repaired atomic.Bool
		m := w.join(w.badAt(&writes, func() error { return boom("nil map") }, func(int) bool { return !repaired.Load() }))
		time.Sleep(time.Hour)
		early := len(w.letters())
		if early == 0 || early > 100 {
			t.Errorf("%d dead letters of a sink that panics at every record, want 100 at most", early)
		}
		before := made()
		time.Sleep(time.Hour)
		if n := made() - before; n < 50 || n > 1000 {
			t.Errorf("%d probes in an hour", n)
		}
		err := m.Ready()
		if err == nil || !strings.Contains(err.Error(), "panicked at the last 101 records") || !strings.Contains(err.Error(), "nil map") {
			t.Errorf("Ready is %v, want that the sink panics", err)
		}
		if s := m.Status()[0].State; s != "waiting: sink panics" {
			t.Errorf("state %q", s)
		}
		if !strings.Contains(w.logs.String(), "the sink panics at every record") {
			t.Error("it was not logged")
		}
		repaired.Store(true)
		w.until("the lag is 0", func() bool { return w.lag() == 0 })
		if err := m.Ready(); err != nil {
			t.Errorf("Ready after it was repaired: %v", err)
		}
		w.stop(m)
		if n, letters := w.sink.len(), len(w.letters()); n != 3000-early || letters != early {
			t.Errorf("%d records are stored and %d are dead letters, want %d and %d", n, letters, 3000-early, early)
		}
	})
}

// Where the sink works for other records, a long run of panics is the records' own.
func TestLongRunOfRecordsThatPanic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.cfg.Batch.Records, w.cfg.Retry.Bugs = 500, 100
		w.produce(0, 0, 1000)
		writes := 0
		m := w.join(w.badAt(&writes, func() error { return boom("bad") }, func(n int) bool { return n >= 100 && n < 300 }))
		w.until("the lag is 0", func() bool { return w.lag() == 0 })
		w.stop(m)
		if n, letters := w.sink.len(), len(w.letters()); n != 800 || letters != 200 {
			t.Errorf("%d records are stored and %d are dead letters, want 800 and 200", n, letters)
		}
	})
}

// A destination that goes down while a batch is split delays, and makes no dead letters.
func TestOutageWhileABatchIsSplit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.cfg.Batch.Records = 100
		w.produce(0, 0, 300)
		writes, down := 0, 0
		bad := w.badAt(&writes, func() error { return ErrBatch }, func(n int) bool { return n == 42 })
		m := w.join(sinkFunc(func(ctx context.Context, b Batch, done func(error)) error {
			if len(b.Records) == 1 && down < 20 {
				down++
				return errors.New("down")
			}
			return bad.Write(ctx, b, done)
		}))
		w.until("the lag is 0", func() bool { return w.lag() == 0 })
		w.stop(m)
		if n, letters := w.sink.len(), w.letters(); n != 299 || len(letters) != 1 || letters["0/42"] == nil || down != 20 {
			t.Errorf("%d records are stored, dead letters %v; down %d times", n, letters, down)
		}
	})
}

// A request's panic is not on the goroutine that called Write.
func TestPanicInAScatteredRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.produce(0, 0, 30)
		limiter := NewLimiter(2)
		m := w.join(sinkFunc(func(ctx context.Context, b Batch, done func(error)) error {
			s := NewScatter(limiter, b, done)
			s.Go(ctx, func() error {
				for i := range b.Records {
					if string(b.Records[i].ID()) == "0/13" {
						return boom("thirteen")
					}
				}
				return w.sink.store(b, nil)
			})
			s.Close()
			return nil
		}))
		w.until("the lag is 0", func() bool { return w.lag() == 0 })
		w.stop(m)
		if n, letters := w.sink.len(), w.letters(); n != 29 || len(letters) != 1 || letters["0/13"]["millrace.class"] != "bug" {
			t.Errorf("%d records are stored, dead letters %v", n, letters)
		}
		if n := m.metric("sink_panics_total"); n < 4 {
			t.Errorf("%v panics counted, want those of the batch and of the record alone", n)
		}
	})
}

// What the destination names in a part is counted from the batch's start, and the next batch comes after the last part.
func TestRefusalsAndOrderInASplitBatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.produce(0, 0, 30)
		w.sink.set(func(s *memSink) {
			s.fail = func(b Batch) error {
				if i := int(8 - b.First); i >= 0 && i < len(b.Records) {
					return &PartialError{Failed: map[int]error{i: errors.New("refused")}}
				}
				return nil
			}
		})
		writes, last := 0, int64(0)
		bad := w.badAt(&writes, func() error { return ErrBatch }, func(n int) bool { return n == 2 })
		m := w.join(sinkFunc(func(ctx context.Context, b Batch, done func(error)) error {
			if b.First < 10 && last >= 10 {
				t.Errorf("the part at %d comes after the batch at %d", b.First, last)
			}
			last = max(last, b.First)
			time.Sleep(time.Millisecond) // virtual; long enough for another batch to slip in
			return bad.Write(ctx, b, done)
		}))
		w.until("the lag is 0", func() bool { return w.lag() == 0 })
		w.stop(m)
		if letters := w.letters(); len(letters) != 2 || letters["0/2"] == nil || letters["0/8"] == nil {
			t.Errorf("dead letters %v, want those of 0/2 and 0/8", letters)
		}
	})
}

// A record that the decoder panics at is a dead letter like one that the sink panics at: in the process, it would end it,
// and every process that reads the partition after it.
func TestRecordThatTheDecoderPanicsAt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.produce(0, 0, 100)
		tries := map[int64]int{}
		w.decoder.hook = func(r *kgo.Record) {
			if tries[r.Offset]++; r.Offset == 42 || r.Offset == 43 || r.Offset == 60 && tries[60] < 3 {
				_ = boom("index out of range")
			}
		}
		m := w.join(w.sink)
		w.until("the lag is 0", func() bool { return w.lag() == 0 })
		w.stop(m)
		letters := w.letters()
		for _, id := range []string{"0/42", "0/43"} {
			h := letters[id]
			if h["millrace.class"] != "bug" || h["millrace.reason"] != "panic" || h["millrace.attempts"] != "3" ||
				!strings.Contains(h["millrace.error"], "the decoder panicked: index out of range") || !strings.Contains(h["millrace.error"], "bisect_test.go") {
				t.Errorf("the dead letter of %s has headers %v", id, h)
			}
		}
		if n := w.sink.len(); n != 98 || len(letters) != 2 || tries[42] != 3 {
			t.Errorf("%d records are stored and %d are dead letters, after %d tries; want 98, 2 and 3", n, len(letters), tries[42])
		}
		if n := m.metric("sink_panics_total"); n != 8 {
			t.Errorf("%v panics counted, want 8", n)
		}
	})
}

// A decoder that panics at whatever it gets makes few dead letters, is not ready, and goes on where it was once it works.
func TestDecoderThatPanicsAtEveryRecord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.cfg.Retry.Bugs = 20
		w.produce(0, 0, 500)
		w.decoder.hook = func(*kgo.Record) { _ = boom("nil map") }
		m := w.join(w.sink)
		time.Sleep(time.Hour)
		err := m.Ready()
		if err == nil || !strings.Contains(err.Error(), "the decoder panicked at the last 21 records") || !strings.Contains(err.Error(), "nil map") {
			t.Errorf("Ready is %v, want that the decoder panics", err)
		}
		if n := len(w.letters()); n != 20 {
			t.Errorf("%d dead letters of a decoder that panics at every record, want 20", n)
		}
		w.decoder.set(func(d *fakeDecoder) { d.hook = nil })
		w.until("the lag is 0", func() bool { return w.lag() == 0 })
		if err := m.Ready(); err != nil {
			t.Errorf("Ready after it was repaired: %v", err)
		}
		w.stop(m)
		if n, letters := w.sink.len(), len(w.letters()); n != 480 || letters != 20 {
			t.Errorf("%d records are stored and %d are dead letters, want 480 and 20", n, letters)
		}
	})
}
