package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/pkg/codec"
	"github.com/millrace/millrace/pkg/schema"
	"github.com/millrace/millrace/pkg/telemetry"
)

// recordLimit is Kafka's bound for a batch on the topic, and so for a record with what a batch takes around it.
const (
	recordLimit = 1048588
	batchHead   = 200
)

// bad is a record that stands between good ones.
type bad struct {
	name   string
	record *kgo.Record
	by     string // the one destination that refuses it; all do if it is empty
	class  string
	reason string
}

// Records that can never be stored, put straight into the topic by a Kafka client, each between good ones of the same
// partition: each is a dead letter once for each destination that refuses it, as it was; the others have it; the good
// ones are everywhere; nothing lags; and a restart adds nothing.
func TestBadRecordsInTheTopic(t *testing.T) {
	f, ok := newFlow(t)
	if !ok {
		return
	}
	command(t, nil, "topics", "apply", "--config", f.config)
	running, _ := f.run(t, "millrace")
	p := f.producer(t)
	all := p.badRecords(t)
	want := map[string]bool{}
	for _, b := range all {
		p.good(t)
		p.produce(t, b.record)
		for _, d := range f.destinations {
			if b.by == "" || b.by == d.name {
				want[letterOf(b, d.name)] = true
			}
		}
	}
	p.good(t)
	f.judgeAll(t)
	f.judgeLetters(t, want, all)

	if err := running.stop(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	running, _ = f.run(t, "millrace after a restart")
	p.good(t)
	f.judgeAll(t)
	f.judgeLetters(t, want, all)
	if err := running.stop(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
}

// rawProducer is a Kafka client that knows nothing of what may be in a topic.
type rawProducer struct {
	f       *flow
	client  *kgo.Client
	encoder *codec.Encoder
}

func (f *flow) producer(t *testing.T) *rawProducer {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(f.Brokers...), kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.ProducerBatchMaxBytes(recordLimit), kgo.ProducerBatchCompression(kgo.NoCompression()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	cfg := codec.Default()
	cfg.URLs = []string{f.Registry}
	types, err := codec.New(cfg, f.types, telemetry.Discard())
	if err != nil {
		t.Fatal(err)
	}
	enc, err := types.Encoder(t.Context(), f.name)
	if err != nil {
		t.Fatal(err)
	}
	return &rawProducer{f, cl, enc}
}

// produce writes one record to partition 0; its offset is then known.
func (p *rawProducer) produce(t *testing.T, r *kgo.Record) {
	t.Helper()
	r.Topic, r.Partition = p.f.typ().TopicName(), 0
	if err := p.client.ProduceSync(t.Context(), r).FirstErr(); err != nil {
		t.Fatal(err)
	}
}

// encode makes a record whose values a function may change.
func (p *rawProducer) encode(t *testing.T, change func([]codec.Value)) (codec.Record, *kgo.Record) {
	t.Helper()
	made := p.f.make(1)[0]
	if change != nil {
		change(made.Values)
	}
	r, err := p.encoder.Encode(made.Values)
	if err != nil {
		t.Fatal(err)
	}
	return made, r
}

// good produces a record that every destination stores.
func (p *rawProducer) good(t *testing.T) {
	t.Helper()
	made, r := p.encode(t, nil)
	p.f.expect(made, "")
	p.produce(t, r)
}

// badRecords are one of each kind.
func (p *rawProducer) badRecords(t *testing.T) []bad {
	t.Helper()
	all := p.undecodable(t)
	typ := p.f.typ()
	for _, b := range []struct {
		name, by string
		change   func([]codec.Value)
	}{
		{"a NUL in a key", "elasticsearch", func(v []codec.Value) {
			v[typ.Index("attributes")] = codec.MapValue(map[string]string{"k\x00": "v"})
		}},
		{"a very long key", "elasticsearch", func(v []codec.Value) {
			v[typ.Index("attributes")] = codec.MapValue(map[string]string{strings.Repeat("k", 40_000): "v"})
		}},
		{"a key column over 64 KiB", "cassandra", func(v []codec.Value) {
			v[typ.Index("src_ip")] = codec.StringValue(strings.Repeat("1", 70_000))
		}},
	} {
		made, r := p.encode(t, b.change)
		p.f.expect(made, b.by)
		all = append(all, bad{b.name, r, b.by, "record", "refused"})
	}
	return all
}

// undecodable are those that no destination is given.
func (p *rawProducer) undecodable(t *testing.T) []bad {
	t.Helper()
	changed := func(change func([]codec.Value)) *kgo.Record {
		_, r := p.encode(t, change)
		return r
	}
	at := func(d time.Duration) *kgo.Record {
		return changed(func(v []codec.Value) { v[schema.Time] = codec.LongValue(time.Now().Add(d).UnixMicro()) })
	}
	unknown, truncated, trailing, huge := changed(nil), changed(nil), changed(nil), p.huge(t)
	copy(unknown.Value[1:], "\x7f\xff\xff\xf0")
	truncated.Value = truncated.Value[:len(truncated.Value)-3]
	trailing.Value = append(trailing.Value, 0)
	huge.Value = append(huge.Value, 0)
	key := []byte("key")
	return []bad{
		{"no Avro", &kgo.Record{Key: key, Value: []byte(`{"src_ip":"10.0.0.1"}`)}, "", "record", "not_avro"},
		{"a null value", &kgo.Record{Key: key}, "", "record", "not_avro"},
		{"an empty value", &kgo.Record{Key: key, Value: []byte{}}, "", "record", "not_avro"},
		{"a head only", &kgo.Record{Value: trailing.Value[:5:5]}, "", "record", "malformed"},
		{"an unknown schema id", unknown, "", "record", "unknown_schema"},
		{"truncated", truncated, "", "record", "malformed"},
		{"trailing bytes", trailing, "", "record", "malformed"},
		{"huge, with trailing bytes", huge, "", "record", "malformed"},
		{"in the future", at(11 * time.Minute), "", "record", "time_out_of_range"},
		{"in the past", at(-8 * 24 * time.Hour), "", "record", "time_out_of_range"},
	}
}

// huge produces the largest good record that Kafka takes, and gives another of that size less one byte.
func (p *rawProducer) huge(t *testing.T) *kgo.Record {
	t.Helper()
	head := p.f.typ().Index("head")
	fill := func(size int) func([]codec.Value) {
		return func(v []codec.Value) { v[head] = codec.BytesValue(bytes.Repeat([]byte{0xa5, 0}, size/2)) }
	}
	_, small := p.encode(t, nil)
	size := recordLimit - batchHead - 2*len(small.Value) - len(small.Key) - 2000
	made, r := p.encode(t, fill(size))
	p.f.expect(made, "")
	p.produce(t, r)
	_, r = p.encode(t, fill(size))
	return r
}

// letterOf is what must be known of a dead letter.
func letterOf(b bad, destination string) string {
	return fmt.Sprintf("offset %d (%s) %s: %s %s", b.record.Offset, b.name, destination, b.class, b.reason)
}

// judgeLetters wants the dead-letter topic to hold exactly what it should, once, with the bytes that were produced.
func (f *flow) judgeLetters(t *testing.T, want map[string]bool, all []bad) {
	t.Helper()
	byOffset := map[string]bad{}
	for _, b := range all {
		byOffset[strconv.FormatInt(b.record.Offset, 10)] = b
	}
	found := map[string]bool{}
	for _, r := range f.letters(t) {
		h := map[string]string{}
		for _, header := range r.Headers {
			h[header.Key] = string(header.Value)
		}
		b, ok := byOffset[h["millrace.origin.offset"]]
		if !ok {
			t.Errorf("a dead letter of a good record: %v", h)
			continue
		}
		got := b
		got.class, got.reason = h["millrace.class"], h["millrace.reason"]
		letter := letterOf(got, h["millrace.destination"])
		if found[letter] {
			t.Errorf("twice: %s", letter)
		}
		found[letter] = true
		if h["millrace.origin.topic"] != f.typ().TopicName() || h["millrace.origin.partition"] != "0" || h["millrace.error"] == "" {
			t.Errorf("%s: headers %v", letter, h)
		}
		if !bytes.Equal(r.Value, b.record.Value) || !bytes.Equal(r.Key, b.record.Key) || (r.Value == nil) != (b.record.Value == nil) {
			t.Errorf("%s: its %d bytes are not the %d that were produced", letter, len(r.Value), len(b.record.Value))
		}
	}
	if diff := cmp.Diff(slices.Sorted(maps.Keys(want)), slices.Sorted(maps.Keys(found))); diff != "" {
		t.Errorf("dead letters (-want +found):\n%s", diff)
	}
}

// letters reads the dead-letter topic to its end.
func (f *flow) letters(t *testing.T) []*kgo.Record {
	t.Helper()
	n := int(f.deadLetters(t))
	cl, err := kgo.NewClient(kgo.SeedBrokers(f.Brokers...), kgo.ConsumeTopics(f.typ().DLQName()),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var records []*kgo.Record
	for len(records) < n {
		fetches := cl.PollFetches(ctx)
		if err := fetches.Err0(); err != nil && !errors.Is(err, kgo.ErrClientClosed) {
			t.Fatalf("reading the dead letters: %d of %d: %v", len(records), n, err)
		}
		records = append(records, fetches.Records()...)
	}
	return records
}
