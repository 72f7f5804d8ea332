package serve_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/millrace/millrace/pkg/httpserver"
	"github.com/millrace/millrace/pkg/serve"
	"github.com/millrace/millrace/pkg/telemetry"
)

// sqlStore writes what it was asked, or does what it is told.
type sqlStore func(ctx context.Context, q serve.SQLQuery, w io.Writer) (bool, error)

func (s sqlStore) SQL(ctx context.Context, q serve.SQLQuery, w io.Writer) (bool, error) {
	return s(ctx, q, w)
}

func echo(_ context.Context, q serve.SQLQuery, w io.Writer) (bool, error) {
	_, err := fmt.Fprintf(w, "%+v", q)
	return q.Limit == 7, err
}

// sqlServer is the API behind the server that it has in a process, with its guards.
func sqlServer(t *testing.T, store serve.SQLStore, timeout time.Duration) *httptest.Server {
	t.Helper()
	h, err := httpserver.New(httpserver.Default(), telemetry.Discard(), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	api := &serve.API{SQL: store, Timeout: timeout, Now: func() time.Time { return now }}
	api.Register(h)
	s := httptest.NewServer(h.Handler())
	t.Cleanup(s.Close)
	return s
}

type sqlAnswer struct {
	code            int
	header, trailer http.Header
	body            string
	err             error // the answer did not end as one
}

func ask(t *testing.T, s *httptest.Server, method, path, body string, header ...string) sqlAnswer {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, s.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		if header[i] == "Host" {
			r.Host = header[i+1]
		}
		r.Header.Set(header[i], header[i+1])
	}
	resp, err := s.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	return sqlAnswer{resp.StatusCode, resp.Header, resp.Trailer, string(text), err}
}

func TestSQL(t *testing.T) {
	s := sqlServer(t, sqlStore(echo), time.Minute)
	f := func(a sqlAnswer, body, contentType, truncated string) {
		t.Helper()
		if a.code != 200 || a.body != body || a.err != nil || a.header.Get("Content-Type") != contentType || a.trailer.Get("Millrace-Truncated") != truncated {
			t.Errorf("%+v, want %s", a, body)
		}
	}
	f(ask(t, s, "GET", "/api/v1/sql?q=select+1", ""),
		"{Statement:select 1 Format:json AsOf: Limit:10000}", "application/json", "false")
	f(ask(t, s, "POST", "/api/v1/sql?format=csv&limit=7&as_of=5", "select 'a=b&c'", "Content-Type", "application/x-www-form-urlencoded"),
		"{Statement:select 'a=b&c' Format:csv AsOf:5 Limit:7}", "text/csv; charset=utf-8", "true")
}

func TestSQLRefusals(t *testing.T) {
	s := sqlServer(t, sqlStore(echo), time.Minute)
	f := func(code int, want, method, path, body string, header ...string) {
		t.Helper()
		a := ask(t, s, method, path, body, header...)
		if a.code != code || !strings.Contains(a.body, want) || a.err != nil {
			t.Errorf("%s %s %v: %+v, want %d with %q", method, path, header, a, code, want)
		}
	}
	f(400, "there is no statement", "GET", "/api/v1/sql", "")
	f(400, "there is no statement", "POST", "/api/v1/sql", "")
	f(400, "q is not an option of POST", "POST", "/api/v1/sql?q=select+1", "select 2")
	f(400, "format=xml is none of", "GET", "/api/v1/sql?q=x&format=xml", "")
	f(400, "limit=100001 is not", "GET", "/api/v1/sql?q=x&limit=100001", "")
	f(400, "too large", "POST", "/api/v1/sql", strings.Repeat("x", 1<<20+1))
	f(405, "GET", "PUT", "/api/v1/sql", "x")
	f(421, "allowed_hosts", "GET", "/api/v1/sql?q=x", "", "Host", "evil.example")
	f(403, "another origin", "POST", "/api/v1/sql", "select 1", "Origin", "http://evil.example")
	f(403, "another origin", "GET", "/api/v1/sql?q=x", "", "Sec-Fetch-Site", "cross-site")
	s = sqlServer(t, nil, time.Minute)
	f(404, "no such store", "GET", "/api/v1/sql?q=x", "")
	fails := func(err error) {
		s = sqlServer(t, sqlStore(func(context.Context, serve.SQLQuery, io.Writer) (bool, error) { return false, err }), time.Minute)
	}
	fails(serve.BadQuery("no such column"))
	f(400, "no such column", "GET", "/api/v1/sql?q=x", "")
	fails(errors.New("the disk is out"))
	f(502, "the disk is out", "GET", "/api/v1/sql?q=x", "")
	fails(fmt.Errorf("running: %w", serve.ErrTooLong))
	f(504, "took too long", "GET", "/api/v1/sql?q=x", "")
	s = sqlServer(t, sqlStore(func(ctx context.Context, _ serve.SQLQuery, _ io.Writer) (bool, error) {
		<-ctx.Done()
		return false, ctx.Err()
	}), time.Millisecond)
	f(504, "within 1ms", "GET", "/api/v1/sql?q=x", "")
}

// TestSQLThatBreaksOffIsNotAnAnswer has rows come before the error does: the answer then does not end as one.
func TestSQLThatBreaksOffIsNotAnAnswer(t *testing.T) {
	s := sqlServer(t, sqlStore(func(_ context.Context, _ serve.SQLQuery, w io.Writer) (bool, error) {
		_, err := io.WriteString(w, "a\n1\n")
		return false, errors.Join(err, errors.New("the disk is out"))
	}), time.Minute)
	if a := ask(t, s, "GET", "/api/v1/sql?q=x&format=csv", ""); !errors.Is(a.err, io.ErrUnexpectedEOF) || a.body != "a\n1\n\nmillrace: the disk is out\n" {
		t.Errorf("%+v", a)
	}
}

// TestSQLIsStreamed has rows arrive while their statement runs, and two statements at once, however many ask.
func TestSQLIsStreamed(t *testing.T) {
	began, finish, arrived := make(chan struct{}), make(chan struct{}), make(chan string)
	var running, most atomic.Int32
	s := sqlServer(t, sqlStore(func(ctx context.Context, _ serve.SQLQuery, w io.Writer) (bool, error) {
		most.Store(max(most.Load(), running.Add(1)))
		defer running.Add(-1)
		_, err := io.WriteString(w, strings.Repeat("row\n", 10_000))
		began <- struct{}{}
		select {
		case <-finish:
		case <-ctx.Done():
		}
		return false, err
	}), time.Minute)
	const requests = 5
	for range requests {
		go func() {
			r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL+"/api/v1/sql?q=x&format=csv", nil)
			if err != nil {
				arrived <- err.Error()
				return
			}
			resp, err := s.Client().Do(r)
			if err != nil {
				arrived <- err.Error()
				return
			}
			defer func() { _ = resp.Body.Close() }()
			first := make([]byte, 4)
			_, err = io.ReadFull(resp.Body, first)
			arrived <- fmt.Sprint(string(first), err)
			_, _ = io.Copy(io.Discard, resp.Body) // to go away would end the statement
		}()
	}
	for n := range requests {
		<-began
		if got := <-arrived; got != "row\n<nil>" {
			t.Errorf("while the statement runs: %q", got)
		}
		if n > 0 { // the first goes on to the end, so that there are two
			finish <- struct{}{}
		}
	}
	finish <- struct{}{}
	if most.Load() != 2 {
		t.Errorf("%d statements at once, want 2", most.Load())
	}
}
