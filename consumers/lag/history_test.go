package lag

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace/millrace/pkg/lag"
)

var noon = time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)

// viewAt is a view with one flow, whose partition 3 is past its objective.
func viewAt(at time.Time, records int64, seconds float64) *lag.View {
	age := lag.Seconds{Low: new(seconds / 2), High: &seconds, Method: lag.ByHistory}
	f := lag.Flow{
		Group: "g", Topic: "t", Partitions: 1, Records: &records, Applied: new(records / 2), Age: age, In: new(12.34), Out: new(-0.5),
		Status: lag.Warn, Cause: lag.Cause{Why: lag.SinkSlow}, Objective: 10, Past: true,
		Rows: []lag.Row{{Group: "g", Topic: "t", Partition: 3, Records: &records, Age: age, Status: lag.Stall, Past: true, Headroom: new(3600.04)}},
	}
	return &lag.View{Cluster: "kafka-1", AsOf: at, Flows: []lag.Flow{f}}
}

var (
	whole = subject{"g", "t", -1}
	third = subject{"g", "t", 3}
)

func add(t *testing.T, h *history, v *lag.View) {
	t.Helper()
	if err := h.add(v); err != nil {
		t.Fatal(err)
	}
}

func open(t *testing.T, dir string, now time.Time) *history {
	t.Helper()
	h := newHistory(10)
	if err := h.open(dir, now); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.close)
	return h
}

func TestHistoryGivesBackWhatItWasGiven(t *testing.T) {
	h := newHistory(10)
	add(t, h, viewAt(noon, 1000, 12.34))
	add(t, h, viewAt(noon.Add(10*time.Second), -3, 0))
	want := []Point{
		{At: noon, Records: new(int64(1000)), Applied: new(int64(500)), Low: new(6.2), High: new(12.3), In: new(12.3), Out: new(-0.5), Status: lag.Warn, Why: lag.SinkSlow},
		{At: noon.Add(10 * time.Second), Records: new(int64(-3)), Applied: new(int64(-1)), Low: new(0.0), High: new(0.0), In: new(12.3), Out: new(-0.5), Status: lag.Warn, Why: lag.SinkSlow},
	}
	if diff := cmp.Diff(want, h.read(whole, noon, noon.Add(time.Minute))); diff != "" {
		t.Error(diff)
	}
	if got := h.read(third, noon, noon.Add(time.Second)); len(got) != 1 || *got[0].Headroom != 3600 || got[0].Status != lag.Stall {
		t.Errorf("of the partition: %+v", got)
	}
	if got := h.read(whole, noon.Add(time.Second), noon.Add(9*time.Second)); len(got) != 0 {
		t.Errorf("between two points there are %+v", got)
	}
}

// TestHistoryKeepsWhatIsUnknownUnknown: it is never 0.
func TestHistoryKeepsWhatIsUnknownUnknown(t *testing.T) {
	h := newHistory(10)
	unknown := lag.Seconds{Method: lag.Unknown}
	add(t, h, &lag.View{AsOf: noon, Flows: []lag.Flow{{Group: "g", Topic: "t", Partitions: 2, Unknown: 2, Age: unknown, Status: lag.OK}}})
	add(t, h, &lag.View{AsOf: noon.Add(time.Second), Flows: []lag.Flow{{Group: "g", Topic: "t", Partitions: 2, Unknown: 1, Records: new(int64(7)), Age: unknown, Status: lag.OK}}})
	got := h.read(whole, noon, noon.Add(time.Minute))
	if len(got) != 2 || got[0].Records != nil || got[0].High != nil || got[0].Low != nil || got[0].Applied != nil || got[0].Headroom != nil {
		t.Errorf("what is not known became %+v", got)
	}
	if got[1].Records == nil || *got[1].Records != 7 || got[1].High != nil {
		t.Errorf("lag of unknown age became %+v", got[1])
	}
	add(t, h, &lag.View{AsOf: noon.Add(2 * time.Second), Blind: "no broker", Flows: []lag.Flow{{Group: "g", Topic: "t"}}})
	if got := h.read(whole, noon, noon.Add(time.Minute)); len(got) != 2 {
		t.Errorf("while blind a point was made: %+v", got)
	}
}

// TestHistorySurvivesARestart within an hour, over hours, and where the last write was torn.
func TestHistorySurvivesARestart(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "lag")
	var want []Point
	at := noon.Add(-30 * time.Hour)
	h := open(t, dir, at)
	for i := range 40 { // 40 minutes each, with a restart after every seventh
		at = at.Add(40 * time.Minute)
		add(t, h, viewAt(at, int64(i), float64(i)))
		if i%7 == 6 {
			h.close()
			h = open(t, dir, at.Add(time.Second))
		}
	}
	want = h.read(whole, time.Time{}, at)
	if first, earliest := want[0].At, at.Add(-25*time.Hour); first.Before(earliest) || len(want) < 36 {
		t.Errorf("%d points from %s on; want those of the last 24 hours, and no more than an hour before", len(want), first)
	}
	h.close()
	if diff := cmp.Diff(want, open(t, dir, at).read(whole, time.Time{}, at)); diff != "" {
		t.Errorf("after a restart: %s", diff)
	}
	// Torn: the last frame is half there.
	files, err := filepath.Glob(filepath.Join(dir, "*"+fileSuffix))
	if err != nil || len(files) > 26 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	last := files[len(files)-1]
	info, err := os.Stat(last)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(last, info.Size()-1); err != nil {
		t.Fatal(err)
	}
	h = open(t, dir, at)
	if diff := cmp.Diff(want[:len(want)-1], h.read(whole, time.Time{}, at)); diff != "" {
		t.Errorf("after a torn write: %s", diff)
	}
	add(t, h, viewAt(at.Add(time.Second), 77, 7))
	h.close()
	got := open(t, dir, at.Add(2*time.Second)).read(whole, time.Time{}, at.Add(time.Hour))
	if n := len(got); n != len(want) || *got[n-1].Records != 77 {
		t.Errorf("what was written after a torn write: %d points, the last %+v", n, got[n-1])
	}
}

// TestHistoryOfAFullDisk goes on in memory, and on disk with the next hour.
func TestHistoryOfAFullDisk(t *testing.T) {
	dir := t.TempDir()
	h := open(t, dir, noon)
	add(t, h, viewAt(noon, 1, 1))
	if err := h.file.f.Close(); err != nil { // writes fail from now on
		t.Fatal(err)
	}
	if err := h.add(viewAt(noon.Add(time.Minute), 2, 2)); err == nil {
		t.Error("a write that failed is not said")
	}
	add(t, h, viewAt(noon.Add(2*time.Minute), 3, 3)) // said once an hour
	add(t, h, viewAt(noon.Add(time.Hour), 4, 4))
	if got := h.read(whole, noon, noon.Add(2*time.Hour)); len(got) != 4 {
		t.Errorf("in memory there are %d points", len(got))
	}
	h.close()
	got := open(t, dir, noon.Add(time.Hour)).read(whole, noon, noon.Add(2*time.Hour))
	if len(got) != 2 || *got[0].Records != 1 || *got[1].Records != 4 {
		t.Errorf("on disk there are %+v", got)
	}
}

// TestHistoryIsSmall: a day at 10 s of a flow that never rests.
func TestHistoryIsSmall(t *testing.T) {
	h := newHistory(10)
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range 8640 {
		v := viewAt(noon.Add(time.Duration(i)*10*time.Second), rng.Int64N(100_000), rng.Float64()*100)
		v.Flows[0].Rows = nil
		add(t, h, v)
	}
	size := 0
	for _, c := range h.all[whole].chunks {
		size += cap(c.buf)
	}
	t.Logf("%d bytes in memory", size)
	if size > 256<<10 {
		t.Errorf("a day of one flow takes %d bytes", size)
	}
	if n := len(h.all[whole].chunks); n > 25 {
		t.Errorf("there are %d hours", n)
	}
}

func FuzzReadFrame(f *testing.F) {
	h := newHistory(10)
	ids := map[subject]uint64{}
	v := viewAt(noon, 5, 5)
	c := h.chunk(whole, noon.UnixMilli())
	f.Add(appendFrame(nil, noon.UnixMilli(), []entry{{whole, c.encode(noon.UnixMilli(), valuesOfFlow(&v.Flows[0]))}}, ids))
	f.Fuzz(func(t *testing.T, b []byte) {
		h := newHistory(10)
		var names []subject
		n := 0
		err := readFrame(b, &names, func(s subject, at int64, p []byte) error {
			n++
			return h.chunk(s, at).append(p)
		})
		if err != nil {
			return
		}
		total := 0
		for _, s := range h.all {
			for _, c := range s.chunks {
				c.each(func(int64, values) { total++ })
			}
		}
		if total != n {
			t.Errorf("%d points were taken and %d are there", n, total)
		}
	})
}

// TestFrames: whatever is written is read.
func TestFrames(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	var c chunk
	var points []values
	at := noon.UnixMilli()
	c.hour = hourOf(at)
	for range 300 {
		var v values
		for i := range v {
			v[i] = rng.Int64() >> rng.IntN(64)
			if rng.IntN(2) == 0 {
				v[i] = -v[i]
			}
		}
		at += 1 + rng.Int64N(1000)
		if c.encode(at, v) == nil {
			t.Fatal("a point was not taken")
		}
		points = append(points, v)
	}
	if c.encode(at, values{}) != nil {
		t.Error("a point at the time of the last was taken")
	}
	i := 0
	c.each(func(_ int64, v values) {
		if v != points[i] {
			t.Errorf("point %d is %v, want %v", i, v, points[i])
		}
		i++
	})
	if i != len(points) {
		t.Errorf("%d points of %d", i, len(points))
	}
	again := chunk{hour: c.hour}
	if err := again.append(append(bytes.Clone(c.buf[:1]), 0xff)); err == nil {
		t.Error("damaged bytes were taken")
	}
}
