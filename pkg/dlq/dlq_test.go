package dlq

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace/millrace/pkg/kafka/kafkatest"
	"github.com/millrace/millrace/pkg/stream"
)

func TestAReplayGoesToWhoRefusedIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	own := kgo.RecordHeader{Key: "traceparent", Value: []byte("00-1")}
	w.produce(letter("one", "lake", "refused", 7, own), letter("one", "cassandra", "refused", 7, own))
	w.wantCounts("cassandra refused 1/0/0, lake refused 1/0/0")

	if report, said := w.replay(Order{Filter: Filter{Destination: "lake"}, DryRun: true}); report.Done != 1 || len(said) != 1 {
		t.Errorf("a dry run would replay %+v %v", report, said)
	}
	w.wantCounts("cassandra refused 1/0/0, lake refused 1/0/0")
	if n := len(w.cluster.Records(t, origin)); n != 0 {
		t.Fatalf("a dry run published %d records", n)
	}

	report, said := w.replay(Order{Filter: Filter{Destination: "lake"}, Why: "repaired"})
	if diff := cmp.Diff(map[string]string{"millrace.a.dlq/0/0": "<nil>"}, said); diff != "" || report.Done != 1 {
		t.Errorf("%+v %s", report, diff)
	}
	w.wantCounts("cassandra refused 1/0/0, lake refused 0/1/0")
	got := w.cluster.Records(t, origin)
	if len(got) != 1 || string(got[0].Value) != "one" || string(got[0].Key) != "k" || got[0].Partition != 2 {
		t.Fatalf("published %v", got)
	}
	var lines []string
	for _, h := range got[0].Headers {
		lines = append(lines, h.Key+"="+string(h.Value))
	}
	want := []string{
		stream.HeaderReplayFor + "=lake", "millrace.replay.count=1", "millrace.replay.letter=millrace.a.dlq/0/0",
		"millrace.origin.topic=" + origin, "millrace.origin.partition=2", "millrace.origin.offset=7",
		"millrace.origin.timestamp=2026-01-02T03:04:05Z", "millrace.origin.cluster=", "traceparent=00-1",
	}
	if diff := cmp.Diff(want, lines); diff != "" {
		t.Errorf("headers (-want +got):\n%s", diff)
	}
	if report, _ := w.replay(Order{Filter: Filter{Destination: "lake"}}); report.Done != 0 {
		t.Errorf("a resolved letter was replayed again: %+v", report)
	}
	l, err := w.Get(t.Context(), Address{letters, 0, 0})
	if err != nil || l.Resolution == nil {
		t.Fatalf("%+v, %v", l, err)
	}
	wantResolution := Resolution{
		How: Replayed, By: "somebody", Why: "repaired", Time: w.Now().UTC(),
		Replay: &Replay{origin, 2, 0, kadm.TopicID(w.cluster.TopicInfo(origin).TopicID).String()},
	}
	if diff := cmp.Diff(wantResolution, *l.Resolution, cmpopts.IgnoreUnexported(Resolution{})); diff != "" {
		t.Error(diff)
	}
}

// The loop guard holds over as many letters as there were replays, and the first origin is kept.
func TestARecordIsNotReplayedForEver(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.produce(letter("one", "lake", "refused", 7))
	for range 3 {
		if report, said := w.replay(Order{}); report.Done != 1 {
			t.Fatalf("%+v %v", report, said)
		}
		w.refusedAgain("one", "lake")
	}
	report, said := w.replay(Order{})
	if report.Done != 0 || report.Refused != 1 || !strings.Contains(fmt.Sprint(said), "replayed 3 times") {
		t.Errorf("the fourth replay: %+v %v", report, said)
	}
	w.wantCounts("lake refused 1/0/3")
	open, err := w.Newest(t.Context(), Filter{}, 10)
	if err != nil || len(open) != 1 {
		t.Fatalf("%d open, %v", len(open), err)
	}
	if l := open[0]; l.Loops != 3 || l.Origin.Offset != 2 || l.First.Offset != 7 {
		t.Errorf("%d replays, origin %+v, first %+v", l.Loops, l.Origin, l.First)
	}
	if report, _ := w.replay(Order{Force: true}); report.Done != 1 {
		t.Errorf("with force: %+v", report)
	}
}

func TestDiscardNeedsAReasonAndSaysIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for i := range 5 {
		w.produce(letter(fmt.Sprintf("bad%d", i), "lake", "malformed", i))
	}
	if _, err := w.Discard(t.Context(), Order{Why: " ", Limit: 10}); !errors.Is(err, ErrQuery) {
		t.Errorf("without a reason: %v", err)
	}
	if _, err := w.Discard(t.Context(), Order{Why: "all of it"}.collect(map[string]string{})); !errors.Is(err, ErrQuery) {
		t.Errorf("without saying which: %v", err)
	}
	if report := w.discard(Order{Why: "a test's", Limit: 2, Filter: Filter{Topic: origin}}); report.Done != 2 || !report.More {
		t.Errorf("%+v, want the 2 oldest and that there are more", report)
	}
	w.wantCounts("lake malformed 3/0/2")
	if report := w.discard(Order{Why: "a test's", Filter: Filter{Letters: []Address{{letters, 0, 4}}}}); report.Done != 1 {
		t.Errorf("by address: %+v", report)
	}
	open, err := w.Newest(t.Context(), Filter{}, 10)
	if err != nil || values(open) != "bad3 bad2" {
		t.Errorf("open: %s, %v", values(open), err)
	}
	all, err := w.Newest(t.Context(), Filter{All: true}, 2)
	if err != nil || values(all) != "bad4 bad3" || all[0].Resolution == nil || all[0].Resolution.Why != "a test's" || all[1].Resolution != nil {
		t.Errorf("the newest of all: %s, %v", values(all), err)
	}
	if n := len(w.cluster.Records(t, origin)); n != 0 {
		t.Errorf("%d records were published", n)
	}
	said := map[string]string{}
	byName := Order{Why: "again", Filter: Filter{Letters: []Address{{letters, 0, 4}, {letters, 0, 99}}}}.collect(said)
	if report, err := w.Discard(t.Context(), byName); err != nil || report.Done != 0 || report.Refused != 2 ||
		!strings.Contains(said["millrace.a.dlq/0/4"], "it is resolved: discarded") || !strings.Contains(said["millrace.a.dlq/0/99"], "no such") {
		t.Errorf("a resolved letter, and none, by address: %+v, %v, %v", report, err, said)
	}
	byName.Filter.Letters = byName.Filter.Letters[1:]
	if _, err := w.Discard(t.Context(), byName); !errors.Is(err, ErrNotFound) {
		t.Errorf("no letter, by address: %v", err)
	}
}

// Until the origin topic has acknowledged, the letter is open; after a stop between the two acknowledgements it is too.
func TestALetterStaysOpenUntilBothAreAcknowledged(t *testing.T) {
	t.Parallel()
	for _, out := range []string{origin, letters} {
		w := newWorld(t)
		w.produce(letter("one", "lake", "refused", 7))
		fault := w.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: out, Err: kerr.InvalidRecord, Count: -1})
		report, err := w.Replay(t.Context(), Order{}.collect(map[string]string{}))
		if err == nil || report.Done != 0 || report.Refused != 1 {
			t.Errorf("%s refuses: %+v, %v", out, report, err)
		}
		w.wantCounts("lake refused 1/0/0")
		fault.Remove()
		if report, _ := w.replay(Order{}); report.Done != 1 {
			t.Errorf("afterwards: %+v", report)
		}
		w.wantCounts("lake refused 0/1/0")
	}
}

// What others wrote to the topic is shown, counted and can be discarded, and is never published anywhere.
func TestWhatIsNoLetterIsNotReplayed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	elsewhere := letter("two", "lake", "refused", 1)
	elsewhere.Headers = append(elsewhere.Headers, headers("millrace.origin.topic", "payroll", "millrace.origin.partition", "0")...)
	stub := letter("", "lake", "refused", 2)
	stub.Headers = append(stub.Headers, headers("millrace.value_dropped", "99")...)
	stub.Value = nil
	spoof := letter("three", "lake", "refused", 3, headers("millrace.resolution", "discarded", "millrace.resolution.letter", "0")...)
	bomb := letter("", "lake", "oversized_batch", 4)
	bomb.Value = nil
	w.produce(&kgo.Record{Topic: letters, Value: []byte("foreign")}, elsewhere, stub, spoof, bomb)
	report, said := w.replay(Order{})
	if report.Done != 1 || report.Refused != 4 || said["millrace.a.dlq/0/3"] != "<nil>" {
		t.Errorf("%+v %v", report, said)
	}
	w.wantCounts("lake refused 2/1/0,   1/0/0, lake oversized_batch 1/0/0")
	if report := w.discard(Order{Why: "not ours", Filter: Filter{Topic: origin}}); report.Done != 4 {
		t.Errorf("%+v", report)
	}
}

// A resolution counts once, only for a letter before it, and not for one that retention took.
func TestRepeatedResolutionsCountOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.produce(letter("one", "lake", "refused", 7), letter("two", "lake", "refused", 8))
	l := w.first()
	early := *l
	early.Offset = 1000
	res := Resolution{How: Discarded, By: "a", Time: w.Now()}
	w.produce(l.resolve(res), l.resolve(res), early.resolve(res))
	w.wantCounts("lake refused 1/0/1")
	if got := w.counts(Filter{Reason: "refused", Destination: "lake", Topic: origin}); got != "lake refused 1/0/1" {
		t.Errorf("filtered: %s", got)
	}
	if got := w.counts(Filter{Reason: "malformed"}); got != "" {
		t.Errorf("of another reason: %s", got)
	}
}

func TestViewShowsBytesThatAreNoRecord(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.produce(letter("good", "lake", "refused", 1), letter("bad\x00", "lake", "malformed", 2))
	for offset, want := range map[int64]string{
		0: `{"id":"good","time":"1970-01-01T00:00:00.000000Z"} `, 1: " 62616400",
	} {
		l, err := w.Get(t.Context(), Address{letters, 0, offset})
		if err != nil {
			t.Fatal(err)
		}
		v := w.View(t.Context(), l)
		if got := string(v.Record) + " " + v.Hex; got != want || v.State != "open" || v.Origin.Offset != offset+1 {
			t.Errorf("%q, want %q; %+v", got, want, v)
		}
	}
}

// Reading ends with its time, and says so rather than showing a part as the whole.
func TestReadingIsBounded(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.produce(letter("one", "lake", "refused", 1))
	w.cluster.ControlKey(int16(kmsg.Fetch), func(kmsg.Request) (kmsg.Response, error, bool) {
		w.cluster.KeepControl()
		return nil, errors.New("gone"), true
	})
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	if list, err := w.List(ctx, Filter{}); !errors.Is(err, context.DeadlineExceeded) || list != nil {
		t.Errorf("%v, %v", list, err)
	}
}

func TestGroupsAreBounded(t *testing.T) {
	t.Parallel()
	g := groups{}
	for i := range 3 * maxGroups {
		g.of(&Letter{Reason: strconv.Itoa(i)}).Open++
	}
	if len(g) != maxGroups+1 || g[groupKey{"", otherName, otherName, otherName}].Open != 2*maxGroups {
		t.Errorf("%d groups", len(g))
	}
}

// A letter that could not hold its value is replayed with the value that still lies where the record was refused, if
// that is the record.
func TestAStubIsReplayedFromItsOrigin(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	meta, err := kadm.NewClient(w.cluster.Client(t)).Metadata(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	cluster := meta.Cluster
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for i, key := range []string{"k", "other key", "k", "k"} {
		w.cluster.Produce(t, &kgo.Record{Topic: origin, Partition: 2, Key: []byte(key), Value: fmt.Appendf(nil, "value %d", i), Timestamp: at})
	}
	if err := w.cluster.DeleteRecords(origin, 2, 1); err != nil {
		t.Fatal(err)
	}
	stub := func(offset int, cluster string, size string) *kgo.Record {
		r := letter("", "lake", "refused", offset)
		r.Value = nil
		r.Headers = append(r.Headers, headers("millrace.origin.cluster", cluster, "millrace.value_dropped", size)...)
		return r
	}
	w.produce(stub(0, cluster, "7"), stub(1, cluster, "7"), stub(2, cluster, "8"), stub(2, "elsewhere", "7"), stub(2, "", "7"),
		stub(3, cluster, "7"), stub(4, cluster, "7"))
	report, said := w.replay(Order{Force: true})
	for offset, want := range []string{
		"deleted by retention", "another record by now", "another record by now", `"elsewhere"`, `""`, "<nil>", "cannot be read",
	} {
		if got := said[fmt.Sprintf("millrace.a.dlq/0/%d", offset)]; !strings.Contains(got, want) {
			t.Errorf("letter %d: %s, want %s", offset, got, want)
		}
	}
	all := w.cluster.Records(t, origin)
	if last := all[len(all)-1]; report.Done != 1 || string(last.Value) != "value 3" || string(last.Key) != "k" || last.Headers[0].Key != stream.HeaderReplayFor {
		t.Errorf("%+v, published %v", report, last)
	}
}

func TestALetterOfAnotherClusterIsNotReplayedHere(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	there := letter("one", "lake", "refused", 1, headers("millrace.origin.topic", origin, "millrace.origin.cluster", "first")...)
	there.Headers = append(there.Headers, headers("millrace.origin.cluster", "there")...)
	w.produce(there)
	if report, said := w.replay(Order{}); report.Refused != 1 || !strings.Contains(fmt.Sprint(said), "from the Kafka cluster there") {
		t.Errorf("%+v %v", report, said)
	}
	if l := w.first(); l.Origin.Cluster != "there" || l.First.Cluster != "first" {
		t.Errorf("%+v %+v", l.Origin, l.First)
	}
	if report, said := w.replay(Order{Force: true}); report.Done != 1 {
		t.Errorf("%+v %v", report, said)
	}
}

// A client of Kafka waits for ever for the answer to a record that is on its way. An order does not.
func TestAnOrderEndsWhenKafkaDoesNotAnswer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := worldOn(t, kafkatest.NewVirtual(t, origin))
		w.produce(letter("one", "lake", "refused", 1))
		w.cluster.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
			w.cluster.KeepControl()
			return nil, errors.New("gone"), true
		})
		began := time.Now()
		report, err := w.Replay(t.Context(), Order{}.collect(map[string]string{}))
		if err == nil || report.Done != 0 || report.Refused != 1 || time.Since(began) > 2*chunkTimeout {
			t.Errorf("%+v, %v, after %s", report, err, time.Since(began))
		}
	})
}

// Whoever stops an order finds each letter as it was or replayed, never published and open.
func TestAnInterruptEndsAfterTheChunk(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for i := range 2*chunkLetters + 1 {
		w.produce(letter("one", "lake", "refused", i))
	}
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	w.cluster.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
		interrupt() // the first replays are on their way
		return nil, nil, false
	})
	report, err := w.Replay(ctx, Order{Limit: 10_000}.collect(map[string]string{}))
	if !errors.Is(err, context.Canceled) || report.Done != chunkLetters {
		t.Errorf("%+v, %v", report, err)
	}
	if n := len(w.cluster.Records(t, origin)); n != chunkLetters {
		t.Errorf("%d records were published", n)
	}
	w.wantCounts(fmt.Sprintf("lake refused %d/%d/0", chunkLetters+1, chunkLetters))
}
