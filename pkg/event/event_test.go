package event_test

import (
	"errors"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/millrace/millrace/pkg/event"
)

var at = time.UnixMilli(1_700_000_000_123)

func TestNewIDIsAUUIDv7OfItsTime(t *testing.T) {
	seen := map[string]bool{}
	for range 1000 {
		id := event.NewID(at)
		u, err := uuid.Parse(id)
		if err != nil || u.Version() != 7 || u.Variant() != uuid.RFC4122 || u.String() != id {
			t.Fatalf("%s: version %v, %v", id, u.Version(), err)
		}
		if got, err := event.TimeOf(id); err != nil || !got.Equal(at) {
			t.Fatalf("%s: time %v, %v", id, got, err)
		}
		if event.Check(id) != event.Lower || seen[id] {
			t.Fatalf("%s: not canonical, or twice", id)
		}
		seen[id] = true
	}
}

func TestIDsSortByTime(t *testing.T) {
	before := ""
	for i := range 100 {
		id := event.NewID(at.Add(time.Duration(i) * time.Millisecond))
		if id <= before {
			t.Fatalf("%s after %s", id, before)
		}
		before = id
	}
}

func TestDeriveID(t *testing.T) {
	id := event.DeriveID(at, "host", "4711", "1024")
	if id != event.DeriveID(at, "host", "4711", "1024") {
		t.Error("the same seed gives another id")
	}
	for _, other := range []string{
		event.DeriveID(at, "host", "4711", "1025"), event.DeriveID(at, "host", "47111", "024"),
		event.DeriveID(at.Add(time.Millisecond), "host", "4711", "1024"), event.DeriveID(at),
	} {
		if other == id {
			t.Error("another seed gives the same id")
		}
	}
	// Fixed, because agents of two versions must agree.
	if id != "018bcfe5-687b-7748-8804-82274e56c4da" {
		t.Errorf("id %s", id)
	}
}

func TestTimesThatDoNotFit(t *testing.T) {
	f := func(in, want time.Time) {
		t.Helper()
		if got, err := event.TimeOf(event.NewID(in)); err != nil || !got.Equal(want) {
			t.Errorf("%v became %v", in, got)
		}
	}
	f(time.UnixMilli(-5), time.UnixMilli(0))
	f(time.Time{}, time.UnixMilli(0))
	f(time.UnixMilli(1<<48+5), time.UnixMilli(1<<48-1))
}

func TestNewIDFrom(t *testing.T) {
	one, err := event.NewIDFrom(at, rand.NewChaCha8([32]byte{1}))
	if err != nil {
		t.Fatal(err)
	}
	two, err := event.NewIDFrom(at, rand.NewChaCha8([32]byte{1}))
	if err != nil || one != two {
		t.Errorf("%s and %s, %v", one, two, err)
	}
	if _, err := event.NewIDFrom(at, strings.NewReader("short")); err == nil {
		t.Error("nine bytes were enough")
	}
}

func TestCheck(t *testing.T) {
	f := func(id string, want event.Form) {
		t.Helper()
		if got := event.Check(id); got != want {
			t.Errorf("%s: %v, want %v", id, got, want)
		}
		if got := event.Check([]byte(id)); got != want {
			t.Errorf("%s as bytes: %v, want %v", id, got, want)
		}
	}
	f("0190163d-8694-739b-aea5-966c26f8ad91", event.Lower)
	f("0190163D-8694-739b-aea5-966c26f8ad91", event.Upper)
	f("", event.Invalid)
	f("0190163d8694739baea5966c26f8ad91", event.Invalid)
	f("{190163d-8694-739b-aea5-966c26f8ad91", event.Invalid)
	f("0190163d-8694-739b-aea5-966c26f8ad9", event.Invalid)
	f("0190163d-8694-739b-aea5-966c26f8ad911", event.Invalid)
	f("0190163g-8694-739b-aea5-966c26f8ad91", event.Invalid)
	f("0190163-d8694-739b-aea5-966c26f8ad91", event.Invalid)
	f("0190163d-8694-739b-aea5-966c26f8a-91", event.Invalid)
	f("0190163d-8694-739b-aea5\x00966c26f8ad91", event.Invalid)

	var lower [event.Len]byte
	event.Canonical(&lower, []byte("0190163D-8694-739B-AEA5-966C26F8AD91"))
	if string(lower[:]) != "0190163d-8694-739b-aea5-966c26f8ad91" {
		t.Errorf("canonical: %s", lower)
	}
}

func TestTimeOfOthers(t *testing.T) {
	for _, id := range []string{"", uuid.NewString(), "nonsense"} {
		if _, err := event.TimeOf(id); !errors.Is(err, event.ErrNotV7) {
			t.Errorf("%q: %v", id, err)
		}
	}
}

func TestCheckAllocatesNothing(t *testing.T) {
	id := []byte(event.NewID(at))
	if n := testing.AllocsPerRun(100, func() {
		if event.Check(id) != event.Lower {
			t.Fail()
		}
		if _, err := event.TimeOf(id); err != nil {
			t.Fail()
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzCheck(f *testing.F) {
	f.Add("0190163d-8694-739b-aea5-966c26f8ad91")
	f.Add("0190163D-8694-739B-AEA5-966C26F8AD91")
	f.Fuzz(func(t *testing.T, id string) {
		u, err := uuid.Parse(id)
		valid := err == nil && len(id) == event.Len
		form := event.Check(id)
		if (form != event.Invalid) != valid || (form == event.Lower) != (valid && u.String() == id) {
			t.Fatalf("%q: %v, %v", id, form, err)
		}
	})
}
