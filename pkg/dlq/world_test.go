package dlq

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/pkg/codec"
	"github.com/millrace/millrace/pkg/kafka/kafkatest"
	"github.com/millrace/millrace/pkg/schema"
	"github.com/millrace/millrace/pkg/stream"
)

const (
	origin  = "millrace.a"
	letters = origin + suffix
)

// world is a cluster with a type's two topics; the dead-letter topic has one partition, as provisioned.
type world struct {
	*testing.T
	*Box

	cluster *kafkatest.Cluster
}

func newWorld(t *testing.T) *world {
	t.Helper()
	return worldOn(t, kafkatest.New(t, origin))
}

func worldOn(t *testing.T, c *kafkatest.Cluster) *world {
	t.Helper()
	c.Create(t, letters, 1)
	typ := &schema.Type{Name: "a", Fields: []schema.Field{{Name: "id", Kind: schema.String}, {Name: "time", Kind: schema.Timestamp}}}
	missing := &schema.Type{Name: "never_applied"} // its topics were not made
	return &world{T: t, cluster: c, Box: &Box{
		Kafka: c.Opts(), Types: []*schema.Type{typ, missing}, Decoder: func(string) Decoder { return decoder{typ} },
		Now: func() time.Time { return time.Unix(1_700_000_000, 0) }, Log: slog.New(slog.DiscardHandler),
	}}
}

// commit is what a destination's consumer does when everything before an offset is acknowledged.
func (w *world) commit(destination string, partition int32, offset int64) {
	w.Helper()
	offsets := kadm.Offsets{}
	offsets.AddOffset(origin, partition, offset, -1)
	res, err := kadm.NewClient(w.cluster.Client(w.T)).CommitOffsets(w.Context(), stream.Group(destination), offsets)
	if err == nil {
		err = res.Error()
	}
	if err != nil {
		w.Fatal(err)
	}
}

// first gives the first letter.
func (w *world) first() *Letter {
	w.Helper()
	l, err := w.Get(w.Context(), Address{letters, 0, 0})
	if err != nil {
		w.Fatal(err)
	}
	return l
}

// refusedAgain writes the letter that a destination makes of the newest record of the origin topic.
func (w *world) refusedAgain(value, destination string) {
	w.Helper()
	all := w.cluster.Records(w.T, origin)
	last := all[len(all)-1]
	w.produce(letter(value, destination, "refused", int(last.Offset), last.Headers...))
}

// decoder takes the value as the id; "bad..." is a bad record.
type decoder struct{ typ *schema.Type }

func (d decoder) Decode(_ context.Context, r *kgo.Record) (codec.Record, error) {
	if strings.HasPrefix(string(r.Value), "bad") {
		return codec.Record{}, &codec.BadRecord{Reason: "malformed", Err: errors.New("it is bad")}
	}
	return codec.Record{Source: r, Type: d.typ, Values: []codec.Value{codec.BytesValue(r.Value), codec.LongValue(0)}}, nil
}

// letter is a dead letter as pkg/stream writes it: own headers first, then what says why.
func letter(value, destination, reason string, offset int, own ...kgo.RecordHeader) *kgo.Record {
	return &kgo.Record{Topic: letters, Key: []byte("k"), Value: []byte(value), Headers: append(own, headers(
		"millrace.origin.topic", origin, "millrace.origin.partition", "2", "millrace.origin.offset", strconv.Itoa(offset),
		"millrace.origin.timestamp", "2026-01-02T03:04:05Z", "millrace.destination", destination,
		"millrace.class", "destination", "millrace.reason", reason, "millrace.error", "no", "millrace.attempts", "1",
	)...)}
}

func (w *world) produce(records ...*kgo.Record) {
	w.Helper()
	w.cluster.Produce(w.T, records...)
}

// said collects what an order says, by letter.
func (o Order) collect(into map[string]string) Order {
	o.By = "somebody"
	if o.Limit == 0 {
		o.Limit = 100
	}
	if o.MaxLoops == 0 {
		o.MaxLoops = 3
	}
	o.Said = func(l *Letter, err error) { into[l.String()] = fmt.Sprint(err) }
	return o
}

func (w *world) replay(o Order) (Report, map[string]string) {
	w.Helper()
	said := map[string]string{}
	report, err := w.Replay(w.Context(), o.collect(said))
	if err != nil {
		w.Fatal(err)
	}
	return report, said
}

func (w *world) discard(o Order) Report {
	w.Helper()
	report, err := w.Discard(w.Context(), o.collect(map[string]string{}))
	if err != nil {
		w.Fatal(err)
	}
	return report
}

// counts are the groups as "destination reason open/replaying/resolved".
func (w *world) counts(f Filter) string {
	w.Helper()
	list, err := w.List(w.Context(), f)
	if err != nil {
		w.Fatal(err)
	}
	var out []string
	for _, g := range list {
		out = append(out, fmt.Sprintf("%s %s %d/%d/%d", g.Destination, g.Reason, g.Open, g.Replaying, g.Resolved))
	}
	return strings.Join(out, ", ")
}

func (w *world) wantCounts(want string) {
	w.Helper()
	if got := w.counts(Filter{}); got != want {
		w.Errorf("counted %q, want %q", got, want)
	}
}

// values are the values of letters.
func values(ls []*Letter) string {
	var out []string
	for _, l := range ls {
		out = append(out, string(l.Record.Value))
	}
	return strings.Join(out, " ")
}
