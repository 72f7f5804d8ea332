package main

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace/millrace/pkg/lag"
)

func between(low, high float64, by lag.Method) lag.Seconds {
	return lag.Seconds{Low: &low, High: &high, Method: by}
}

// lagView is one of each: late with a cause, known to a bracket, ahead, unknown.
func lagView() *lag.View {
	unknown := lag.Seconds{Method: lag.Unknown}
	return &lag.View{
		AsOf: time.Date(2026, 1, 31, 12, 0, 0, 0, time.Local), Age: 2, Calls: 8, Errors: []string{"listing the groups of broker 3: refused"},
		Flows: []lag.Flow{
			{
				Group: "millrace-lake", Topic: "millrace.log", Partitions: 2, Records: new(int64(1500)), Age: between(95.04, 95.04, lag.ByReport),
				In: new(20.0), Out: new(0.0), CatchUp: new(-1.0), Headroom: new(601_200.0), Expired: 3, Status: lag.Stall, Past: true,
				Cause: lag.Cause{Why: lag.SinkDown, Evidence: "writes of offset 7 on fail: disk full", Next: "bring the destination back"},
				Rows: []lag.Row{
					{Group: "millrace-lake", Topic: "millrace.log", Partition: 1, Records: new(int64(1500)), Age: between(95.04, 95.04, lag.ByReport), Status: lag.Stall, Past: true},
					{Group: "millrace-lake", Topic: "millrace.log", Records: new(int64(0)), Age: between(0, 0, ""), Status: lag.OK},
				},
			},
			{Group: "billing", Topic: "millrace.log", Partitions: 1, Records: new(int64(12)), Age: between(10, 20, lag.ByHistory), In: new(1.25), Out: new(2.0), CatchUp: new(16.0), Status: lag.OK},
			{Group: "copy", Topic: "millrace.log", Partitions: 1, Records: new(int64(-4)), Age: between(0, 0, ""), Status: lag.OK},
			{Group: "new", Topic: "millrace.log", Partitions: 1, Unknown: 1, Age: unknown, Status: lag.OK},
		},
	}
}

func TestLagIsShown(t *testing.T) {
	s := &lagScreen{partitions: true}
	want := `as of 2026-01-31 12:00:00, 2 s ago; 8 requests
not read: listing the groups of broker 3: refused
GROUP         TOPIC         STATUS        LAG    AGE (s) BY      IN/S OUT/S CATCH-UP HEADROOM EXPIRED CAUSE
millrace-lake millrace.log  STALL        1500       95.0 report  20.0   0.0    never     7.0d       3 sink_down
                partition 1 STALL        1500       95.0 report     -     -        -        -       0
billing       millrace.log  OK             12 10.0..20.0 history  1.2   2.0      16s        -       0
copy          millrace.log  OK     ahead by 4        0.0            -     -        -        -       0
new           millrace.log  OK        unknown    unknown unknown    -     -        -        -       0
millrace-lake on millrace.log: sink_down: writes of offset 7 on fail: disk full. What to do: bring the destination back.`
	if diff := cmp.Diff(want, strings.Join(s.lines(lagView()), "\n")); diff != "" {
		t.Error(diff)
	}
	s.colours = true
	if lines := s.lines(lagView()); !strings.HasPrefix(lines[3], red) || !strings.HasSuffix(lines[3], normal) || !strings.HasPrefix(lines[5], green) {
		t.Errorf("what is late is not red: %q", lines)
	}
}

// TestLagForScripts: the exit code, what is chosen, and that a slip in a name is said.
func TestLagForScripts(t *testing.T) {
	v := lagView()
	asked := ""
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = r.URL.String()
		if err := json.NewEncoder(w).Encode(v); err != nil {
			t.Error(err)
		}
	}))
	defer server.Close()
	f := func(wantCode int, wantOut, wantErr string, args ...string) {
		t.Helper()
		out, errs, code := millrace(t, "", append([]string{"lag", "--url", server.URL}, args...)...)
		if code != wantCode || !strings.Contains(out, wantOut) || !strings.Contains(errs, wantErr) {
			t.Errorf("%v: exit code %d, %s%s; want %d, %q and %q", args, code, out, errs, wantCode, wantOut, wantErr)
		}
	}
	f(exitPast, "sink_down", "millrace-lake on millrace.log")
	if asked != "/api/v1/lag?partitions=all" {
		t.Errorf("asked for %s", asked)
	}
	f(exitOK, "10.0..20.0", "", "--group", "billing")
	f(exitFailure, "", "there are: billing, copy, millrace-lake, new", "--group", "biling")
	f(exitFailure, "", "they read: millrace.log", "--topic", "logs")
	f(exitPast, `"lag_records":null`, "", "--json")
	f(exitUsage, "", "above 0", "--every", "0s")
	v = &lag.View{Blind: "no broker", Flows: []lag.Flow{}}
	f(exitPast, "BLIND: no broker", "everything")
	server.Close()
	f(exitFailure, "", "asking the watcher")
}

func TestLagTimes(t *testing.T) {
	for want, s := range map[string]lag.Seconds{
		"unknown": {Method: lag.Unknown}, "5.0 or more": {Low: new(5.0)}, "to 7.0": {High: new(7.0)},
		"6.0": between(5.2, 6, lag.ByAppendTime), "5.0..7.0": between(5, 7, lag.ByHistory),
	} {
		if got := age(s); got != want {
			t.Errorf("%v is shown as %s, want %s", s, got, want)
		}
	}
	for want, s := range map[string]*float64{"-": nil, "never": new(-1.0), "0s": new(0.0), "1m30s": new(90.2), "3.0d": new(259_200.0)} {
		if got := seconds(s); got != want {
			t.Errorf("%v is shown as %s, want %s", s, got, want)
		}
	}
}

// TestTypeOfTheStatusTopic: a type's records must not land among the consumers' reports.
func TestTypeOfTheStatusTopic(t *testing.T) {
	text, err := os.ReadFile("schemas/log.avsc")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "status.avsc")
	if err := os.WriteFile(path, bytes.Replace(text, []byte(`"name": "log"`), []byte(`"name": "status"`), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := loadTypes(TypesConfig{Files: []string{path}}); err == nil || !strings.Contains(err.Error(), lag.StatusTopic) {
		t.Errorf("a type named status: %v", err)
	}
}
