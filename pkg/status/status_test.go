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

// run prints for three intervals of one second while the store applies 500 records a second.
func run(t *testing.T, terminal bool) string {
	t.Helper()
	var out bytes.Buffer
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		table := status.Table{
			Out: &out, Terminal: terminal, Every: time.Second, Now: time.Now,
			Rows: func() []status.Row {
				n := int64(time.Since(start).Seconds())
				return []status.Row{
					{Destination: "store", Topic: "millrace.log", Produced: 1_234_567, Applied: 1_233_067 + 500*n, Lag: 1500 * time.Millisecond, LagKnown: true},
					{Destination: "store", Topic: "millrace.metric", Produced: 10, Applied: 10, LagKnown: true},
					{Destination: "lake", Topic: "millrace.log", Produced: 5, Applied: 7, State: "rolled_back"},
				}
			},
			Note: func() string { return "logs: here" },
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
00:00:02  store: produced=1234577 applied=1234077 lag=500 lag_s=1.5 rate=500/s  lake: produced=5 applied=7 lag=-2 lag_s=unknown rate=0/s (rolled_back)
`
	if diff := cmp.Diff(want, run(t, false)); diff != "" {
		t.Error(diff)
	}
}

func TestTableRefreshesInPlace(t *testing.T) {
	got := run(t, true)
	frames := strings.Split(got, "\x1b[6A\x1b[J") // back over the six lines of the frame before
	if len(frames) != 3 {
		t.Fatalf("%d frames, want 3: %q", len(frames), got)
	}
	want := `00:00:01
DESTINATION    TOPIC                        PRODUCED      APPLIED        LAG    LAG (s)  RECORDS/S  
store          millrace.log                1 234 567    1 233 567      1 000        1.5        500  
store          millrace.metric                    10           10          0        0.0          0  
lake           millrace.log                        5            7         -2    unknown          0  rolled_back
logs: here
`
	if diff := cmp.Diff(want, frames[1]); diff != "" {
		t.Error(diff)
	}
}
