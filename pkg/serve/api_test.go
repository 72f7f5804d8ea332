package serve_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace/millrace/pkg/schema"
	"github.com/millrace/millrace/pkg/schema/schematest"
	"github.com/millrace/millrace/pkg/serve"
)

var now = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

// store remembers what it was asked.
type store struct {
	series serve.SeriesQuery
	search serve.SearchQuery
	err    error
}

func (s *store) Series(_ context.Context, q serve.SeriesQuery) ([]serve.Series, bool, error) {
	s.series = q
	return nil, true, s.err
}

func (s *store) Search(ctx context.Context, q serve.SearchQuery) (serve.SearchResult, error) {
	s.search = q
	if errors.Is(s.err, context.DeadlineExceeded) {
		<-ctx.Done()
		return serve.SearchResult{}, ctx.Err()
	}
	return serve.SearchResult{Total: 1, Exact: true, Hits: []json.RawMessage{[]byte(`{"body":"disk full"}`)}}, s.err
}

func get(t *testing.T, api *serve.API, path string) (code int, body string) {
	t.Helper()
	types, err := schema.Builtin()
	if err != nil {
		t.Fatal(err)
	}
	if api.Types, err = schema.NewSet(types...); err != nil {
		t.Fatal(err)
	}
	api.Now = func() time.Time { return now }
	if api.Timeout == 0 {
		api.Timeout = time.Minute
	}
	mux := http.NewServeMux()
	api.Register(mux)
	w := httptest.NewRecorder()
	mux.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil))
	return w.Code, w.Body.String()
}

func TestSearch(t *testing.T) {
	s := &store{}
	code, body := get(t, &serve.API{Search: s}, "/api/v1/search?type=log&q=disk&from=-5m&service=billing&attributes.k="+url.QueryEscape("a b")+"&limit=7")
	if want := `{"total":1,"exact":true,"hits":[{"body":"disk full"}]}` + "\n"; code != 200 || body != want {
		t.Errorf("%d %s, want %s", code, body, want)
	}
	want := serve.SearchQuery{
		Type: "log", Text: "disk", From: now.Add(-5 * time.Minute), To: now, Limit: 7,
		Filters: map[string]string{"service": "billing", "attributes.k": "a b"},
	}
	if s.search.Version == nil || s.search.Version.Name != "log" {
		t.Errorf("version %v", s.search.Version)
	}
	s.search.Version = nil
	if diff := cmp.Diff(want, s.search); diff != "" {
		t.Error(diff)
	}
}

// A type that changes while the process runs is searched as it now is.
func TestSearchByAFieldThatIsNew(t *testing.T) {
	text, ok := strings.CutSuffix(string(schematest.Type(t, "log").JSON), "]}")
	newer, err := schema.Parse([]byte(text + `,{"name":"zone","type":["null","string"],"default":null}]}`))
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	s := &store{}
	api := &serve.API{Search: s, Current: func(context.Context, string) (*schema.Type, error) { return newer, nil }}
	if code, body := get(t, api, "/api/v1/search?type=log&zone=a"); code != 200 || s.search.Version != newer {
		t.Errorf("%d %s", code, body)
	}
	api.Current = func(context.Context, string) (*schema.Type, error) { return nil, errors.New("no registry") }
	if code, body := get(t, api, "/api/v1/search?type=log&service=a"); code != 200 || s.search.Version == newer {
		t.Errorf("without the registry: %d %s", code, body)
	}
}

func TestSeries(t *testing.T) {
	s := &store{}
	code, body := get(t, &serve.API{Series: s}, "/api/v1/series?metric=system.cpu.utilization&from=2026-11-20T00:00:00Z&to=1795176000&attributes.cpu=0&host=h")
	if want := `{"series":[],"from":"2026-11-20T00:00:00Z","to":"2026-11-20T12:00:00Z","truncated":true}` + "\n"; code != 200 || body != want {
		t.Errorf("%d %s, want %s", code, body, want)
	}
	want := serve.SeriesQuery{
		Metric: "system.cpu.utilization", From: time.Date(2026, 11, 20, 0, 0, 0, 0, time.UTC), To: time.Unix(1795176000, 0).UTC(),
		Host: "h", Labels: map[string]string{"cpu": "0"}, Limit: 10_000,
	}
	if diff := cmp.Diff(want, s.series); diff != "" {
		t.Error(diff)
	}
}

func TestTypes(t *testing.T) {
	code, body := get(t, &serve.API{}, "/api/v1/types")
	var got []serve.TypeAnswer
	if err := json.Unmarshal([]byte(body), &got); err != nil || code != 200 {
		t.Fatalf("%d %v %s", code, err, body)
	}
	var names []string
	for _, a := range got {
		names = append(names, a.Name+" "+a.Topic)
	}
	if diff := cmp.Diff([]string{"log millrace.log", "metric millrace.metric", "performance millrace.performance", "usage millrace.usage"}, names); diff != "" {
		t.Error(diff)
	}
}

func TestMistakesAreExplained(t *testing.T) {
	f := func(api *serve.API, path string, code int, want string) {
		t.Helper()
		got, body := get(t, api, path)
		if got != code || !strings.Contains(body, want) {
			t.Errorf("%s: %d %s, want %d with %q", path, got, body, code, want)
		}
	}
	both := &serve.API{Search: &store{}, Series: &store{}}
	f(both, "/api/v1/search?type=lgo", 400, "log, metric, performance, usage")
	f(both, "/api/v1/search?limit=0", 400, "limit=0")
	f(both, "/api/v1/search?body=x", 400, "body is neither") // full text: asked with q
	f(both, "/api/v1/search?nothing=x", 400, "nothing is neither")
	f(both, "/api/v1/search?from=yesterday", 400, "from: ")
	f(both, "/api/v1/search?from=-1m&to=-2m", 400, "is not before")
	f(both, "/api/v1/search?%zz", 400, "cannot be parsed")
	f(both, "/api/v1/series", 400, "metric is missing")
	f(both, "/api/v1/series?metric=m&step=5", 400, "step is not an option")
	f(&serve.API{}, "/api/v1/search", 404, "no such store")
	f(&serve.API{}, "/api/v1/series?metric=m", 404, "no such store")
	f(&serve.API{Search: &store{err: errors.New("search store: connection refused")}}, "/api/v1/search", 502, "connection refused")
	f(&serve.API{Search: &store{err: serve.BadQuery("metric has no full text")}}, "/api/v1/search", 400, "metric has no full text")
	f(&serve.API{Search: &store{err: context.DeadlineExceeded}, Timeout: time.Millisecond}, "/api/v1/search", 504, "did not answer within 1ms")
}
