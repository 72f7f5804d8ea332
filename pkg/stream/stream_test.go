package stream

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace/millrace/pkg/schema"
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

// What the sink has when the stop comes is waited for, and committed.
func TestStopDrains(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.produce(0, 0, 30)
		w.sink.set(func(s *memSink) { s.delay = 3 * time.Second })
		m := w.join(w.sink)
		w.until("all batches are out", func() bool { w.sink.mu.Lock(); defer w.sink.mu.Unlock(); return w.sink.writes == 3 })
		w.stop(m)
		w.want(30)
		if l := w.lag(); l != 0 {
			t.Errorf("lag %d, want 0: what was drained is not committed", l)
		}
	})
}

// A batch that Write refuses holds its successors back.
func TestFirstTriesComeInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.produce(0, 0, 100)
		var accepted []int64
		refusals := 3
		m := w.join(sinkFunc(func(ctx context.Context, b Batch, done func(error)) error {
			if b.First == 20 && refusals > 0 {
				refusals--
				return errors.New("busy")
			}
			accepted = append(accepted, b.First)
			return w.sink.Write(ctx, b, done)
		}))
		w.applied(100)
		w.stop(m)
		if !slices.IsSorted(accepted) {
			t.Errorf("batches were accepted in the order %v", accepted)
		}
	})
}

func TestKillReplaysAndLosesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.cfg.Commit = time.Hour // nothing is committed before the kill
		w.produce(0, 0, 100)
		w.sink.set(func(s *memSink) { s.delay = 50 * time.Millisecond })
		m := w.join(w.sink)
		w.applied(30)
		w.kill(m)
		if l := w.lag(); l != 100 {
			t.Fatalf("lag %d after the kill, want 100: a commit got through", l)
		}
		w.cfg.Commit = time.Second
		m = w.join(w.sink)
		w.until("all is stored and committed", func() bool { return w.sink.len() == 100 && w.lag() == 0 })
		w.stop(m)
		w.want(100)
		if n := w.sink.times("0/0"); n < 2 {
			t.Errorf("the first record was written %d times, want a replay", n)
		}
	})
}

func TestLateAcknowledgementAfterRevokeIsVoid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for name, sink := range map[string]func(sinkFunc) Sink{
			"sink":   func(f sinkFunc) Sink { return f },
			"keeper": func(f sinkFunc) Sink { return keeperFunc{f} }, // its done goes straight to the ledger
		} {
			w := newWorld(t)
			w.cfg.Drain = time.Second
			w.produce(0, 0, 10)
			// It sits on the batch past the drain, and past its context.
			held := make(chan func(error), 1)
			m := w.join(sink(func(_ context.Context, _ Batch, done func(error)) error {
				held <- done
				return nil
			}))
			done := <-held
			m.revoked(context.Background(), map[string][]int32{topic: {0}})
			done(nil)
			time.Sleep(5 * time.Second)
			if got := w.cluster.Committed(t, group, topic)[0]; got != 0 {
				t.Errorf("%s: committed %d after the partition was given up, want nothing", name, got)
			}
			w.stop(m)
			w.cluster.Close()
		}
	})
}

// A lost partition may be another member's by now: also what is durable of it is not committed.
func TestWhatIsLostIsNotCommitted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.cfg.Commit = time.Hour
		w.produce(0, 0, 10)
		m := w.join(w.sink)
		w.until("it is durable", func() bool { s := m.Status(); return len(s) == 3 && s[0].Applied == 10 })
		m.lost(map[string][]int32{topic: {0}})
		w.stop(m)
		if got := w.cluster.Committed(t, group, topic)[0]; got != 0 {
			t.Errorf("committed %d of a partition that was lost", got)
		}
	})
}

// keeperFunc is a Keeper without a table.
type keeperFunc struct{ sinkFunc }

func (keeperFunc) Assigned(context.Context, string, []int32) (map[int32]int64, error) {
	return map[int32]int64{}, nil
}
func (keeperFunc) Revoked(context.Context, string, []int32) error { return nil }
func (keeperFunc) Lost(string, []int32)                           {}

func TestBadRecordsGoToTheDeadLetters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.produce(0, 0, 5)
		w.cluster.Produce(t, &kgo.Record{
			Topic: topic, Key: []byte("k"), Value: []byte("bad one"), Headers: []kgo.RecordHeader{{Key: "traceparent", Value: []byte("x")}},
		})
		w.produce(0, 5, 5)
		w.sink.set(func(s *memSink) {
			s.fail = func(b Batch) error {
				for i := range b.Records {
					if string(b.Records[i].ID()) == "0/7" {
						return &PartialError{Failed: map[int]error{i: errors.New("mapping conflict")}}
					}
				}
				return nil
			}
		})
		m := w.join(w.sink)
		w.applied(9)
		w.stop(m)
		if l := w.lag(); l != 0 {
			t.Errorf("lag %d, want 0: dead letters count as done", l)
		}
		letters := w.cluster.Records(t, topic+".dlq")
		got := map[string]map[string]string{}
		for _, r := range letters {
			headers := map[string]string{}
			for _, h := range r.Headers {
				headers[h.Key] = string(h.Value)
			}
			got[string(r.Value)] = headers
		}
		if len(letters) != 2 {
			t.Fatalf("%d dead letters, want 2: %v", len(letters), got)
		}
		for value, want := range map[string]map[string]string{
			"bad one": {
				"traceparent": "x", "millrace.origin.topic": topic, "millrace.origin.partition": "0", "millrace.origin.offset": "5",
				"millrace.origin.cluster": "kfake",
				"millrace.class":          "record", "millrace.reason": "malformed", "millrace.error": "it is bad", "millrace.destination": "mem",
				"millrace.attempts": "1",
			},
			"0/7": {"millrace.origin.offset": "8", "millrace.class": "record", "millrace.reason": "refused", "millrace.error": "mapping conflict"},
		} {
			for k, v := range want {
				if got[value][k] != v {
					t.Errorf("dead letter %q: header %s is %q, want %q", value, k, got[value][k], v)
				}
			}
			for _, k := range []string{"millrace.first_failure", "millrace.origin.timestamp"} {
				if _, err := time.Parse(time.RFC3339Nano, got[value][k]); err != nil {
					t.Errorf("dead letter %q: header %s: %v", value, k, err)
				}
			}
		}
		if n := w.sink.times("0/7"); n != 0 {
			t.Errorf("the refused record is stored %d times", n)
		}
		if n := m.metric("dead_letters_total"); n != 2 {
			t.Errorf("%v dead letters counted, want 2", n)
		}
	})
}

// Nothing counts as done before the dead-letter topic has it.
func TestDeadLettersAreAcknowledgedBeforeTheCommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.cluster.Produce(t, &kgo.Record{Topic: topic, Value: []byte("bad")})
		fault := w.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: topic + ".dlq", Err: kerr.NotEnoughReplicas, Count: -1})
		m := w.join(w.sink)
		time.Sleep(10 * time.Minute)
		if l := w.lag(); l != 1 {
			t.Errorf("lag %d while the dead-letter topic is out, want 1", l)
		}
		fault.Remove()
		w.until("the lag is 0", func() bool { return w.lag() == 0 })
		w.stop(m)
		if n := len(w.cluster.Records(t, topic+".dlq")); n != 1 {
			t.Errorf("%d dead letters, want 1", n)
		}
	})
}

// A dead letter that the broker finds too large would be tried for ever: what remains of it says where it lies.
func TestOversizedDeadLetterBecomesAStub(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.cluster.Produce(t, &kgo.Record{Topic: topic, Key: []byte("k"), Value: []byte("bad and big")})
		w.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: topic + ".dlq", Err: kerr.MessageTooLarge, Count: 1})
		m := w.join(w.sink)
		w.until("the lag is 0", func() bool { return w.lag() == 0 })
		w.stop(m)
		letters := w.cluster.Records(t, topic+".dlq")
		if len(letters) != 1 || len(letters[0].Value) != 0 || string(letters[0].Key) != "k" {
			t.Fatalf("dead letters %v, want one stub", letters)
		}
		last := letters[0].Headers[len(letters[0].Headers)-1]
		if last.Key != "millrace.value_dropped" || string(last.Value) != "11" {
			t.Errorf("the stub's last header is %s=%s, want the size of the value", last.Key, last.Value)
		}
	})
}

// A batch that decompresses past the bound is one dead letter of all its offsets; what is before and after it is stored,
// and the records of the other partitions as well.
func TestBatchPastTheBoundIsADeadLetter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.opts = []kgo.Opt{kgo.MaxDecompressBatchBytes(100_000)}
		w.produce(0, 0, 5)
		bomb := make([]*kgo.Record, 3)
		for i := range bomb {
			bomb[i] = &kgo.Record{Topic: topic, Value: make([]byte, 50_000)}
		}
		gzip, err := kgo.NewClient(append(w.cluster.Opts(kgo.ProducerLinger(time.Second), kgo.RecordPartitioner(kgo.ManualPartitioner())),
			kgo.ProducerBatchCompression(kgo.GzipCompression()))...)
		if err != nil {
			t.Fatal(err)
		}
		defer gzip.Close()
		if err := gzip.ProduceSync(t.Context(), bomb...).FirstErr(); err != nil {
			t.Fatal(err)
		}
		w.produce(0, 5, 5)
		w.produce(1, 0, 5)
		m := w.join(w.sink)
		w.until("the lag is 0", func() bool { return w.lag() == 0 })
		if err := m.Ready(); err != nil {
			t.Errorf("afterwards it is not ready: %v", err)
		}
		if n := m.metric("dead_letters_total"); n != 3 {
			t.Errorf("%v offsets among the dead letters, want 3", n)
		}
		w.stop(m)
		w.want(10, 5)
		letters := w.cluster.Records(t, topic+".dlq")
		if len(letters) != 1 {
			t.Fatalf("%d dead letters, want one for the batch", len(letters))
		}
		headers := map[string]string{}
		for _, h := range letters[0].Headers {
			headers[h.Key] = string(h.Value)
		}
		if headers["millrace.reason"] != ReasonOversized || headers["millrace.origin.offset"] != "5" || headers["millrace.origin.offsets"] != "3" {
			t.Errorf("the letter has the headers %v, want the reason and three offsets from 5", headers)
		}
	})
}

func TestRegistryOutageWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.decoder.set(func(d *fakeDecoder) { d.out = errors.New("registry: connection refused") })
		w.produce(0, 0, 20)
		m := w.join(w.sink)
		time.Sleep(time.Hour)
		if l := w.lag(); l != 20 {
			t.Errorf("lag %d during the outage, want 20", l)
		}
		if err := m.Ready(); err == nil || !strings.Contains(err.Error(), "waiting: decoding") {
			t.Errorf("Ready is %v, want an error that names decoding", err)
		}
		w.decoder.set(func(d *fakeDecoder) { d.out = nil })
		w.applied(20)
		if n := len(w.cluster.Records(t, topic+".dlq")); n != 0 {
			t.Errorf("%d dead letters, want none: an outage is nobody's fault", n)
		}
		if err := m.Ready(); err != nil {
			t.Errorf("Ready after the outage: %v", err)
		}
		w.stop(m)
	})
}

func TestOutageEndsWithinTheBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.produce(0, 0, 100)
		w.produce(1, 0, 100)
		w.sink.set(func(s *memSink) { s.fail = func(Batch) error { return errors.New("down") } })
		m := w.join(w.sink)
		time.Sleep(time.Hour)
		w.sink.set(func(s *memSink) { s.fail = nil })
		tries := func() int { w.sink.mu.Lock(); defer w.sink.mu.Unlock(); return w.sink.writes }()
		if perMinute := tries / 60; perMinute > 20 {
			t.Errorf("%d tries a minute during the outage: the breaker did not hold them back", perMinute)
		}
		begun := time.Now()
		w.applied(200)
		if took := time.Since(begun); took > 2*w.cfg.Retry.Max {
			t.Errorf("after the outage it took %v", took)
		}
		w.stop(m)
		w.want(100, 100)
	})
}

func TestPanicIsAFailedAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.produce(0, 0, 10)
		calls := 0
		m := w.join(sinkFunc(func(ctx context.Context, b Batch, done func(error)) error {
			if calls++; calls == 1 {
				var none *Batch
				none.Dead++
			}
			return w.sink.Write(ctx, b, done)
		}))
		w.applied(10)
		w.stop(m)
		if n := m.metric("sink_panics_total"); n != 1 {
			t.Errorf("%v panics counted, want 1", n)
		}
	})
}

func TestTypeChangeCutsTheBatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.cfg.Batch.Records = 1000
		newer := &schema.Type{Name: "a", Fields: make([]schema.Field, 3)}
		w.produce(0, 0, 20)
		var batches []Batch
		m := w.join(sinkFunc(func(ctx context.Context, b Batch, done func(error)) error {
			batches = append(batches, b)
			return w.sink.Write(ctx, b, done)
		}))
		w.decoder.set(func(d *fakeDecoder) { d.at, d.newer = 12, newer })
		w.applied(20)
		w.stop(m)
		for _, b := range batches {
			for i := range b.Records {
				if b.Records[i].Type != b.Type {
					t.Fatalf("batch [%d, %d) mixes types", b.First, b.Next)
				}
			}
		}
		if len(batches) != 2 || batches[0].Next != 12 || batches[1].First != 12 || batches[1].Type != newer {
			t.Errorf("%d batches, want [0, 12) and [12, 20)", len(batches))
		}
	})
}

// sinkFunc is a Sink.
type sinkFunc func(context.Context, Batch, func(error)) error

func (f sinkFunc) Write(ctx context.Context, b Batch, done func(error)) error { return f(ctx, b, done) }

// Errors that every poll brings back at once must not turn the loop hot, nor end it.
func TestPollErrorsAreBackedOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.produce(0, 0, 10)
		fault := w.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Fetch}, Topic: topic, Err: kerr.TopicAuthorizationFailed, Count: -1})
		m := w.join(w.sink)
		time.Sleep(10 * time.Minute)
		if n := m.metric("poll_errors_total"); n < 10 || n > 10*60*3*2 {
			t.Errorf("%v poll errors in ten minutes, want some and few", n)
		}
		if n := strings.Count(w.logs.String(), "msg=polling"); n < 1 || n > 21 {
			t.Errorf("logged %d times in ten minutes, want one in 30 s at most", n)
		}
		fault.Remove()
		w.applied(10)
		w.stop(m)
	})
}
