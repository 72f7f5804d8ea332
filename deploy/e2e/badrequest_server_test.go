package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// refusal is a line that the gateway refuses, and what it says of it.
type refusal struct {
	line   string
	status int
	field  string
	part   string // of the error
}

// refusals are lines that each lack one thing to be a record.
func refusals() []refusal {
	const good = `"src_ip":"10.0.0.1","dst_ip":"10.0.0.2","dst_port":443,"octets":1`
	at := func(d time.Duration) string { return time.Now().Add(d).UTC().Format(time.RFC3339) }
	return []refusal{
		{`no JSON`, 400, "", "not a JSON object"},
		{`{` + good, 400, "", ""},
		{`[{` + good + `}]`, 400, "", "not a JSON object"},
		{`{` + good + `}{` + good + `}`, 400, "", ""},
		{"{" + good + ",\"note\":\"\xff\"}", 400, "note", "UTF-8"},
		{`{` + strings.Replace(good, "443", `"https"`, 1) + `}`, 400, "dst_port", ""},
		{`{` + strings.Replace(good, "443", "443.5", 1) + `}`, 400, "dst_port", ""},
		{`{` + strings.Replace(good, "443", "2147483648", 1) + `}`, 400, "dst_port", ""},
		{`{` + strings.Replace(good, "443", "null", 1) + `}`, 400, "dst_port", ""},
		{`{` + strings.Replace(good, `,"octets":1`, "", 1) + `}`, 400, "octets", "missing"},
		{`{` + good + `,"octets":2}`, 400, "octets", "twice"},
		{`{` + good + `,"attributes":{"k":1}}`, 400, "attributes.k", "must be a string"},
		{`{` + good + `,"octetts":1}`, 400, "octetts", "is not a field"},
		{`{` + good + `,"id":"7"}`, 400, "id", "UUID"},
		{`{` + good + `,"time":"yesterday"}`, 400, "time", ""},
		{`{` + good + `,"time":"` + at(11*time.Minute) + `"}`, 400, "time", "out of range"},
		{`{` + good + `,"time":"` + at(-8*24*time.Hour) + `"}`, 400, "time", "out of range"},
		{`{` + good + `,"note":"` + strings.Repeat("x", 600<<10) + `"}`, 413, "", "longer than"},
	}
}

// What the gateway and `millrace send` refuse is explained record by record; the records around it are in every
// destination, and nothing of it is a dead letter.
func TestBadRequests(t *testing.T) {
	f, ok := newFlow(t)
	if !ok {
		return
	}
	command(t, nil, "topics", "apply", "--config", f.config)
	running, address := f.run(t, "millrace")
	f.postBetween(t, address)
	f.sendBetween(t, address)
	f.badRequests(t, address)
	f.judgeAll(t)
	if n := f.deadLetters(t); n != 0 {
		t.Errorf("%d dead letters: what is refused must not come into the topic", n)
	}
	if err := running.stop(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
}

// between puts a good record before each refusal and one after the last.
func (f *flow) between(all []refusal) []byte {
	good := f.make(len(all) + 1)
	var body []byte
	for i, r := range good {
		f.expect(r, "")
		body = append(body, lines(good[i:i+1])...)
		if i < len(all) {
			body = append(append(body, all[i].line...), '\n')
		}
	}
	return body
}

// postBetween sends all refusals in one request.
func (f *flow) postBetween(t *testing.T, address string) {
	t.Helper()
	all := refusals()
	code, body := f.post(t, address, f.name, "application/x-ndjson", f.between(all))
	var answer struct {
		Accepted, Failed int
		Results          []struct {
			Status       int
			Field, Error string
		}
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		t.Fatalf("%d %s: %v", code, body, err)
	}
	if code != http.StatusMultiStatus || answer.Accepted != len(all)+1 || answer.Failed != len(all) || len(answer.Results) != 2*len(all)+1 {
		t.Fatalf("%d, %d accepted, %d failed, %d results, want 207 and %d refused\n%s", code, answer.Accepted, answer.Failed,
			len(answer.Results), len(all), tail(string(body), 3000))
	}
	for i, r := range all {
		got := answer.Results[2*i+1]
		if got.Status != r.status || got.Field != r.field || got.Error == "" || !strings.Contains(got.Error, r.part) {
			t.Errorf("%.120q: %d, field %q, %q; want %d, field %q, %q", r.line, got.Status, got.Field, got.Error, r.status, r.field, r.part)
		}
	}
}

// sendBetween sends all refusals by `millrace send`.
func (f *flow) sendBetween(t *testing.T, address string) {
	t.Helper()
	all := refusals()
	code, _, stderr := try(t, bytes.NewReader(f.between(all)), "send", "--addr", address, f.name)
	if want := fmt.Sprintf("%d published, %d refused, 0 unknown", len(all)+1, len(all)); code != 1 || !strings.Contains(stderr, want) {
		t.Errorf("exit code %d, want 1 and %q\n%s", code, want, stderr)
	}
	said := strings.Split(stderr, "\n")
	for i, r := range all {
		prefix := fmt.Sprintf("line %d: ", 2*i+2)
		at := slices.IndexFunc(said, func(s string) bool { return strings.HasPrefix(s, prefix) })
		if at < 0 || !strings.Contains(said[at], r.part) || !strings.Contains(said[at], r.field) {
			t.Errorf("%.120q: nothing begins with %q and has %q:\n%s", r.line, prefix, r.part, stderr)
		}
	}
	code, _, stderr = try(t, strings.NewReader("{}"), "send", "--addr", address, "no_such_type")
	if code != 1 || !strings.Contains(stderr, "404") {
		t.Errorf("an unknown type: exit code %d, want 1 and 404\n%s", code, stderr)
	}
}

// badRequests are refused as a whole.
func (f *flow) badRequests(t *testing.T, address string) {
	t.Helper()
	good := lines(f.make(1)) // of which nothing may be found
	for _, r := range []struct {
		name, typ, content string
		body               []byte
		code               int
	}{
		{"an unknown type", "no_such_type", "application/json", good, 404},
		{"text", f.name, "text/plain", good, 415},
		{"nothing", f.name, "application/json", nil, 400},
		{"no JSON", f.name, "application/json", []byte("src_ip=10.0.0.1"), 400},
		{"one bad record", f.name, "application/json", []byte(`{"src_ip":7}`), 400},
		{"too large a body", f.name, "application/json", bytes.Repeat([]byte(" "), 9<<20), 413},
	} {
		if code, body := f.post(t, address, r.typ, r.content, r.body); code != r.code {
			t.Errorf("%s: %d, want %d\n%s", r.name, code, r.code, body)
		}
	}
	// A body that breaks off: what came whole before the break is published, and the answer says so.
	records := f.make(2)
	for _, one := range records {
		f.expect(one, "")
	}
	whole := bytes.Split(bytes.TrimSpace(lines(records)), []byte("\n"))
	broken := slices.Concat([]byte("["), whole[0], []byte(","), whole[1], []byte(`,{"src_ip":`))
	code, body := f.post(t, address, f.name, "application/json", broken)
	var answer struct{ Accepted int }
	if err := json.Unmarshal(body, &answer); err != nil || code != http.StatusMultiStatus || answer.Accepted != 2 {
		t.Errorf("a body that breaks off: %d %s, want 207 and 2 accepted", code, body)
	}
}

func (f *flow) post(t *testing.T, address, typ, content string, body []byte) (int, []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, address+"/v1/events/"+typ, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", content)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, answer
}
