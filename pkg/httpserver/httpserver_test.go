package httpserver

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/millrace/millrace/pkg/telemetry"
)

func newServer(t *testing.T, change func(*Config)) *Server {
	t.Helper()
	cfg := Default()
	cfg.Listen = "127.0.0.1:0"
	if change != nil {
		change(&cfg)
	}
	reg := prometheus.NewRegistry()
	tel := telemetry.Discard()
	tel.Metrics = reg
	s, err := New(cfg, tel, reg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func do(s *Server, method, url string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequestWithContext(context.Background(), method, url, strings.NewReader("x"))
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	s.Handler().ServeHTTP(w, r)
	return w
}

func TestHostAllowList(t *testing.T) {
	s := newServer(t, func(c *Config) { c.AllowedHosts = []string{"Millrace.example"} })
	f := func(host string, want int) {
		t.Helper()
		r := httptest.NewRequestWithContext(context.Background(), http.MethodGet, "/-/healthy", nil)
		r.Host = host
		w := httptest.NewRecorder()
		s.Handler().ServeHTTP(w, r)
		if w.Code != want {
			t.Errorf("host %q: status %d, want %d", host, w.Code, want)
		}
	}
	f("localhost:9470", 200)
	f("LOCALHOST", 200)
	f("a.localhost:1", 200)
	f("127.0.0.1:9470", 200)
	f("[::1]:9470", 200)
	f("[::1]", 200)
	f("10.0.0.7", 200)
	f("millrace.example:80", 200)
	f("millrace.example.", 200)
	f("rebind.attacker.test", 421)
	f("127.0.0.1.attacker.test:9470", 421)
	f("millrace.example.attacker.test", 421)
	f("localhost.attacker.test", 421)
	f("", 421)
}

func TestForeignOriginsChangeNothing(t *testing.T) {
	s := newServer(t, nil)
	var hits int
	s.Handle("/v1/thing", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		hits++
		JSON(w, http.StatusOK, "ok")
	}))
	f := func(method string, want, wantHits int, header ...string) {
		t.Helper()
		hits = 0
		if w := do(s, method, "http://127.0.0.1:9470/v1/thing", header...); w.Code != want || hits != wantHits {
			t.Errorf("%s %v: status %d, %d hits, want %d, %d", method, header, w.Code, hits, want, wantHits)
		}
	}
	f("POST", 200, 1) // curl, an SDK
	f("POST", 200, 1, "Sec-Fetch-Site", "same-origin")
	f("POST", 403, 0, "Sec-Fetch-Site", "cross-site")
	f("POST", 403, 0, "Origin", "http://attacker.test")
	f("DELETE", 403, 0, "Origin", "null")
	f("GET", 200, 1, "Origin", "http://attacker.test")
}

func TestUnknownPathsAndMethodsAreProblems(t *testing.T) {
	s := newServer(t, nil)
	s.Handle("POST /v1/events/{type}", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		JSON(w, http.StatusAccepted, r.PathValue("type"))
	}))
	f := func(method, path string, want int) {
		t.Helper()
		w := do(s, method, "http://localhost"+path)
		var p problem
		if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil || p.Status != want || w.Code != want ||
			w.Header().Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s %s: status %d, %s, body %s", method, path, w.Code, w.Header(), w.Body)
		}
	}
	f("GET", "/nothing", 404)
	f("GET", "/v1/events/log", 405)
	for range 3 {
		if w := do(s, "POST", "http://localhost/v1/events/some-name"); w.Body.String() != "\"some-name\"\n" {
			t.Errorf("body %s", w.Body)
		}
	}
	body := do(s, "GET", "http://localhost/metrics").Body.String()
	for _, line := range []string{
		`millrace_http_requests_total{code="202",route="POST /v1/events/{type}"} 3`,
		`millrace_http_requests_total{code="404",route="none"} 1`,
		`millrace_http_requests_total{code="405",route="none"} 1`,
	} {
		if !strings.Contains(body, line) {
			t.Errorf("%s is not in\n%s", line, body)
		}
	}
	if n := strings.Count(body, "\nmillrace_http_requests_total{"); n != 3 {
		t.Errorf("%d series, want 3: one per route and code", n)
	}
}

func TestReady(t *testing.T) {
	s := newServer(t, nil)
	var down error
	s.Check("kafka", func() error { return down })
	s.Check("lake", func() error { return nil })
	if w := do(s, "GET", "http://localhost/-/ready"); w.Code != 200 {
		t.Errorf("status %d %s", w.Code, w.Body)
	}
	down = errors.New("no broker answers")
	w := do(s, "GET", "http://localhost/-/ready")
	if w.Code != 503 || !strings.Contains(w.Body.String(), `"kafka":"no broker answers"`) || strings.Contains(w.Body.String(), "lake") {
		t.Errorf("status %d %s", w.Code, w.Body)
	}
	if w := do(s, "GET", "http://localhost/-/healthy"); w.Code != 200 {
		t.Errorf("not ready made it unhealthy: %d", w.Code)
	}
}

// start runs a server and gives its address, and a stop that waits for Run.
func start(t *testing.T, s *Server) (stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	select {
	case <-s.Listening():
	case err := <-done:
		t.Fatal(err)
	}
	return func() error { cancel(); return <-done }
}

func get(t *testing.T, url string) (int, string, error) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	tr := &http.Transport{DisableKeepAlives: true}
	defer tr.CloseIdleConnections()
	resp, err := tr.RoundTrip(r)
	if err != nil {
		return 0, "", err
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b), err
}

func TestRunServesMetricsAndPprofOnlyOnAdmin(t *testing.T) {
	s := newServer(t, func(c *Config) { c.Admin = "127.0.0.1:0" })
	stop := start(t, s)
	f := func(url string, want int, part string) {
		t.Helper()
		if code, body, err := get(t, url); code != want || !strings.Contains(body, part) || err != nil {
			t.Errorf("%s: %d %v\n%.300s", url, code, err, body)
		}
	}
	f("http://"+s.Addr()+"/-/healthy", 200, "healthy")
	f("http://"+s.Addr()+"/metrics", 200, `millrace_http_requests_total{code="200",route="GET /-/healthy"} 1`)
	f("http://"+s.Addr()+"/debug/pprof/", 404, "")
	f("http://"+s.AdminAddr()+"/debug/pprof/", 200, "goroutine")
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := get(t, "http://"+s.Addr()+"/-/healthy"); err == nil {
		t.Error("answers after the stop")
	}
}

func TestStopLetsRequestsFinish(t *testing.T) {
	s := newServer(t, nil)
	entered, leave := make(chan struct{}), make(chan struct{})
	s.Handle("GET /slow", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		close(entered)
		<-leave
		if r.Context().Err() != nil {
			t.Error("the request was cancelled by the stop")
		}
		JSON(w, http.StatusOK, "finished")
	}))
	stop := start(t, s)
	got := make(chan string, 1)
	go func() {
		_, body, err := get(t, "http://"+s.Addr()+"/slow")
		if err != nil {
			body = err.Error()
		}
		got <- body
	}()
	<-entered
	stopped := make(chan error, 1)
	go func() { stopped <- stop() }()
	for !func() bool { s.mu.Lock(); defer s.mu.Unlock(); return s.draining }() {
		time.Sleep(time.Millisecond)
	}
	if w := do(s, "GET", "http://localhost/-/ready"); w.Code != 503 || !strings.Contains(w.Body.String(), "stopping") {
		t.Errorf("ready while stopping: %d %s", w.Code, w.Body)
	}
	close(leave)
	if body := <-got; body != "\"finished\"\n" {
		t.Errorf("the request under way got %q", body)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

func TestStopEndsRequestsThatDoNotFinish(t *testing.T) {
	s := newServer(t, func(c *Config) { c.Drain = 50 * time.Millisecond })
	entered := make(chan struct{})
	s.Handle("GET /hang", http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		close(entered)
		<-r.Context().Done()
	}))
	stop := start(t, s)
	go func() { _, _, _ = get(t, "http://"+s.Addr()+"/hang") }()
	<-entered
	if err := stop(); err != nil {
		t.Error(err)
	}
}

func TestAddressInUse(t *testing.T) {
	a := newServer(t, nil)
	stop := start(t, a)
	b := newServer(t, func(c *Config) { c.Listen = a.Addr() })
	if err := b.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "http.listen") {
		t.Errorf("error %v does not name the key", err)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}

func TestValidateNamesEachKey(t *testing.T) {
	err := Config{AllowedHosts: []string{"http://x"}, Admin: "9"}.Validate()
	for _, key := range []string{"http.listen", "http.admin", "http.allowed_hosts", "http.max_header", "http.read_header", "http.drain"} {
		if err == nil || !strings.Contains(err.Error(), key) {
			t.Errorf("%s is not named in: %v", key, err)
		}
	}
	if err := Default().Validate(); err != nil {
		t.Error(err)
	}
}
