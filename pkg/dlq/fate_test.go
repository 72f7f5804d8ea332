package dlq

import (
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// A replayed letter is resolved when its destination has committed the replay, and by nothing else.
func TestAReplayIsResolvedByItsDestination(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.cluster.Produce(t, &kgo.Record{Topic: origin, Partition: 2, Value: []byte("before")}) // the replay is at 1
	w.produce(letter("one", "lake", "refused", 0))
	report, _ := w.replay(Order{})
	if len(report.Sent) != 1 || report.Sent[0].Replay.Partition != 2 || report.Sent[0].Replay.Offset != 1 {
		t.Fatalf("sent %+v", report.Sent)
	}
	want := func(state State, waits string) {
		t.Helper()
		l := w.first()
		if l.State != state || !strings.Contains(l.Waits, waits) || (waits == "") != (l.Waits == "") {
			t.Errorf("%s, waits for %q; want %s, %q", l.State, l.Waits, state, waits)
		}
		c, err := w.Confirm(t.Context(), 0, report.Sent)
		if wanted := map[State]Confirmation{Replaying: {Waiting: 1}, Stored: {Stored: 1}}[state]; err != nil || c != wanted {
			t.Errorf("confirmed %+v, %v; want %+v", c, err, wanted)
		}
	}
	want(Replaying, "millrace-lake has no commit for millrace.a/2")
	w.commit("cassandra", 2, 9)
	w.commit("lake", 1, 9)
	want(Replaying, "millrace-lake has no commit for millrace.a/2")
	w.commit("lake", 2, 1)
	want(Replaying, "millrace-lake has committed millrace.a/2 up to 1; the replay is at 1")
	w.wantCounts("lake refused 0/1/0")
	if open, err := w.Newest(t.Context(), Filter{}, 10); err != nil || len(open) != 1 {
		t.Errorf("a letter that is being replayed is not among those that are unresolved: %v, %v", open, err)
	}
	w.commit("lake", 2, 2)
	want(Stored, "")
	w.wantCounts("lake refused 0/0/1")
}

func TestConfirmWaitsForTheDestination(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.produce(letter("one", "lake", "refused", 7), letter("two", "lake", "refused", 8))
	report, _ := w.replay(Order{})
	done := make(chan Confirmation)
	go func() {
		c, err := w.Confirm(t.Context(), time.Minute, report.Sent)
		if err != nil {
			t.Error(err)
		}
		done <- c
	}()
	w.refusedAgain("two", "lake")
	w.commit("lake", 2, 1)
	select {
	case c := <-done:
		t.Fatalf("it did not wait for the second: %+v", c)
	case <-time.After(2 * confirmEvery): // it can only be too early, never too late
	}
	w.commit("lake", 2, 2)
	if c := <-done; c != (Confirmation{Stored: 1, Refused: 1}) {
		t.Errorf("%+v", c)
	}
}

// The newer letter is open in the older one's place, whichever of it and the resolution Kafka has first.
func TestARefusedReplayIsANewLetter(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.produce(letter("one", "lake", "refused", 7))
	w.replay(Order{})
	w.refusedAgain("one", "lake") // at 2, after the resolution at 1
	w.wantCounts("lake refused 1/0/1")
	if l := w.first(); l.State != RefusedAgain || l.Became.String() != "millrace.a.dlq/0/2" || l.Waits != "" {
		t.Errorf("%s, became %v, waits for %q", l.State, l.Became, l.Waits)
	}
	w.commit("lake", 2, 1) // it has acknowledged the replay by making a letter of it
	w.wantCounts("lake refused 1/0/1")
	if l := w.first(); l.State != RefusedAgain {
		t.Error(l.State)
	}

	w = newWorld(t)
	w.produce(letter("one", "lake", "refused", 7))
	l := w.first()
	newer := letter("one", "lake", "refused", 0, l.replay().Headers...)
	w.produce(newer)
	w.wantCounts("lake refused 2/0/0") // nothing says that the first was replayed: anybody can claim so in a header
	w.produce(l.resolve(Resolution{How: Replayed, Replay: &Replay{Topic: origin, Partition: 2, TopicID: kadm.TopicID(w.cluster.TopicInfo(origin).TopicID).String()}, destination: "lake"}))
	w.wantCounts("lake refused 1/0/1")
}

// What is not known is not taken for stored.
func TestAReplayInATopicThatIsGone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.produce(letter("one", "lake", "refused", 7))
	w.replay(Order{})
	w.commit("lake", 2, 1)
	w.wantCounts("lake refused 0/0/1")
	if err := w.cluster.DeleteTopic(origin); err != nil {
		t.Fatal(err)
	}
	w.wantCounts("lake refused 0/1/0")
	w.cluster.Create(t, origin, 3)
	w.commit("lake", 2, 1)
	if l := w.first(); l.State != Replaying || !strings.Contains(l.Waits, "made anew") {
		t.Errorf("%s, waits for %q", l.State, l.Waits)
	}
	only := Filter{Letters: []Address{{letters, 0, 0}}}
	if report, said := w.replay(Order{}); report.Done+report.Refused != 0 {
		t.Errorf("a letter that is being replayed was replayed by a filter: %+v %v", report, said)
	}
	if report, said := w.replay(Order{Filter: only}); report.Refused != 1 || !strings.Contains(said["millrace.a.dlq/0/0"], "--force") {
		t.Errorf("by its address: %+v %v", report, said)
	}
	if report, said := w.replay(Order{Filter: only, Force: true}); report.Done != 1 {
		t.Errorf("by force: %+v %v", report, said)
	}
	w.wantCounts("lake refused 0/0/1") // the group's commit is beyond the second one
	w.commit("lake", 2, 0)
	if report := w.discard(Order{Filter: only, Why: "a test's"}); report.Done != 1 {
		t.Errorf("discarding by address: %+v", report)
	}
	if l := w.first(); l.State != GivenUp || l.Waits != "" {
		t.Errorf("%s, waits for %q", l.State, l.Waits)
	}
}

// Retention took the replay before the destination came to it: the letter is open again.
func TestAReplayThatExpired(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.produce(letter("one", "lake", "refused", 7))
	w.replay(Order{})
	w.commit("lake", 2, 0)
	if err := w.cluster.DeleteRecords(origin, 2, 1); err != nil {
		t.Fatal(err)
	}
	if l := w.first(); l.State != Open || !strings.Contains(l.Waits, "deleted by retention before lake read it") {
		t.Errorf("%s, %q", l.State, l.Waits)
	}
	w.wantCounts("lake refused 1/0/0")
	if report, said := w.replay(Order{}); report.Done != 1 {
		t.Errorf("%+v %v", report, said)
	}
	w.commit("lake", 2, 2)
	w.wantCounts("lake refused 0/0/1")
}
