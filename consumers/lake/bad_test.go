package lake

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/pkg/codec"
	"github.com/millrace/millrace/pkg/kafka/kafkatest"
	"github.com/millrace/millrace/pkg/lake"
	"github.com/millrace/millrace/pkg/lake/laketest"
	"github.com/millrace/millrace/pkg/schema/schematest"
	"github.com/millrace/millrace/pkg/stream"
	"github.com/millrace/millrace/pkg/stream/sinktest"
	"github.com/millrace/millrace/pkg/telemetry"
)

// cutShort decodes some records to fewer values than their type has, at which a writer panics.
type cutShort struct {
	byOffset

	values int     // that they have
	bad    []int64 // of partition 0
}

func (d cutShort) Decode(ctx context.Context, r *kgo.Record) (codec.Record, error) {
	made, err := d.byOffset.Decode(ctx, r)
	if r.Partition == 0 && slices.Contains(d.bad, r.Offset) {
		made.Values = made.Values[:d.values]
	}
	return made, err
}

// TestRecordsThatTheWriterPanicsAt: they strike when their rows are held, with all that is held already. They are found, and
// are dead letters before the table's offsets pass them; the others are there once. Rows that strike later, when the file is
// written, are found as well: pkg/lake's TestRowsThatPanicWhenTheyAreWrittenAreFound.
func TestRecordsThatTheWriterPanicsAt(t *testing.T) {
	const each = 500
	for name, c := range map[string]struct {
		values, group int
		bad           []int64
	}{
		"when it is held":            {2, 100_000, []int64{0, 137, 138, 499}},
		"beside row groups":          {2, 50, []int64{120, 333}},
		"when it is held, for a key": {0, 100_000, []int64{42}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, schematest.Type(t, "log"))
			b.cfg.Age, b.cfg.GroupRows = 200*time.Millisecond, c.group
			topic := b.typ.Topic.Name
			cluster := kafkatest.New(t, topic, b.typ.DLQName())
			maker := sinktest.Maker{Type: b.typ, Base: time.Now().Add(-time.Minute).UTC().Truncate(time.Microsecond), Seed: "bad"}
			b.publish(t, cluster, each)
			cluster.Produce(t, &kgo.Record{Topic: topic, Partition: 1, Value: []byte("v")})
			sink, consumer := b.fromKafka(t, cluster, cutShort{byOffset{maker}, c.values, c.bad})
			good := each + 1 - len(c.bad)
			runUntil(t, sink, consumer, func() bool {
				return cluster.Committed(t, stream.Group("lake"), topic)[0] == each && b.count(t) == good
			})
			seen := map[string]bool{}
			b.query(t, "SELECT _topic_partition, _offset FROM log", func(row []any) {
				key := fmt.Sprint(row...)
				if seen[key] {
					t.Errorf("row %s is there twice", key)
				}
				seen[key] = true
			})
			letters := map[string]bool{}
			for _, r := range cluster.Records(t, b.typ.DLQName()) {
				h := map[string]string{}
				for _, x := range r.Headers {
					h[x.Key] = string(x.Value)
				}
				at := h["millrace.origin.partition"] + "/" + h["millrace.origin.offset"]
				letters[at] = true
				if h["millrace.class"] != "bug" || h["millrace.reason"] != "panic" || !strings.Contains(h["millrace.error"], "index out of range") ||
					!strings.Contains(h["millrace.error"], ".go:") {
					t.Errorf("the letter of %s has headers %v", at, h)
				}
			}
			if len(letters) != len(c.bad) || len(seen) != good {
				t.Errorf("%d rows and letters of %v, want %d rows and %d letters", len(seen), letters, good, len(c.bad))
			}
		})
	}
}

// TestAPanicInACommitIsWaitedFor: it is nobody's fault, and does not take the process.
func TestAPanicInACommitIsWaitedFor(t *testing.T) {
	b := newBench(t, schematest.Type(t, "log"))
	cat, err := laketest.New(b.cfg.Table.Warehouse)
	if err != nil {
		t.Fatal(err)
	}
	s := b.newSink()
	if s.lake, err = lake.NewOn(b.cfg.Table, telemetry.Discard(), cat.Open); err != nil {
		t.Fatal(err)
	}
	m := sinktest.Maker{Type: b.typ, Base: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC), Seed: "x"}
	if _, err := s.Assigned(t.Context(), b.typ.Topic.Name, []int32{0}); err != nil {
		t.Fatal(err)
	}
	var dones []error
	if err := s.Write(t.Context(), m.Batch(0, 0, 10), func(err error) { dones = append(dones, err) }); err != nil {
		t.Fatal(err)
	}
	cat.Before(func() error { panic("nil map") }) //nolint:forbidigo // that is what is tested
	if err := b.flush(s); err == nil || !strings.Contains(err.Error(), "nil map") || !strings.Contains(err.Error(), "bad_test.go") {
		t.Errorf("the commit gave %v, want the panic with its stack", err)
	}
	cat.Before(nil)
	if err := b.flush(s); err != nil {
		t.Error(err)
	}
	if n := b.count(t); n != 10 || len(dones) != 1 || dones[0] != nil {
		t.Errorf("%d rows, dones %v; want 10 rows and one done without an error", n, dones)
	}
}

// TestAWriterThatPanicsAtEveryRecord is to blame itself: no record is.
func TestAWriterThatPanicsAtEveryRecord(t *testing.T) {
	b := newBench(t, schematest.Type(t, "log"))
	m := sinktest.Maker{Type: b.typ, Base: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC), Seed: "x"}
	if _, err := b.sink.Assigned(t.Context(), b.typ.Topic.Name, []int32{0}); err != nil {
		t.Fatal(err)
	}
	batch := m.Batch(0, 0, 200)
	for i := range batch.Records {
		batch.Records[i].Values = batch.Records[i].Values[:2]
	}
	if err := b.sink.Write(t.Context(), batch, func(error) {}); err == nil || !strings.Contains(err.Error(), "panic") {
		t.Errorf("the write gave %v, want a panic", err)
	}
	if n := len(b.sink.committers()[0].bad); n != 0 {
		t.Errorf("%d records are to blame", n)
	}
}
