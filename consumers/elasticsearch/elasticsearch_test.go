package elasticsearch

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace/pkg/codec"
	"github.com/millrace/millrace/pkg/schema"
	"github.com/millrace/millrace/pkg/schema/schematest"
	"github.com/millrace/millrace/pkg/stream"
	"github.com/millrace/millrace/pkg/stream/sinktest"
	"github.com/millrace/millrace/pkg/telemetry"
)

func maker(typ *schema.Type) sinktest.Maker {
	return sinktest.Maker{Type: typ, Base: time.Now().Add(-time.Minute).Truncate(time.Second), Seed: "elasticsearch"}
}

// withField gives the type's next version, which has one field more.
func withField(t *testing.T, typ *schema.Type, field string) *schema.Type {
	t.Helper()
	var doc map[string]any
	if err := json.Unmarshal(typ.JSON, &doc); err != nil {
		t.Fatal(err)
	}
	fields, _ := doc["fields"].([]any)
	doc["fields"] = append(fields, json.RawMessage(field))
	text, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	next, err := schema.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return next
}

func newStore(t *testing.T, url string, types ...*schema.Type) *Store {
	t.Helper()
	cfg := Default()
	cfg.URLs, cfg.Replicas = []string{url}, 0
	cfg.Retry = Retry{Min: time.Millisecond, Max: 2 * time.Millisecond, Attempts: 3}
	return newStoreOf(t, cfg, types...)
}

func newStoreOf(t *testing.T, cfg Config, types ...*schema.Type) *Store {
	t.Helper()
	set, err := schema.NewSet(types...)
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(cfg, set, telemetry.Discard())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.client.http.CloseIdleConnections)
	return s
}

// store writes a batch and gives what done was called with.
func store(t *testing.T, s *Store, b stream.Batch) error {
	t.Helper()
	result := make(chan error, 1)
	if err := s.Write(t.Context(), b, func(err error) { result <- err }); err != nil {
		return err
	}
	select {
	case err := <-result:
		return err
	case <-time.After(time.Minute):
		t.Fatal("done was not called within a minute")
		return nil
	}
}

// fake is a server that has every template and answers _bulk as a test says.
type fake struct {
	t    *testing.T
	typ  *schema.Type
	bulk func(ids []string, w http.ResponseWriter)
	seen func(*http.Request) // nil, or what looks at each bulk request

	mu   sync.Mutex
	sent [][]string // ids of each bulk request
	puts []string   // paths
}

func (f *fake) start() *Store {
	srv := httptest.NewServer(f)
	f.t.Cleanup(srv.Close)
	return newStore(f.t, srv.URL, f.typ)
}

func (f *fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", asJSON)
	w.Header().Set("X-Elastic-Product", "Elasticsearch")
	switch {
	case strings.HasPrefix(r.URL.Path, "/_index_template/") && r.Method == http.MethodGet:
		_, _ = fmt.Fprintf(w, `{"index_templates":[{"index_template":%s}]}`, f.typ.IndexTemplate("millrace", 0))
	case r.Method == http.MethodPut:
		f.mu.Lock()
		f.puts = append(f.puts, r.URL.Path)
		f.mu.Unlock()
		_, _ = fmt.Fprint(w, `{"acknowledged":true}`)
	case strings.HasSuffix(r.URL.Path, "/_mapping"):
		_, _ = fmt.Fprint(w, `{}`)
	case r.URL.Path == "/_bulk":
		if got := r.URL.Query().Get("filter_path"); got != bulkPath {
			f.t.Errorf("filter_path is %q", got)
		}
		if f.seen != nil {
			f.seen(r)
		}
		var rd io.Reader = r.Body
		if r.Header.Get("Content-Encoding") == "gzip" {
			z, err := gzip.NewReader(r.Body)
			if err != nil {
				f.t.Error(err)
				return
			}
			rd = z
		}
		body, err := io.ReadAll(rd)
		if err != nil {
			f.t.Error(err)
		}
		ids := f.ids(body)
		f.mu.Lock()
		f.sent = append(f.sent, ids)
		f.mu.Unlock()
		f.bulk(ids, w)
	default:
		f.t.Errorf("unexpected request %s %s", r.Method, r.URL)
	}
}

// requests gives the ids of each bulk request so far.
func (f *fake) requests() [][]string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.sent)
}

func (f *fake) ids(body []byte) []string {
	var ids []string
	lines := bytes.Split(bytes.TrimSuffix(body, []byte("\n")), []byte("\n"))
	for i := 0; i < len(lines); i += 2 {
		var action struct {
			Create struct {
				Index string `json:"_index"`
				ID    string `json:"_id"`
			} `json:"create"`
		}
		if err := json.Unmarshal(lines[i], &action); err != nil || !json.Valid(lines[i+1]) {
			f.t.Errorf("not an action and a document: %s / %s", lines[i], lines[i+1])
		}
		ids = append(ids, action.Create.ID)
	}
	return ids
}

func items(w io.Writer, of ...string) {
	_, _ = fmt.Fprintf(w, `{"items":[%s]}`, strings.Join(of, ","))
}

func TestCountsDuplicates(t *testing.T) {
	typ := schematest.Type(t, "log")
	f := &fake{t: t, typ: typ, bulk: func(_ []string, w http.ResponseWriter) { items(w, ok201, dup409, dup409) }}
	s := f.start()
	if err := store(t, s, maker(typ).Batch(0, 0, 3)); err != nil {
		t.Fatal(err)
	}
	if c, d := value(t, s.m.documents.WithLabelValues("log")), value(t, s.m.duplicates.WithLabelValues("log")); c != 1 || d != 2 {
		t.Errorf("%g created and %g duplicates, want 1 and 2", c, d)
	}
}

// TestMemoryIsUsedAgain: what is sent is never another request's bytes, although requests share memory.
func TestMemoryIsUsedAgain(t *testing.T) {
	typ := schematest.Type(t, "log")
	f := &fake{t: t, typ: typ, bulk: func(ids []string, w http.ResponseWriter) { items(w, repeat(ok201, len(ids))...) }}
	s := f.start()
	s.cfg.Bulk = 4 << 10
	var wait sync.WaitGroup
	mk := maker(typ)
	for p := range int32(4) {
		wait.Go(func() {
			for n := range int64(10) {
				if err := store(t, s, mk.Batch(p, n*50, n*50+50)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wait.Wait()
	seen := map[string]int{}
	for _, ids := range f.requests() {
		for _, id := range ids {
			seen[id]++
		}
	}
	for p := range int32(4) {
		for i := range int64(500) {
			r := mk.Record(p, i)
			if n := seen[string(r.ID())]; n != 1 {
				t.Fatalf("record %d of partition %d was sent %d times", i, p, n)
			}
		}
	}
}

// TestLateReaderKeepsItsMemory: a server may answer before it has read the request.
func TestLateReaderKeepsItsMemory(t *testing.T) {
	var r requests
	q := r.get(10, 1)
	q.body = append(q.body, "first"...)
	q.sent = newPayload(q.body)
	r.put(q)
	if other := r.get(10, 1); other == q {
		t.Fatal("the memory of a body that is still read was given to another request")
	}
	copied := newPayload(nil)
	if _, err := copied.again(); err != nil {
		t.Fatal(err)
	}
	if _ = copied.Close(); copied.isIdle() {
		t.Error("a body of which net/http has a copy counts as idle")
	}
}

// TestTooLarge: a request that is refused for its size is halved down to the record that is too large alone.
func TestTooLarge(t *testing.T) {
	typ := schematest.Type(t, "log")
	b := maker(typ).Batch(0, 0, 16)
	bad := string(b.Records[5].ID())
	f := &fake{t: t, typ: typ, bulk: func(ids []string, w http.ResponseWriter) {
		if len(ids) > 6 || slices.Contains(ids, bad) {
			w.WriteHeader(http.StatusRequestEntityTooLarge)
			return
		}
		items(w, repeat(ok201, len(ids))...)
	}}
	err := store(t, f.start(), b)
	var partial *stream.PartialError
	if !errors.As(err, &partial) || !slices.Equal(slices.Collect(maps.Keys(partial.Failed)), []int{5}) {
		t.Errorf("done got %v, want record 5 refused", err)
	}
}

func TestCutsBySize(t *testing.T) {
	typ := schematest.Type(t, "log")
	f := &fake{t: t, typ: typ, bulk: func(ids []string, w http.ResponseWriter) { items(w, repeat(ok201, len(ids))...) }}
	s := f.start()
	s.cfg.Bulk = 4 << 10
	b := maker(typ).Batch(0, 0, 200)
	if err := store(t, s, b); err != nil {
		t.Fatal(err)
	}
	seen := map[string]int{}
	for _, ids := range f.requests() {
		for _, id := range ids {
			seen[id]++
		}
	}
	if len(f.requests()) < 5 || len(seen) != 200 {
		t.Errorf("%d requests with %d documents, want several and 200", len(f.requests()), len(seen))
	}
}

// TestInFlight: as many requests as configured are under way at once, of one batch or of several, and no more.
func TestInFlight(t *testing.T) {
	typ := schematest.Type(t, "log")
	var mu sync.Mutex
	busy, most, full := 0, 0, make(chan struct{})
	f := &fake{t: t, typ: typ}
	s := f.start()
	f.bulk = func(ids []string, w http.ResponseWriter) {
		mu.Lock()
		busy++
		if most = max(most, busy); busy == s.cfg.InFlight && !isClosed(full) {
			close(full)
		}
		mu.Unlock()
		select {
		case <-full:
		case <-time.After(time.Minute):
			t.Error("fewer requests at once than configured")
		}
		mu.Lock()
		busy--
		mu.Unlock()
		items(w, repeat(ok201, len(ids))...)
	}
	s.cfg.Bulk = 4 << 10
	var wait sync.WaitGroup
	for p := range int32(2) {
		wait.Go(func() {
			if err := store(t, s, maker(typ).Batch(p, 0, 200)); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	if most != s.cfg.InFlight {
		t.Errorf("%d requests at once, want %d", most, s.cfg.InFlight)
	}
}

func isClosed(c chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func TestCancelledWhileDocumentsFail(t *testing.T) {
	typ := schematest.Type(t, "log")
	ctx, cancel := context.WithCancel(t.Context())
	f := &fake{t: t, typ: typ, bulk: func(ids []string, w http.ResponseWriter) {
		items(w, repeat(down503, len(ids))...)
		cancel()
	}}
	s := f.start()
	s.cfg.Retry = Retry{Min: time.Hour, Max: time.Hour, Attempts: 5}
	s.retry = newRetry(s.cfg.Retry)
	result := make(chan error, 1)
	if err := s.Write(ctx, maker(typ).Batch(0, 0, 3), func(err error) { result <- err }); err != nil {
		t.Fatal(err)
	}
	if err := <-result; !errors.Is(err, context.Canceled) {
		t.Errorf("done got %v", err)
	}
}

func TestNoAnswerIsAnOutage(t *testing.T) {
	typ := schematest.Type(t, "log")
	stop := make(chan struct{})
	f := &fake{t: t, typ: typ, bulk: func([]string, http.ResponseWriter) { <-stop }}
	s := f.start()
	t.Cleanup(func() { close(stop) })
	s.client.timeout = 50 * time.Millisecond
	err := store(t, s, maker(typ).Batch(0, 0, 3))
	if err == nil || !strings.Contains(err.Error(), "no answer from Elasticsearch within 50ms") {
		t.Errorf("done got %v", err)
	}
}

// TestExpiredRecordsMakeNoIndex: it would be deleted within the hour.
func TestExpiredRecordsMakeNoIndex(t *testing.T) {
	typ := schematest.Type(t, "log")
	f := &fake{t: t, typ: typ, bulk: func(ids []string, w http.ResponseWriter) { items(w, repeat(ok201, len(ids))...) }}
	s := f.start()
	b := maker(typ).Batch(0, 0, 3)
	old := time.Now().Add(-typ.Elasticsearch.Retention - 48*time.Hour)
	b.Records[1].Values[schema.Time] = codec.LongValue(old.UnixMicro())
	if err := store(t, s, b); err != nil {
		t.Fatal(err)
	}
	if n := value(t, s.m.expired.WithLabelValues("log")); n != 1 || len(f.requests()) != 1 || len(f.requests()[0]) != 2 {
		t.Errorf("%g expired, %v sent; want 1 and the two others", n, f.requests())
	}
}

func TestMissingTemplateIsAnOutage(t *testing.T) {
	typ := schematest.Type(t, "log")
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/_bulk" {
			t.Error("documents were sent without a template: Elasticsearch would guess the fields' types")
		}
		w.WriteHeader(http.StatusNotFound)
		_, _ = fmt.Fprint(w, `{"error":{"type":"resource_not_found_exception","reason":"not found"},"status":404}`)
	}))
	t.Cleanup(srv.Close)
	err := store(t, newStore(t, srv.URL, typ), maker(typ).Batch(0, 0, 3))
	if err == nil || !strings.Contains(err.Error(), "millrace topics apply") {
		t.Errorf("got %v", err)
	}
}

// Another server's 200 must not be taken for stored documents.
func TestAnotherProductIsAnOutage(t *testing.T) {
	typ := schematest.Type(t, "log")
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprint(w, `{"items":[]}`)
	}))
	t.Cleanup(srv.Close)
	err := store(t, newStore(t, srv.URL, typ), maker(typ).Batch(0, 0, 1))
	if err == nil || !strings.Contains(err.Error(), "not Elasticsearch") {
		t.Errorf("got %v", err)
	}
}
