package esproxy

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strconv"
	"sync"
	"testing"
)

// backend stores items as Elasticsearch does: a second create is a conflict.
type backend struct {
	t    *testing.T
	mu   sync.Mutex
	seen map[string]int
}

func (b *backend) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	header(w)
	if r.URL.Path != "/_bulk" {
		_, _ = io.WriteString(w, r.Method+" "+r.URL.RequestURI())
		return
	}
	body, err := readBody(r)
	if err != nil {
		b.t.Error(err)
	}
	items, err := parse(body)
	if err != nil {
		b.t.Error(err)
	}
	answer := map[string]any{"took": 3, "errors": false}
	var results []any
	b.mu.Lock()
	for _, it := range items {
		status := http.StatusCreated
		if b.seen[it.id]++; b.seen[it.id] > 1 {
			status, answer["errors"] = http.StatusConflict, true
		}
		results = append(results, map[string]any{it.op: map[string]any{"_index": it.index, "_id": it.id, "status": status}})
	}
	b.mu.Unlock()
	answer["items"] = results
	f, err := newFilter(r.URL.Query().Get("filter_path"))
	if err != nil {
		b.t.Error(err)
	}
	left, _ := f.apply(answer)
	_ = json.NewEncoder(w).Encode(left)
}

func start(t *testing.T, seed uint64) (*Proxy, *backend) {
	t.Helper()
	b := &backend{t: t, seen: map[string]int{}}
	srv := httptest.NewServer(b)
	t.Cleanup(srv.Close)
	p, err := Start(srv.URL, seed)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p, b
}

func set(t *testing.T, p *Proxy, f Faults) {
	t.Helper()
	if err := p.Set(f); err != nil {
		t.Fatal(err)
	}
}

type result struct {
	ID     string `json:"_id"`
	Status int    `json:"status"`
	Error  *struct {
		Type   string `json:"type"`
		Reason string `json:"reason"`
	} `json:"error"`
}

type bulkAnswer struct {
	Errors bool                `json:"errors"`
	Items  []map[string]result `json:"items"`
}

func creates(ids ...int) []byte {
	var body []byte
	for _, id := range ids {
		body = fmt.Appendf(body, `{"create":{"_index":"i","_id":"%d"}}`+"\n"+`{"n":%d}`+"\n", id, id)
	}
	return body
}

func upTo(n int) (ids []int) {
	for i := range n {
		ids = append(ids, i)
	}
	return ids
}

// post sends a bulk request and gives the status and the answer.
func post(t *testing.T, p *Proxy, query string, body []byte, zip bool) (int, []byte) {
	t.Helper()
	if zip {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		_, _ = z.Write(body)
		_ = z.Close()
		body = b.Bytes()
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, p.URL()+"/_bulk"+query, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-ndjson")
	if zip {
		req.Header.Set("Content-Encoding", "gzip")
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	data, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	if res.Header.Get("X-Elastic-Product") == "" {
		t.Errorf("the answer %d is not as Elasticsearch's: %s", res.StatusCode, data)
	}
	return res.StatusCode, data
}

func bulk(t *testing.T, p *Proxy, ids []int) bulkAnswer {
	t.Helper()
	status, data := post(t, p, "", creates(ids...), false)
	var a bulkAnswer
	if err := json.Unmarshal(data, &a); err != nil || status != http.StatusOK || len(a.Items) != len(ids) {
		t.Fatalf("answer %d with %d of %d items, %v: %.300s", status, len(a.Items), len(ids), err, data)
	}
	return a
}

// TestItems: what the proxy answers, Elasticsearch has not seen; every answer is at its item's place; what is sent again
// gets through in the end.
func TestItems(t *testing.T) {
	p, b := start(t, 1)
	set(t, p, Faults{TurnAway: 0.3, ShardLimit: 0.1})
	left, rounds := upTo(2000), 0
	var first map[int]int
	for ; len(left) > 0; rounds++ {
		if rounds == 50 {
			t.Fatalf("%d items did not get through in %d rounds", len(left), rounds)
		}
		var again []int
		byStatus := map[int]int{}
		for i, it := range bulk(t, p, left).Items {
			r := it["create"]
			byStatus[r.Status]++
			if r.ID != strconv.Itoa(left[i]) {
				t.Fatalf("item %d is answered as %s", left[i], r.ID)
			}
			switch {
			case r.Status == http.StatusCreated && b.seen[r.ID] == 1:
			case r.Status == http.StatusTooManyRequests && r.Error.Type == "es_rejected_execution_exception" && b.seen[r.ID] == 0,
				r.Status == http.StatusBadRequest && r.Error.Type == "validation_exception" && b.seen[r.ID] == 0:
				again = append(again, left[i])
			default:
				t.Fatalf("item %s was answered %+v and seen %d times", r.ID, r, b.seen[r.ID])
			}
		}
		if rounds == 0 {
			first = byStatus
		}
		left = again
	}
	if n := first[429]; n < 500 || n > 700 {
		t.Errorf("%d of 2000 items were turned away, want about 600", n)
	}
	if n := first[400]; n < 130 || n > 270 {
		t.Errorf("%d of 2000 items met the shard limit, want about 200", n)
	}
	c := p.Counts()
	if c.Forwarded != 2000 || c.Items != c.Forwarded+c.TurnedAway+c.ShardLimit || int(c.Bulk) != rounds {
		t.Errorf("counts are %+v after %d rounds", c, rounds)
	}
}

// TestSeed: the same items fail with the same seed, however they are put into requests, and others with another.
func TestSeed(t *testing.T) {
	run := func(seed uint64, size int) map[string]int {
		p, _ := start(t, seed)
		set(t, p, Faults{TurnAway: 0.5})
		out := map[string]int{}
		for ids := range slices.Chunk(upTo(200), size) {
			for _, it := range bulk(t, p, ids).Items {
				out[it["create"].ID] = it["create"].Status
			}
		}
		return out
	}
	a, b, c := run(7, 200), run(7, 9), run(8, 200)
	if !maps.Equal(a, b) {
		t.Error("requests of another size made other items fail")
	}
	if maps.Equal(a, c) {
		t.Error("another seed made the same items fail")
	}
}

func TestEverythingAndNothing(t *testing.T) {
	p, b := start(t, 1)
	set(t, p, Faults{TurnAway: 1})
	if a := bulk(t, p, upTo(5)); !a.Errors || len(b.seen) != 0 {
		t.Errorf("answer %+v, %d items seen", a, len(b.seen))
	}
	set(t, p, Faults{})
	if a := bulk(t, p, upTo(5)); a.Errors || len(b.seen) != 5 {
		t.Errorf("answer %+v, %d items seen", a, len(b.seen))
	}
	if status, data := post(t, p, "?filter_path=items.create.status", creates(9), true); status != 200 || string(data) != `{"items":[{"create":{"status":201}}]}`+"\n" {
		t.Errorf("a request that is passed on got %d %s", status, data)
	}
}

// TestAnswersAreFiltered: what is put together is filtered as Elasticsearch would have.
func TestAnswersAreFiltered(t *testing.T) {
	p, _ := start(t, 3)
	set(t, p, Faults{TurnAway: 0.5})
	for _, query := range []string{"?filter_path=items.create.status,items.create.error.type", "?filter_path=errors,items.*.error.type"} {
		_, data := post(t, p, query, creates(upTo(20)...), true)
		var a struct {
			Errors *bool                `json:"errors"`
			Took   *int                 `json:"took"`
			Items  []map[string]*result `json:"items"`
		}
		if err := json.Unmarshal(data, &a); err != nil {
			t.Fatal(err)
		}
		for _, it := range a.Items {
			if r := it["create"]; r.ID != "" || (r.Error != nil && (r.Error.Type == "" || r.Error.Reason != "")) {
				t.Errorf("%s: an item is %+v", query, r)
			}
		}
		onlyErrors := a.Errors != nil
		if a.Took != nil || (len(a.Items) < 20) != onlyErrors || len(a.Items) == 0 {
			t.Errorf("%s: %s", query, data)
		}
	}
}

func TestFilterPath(t *testing.T) {
	const answer = `{"errors":true,"took":1,"items":[{"create":{"_id":"1","status":201}},{"create":{"_id":"2","status":400,"error":{"type":"t","reason":"r"}}}]}`
	for path, want := range map[string]string{ // as Elasticsearch 8.19.0 answers
		"":                               answer,
		"errors":                         `{"errors":true}`,
		"errors,items.*.error.reason":    `{"errors":true,"items":[{"create":{"error":{"reason":"r"}}}]}`,
		"items.**.type,items.*.st*":      `{"items":[{"create":{"status":201}},{"create":{"status":400,"error":{"type":"t"}}}]}`,
		"items.create.status":            `{"items":[{"create":{"status":201}},{"create":{"status":400}}]}`,
		"items.*.error":                  `{"items":[{"create":{"error":{"type":"t","reason":"r"}}}]}`,
		"items.index.error,took.nothing": `{}`,
	} {
		f, err := newFilter(path)
		if err != nil {
			t.Fatal(err)
		}
		var in, wanted any
		if err := json.Unmarshal([]byte(answer), &in); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal([]byte(want), &wanted); err != nil {
			t.Fatal(err)
		}
		if got, _ := f.apply(in); !reflect.DeepEqual(got, wanted) {
			t.Errorf("%q leaves %v, want %s", path, got, want)
		}
	}
	if _, err := newFilter("-took"); err == nil {
		t.Error("an exclusion was taken for a name")
	}
}

func TestStatus(t *testing.T) {
	p, b := start(t, 1)
	for _, status := range []int{401, 403, 429, 503} {
		set(t, p, Faults{Status: status})
		got, data := post(t, p, "", creates(1), false)
		var a struct {
			Status int
			Error  struct{ Type, Reason string }
		}
		if err := json.Unmarshal(data, &a); err != nil || got != status || a.Status != status || a.Error.Type == "" || a.Error.Reason == "" {
			t.Errorf("answer %d, %v: %s", got, err, data)
		}
	}
	if err := p.Set(Faults{Status: 418}); err == nil {
		t.Error("a status without an answer was taken")
	}
	if err := p.Set(Faults{TurnAway: 0.6, ShardLimit: 0.6}); err == nil {
		t.Error("shares over 1 were taken")
	}
	if c := p.Counts(); c.Status[503] != 1 || c.Status[401] != 1 || len(b.seen) != 0 {
		t.Errorf("counts are %+v, %d items seen", c, len(b.seen))
	}
	set(t, p, Faults{})
	res, err := http.Get(p.URL() + "/a%2Fb/_search?q=x") //nolint:noctx // a test's
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	if data, _ := io.ReadAll(res.Body); string(data) != "GET /a%2Fb/_search?q=x" {
		t.Errorf("what is passed on became %q", data)
	}
}

func TestRefuse(t *testing.T) {
	p, b := start(t, 1)
	bulk(t, p, upTo(3))
	set(t, p, Faults{Refuse: true})
	if res, err := http.Get(p.URL()); err == nil { //nolint:noctx // a test's
		_ = res.Body.Close()
		t.Error("a connection was taken")
	}
	if p.Counts().Refused == 0 {
		t.Error("the connection that was open is not counted")
	}
	set(t, p, Faults{})
	if bulk(t, p, []int{4}); len(b.seen) != 4 {
		t.Errorf("%d items seen, want 4", len(b.seen))
	}
}

func TestNotABulkRequest(t *testing.T) {
	for _, body := range []string{"x", "{}\n{}\n", `{"create":{"_id":"1"}}` + "\n{}\n", `{"create":{"_index":"i","_id":"1"}}` + "\n", `{"create":{"_index":"i","_id":"1"}}`} {
		if _, err := parse([]byte(body)); err == nil {
			t.Errorf("%q was taken", body)
		}
	}
	items, err := parse([]byte(`{"delete":{"_index":"i","_id":"1"}}` + "\n" + `{"index":{"_index":"i","_id":"2"}}` + "\n{}\n"))
	if err != nil || len(items) != 2 || items[1].op != "index" {
		t.Errorf("%+v, %v", items, err)
	}
}
