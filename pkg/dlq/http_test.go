package dlq

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace/millrace/pkg/httpserver"
	"github.com/millrace/millrace/pkg/telemetry"
)

// caller asks the routes through the server's own guard.
type caller struct {
	*world

	handler http.Handler
	log     bytes.Buffer
}

func (w *world) caller() *caller {
	w.Helper()
	c := &caller{world: w}
	w.Log = slog.New(slog.NewTextHandler(&c.log, nil))
	s, err := httpserver.New(httpserver.Default(), telemetry.Discard(), prometheus.NewRegistry())
	if err != nil {
		w.Fatal(err)
	}
	w.Register(s)
	c.handler = s.Handler()
	return c
}

// ask wants a status, and gives the answer; header is name and value by turns.
func (c *caller) ask(method, path, body string, status int, into any, header ...string) string {
	c.Helper()
	r := httptest.NewRequestWithContext(c.Context(), method, path, strings.NewReader(body))
	r.RemoteAddr = "192.0.2.7:4711"
	if r.Host == "example.com" { // what httptest takes for no host
		r.Host = "127.0.0.1:9470"
	}
	r.Header.Set("Content-Type", "application/json; charset=utf-8")
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	rec := httptest.NewRecorder()
	c.handler.ServeHTTP(rec, r)
	if rec.Code != status {
		c.Errorf("%s %s %s: %d %s, want %d", method, path, body, rec.Code, rec.Body, status)
	}
	if into != nil {
		if err := json.Unmarshal(rec.Body.Bytes(), into); err != nil {
			c.Errorf("%s: %v", path, err)
		}
	}
	return rec.Body.String()
}

func TestHTTPReads(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.produce(letter("one", "lake", "refused", 1))
	c := w.caller()
	var list Answer
	c.ask("GET", "/api/v1/dlq?destination=lake", "", http.StatusOK, &list)
	if len(list.Groups) != 1 || list.Groups[0].Open != 1 {
		t.Errorf("%+v", list)
	}
	var v struct {
		Letter string
		Record map[string]any
	}
	c.ask("GET", "/api/v1/dlq/millrace.a/0/0", "", http.StatusOK, &v)
	if v.Letter != "millrace.a.dlq/0/0" || v.Record["id"] != "one" {
		t.Errorf("%+v", v)
	}
	c.ask("GET", "/api/v1/dlq/millrace.a.dlq/0/1", "", http.StatusNotFound, nil)
	c.ask("GET", "/api/v1/dlq/millrace.a.dlq/9/0", "", http.StatusNotFound, nil)
	c.ask("GET", "/api/v1/dlq/payroll/0/0", "", http.StatusBadRequest, nil)
	c.ask("GET", "/api/v1/dlq/millrace.a/x/0", "", http.StatusBadRequest, nil)
	c.ask("GET", "/api/v1/dlq?topics=a", "", http.StatusBadRequest, nil)
}

func TestHTTPReplaysAndDiscards(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.produce(letter("one", "lake", "refused", 1), letter("two", "cassandra", "refused", 2), letter("three", "lake", "malformed", 3))
	c := w.caller()

	var out Outcome
	c.ask("POST", "/api/v1/dlq/replay", `{"destination":"lake","reason":"refused","by":"ann","dry_run":true}`, http.StatusOK, &out)
	if !out.DryRun || out.Done != 1 || len(out.Letters) != 1 || len(w.cluster.Records(t, origin)) != 0 {
		t.Errorf("dry run: %+v", out)
	}
	out = Outcome{}
	c.ask("POST", "/api/v1/dlq/replay", `{"destination":"lake","reason":"refused","by":"ann","why":"repaired"}`, http.StatusOK, &out)
	if out.DryRun || out.Done != 1 || out.Letters[0] != (LetterOutcome{Letter: "millrace.a.dlq/0/0", Destination: "lake", Reason: "refused"}) {
		t.Errorf("replay: %+v", out)
	}
	if n := len(w.cluster.Records(t, origin)); n != 1 {
		t.Errorf("%d records were published", n)
	}
	var v struct {
		State      string
		Waits      string `json:"waits_for"`
		Resolution Resolution
	}
	c.ask("GET", "/api/v1/dlq/millrace.a/0/0", "", http.StatusOK, &v)
	if v.State != "replaying" || v.Waits == "" || v.Resolution.By != "ann" || v.Resolution.From != "192.0.2.7" || v.Resolution.Replay.Offset != 0 {
		t.Errorf("%+v %+v", v, v.Resolution)
	}
	w.commit("lake", 2, 1)
	c.ask("GET", "/api/v1/dlq/millrace.a/0/0", "", http.StatusOK, &v)
	if v.State != "replayed" {
		t.Errorf("acknowledged, and %s", v.State)
	}

	out = Outcome{}
	c.ask("POST", "/api/v1/dlq/discard", `{"letters":["millrace.a/0/0","millrace.a/0/2"],"by":"bob","why":"a test's"}`, http.StatusOK, &out)
	if out.Done != 1 || out.Refused != 1 || len(out.Letters) != 2 || !strings.Contains(out.Letters[0].Error, "it is resolved: replayed") {
		t.Errorf("discard: %+v", out)
	}
	w.wantCounts("cassandra refused 1/0/0, lake malformed 0/0/1, lake refused 0/0/1")
	for _, line := range []string{
		`order=replayed by=ann from=192.0.2.7 why="" dry_run=true`, `order=replayed by=ann from=192.0.2.7 why=repaired dry_run=false`,
		`order=discarded by=bob from=192.0.2.7 why="a test's" dry_run=false`,
	} {
		if !strings.Contains(c.log.String(), line) {
			t.Errorf("the log lacks %s:\n%s", line, &c.log)
		}
	}
}

func TestHTTPRefuses(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.produce(letter("one", "lake", "refused", 1))
	c := w.caller()
	for _, wrong := range []struct {
		path, body string
		status     int
		says       string
		header     []string
	}{
		{"replay", `{"by":"ann"}`, http.StatusMisdirectedRequest, "allowed_hosts", []string{"Host", "evil.example"}},
		{"replay", `{"by":"ann"}`, http.StatusForbidden, "another origin", []string{"Origin", "https://evil.example"}},
		{"replay", `{"by":"ann"}`, http.StatusForbidden, "another origin", []string{"Sec-Fetch-Site", "cross-site"}},
		{"replay", `{"by":"ann"}`, http.StatusUnsupportedMediaType, "application/json", []string{"Content-Type", "text/plain"}},
		{"replay", ``, http.StatusBadRequest, "no order", nil},
		{"replay", `{"by":"ann"} {}`, http.StatusBadRequest, "more than one", nil},
		{"replay", `{"by":"ann","dryrun":true}`, http.StatusBadRequest, "dryrun", nil},
		{"replay", `{"by":"ann","limit":"1"}`, http.StatusBadRequest, "limit", nil},
		{"replay", `{}`, http.StatusBadRequest, "by whom", nil},
		{"replay", `{"by":" "}`, http.StatusBadRequest, "by whom", nil},
		{"replay", `{"by":"` + strings.Repeat("a", 257) + `"}`, http.StatusBadRequest, "by whom", nil},
		{"replay", `{"by":"ann","why":"` + strings.Repeat("a", 2049) + `"}`, http.StatusBadRequest, "2049 bytes", nil},
		{"replay", `{"by":"ann","limit":0}`, http.StatusBadRequest, "limit is 0", nil},
		{"replay", `{"by":"ann","limit":1001}`, http.StatusBadRequest, "limit is 1001", nil},
		{"replay", `{"by":"ann","max_loops":0}`, http.StatusBadRequest, "max_loops is 0", nil},
		{"replay", `{"by":"ann","letters":["a/b"]}`, http.StatusBadRequest, "TOPIC/PARTITION/OFFSET", nil},
		{"replay", `{"by":"ann","letters":["millrace.a/0/0","millrace.a/0/1"],"limit":1}`, http.StatusBadRequest, "2 letters are named", nil},
		{"replay", `{"by":"ann","topic":"payroll"}`, http.StatusBadRequest, "payroll is no data type's topic", nil},
		{"replay", `{"by":"ann","letters":["millrace.a/0/77"]}`, http.StatusNotFound, "no such dead letter", nil},
		{"replay", `{"by":"ann","letters":[` + strings.Repeat(`"millrace.a/0/0",`, 20_000) + `]}`, http.StatusRequestEntityTooLarge, "262144", nil},
		{"discard", `{"by":"ann","topic":"millrace.a"}`, http.StatusBadRequest, "only with a reason", nil},
		{"discard", `{"by":"ann","why":"all of it"}`, http.StatusBadRequest, "say which", nil},
		{"discard", `{"by":"ann","why":"w","topic":"millrace.a","force":true}`, http.StatusBadRequest, "force", nil},
	} {
		host := "127.0.0.1"
		if len(wrong.header) > 0 && wrong.header[0] == "Host" {
			host, wrong.header = wrong.header[1], nil
		}
		said := c.ask("POST", "http://"+host+"/api/v1/dlq/"+wrong.path, wrong.body, wrong.status, &struct{}{}, wrong.header...)
		if !strings.Contains(said, wrong.says) {
			t.Errorf("%s %.80s: %s; want %q", wrong.path, wrong.body, said, wrong.says)
		}
	}
	c.ask("GET", "/api/v1/dlq/replay", "", http.StatusMethodNotAllowed, nil)
	w.wantCounts("lake refused 1/0/0")

	fault := w.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: origin, Err: kerr.InvalidRecord, Count: -1})
	if said := c.ask("POST", "/api/v1/dlq/replay", `{"by":"ann"}`, http.StatusServiceUnavailable, nil); !strings.Contains(said, "INVALID_RECORD") {
		t.Error(said)
	}
	fault.Remove()
	w.cluster.Close()
	said := c.ask("POST", "/api/v1/dlq/replay", `{"by":"ann"}`, http.StatusServiceUnavailable, nil)
	t.Log(said)
	if n := strings.Count(c.log.String(), "an order over HTTP"); n != 3 { // the unknown letter, and these two
		t.Errorf("%d lines:\n%s", n, fmt.Sprint(&c.log))
	}
}
