package lake

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

const enough = 64 << 20

// verified gives the account of partition 0.
func (s *store) verified() VerifiedPartition {
	s.t.Helper()
	v, err := s.open().Verify(s.t.Context(), enough)
	if err != nil {
		s.t.Fatal(err)
	}
	if len(v.Partitions) != 1 || v.OK() != v.Partitions[0].OK() {
		s.t.Fatalf("%+v", v)
	}
	return v.Partitions[0]
}

// span commits the rows of some offsets and says what it likes of the rest.
func (s *store) span(c Counts, offsets ...Range) {
	s.t.Helper()
	tb := s.open()
	w, err := tb.NewWriter(s.t.Context(), WriterConfig{Memory: 1 << 20, GroupRows: 50})
	if err != nil {
		s.t.Fatal(err)
	}
	for _, r := range offsets {
		if err := w.Add(s.t.Context(), s.typ, s.records(r.First, r.Next)); err != nil {
			s.t.Fatal(err)
		}
	}
	files, err := w.Finish()
	if err != nil {
		s.t.Fatal(err)
	}
	commit := s.commit(tb, c.First, c.First)
	commit.Files, commit.Spans = files, map[TopicPartition]Counts{{Topic: s.typ.Topic.Name}: c}
	if err := tb.Commit(s.t.Context(), commit); err != nil {
		s.t.Fatal(err)
	}
}

func TestVerifyAccountsForEveryOffset(t *testing.T) {
	s := newStore(t)
	s.span(Counts{First: 5, Next: 105, Rows: 100}, Range{5, 105})
	s.span(Counts{First: 105, Next: 205, Rows: 90, Dead: 6, Skipped: 4}, Range{105, 150}, Range{160, 205})
	p := s.verified()
	if !p.OK() || p.First != 5 || p.Next != 205 || p.Found != 190 || p.Dead != 6 || p.Skipped != 4 {
		t.Errorf("%+v", p)
	}
	if text, err := json.Marshal(p); err != nil || strings.Contains(string(text), "absent") || !strings.Contains(string(text), `"next":205`) {
		t.Errorf("as JSON %s (%v)", text, err)
	}
}

func TestVerifyFindsWhatIsWrong(t *testing.T) {
	for name, c := range map[string]struct {
		counts Counts
		rows   []Range
		want   VerifiedPartition
	}{
		"missing": {
			Counts{Next: 100, Rows: 98, Dead: 2},
			[]Range{{0, 10}, {12, 50}, {53, 100}},
			VerifiedPartition{Found: 95, Missing: 3, Absent: Ranges{Count: 5, Ranges: []Range{{10, 12}, {50, 53}}}},
		},
		"double": {
			Counts{Next: 100, Rows: 100},
			[]Range{{0, 100}, {20, 22}, {21, 22}},
			VerifiedPartition{Found: 103, Double: Ranges{Count: 2, Ranges: []Range{{20, 22}}}, Surplus: 1},
		},
		"one double hides one missing": {
			Counts{Next: 100, Rows: 100},
			[]Range{{0, 99}, {7, 8}},
			VerifiedPartition{
				Found: 100, Missing: 1, Absent: Ranges{Count: 1, Ranges: []Range{{99, 100}}},
				Double: Ranges{Count: 1, Ranges: []Range{{7, 8}}},
			},
		},
		"beyond": {
			Counts{Next: 100, Rows: 100},
			[]Range{{0, 103}},
			VerifiedPartition{Found: 103, Strange: Ranges{Count: 3, Ranges: []Range{{100, 103}}}},
		},
		"a dead letter that is a row": {
			Counts{Next: 100, Rows: 99, Dead: 1},
			[]Range{{0, 100}},
			VerifiedPartition{Found: 100, Surplus: 1},
		},
		"an account that does not add up": {
			Counts{Next: 100, Rows: 100, Skipped: 1},
			[]Range{{0, 100}},
			VerifiedPartition{Found: 100, Surplus: 1, Problem: "the account of the offsets 0 to 100 does not add up: 100 rows, 0 dead, 1 skipped"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			s.span(c.counts, c.rows...)
			c.want.Topic, c.want.Counts = s.typ.Topic.Name, c.counts
			if d := cmp.Diff(c.want, s.verified()); d != "" {
				t.Error(d)
			}
		})
	}
}

// TestVerifyOverAnotherLog has two logs of the same topic in one table, whose offsets are partly the same.
func TestVerifyOverAnotherLog(t *testing.T) {
	s := newStore(t)
	s.span(Counts{Next: 100, Rows: 98, Skipped: 2}, Range{0, 98})
	anew := Source{Cluster: "cluster", TopicID: "anew"}
	s.adopt(logOf(anew, 0, 500), false)
	tb := s.open()
	c := s.commit(tb, 0, 60)
	c.Sources[s.typ.Topic.Name] = anew
	if err := tb.Commit(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if p := s.verified(); !p.OK() || p.Former != 100 || p.Found != 158 || p.Rows != 60 {
		t.Errorf("%+v", p)
	}
}

func TestVerifySaysWhereATableWasRolledBack(t *testing.T) {
	s := newStore(t)
	s.put(s.open(), 0, 10)
	s.put(s.open(), 10, 20)
	s.rollBack()
	if p := s.verified(); p.OK() || p.Missing != 10 || !strings.HasPrefix(p.Problem, "rolled_back") {
		t.Errorf("%+v", p)
	}
	s.adopt(logOf(here, 0, 30), false)
	if p := s.verified(); !p.OK() {
		t.Errorf("after adopting it: %+v", p)
	}
}

func TestVerifyIsBounded(t *testing.T) {
	s := newStore(t)
	s.put(s.open(), 0, 10)
	if _, err := s.open().Verify(t.Context(), pageCost-1); !errors.Is(err, errMemory) {
		t.Errorf("got %v", err)
	}
}

// TestBitmap holds the bitmap against a map.
func TestBitmap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := newBitmap(&room{left: 1 << 30})
		in := map[int64]bool{}
		spot := rapid.Int64Range(0, 3*pageBits)
		for range rapid.IntRange(0, 5).Draw(t, "runs") {
			first := spot.Draw(t, "first")
			next := min(first+rapid.Int64Range(0, 2*pageBits).Draw(t, "length"), 3*pageBits)
			for o := first; o < next; o++ {
				if fresh, err := b.add(o); err != nil || fresh == in[o] {
					t.Fatalf("%d was fresh: %v (%v)", o, fresh, err)
				}
				in[o] = true
			}
		}
		var present, absent, wantPresent, wantAbsent Ranges
		first, next := spot.Draw(t, "from"), spot.Draw(t, "to")
		b.present(&present)
		b.absent(first, next, &absent)
		for o := range int64(3 * pageBits) {
			if in[o] {
				wantPresent.add(o, o+1)
			} else if first <= o && o < next {
				wantAbsent.add(o, o+1)
			}
		}
		if !slices.Equal(present.Ranges, wantPresent.Ranges) || !slices.Equal(absent.Ranges, wantAbsent.Ranges) {
			t.Fatalf("present %v want %v; absent in [%d,%d) %v want %v", present, wantPresent, first, next, absent, wantAbsent)
		}
	})
}
