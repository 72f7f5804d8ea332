package spool

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func open(t *testing.T, dir string, most int64) *Spool {
	t.Helper()
	s, err := Open(dir, most)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func put(t *testing.T, s *Spool, data ...string) int {
	t.Helper()
	var all [][]byte
	for _, d := range data {
		all = append(all, []byte(d))
	}
	dropped, err := s.Append(all...)
	if err != nil {
		t.Fatal(err)
	}
	return dropped
}

func rest(t *testing.T, s *Spool) (data []string, seqs []uint64) {
	t.Helper()
	for {
		es, err := s.Next(64)
		if err != nil {
			t.Fatal(err)
		}
		if len(es) == 0 {
			return data, seqs
		}
		for _, e := range es {
			data = append(data, string(e.Data))
			seqs = append(seqs, e.Seq)
		}
	}
}

func TestWhatIsNotAcknowledgedComesAgainAfterACrash(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, 1<<20)
	put(t, s, "a", "b", "c")
	put(t, s, "d")
	data, seqs := rest(t, s)
	if got := strings.Join(data, ""); got != "abcd" {
		t.Fatalf("read %q, want abcd", got)
	}
	for _, i := range []int{0, 2} { // b is still out
		if err := s.Ack(seqs[i]); err != nil {
			t.Fatal(err)
		}
	}
	_ = s.Close() // nothing is written by Close: this is what a kill leaves

	s = open(t, dir, 1<<20)
	put(t, s, "e")
	data, seqs = rest(t, s)
	if got := strings.Join(data, ""); got != "bcde" {
		t.Errorf("after the restart read %q, want bcde", got)
	}
	for _, seq := range seqs {
		if err := s.Ack(seq); err != nil {
			t.Fatal(err)
		}
	}
	_ = s.Close()
	s = open(t, dir, 1<<20)
	if data, _ = rest(t, s); len(data) != 0 {
		t.Errorf("acknowledged records came again: %q", data)
	}
	if names, _ := filepath.Glob(filepath.Join(dir, "*.seg")); len(names) != 0 {
		t.Errorf("segments left over: %v", names)
	}
}

func TestTornTailIsCutOff(t *testing.T) {
	whole := AppendFrame(AppendFrame(nil, []byte("first")), []byte("second"))
	for cut := range len(whole) + 1 {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%020d.seg", 7)), whole[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		s := open(t, dir, 1<<20)
		put(t, s, "new")
		data, _ := rest(t, s)
		want := "new"
		if cut >= frameHead+5 {
			want = "first,new"
		}
		if cut == len(whole) {
			want = "first,second,new"
		}
		if got := strings.Join(data, ","); got != want {
			t.Errorf("cut at %d: read %q, want %q", cut, got, want)
		}
	}
}

func TestTheOldestIsDroppedAndCountedWhenFull(t *testing.T) {
	s := open(t, t.TempDir(), 64<<10)
	dropped, n := 0, 2000
	for i := range n {
		dropped += put(t, s, fmt.Sprintf("%0100d", i))
	}
	if _, bytes := s.Waiting(); bytes > 64<<10 {
		t.Errorf("the spool holds %d bytes, over its bound", bytes)
	}
	data, seqs := rest(t, s)
	if dropped == 0 || dropped+len(data) != n {
		t.Errorf("%d dropped and %d left of %d", dropped, len(data), n)
	}
	if want := fmt.Sprintf("%0100d", dropped); data[0] != want {
		t.Errorf("the oldest left is %s, want %s", data[0], want)
	}
	if err := s.Ack(0); err != nil { // a late acknowledgement of a dropped one
		t.Error(err)
	}
	if seqs[0] != uint64(dropped) {
		t.Errorf("first sequence number %d, want %d", seqs[0], dropped)
	}
}

func TestDamageInTheMiddleLosesOnlyThatSegmentsRest(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, 64<<10)
	for i := range 200 {
		put(t, s, fmt.Sprintf("%0100d", i))
	}
	_ = s.Close()
	names, _ := filepath.Glob(filepath.Join(dir, "*.seg"))
	b, err := os.ReadFile(names[1])
	if err != nil || len(names) < 3 {
		t.Fatalf("%d segments, %v", len(names), err)
	}
	b[len(b)/2] ^= 1
	if err := os.WriteFile(names[1], b, 0o600); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir, 64<<10)
	data, seqs := rest(t, s)
	if len(data) < 150 || data[len(data)-1] != fmt.Sprintf("%0100d", 199) {
		t.Fatalf("%d of 200 records left, the last is %s", len(data), data[len(data)-1])
	}
	for _, seq := range seqs {
		if err := s.Ack(seq); err != nil {
			t.Fatal(err)
		}
	}
	if n, _ := s.Waiting(); n != 0 {
		t.Errorf("%d records wait for ever behind the damage", n)
	}
}

func TestOneProcessAtATime(t *testing.T) {
	dir := t.TempDir()
	open(t, dir, 1<<20)
	if _, err := Open(dir, 1<<20); !errors.Is(err, ErrLocked) {
		t.Errorf("opened twice: %v", err)
	}
}

// TestAgainstAModel runs random schedules of appending, reading, acknowledging out of order and crashing.
func TestAgainstAModel(t *testing.T) {
	for seed := range uint64(60) {
		r := rand.New(rand.NewPCG(seed, 1))
		dir := t.TempDir()
		s := open(t, dir, 1<<20)
		acked := map[string]bool{}
		out := map[uint64]string{}
		n := 0
		for range 300 {
			switch r.IntN(10) {
			case 0, 1, 2:
				var batch []string
				for range r.IntN(5) + 1 {
					batch = append(batch, fmt.Sprintf("%d:%s", n, strings.Repeat("x", r.IntN(900))))
					n++
				}
				put(t, s, batch...)
			case 3, 4, 5:
				es, err := s.Next(r.IntN(1000))
				if err != nil {
					t.Fatal(err)
				}
				for _, e := range es {
					id, _, _ := strings.Cut(string(e.Data), ":")
					out[e.Seq] = id
				}
			case 6, 7, 8:
				for seq, id := range out {
					if err := s.Ack(seq); err != nil {
						t.Fatal(err)
					}
					acked[id] = true
					delete(out, seq)
					break
				}
			case 9:
				_ = s.Close()
				clear(out)
				s = open(t, dir, 1<<20)
			}
		}
		_ = s.Close()
		s = open(t, dir, 1<<20)
		data, _ := rest(t, s)
		for _, d := range data {
			id, _, _ := strings.Cut(d, ":")
			acked[id] = true
		}
		if len(acked) != n {
			t.Fatalf("seed %d: %d of %d records were neither acknowledged nor read again", seed, n-len(acked), n)
		}
	}
}

func FuzzFrames(f *testing.F) {
	f.Add(AppendFrame(AppendFrame(nil, []byte("first")), nil))
	f.Add(make([]byte, 64))
	f.Fuzz(func(t *testing.T, b []byte) {
		var again []byte
		good, _, err := Frames(strings.NewReader(string(b)), func(p []byte) error {
			again = AppendFrame(again, p)
			return nil
		})
		if err != nil || string(again) != string(b[:good]) {
			t.Errorf("%d good bytes, %v: framing what was read gives %x", good, err, again)
		}
	})
}
