package dlq

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/pkg/schema"
)

// Letters are counted by topic, destination and reason, with the times of the first and the last, in whatever order they
// lie, and each of the three narrows the list down.
func TestListByTopicDestinationAndReason(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const other = "millrace.b"
	w.cluster.Create(t, other+suffix, 1)
	w.Types = append(w.Types, &schema.Type{Name: "b"})
	begun := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	at := func(minutes int, r *kgo.Record) *kgo.Record {
		r.Timestamp = begun.Add(time.Duration(minutes) * time.Minute)
		return r
	}
	elsewhere := letter("four", "lake", "refused", 1)
	elsewhere.Topic = other + suffix
	w.produce(
		at(7, letter("one", "lake", "refused", 1)), at(2, letter("two", "lake", "refused", 2)), at(9, letter("three", "lake", "refused", 3)),
		at(4, letter("five", "lake", "malformed", 4)), at(5, letter("six", "cassandra", "refused", 5)), at(6, elsewhere),
	)
	group := func(topic, destination, reason string, open int64, first, last int) Group {
		return Group{
			Topic: topic + suffix, Destination: destination, Class: "destination", Reason: reason, Open: open,
			First: begun.Add(time.Duration(first) * time.Minute), Last: begun.Add(time.Duration(last) * time.Minute),
		}
	}
	refused, malformed := group(origin, "lake", "refused", 3, 2, 9), group(origin, "lake", "malformed", 1, 4, 4)
	cassandra, there := group(origin, "cassandra", "refused", 1, 5, 5), group(other, "lake", "refused", 1, 6, 6)
	for _, c := range []struct {
		filter Filter
		want   []Group
	}{
		{Filter{}, []Group{refused, cassandra, malformed, there}},
		{Filter{Topic: origin}, []Group{refused, cassandra, malformed}},
		{Filter{Topic: other + suffix}, []Group{there}},
		{Filter{Destination: "lake"}, []Group{refused, malformed, there}},
		{Filter{Reason: "refused"}, []Group{refused, cassandra, there}},
		{Filter{Topic: origin, Destination: "lake", Reason: "malformed"}, []Group{malformed}},
	} {
		got, err := w.List(t.Context(), c.filter)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%+v (-want +got):\n%s", c.filter, diff)
		}
	}
}

// What is shown of a letter is all that its consumer wrote.
func TestViewShowsEveryHeader(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := letter("one", "lake", "refused", 8)
	r.Headers = append(r.Headers, headers("millrace.origin.cluster", "here", "millrace.first_failure", "2026-01-02T03:04:07Z", "millrace.attempts", "5")...)
	w.produce(r)
	l := w.first()
	v := w.View(t.Context(), l)
	origin := Origin{Topic: origin, Partition: 2, Offset: 8, Timestamp: "2026-01-02T03:04:05Z", Cluster: "here"}
	if diff := cmp.Diff(origin, v.Origin); diff != "" {
		t.Error(diff)
	}
	if v.Destination != "lake" || v.Class != "destination" || v.Reason != "refused" || v.Error != "no" || v.Attempts != 5 ||
		v.FirstFailure != "2026-01-02T03:04:07Z" || v.State != "open" || len(v.Headers) != len(l.Record.Headers) {
		t.Errorf("%+v", v)
	}
}
