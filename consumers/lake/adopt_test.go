package lake

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/millrace/millrace/pkg/kafka/kafkatest"
	"github.com/millrace/millrace/pkg/lake"
	"github.com/millrace/millrace/pkg/schema/schematest"
	"github.com/millrace/millrace/pkg/stream/sinktest"
	"github.com/millrace/millrace/pkg/telemetry"
)

// TestARecreatedTopicWaitsForAdopt deletes a topic and makes it anew: the consumer stops and says what to run, and goes
// on from the new topic's start after that, without being started again.
func TestARecreatedTopicWaitsForAdopt(t *testing.T) {
	b := newBench(t, schematest.Type(t, "log"))
	b.cfg.Age = 100 * time.Millisecond
	topic := b.typ.Topic.Name
	cluster := kafkatest.New(t, topic)
	adm := kadm.NewClient(cluster.Client(t))
	start := func(done func(*Sink) bool) {
		t.Helper()
		maker := sinktest.Maker{Type: b.typ, Base: time.Now().Add(-time.Minute).UTC(), Seed: "anew"}
		sink, consumer := b.fromKafka(t, cluster, byOffset{maker})
		runUntil(t, sink, consumer, func() bool { return done(sink) })
	}
	b.publish(t, cluster, 50)
	start(func(*Sink) bool { return b.count(t) == 50 })
	if resp, err := adm.DeleteTopic(t.Context(), topic); err != nil || resp.Err != nil {
		t.Fatal(err, resp.Err)
	}
	cluster.Create(t, topic, kafkatest.Partitions)
	b.publish(t, cluster, 20)
	decided := false
	start(func(s *Sink) bool {
		err := s.Ready()
		if !decided && err != nil && strings.Contains(err.Error(), "(other_source): see and decide with `millrace lake adopt log`") {
			if n := b.count(t); n != 50 {
				t.Errorf("%d rows, want the 50 of the topic that the table knows", n)
			}
			b.decide(t, lake.Log{Source: sourceOf(t, adm, topic), Partitions: map[int32]lake.Bounds{0: {End: 20}, 1: {}, 2: {}}})
			decided = true
		}
		return b.count(t) == 70 && err == nil
	})
	if !decided {
		t.Error("it did not wait")
	}
}

func sourceOf(t *testing.T, adm *kadm.Client, topic string) lake.Source {
	t.Helper()
	meta, err := adm.Metadata(t.Context(), topic)
	if err != nil {
		t.Fatal(err)
	}
	return lake.Source{Cluster: meta.Cluster, TopicID: meta.Topics[topic].ID.String()}
}

// decide adopts a log, of whose partitions each begins at its start.
func (b *bench) decide(t *testing.T, log lake.Log) {
	t.Helper()
	l, err := lake.New(b.cfg.Table, telemetry.Discard())
	if err != nil {
		t.Fatal(err)
	}
	tb, err := l.Open(t.Context(), b.typ)
	if err != nil {
		t.Fatal(err)
	}
	a, err := tb.Adoption(b.typ.Topic.Name, log, false)
	if err != nil || slices.ContainsFunc(a.Partitions, func(p lake.AdoptedPartition) bool { return p.From != 0 }) {
		t.Fatalf("%+v (%v)", a, err)
	}
	if err := tb.Adopt(t.Context(), a, "made anew"); err != nil {
		t.Fatal(err)
	}
}

// TestSourceIsAskedForEachTime makes a topic anew between two assignments that are moments apart.
func TestSourceIsAskedForEachTime(t *testing.T) {
	cluster := kafkatest.New(t, "millrace.log")
	s := &sources{opts: cluster.Opts()}
	defer s.close()
	before, err := s.of(t.Context(), "millrace.log")
	if err != nil {
		t.Fatal(err)
	}
	adm := kadm.NewClient(cluster.Client(t))
	if resp, err := adm.DeleteTopic(t.Context(), "millrace.log"); err != nil || resp.Err != nil {
		t.Fatal(err, resp.Err)
	}
	if _, err := s.of(t.Context(), "millrace.log"); err == nil {
		t.Error("a topic that is gone has an id")
	}
	cluster.Create(t, "millrace.log", 1)
	after, err := s.of(t.Context(), "millrace.log")
	if err != nil || after.TopicID == before.TopicID || after.Cluster != before.Cluster {
		t.Errorf("before %+v, after %+v (%v)", before, after, err)
	}
	if want := sourceOf(t, adm, "millrace.log"); after != want {
		t.Errorf("got %+v, want %+v", after, want)
	}
}
