package status_test

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace/millrace/pkg/status"
)

// run prints for three intervals of one second while the store applies 500 records a second, and the lake commits 3,000
// after two.
func run(t *testing.T, size func() (int, int)) string {
	t.Helper()
	var out bytes.Buffer
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		table := status.Table{
			Out: &out, Size: size, Every: time.Second, Now: time.Now, Note: "logs: here",
			Rows: func() []status.Row {
				n := int64(time.Since(start).Seconds())
				return []status.Row{
					{Destination: "store", Topic: "millrace.log", Produced: 1_234_567, Applied: 1_233_067 + 500*n, Lag: 1500 * time.Millisecond, LagKnown: true},
					{Destination: "store", Topic: "millrace.metric", Produced: 10, Applied: 10, LagKnown: true},
					{Destination: "lake", Topic: "millrace.log", Produced: 5, Applied: 7 + n/2*3000, State: "rolled_back"},
				}
			},
		}
		ctx, cancel := context.WithTimeout(t.Context(), 2500*time.Millisecond)
		defer cancel()
		if err := table.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	return out.String()
}

func TestOneLinePerIntervalWhenPiped(t *testing.T) {
	want := `00:00:00  store: produced=1234577 applied=1233077 lag=1500 lag_s=1.5 rate=0/s  lake: produced=5 applied=7 lag=-2 lag_s=unknown rate=0/s (rolled_back)
00:00:01  store: produced=1234577 applied=1233577 lag=1000 lag_s=1.5 rate=500/s  lake: produced=5 applied=7 lag=-2 lag_s=unknown rate=0/s (rolled_back)
00:00:02  store: produced=1234577 applied=1234077 lag=500 lag_s=1.5 rate=500/s  lake: produced=5 applied=3007 lag=-3002 lag_s=unknown rate=1500/s (rolled_back)
`
	if diff := cmp.Diff(want, run(t, nil)); diff != "" {
		t.Error(diff)
	}
}

// screen is what a terminal of that size shows after what was written: enough of one for cursor up, erase and scroll.
type screen struct {
	width, height int
	lines         []string
	row           int
	lost          int // lines that scrolled away
}

func (s *screen) write(t *testing.T, out string) {
	t.Helper()
	for out != "" {
		if rest, ok := strings.CutPrefix(out, "\x1b["); ok {
			end := strings.IndexAny(rest, "AKJ")
			n := 0
			for _, c := range rest[:end] {
				n = n*10 + int(c-'0')
			}
			switch rest[end] {
			case 'A':
				s.row = max(0, s.row-n)
			case 'J':
				s.lines = s.lines[:min(len(s.lines), s.row)]
			}
			out = rest[end+1:]
			continue
		}
		text, rest, _ := strings.Cut(out, "\n")
		text, esc, found := strings.Cut(text, "\x1b[K")
		if !found || esc != "" {
			t.Fatalf("a line that is not erased to its end: %q", text)
		}
		for first := true; first || text != ""; first = false { // a long line wraps
			cut := min(len(text), s.width)
			if s.row == len(s.lines) {
				s.lines = append(s.lines, "")
			}
			s.lines[s.row] = text[:cut]
			text = text[cut:]
			s.row++
			if s.row >= s.height {
				s.lines, s.row, s.lost = s.lines[1:], s.row-1, s.lost+1
			}
		}
		out = rest
	}
}

func TestTableRefreshesInPlace(t *testing.T) {
	f := func(width, height int, want string) {
		t.Helper()
		s := screen{width: width, height: height}
		s.write(t, run(t, func() (int, int) { return width, height }))
		if diff := cmp.Diff(strings.Split(strings.TrimSuffix(want, "\n"), "\n"), s.lines); diff != "" || s.lost != 0 {
			t.Errorf("%d x %d: %d lines scrolled away, %s", width, height, s.lost, diff)
		}
	}
	f(150, 40, `00:00:02
DESTINATION TOPIC            PRODUCED   APPLIED    LAG LAG (s) REC/S
store       millrace.log    1 234 567 1 234 067    500     1.5   500
store       millrace.metric        10        10      0     0.0     0
lake        millrace.log            5     3 007 -3 002 unknown  1500 rolled_back
logs: here
`)
	f(30, 24, `00:00:02
DESTINATION TOPIC            P
store       millrace.log    1 
store       millrace.metric   
lake        millrace.log      
logs: here
`)
	f(150, 5, `00:00:02
DESTINATION TOPIC            PRODUCED   APPLIED    LAG LAG (s) REC/S
store       millrace.log    1 234 567 1 234 067    500     1.5   500
(3 more lines: make the window higher)
`)
}
