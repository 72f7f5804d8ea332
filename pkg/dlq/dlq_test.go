package dlq

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace/millrace/pkg/stream"
)

func TestAReplayGoesToWhoRefusedIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	own := kgo.RecordHeader{Key: "traceparent", Value: []byte("00-1")}
	w.produce(letter("one", "lake", "refused", 7, own), letter("one", "cassandra", "refused", 7, own))
	w.wantCounts("cassandra refused 1/0, lake refused 1/0")

	if report, said := w.replay(Order{Filter: Filter{Destination: "lake"}, DryRun: true}); report.Resolved != 1 || len(said) != 1 {
		t.Errorf("a dry run would replay %+v %v", report, said)
	}
	w.wantCounts("cassandra refused 1/0, lake refused 1/0")
	if n := len(w.cluster.Records(t, origin)); n != 0 {
		t.Fatalf("a dry run published %d records", n)
	}

	report, said := w.replay(Order{Filter: Filter{Destination: "lake"}, Why: "repaired"})
	if diff := cmp.Diff(map[string]string{"millrace.a.dlq/0/0": "<nil>"}, said); diff != "" || report.Resolved != 1 {
		t.Errorf("%+v %s", report, diff)
	}
	w.wantCounts("cassandra refused 1/0, lake refused 0/1")
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
		"millrace.origin.timestamp=2026-01-02T03:04:05Z", "traceparent=00-1",
	}
	if diff := cmp.Diff(want, lines); diff != "" {
		t.Errorf("headers (-want +got):\n%s", diff)
	}
	if report, _ := w.replay(Order{Filter: Filter{Destination: "lake"}}); report.Resolved != 0 {
		t.Errorf("a resolved letter was replayed again: %+v", report)
	}
	l, err := w.Get(t.Context(), Address{letters, 0, 0})
	if err != nil || l.Resolution == nil {
		t.Fatalf("%+v, %v", l, err)
	}
	if diff := cmp.Diff(Resolution{How: Replayed, By: "somebody", Why: "repaired", Time: w.Now().UTC()}, *l.Resolution); diff != "" {
		t.Error(diff)
	}
}

// The loop guard holds over as many letters as there were replays, and the first origin is kept.
func TestARecordIsNotReplayedForEver(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.produce(letter("one", "lake", "refused", 7))
	for i := range 3 {
		if report, said := w.replay(Order{}); report.Resolved != 1 {
			t.Fatalf("replay %d: %+v %v", i, report, said)
		}
		replayed := w.cluster.Records(t, origin)
		w.produce(letter("one", "lake", "refused", 100+i, replayed[len(replayed)-1].Headers...)) // refused again
	}
	report, said := w.replay(Order{})
	if report.Resolved != 0 || report.Refused != 1 || !strings.Contains(fmt.Sprint(said), "replayed 3 times") {
		t.Errorf("the fourth replay: %+v %v", report, said)
	}
	w.wantCounts("lake refused 1/3")
	open, err := w.Newest(t.Context(), Filter{}, 10)
	if err != nil || len(open) != 1 {
		t.Fatalf("%d open, %v", len(open), err)
	}
	if l := open[0]; l.Loops != 3 || l.Origin.Offset != 102 || l.First.Offset != 7 {
		t.Errorf("%d replays, origin %+v, first %+v", l.Loops, l.Origin, l.First)
	}
	if report, _ := w.replay(Order{Force: true}); report.Resolved != 1 {
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
	if report := w.discard(Order{Why: "a test's", Limit: 2}); report.Resolved != 2 || !report.Left {
		t.Errorf("%+v, want the 2 oldest and that there are more", report)
	}
	w.wantCounts("lake malformed 3/2")
	if report := w.discard(Order{Why: "a test's", Filter: Filter{Letters: []Address{{letters, 0, 4}}}}); report.Resolved != 1 {
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
	_, err = w.Discard(t.Context(), Order{Why: "again", Filter: Filter{Letters: []Address{{letters, 0, 4}}}}.collect(map[string]string{}))
	if !errors.Is(err, ErrNotFound) {
		t.Errorf("a resolved letter by address: %v", err)
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
		if err == nil || report.Resolved != 0 || report.Refused != 1 {
			t.Errorf("%s refuses: %+v, %v", out, report, err)
		}
		w.wantCounts("lake refused 1/0")
		fault.Remove()
		if report, _ := w.replay(Order{}); report.Resolved != 1 {
			t.Errorf("afterwards: %+v", report)
		}
		w.wantCounts("lake refused 0/1")
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
	w.produce(&kgo.Record{Topic: letters, Value: []byte("foreign")}, elsewhere, stub, spoof)
	report, said := w.replay(Order{})
	if report.Resolved != 1 || report.Refused != 3 || said["millrace.a.dlq/0/3"] != "<nil>" {
		t.Errorf("%+v %v", report, said)
	}
	w.wantCounts("lake refused 2/1,   1/0")
	if report := w.discard(Order{Why: "not ours"}); report.Resolved != 3 {
		t.Errorf("%+v", report)
	}
}

// A resolution counts once, only for a letter before it, and not for one that retention took.
func TestRepeatedResolutionsCountOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.produce(letter("one", "lake", "refused", 7), letter("two", "lake", "refused", 8))
	l, err := w.Get(t.Context(), Address{letters, 0, 0})
	if err != nil {
		t.Fatal(err)
	}
	early := *l
	early.Offset = 1000
	res := Resolution{How: Replayed, By: "a", Time: w.Now()}
	w.produce(l.resolve(res), l.resolve(res), early.resolve(res))
	w.wantCounts("lake refused 1/1")
	if got := w.counts(Filter{Reason: "refused", Destination: "lake", Topic: origin}); got != "lake refused 1/1" {
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

func TestHTTP(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.produce(letter("one", "lake", "refused", 1))
	mux := http.NewServeMux()
	w.Register(mux)
	get := func(path string, want int, into any) {
		t.Helper()
		rec := httptest.NewRecorder()
		mux.ServeHTTP(rec, httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, http.NoBody))
		if rec.Code != want {
			t.Errorf("%s: %d %s", path, rec.Code, rec.Body)
		}
		if err := json.Unmarshal(rec.Body.Bytes(), into); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
	var list Answer
	get("/api/v1/dlq?destination=lake", http.StatusOK, &list)
	if len(list.Groups) != 1 || list.Groups[0].Open != 1 {
		t.Errorf("%+v", list)
	}
	var v struct {
		Letter string
		Record map[string]any
	}
	get("/api/v1/dlq/millrace.a/0/0", http.StatusOK, &v)
	if v.Letter != "millrace.a.dlq/0/0" || v.Record["id"] != "one" {
		t.Errorf("%+v", v)
	}
	var problem any
	get("/api/v1/dlq/millrace.a.dlq/0/1", http.StatusNotFound, &problem)
	get("/api/v1/dlq/millrace.a.dlq/9/0", http.StatusNotFound, &problem)
	get("/api/v1/dlq/payroll/0/0", http.StatusBadRequest, &problem)
	get("/api/v1/dlq/millrace.a/x/0", http.StatusBadRequest, &problem)
	get("/api/v1/dlq?topics=a", http.StatusBadRequest, &problem)
}
