package logtail

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const long = "this line is longer than what a copy must have in common"

func TestFollowsAppendedLines(t *testing.T) {
	r := newRig(t, nil)
	r.write("a.log", "one\n\n  \ntwo\r\n")
	r.settle(time.Second)
	r.write("a.log", "three\nfo")
	r.settle(time.Second)
	r.want("one", "two", "three")
	r.write("a.log", "ur\n")
	r.settle(time.Second)
	r.want("one", "two", "three", "four")
	e := r.event("four")
	if e.Source != r.path("a.log") || e.Host != "h1" || e.Service != "logtail" {
		t.Errorf("source, host and service: %+v", e)
	}
}

func TestRenamedFileIsTheSameFile(t *testing.T) {
	r := newRig(t, nil)
	r.write("a.log", "one\n")
	r.settle(time.Second)
	r.write("a.log", "two\n") // not read before the rotation
	r.rename("a.log", "a.log.1")
	r.write("a.log.1", "three\n") // a writer that has not reopened yet
	r.write("a.log", "four\n")
	r.settle(time.Second)
	r.want("one", "two", "three", "four")
	if e := r.event("three"); e.Source != r.path("a.log") {
		t.Errorf("source after the rename: %s", e.Source)
	}
}

func TestRenamedToANameThatIsNotFollowed(t *testing.T) {
	for _, restarts := range []bool{false, true} {
		r := newRig(t, func(c *Config) { c.Inputs[0].Paths[0] = strings.TrimSuffix(c.Inputs[0].Paths[0], "*") })
		r.write("a.log", "one\n")
		r.settle(time.Second)
		if restarts {
			r.kill()
		}
		r.write("a.log", "two\n")
		r.rename("a.log", "a.log.1")
		r.write("a.log", "three\n")
		if restarts {
			r.begin()
		}
		r.settle(time.Second)
		r.write("a.log.1", "four\n")
		r.settle(time.Minute)
		if len(r.events) != 4 || r.again != 0 {
			t.Errorf("restart %v: %q, %d twice", restarts, r.bodies(), r.again)
		}
		if n := value(t, r.tail.m.open); n != 1 {
			t.Errorf("%v files are open, want 1: the renamed one is done", n)
		}
	}
}

func TestCopyTruncate(t *testing.T) {
	r := newRig(t, nil)
	r.write("a.log", long+"\ntwo\n")
	r.settle(time.Second)
	r.write("a.log", "three\n") // only in the copy by the time we look
	r.copyTruncate("a.log", "a.log.1")
	r.write("a.log", "four\n")
	r.settle(time.Second)
	r.copyTruncate("a.log", "a.log.2")
	r.write("a.log", long+", and the file has grown past the old position\n")
	r.settle(time.Second)
	r.want(long, "two", "three", "four", long+", and the file has grown past the old position")
}

func TestCopyBeforeTheTruncationIsNotReadTwice(t *testing.T) {
	r := newRig(t, nil)
	r.write("a.log", long+"\n")
	r.settle(time.Second)
	b, err := os.ReadFile(r.path("a.log"))
	if err != nil {
		t.Fatal(err)
	}
	r.write("a.log.1", string(b)) // logrotate has copied and not truncated yet
	r.settle(time.Second)
	r.want(long)
	if err := os.Truncate(r.path("a.log"), 0); err != nil {
		t.Fatal(err)
	}
	r.write("a.log", "next\n")
	r.settle(time.Second)
	r.want(long, "next")
}

func TestSameContentInAnotherFileIsRead(t *testing.T) {
	r := newRig(t, nil)
	r.write("a.log", long+"\n")
	r.settle(time.Second)
	r.write("b.log", long+"\n")
	r.settle(time.Second)
	// A job that writes the same each time into a new file of the same name.
	r.rename("a.log", "a.log.1")
	r.write("a.log", long+"\n")
	r.settle(time.Second)
	r.want(long, long, long)
}

func TestWhatWasReadBeforeIsNotReadAgainAfterARestart(t *testing.T) {
	r := newRig(t, nil)
	r.write("a.log", "one\ntwo\n")
	r.settle(time.Second)
	r.kill()
	r.begin()
	r.write("a.log", "three\n")
	r.settle(time.Second)
	r.want("one", "two", "three")
	if r.again != 0 {
		t.Errorf("%d events came twice", r.again)
	}
}

func TestUnacknowledgedLinesComeAgainWithIDAndTime(t *testing.T) {
	r := newRig(t, nil)
	r.hold = true
	r.write("a.log", "one\ntwo\n")
	r.settle(time.Second)
	r.kill()
	r.now = r.now.Add(time.Hour)
	r.hold = false
	r.begin() // the rig compares the events
	r.settle(time.Second)
	if len(r.events) != 2 || r.again != 2 {
		t.Errorf("%d events, %d came again; want 2 and 2", len(r.events), r.again)
	}
}

func TestReadingStopsWhileKafkaIsAway(t *testing.T) {
	r := newRig(t, func(c *Config) { c.MaxUnacked = 100 << 10 })
	r.hold = true
	var text strings.Builder
	for i := range 50000 {
		fmt.Fprintf(&text, "line %d of a file that is too large to be held\n", i)
	}
	r.write("a.log", text.String())
	r.settle(time.Minute)
	if n := value(t, r.tail.m.unacked); n > 5<<20 || len(r.waiting) > 10000 {
		t.Errorf("%v bytes in %d events are out", n, len(r.waiting))
	}
	r.hold = false
	r.settle(time.Minute)
	if len(r.events) != 50000 || r.again != 0 {
		t.Errorf("%d events, %d twice", len(r.events), r.again)
	}
}

func TestLastLineWithoutItsEnd(t *testing.T) {
	r := newRig(t, nil)
	r.write("a.log", "one\nhalf")
	r.settle(4 * time.Second)
	r.want("one")
	r.settle(4 * time.Second)
	r.want("one", "half")
	r.write("a.log", " and half\n")
	r.settle(time.Second)
	r.want("one", "half", " and half")
	if a, b := r.event("half").Attributes, r.event(" and half").Attributes; a[attrUnended] == "" || b[attrContinued] == "" {
		t.Errorf("the halves are not marked: %v %v", a, b)
	}
	if n := value(t, r.tail.m.partial); n != 1 {
		t.Errorf("%v partial lines counted", n)
	}
}

func TestACharacterIsNeverSplit(t *testing.T) {
	r := newRig(t, nil)
	r.write("a.log", "gr\xc3")
	r.settle(10 * time.Second) // idle: what is whole is taken
	r.want("gr")
	r.write("a.log", "\xbc\xc3\x9fe\n")
	r.settle(time.Second)
	r.want("gr", "üße")
	r.write("a.log", "\xe2\x82")
	r.settle(time.Minute)
	r.write("a.log", "\xac\n")
	r.settle(time.Second)
	r.want("gr", "üße", "€")
	if n := value(t, r.tail.m.invalid); n != 0 {
		t.Errorf("%v bytes counted as invalid", n)
	}
	r.write("a.log", "caf\xe9 au lait\n")
	r.settle(time.Second)
	r.want("gr", "üße", "€", "caf\uFFFD au lait")
	if n := value(t, r.tail.m.invalid); n != 1 {
		t.Errorf("%v bytes counted as invalid, want 1", n)
	}
}

func TestLongLinesAreCutBetweenCharacters(t *testing.T) {
	r := newRig(t, func(c *Config) { c.MaxEvent = 100 })
	line := strings.Repeat("€", 100) // 300 bytes
	r.write("a.log", line+"\nshort\n")
	r.settle(time.Second)
	var joined strings.Builder
	for _, b := range r.bodies() {
		if len(b) > 100 {
			t.Errorf("an event of %d bytes", len(b))
		}
		if b != "short" {
			joined.WriteString(b)
		}
	}
	if joined.String() != line {
		t.Errorf("cut into %q", r.bodies())
	}
	if n := value(t, r.tail.m.cut); n != 3 {
		t.Errorf("%v cut, want 3", n)
	}
}

func TestBinaryAndCompressedFilesAreSkipped(t *testing.T) {
	r := newRig(t, nil)
	r.write("a.log", "\x00\x01\x02\x03binary\n")
	r.write("b.log.1", "\x1f\x8b\x08 gzip\n")
	r.write("c.log.gz", "text, but excluded by name\n")
	r.write("d.log", "text\n")
	r.settle(time.Second)
	r.want("text")
	if n := value(t, r.tail.m.binary); n != 2 {
		t.Errorf("%v binary files counted, want 2", n)
	}
}

func TestHoleLeftByATruncation(t *testing.T) {
	r := newRig(t, nil)
	r.write("a.log", "one\n")
	r.settle(time.Second)
	if err := os.WriteFile(r.path("a.log"), append(make([]byte, 300<<10), "two\n"...), 0o600); err != nil {
		t.Fatal(err)
	}
	r.settle(time.Second)
	r.want("one", "two")
}

func TestMultiline(t *testing.T) {
	r := newRig(t, func(c *Config) { c.Inputs[0].Multiline = `^\d{4}-`; c.MaxEvent = 200 })
	r.write("a.log", "tail of an older event\n2026-03-01 boom\n\tat f\n\n\tat g\n2026-03-01 next\n")
	r.settle(time.Second)
	r.want("tail of an older event", "2026-03-01 boom\n\tat f\n\n\tat g")
	r.settle(10 * time.Second)
	r.want("tail of an older event", "2026-03-01 boom\n\tat f\n\n\tat g", "2026-03-01 next")
	r.write("a.log", "2026-03-01 huge\n"+strings.Repeat("\tat a place that is far away\n", 20))
	r.settle(10 * time.Second)
	for _, b := range r.bodies() {
		if len(b) > 200 {
			t.Errorf("an event of %d bytes", len(b))
		}
	}
	if n := strings.Count(strings.Join(r.bodies(), ""), "far away"); n != 20 {
		t.Errorf("%d of 20 lines of the huge event arrived", n)
	}
}

func TestLinksLeadToOneFile(t *testing.T) {
	r := newRig(t, nil)
	other := t.TempDir()
	if err := os.Symlink(filepath.Join(other, "real"), r.path("current.log")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(other, "real"), r.path("same.log")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(other, "real"), []byte("one\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r.settle(time.Second)
	r.want("one")
	if e := r.event("one"); e.Source != r.path("current.log") {
		t.Errorf("source %s", e.Source)
	}
}

func TestFewFilesAreOpenAtATime(t *testing.T) {
	r := newRig(t, func(c *Config) { c.MaxOpen = 3 })
	for round := range 3 {
		for i := range 20 {
			r.write(fmt.Sprintf("%02d.log", i), fmt.Sprintf("file %d round %d\n", i, round))
		}
		r.settle(time.Second)
		if n := value(t, r.tail.m.open); n > 3 {
			t.Errorf("%v files are open", n)
		}
	}
	if len(r.events) != 60 {
		t.Errorf("%d of 60 lines arrived", len(r.events))
	}
}

func TestAFullDiskStopsReadingAndLosesNothing(t *testing.T) {
	r := newRig(t, nil)
	r.write("a.log", "one\n")
	r.settle(time.Second)
	good := r.tail.journal.write
	r.tail.journal.write = func(f *os.File, b []byte, at int64) error {
		_, _ = f.WriteAt(b[:len(b)/2], at)
		return os.ErrInvalid
	}
	r.write("a.log", "two\n")
	r.settle(time.Second)
	r.want("one")
	r.tail.journal.write = good
	r.settle(time.Second)
	r.want("one", "two")
	r.kill()
	r.begin()
	r.settle(time.Second)
	if r.again != 0 {
		t.Error("the journal lost the position")
	}
}

func TestTimesOutOfBoundsTakeTheTimeOfReading(t *testing.T) {
	r := newRig(t, nil)
	r.write("a.log", "2026-03-01T11:59:58.5Z near\n2020-01-01T00:00:00Z old\n2026-03-02T12:00:00Z ahead\nnone\n")
	r.settle(0)
	read := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for body, want := range map[string]time.Time{
		"2026-03-01T11:59:58.5Z near": read.Add(-1500 * time.Millisecond),
		"2020-01-01T00:00:00Z old":    read, "2026-03-02T12:00:00Z ahead": read, "none": read,
	} {
		if e := r.event(body); e.Time != want.UnixMicro() {
			t.Errorf("%q has time %s, want %s", body, time.UnixMicro(e.Time).UTC(), want)
		}
	}
	if got := r.event("2020-01-01T00:00:00Z old").Attributes[attrTime]; got != "2020-01-01T00:00:00Z" {
		t.Errorf("original time %q", got)
	}
}

func TestCopyTruncateWhileReadingIsStopped(t *testing.T) {
	r := newRig(t, func(c *Config) { c.MaxUnacked = 1 << 10 })
	r.hold = true
	lines := func(from, n int) (text string) {
		for i := range n {
			text += fmt.Sprintf("line %d of a file that is read to its middle\n", from+i)
		}
		return text
	}
	r.write("a.log", lines(0, 10))
	r.settle(time.Second)
	r.write("a.log", lines(10, 10))
	r.copyTruncate("a.log", "a.log.1")
	r.write("a.log", lines(20, 30)) // it has grown past the position
	r.settle(time.Second)
	r.rename("a.log", "a.log.2")
	r.settle(time.Second)
	r.hold = false
	r.settle(time.Second)
	if len(r.events) != 50 {
		t.Errorf("%d events of 50 lines", len(r.events))
	}
}
