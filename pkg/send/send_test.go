package send_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/millrace/millrace/pkg/send"
)

// fakeGateway answers in process, so that waiting is virtual.
type fakeGateway func(n int, body string) *httptest.ResponseRecorder

func (f fakeGateway) client(calls *[]string) *http.Client {
	return &http.Client{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return nil, err
		}
		*calls = append(*calls, r.URL.Path+" "+string(body))
		w := f(len(*calls), string(body))
		if w == nil {
			return nil, io.ErrUnexpectedEOF
		}
		return w.Result(), nil
	})}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func reply(status int, body string, header ...string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	w.Header().Set("Content-Type", "application/json")
	for i := 0; i+1 < len(header); i += 2 {
		w.Header().Set(header[i], header[i+1])
	}
	w.WriteHeader(status)
	_, _ = w.WriteString(body)
	return w
}

func TestSendExplainsEachRefusedLine(t *testing.T) {
	var calls []string
	var errs bytes.Buffer
	s := send.Sender{URL: "http://gw", Errors: &errs, HTTP: fakeGateway(func(int, string) *httptest.ResponseRecorder {
		return reply(207, `{"results":[{"index":0,"status":202},{"index":1,"status":400,"error":"value: must be a number"},{"index":2,"status":503,"error":"outcome unknown"}]}`)
	}).client(&calls)}
	res, err := s.Send(t.Context(), "metric", strings.NewReader("{\"a\":1}\n\n{\"b\":2}\r\n{\"c\":3}"))
	if err != nil {
		t.Fatal(err)
	}
	if want := (send.Result{Published: 1, Refused: 1, Unknown: 1}); res != want {
		t.Errorf("got %+v, want %+v", res, want)
	}
	if got, want := errs.String(), "line 3: value: must be a number\nline 4: outcome unknown\n"; got != want {
		t.Errorf("explained %q, want %q", got, want)
	}
	if want := "/v1/events/metric {\"a\":1}\n{\"b\":2}\n{\"c\":3}\n"; len(calls) != 1 || calls[0] != want {
		t.Errorf("sent %q, want %q", calls, want)
	}
}

func TestSendCutsLongInput(t *testing.T) {
	var calls []string
	s := send.Sender{URL: "http://gw/", Errors: io.Discard, HTTP: fakeGateway(func(int, string) *httptest.ResponseRecorder {
		return reply(202, `{}`)
	}).client(&calls)}
	var in strings.Builder
	for i := range 2500 {
		fmt.Fprintf(&in, "{\"n\":%d}\n", i)
	}
	res, err := s.Send(t.Context(), "log", strings.NewReader(in.String()))
	if err != nil || res.Published != 2500 || len(calls) != 3 {
		t.Errorf("%+v, %v in %d requests", res, err, len(calls))
	}
	if got := strings.ReplaceAll(strings.Join(calls, ""), "/v1/events/log ", ""); got != in.String() {
		t.Error("what was sent is not what was read")
	}
}

func TestSendWaitsForAnOverloadedGateway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls []string
		s := send.Sender{URL: "http://gw", Errors: io.Discard, HTTP: fakeGateway(func(n int, _ string) *httptest.ResponseRecorder {
			if n < 3 {
				return reply(429, `{"title":"Too Many Requests"}`, "Retry-After", "7")
			}
			return reply(202, `{}`)
		}).client(&calls)}
		res, err := s.Send(t.Context(), "log", strings.NewReader("{}\n"))
		if err != nil || res.Published != 1 || len(calls) != 3 {
			t.Errorf("%+v, %v in %d requests", res, err, len(calls))
		}
	})
}

func TestSendStopsWhenNothingIsKnown(t *testing.T) {
	f := func(answer *httptest.ResponseRecorder, want string) {
		t.Helper()
		var calls []string
		s := send.Sender{URL: "http://gw", Errors: io.Discard, HTTP: fakeGateway(func(int, string) *httptest.ResponseRecorder { return answer }).client(&calls)}
		_, err := s.Send(t.Context(), "log", strings.NewReader("{}\n"))
		if err == nil || !strings.Contains(err.Error(), want) || len(calls) != 1 {
			t.Errorf("got %v after %d requests, want an error with %q after one", err, len(calls), want)
		}
	}
	f(nil, "asking the gateway at http://gw (is it running?")
	f(reply(503, `{"title":"Service Unavailable","detail":"Kafka does not answer"}`), "lines 1 to 1: the gateway answered 503: Service Unavailable: Kafka does not answer")
	f(reply(404, `{"title":"Not Found","detail":"no type lgo"}`), "no type lgo")
	f(reply(202, `{`), "")
}

func TestAddressIsCheckedBeforeAnythingIsRead(t *testing.T) {
	f := func(address string, ok bool) {
		t.Helper()
		if err := send.CheckURL(address); (err == nil) != ok {
			t.Errorf("%q: %v", address, err)
		}
		var calls []string
		in := strings.NewReader("{}\n")
		s := send.Sender{URL: address, Errors: io.Discard, HTTP: fakeGateway(func(int, string) *httptest.ResponseRecorder {
			return reply(202, `{}`)
		}).client(&calls)}
		res, err := s.Send(t.Context(), "log", in)
		if (err == nil) != ok || !ok && (in.Len() != 3 || len(calls) != 0 || res != send.Result{}) {
			t.Errorf("%q: %+v, %v, %d bytes left, %d requests", address, res, err, in.Len(), len(calls))
		}
	}
	f("http://127.0.0.1:9470", true)
	f("https://gateway.example/millrace/", true)
	f("http://[::1]:9470", true)
	f("127.0.0.1:9470", false)
	f("localhost:9470", false)
	f("gateway", false)
	f("", false)
	f("http://", false)
	f("http://:9470", false)
	f("ftp://gateway", false)
	f("http://gateway?x=1", false)
}

func TestByteOrderMarkIsSkipped(t *testing.T) {
	var calls []string
	s := send.Sender{URL: "http://gw", Errors: io.Discard, HTTP: fakeGateway(func(int, string) *httptest.ResponseRecorder {
		return reply(202, `{}`)
	}).client(&calls)}
	res, err := s.Send(t.Context(), "log", strings.NewReader("\xef\xbb\xbf{\"a\":1}\n"))
	if err != nil || res.Published != 1 || calls[0] != "/v1/events/log {\"a\":1}\n" {
		t.Errorf("%+v, %v, %q", res, err, calls)
	}
}
