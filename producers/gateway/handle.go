package gateway

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"io"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/millrace/millrace/pkg/codec"
	"github.com/millrace/millrace/pkg/httpserver"
)

// events answers POST /v1/events/{type}.
func (s *Server) events(w http.ResponseWriter, r *http.Request) {
	if s.stopping.Load() {
		refuse(w, http.StatusServiceUnavailable, 2*time.Second, "the gateway is stopping; nothing was stored")
		return
	}
	began := s.now()
	parent := traceparent(r.Header.Get("Traceparent"))
	name := r.Header.Get("X-Millrace-Tenant")
	if name == "" {
		name = s.cfg.DefaultTenant
	}
	if !validTenant(name) {
		httpserver.Problem(w, http.StatusBadRequest, "X-Millrace-Tenant has characters outside of letters, digits and ._- or is longer than 128")
		return
	}
	t := s.tenants.get(name, began)
	release, retry := s.admit(t, began)
	if release == nil {
		if s.stopping.Load() { // it holds all slots
			refuse(w, http.StatusServiceUnavailable, 2*time.Second, "the gateway is stopping; nothing was stored")
			return
		}
		refuse(w, http.StatusTooManyRequests, retry, "too much is under way; come again later")
		return
	}
	defer release()

	typ := r.PathValue("type")
	if _, err := s.pub.Encoder(r.Context(), typ); err != nil {
		s.noEncoder(w, err)
		return
	}
	code, msg := s.take(w, r, typ, t, parent)
	s.observe(began, typ, t.name, parent, code, msg)
}

// admit gives a slot, or says how long to stay away.
func (s *Server) admit(t *tenant, now time.Time) (release func(), retry time.Duration) {
	if wait := t.wait(now); wait > 0 {
		s.m.limited.WithLabelValues("tenant").Inc()
		return nil, wait
	}
	if s.bytes.full() {
		s.m.limited.WithLabelValues("bytes").Inc()
		return nil, time.Second
	}
	select {
	case s.requests <- struct{}{}:
		return func() { <-s.requests }, 0
	default:
		s.m.limited.WithLabelValues("requests").Inc()
		return nil, time.Second
	}
}

func (s *Server) noEncoder(w http.ResponseWriter, err error) {
	if errors.Is(err, codec.ErrUnknownType) {
		httpserver.Problem(w, http.StatusNotFound, "there is no type of this name")
		return
	}
	refuse(w, http.StatusServiceUnavailable, 2*time.Second, "nothing was stored: "+err.Error())
}

// take reads, publishes and answers; it gives the status and, where there is one, the error for the own records.
func (s *Server) take(w http.ResponseWriter, r *http.Request, typ string, t *tenant, parent string) (int, string) {
	sp, closeBody, err := s.body(w, r)
	if err != nil {
		be := readError(err)
		httpserver.Problem(w, be.status, be.msg)
		return be.status, be.msg
	}
	defer closeBody()
	q := s.newRequest(r.Context(), typ, t, parent)
	q.readAll(sp)
	present := q.wait(r.Context())
	code, a := q.answer()
	s.tenants.count(t, int64(a.Accepted), q.bytes)
	s.m.bytes.WithLabelValues(typ).Add(float64(q.bytes))
	if !present {
		s.m.left.Inc()
		return 0, "the client went away"
	}
	if code == http.StatusServiceUnavailable || code == http.StatusTooManyRequests {
		w.Header().Set("Retry-After", retryAfter(max(time.Second, t.wait(s.now()))))
	}
	if q.stop != nil && len(a.Results) == 0 {
		httpserver.Problem(w, q.stop.status, q.stop.msg)
		return q.stop.status, q.stop.msg
	}
	httpserver.JSON(w, code, a)
	return code, summary(a)
}

// summary is the first error of an answer.
func summary(a answer) string {
	for _, r := range a.Results {
		if r.Error != "" {
			return r.Error
		}
	}
	return a.Error
}

// observe makes the request a performance record. The operation names a type that exists, so there are few.
func (s *Server) observe(began time.Time, typ, tenant, parent string, code int, msg string) {
	if !s.cfg.OwnRecords {
		return
	}
	f := map[string]any{
		"tenant": tenant, "operation": "POST /v1/events/" + typ,
		"duration_us": s.now().Sub(began).Microseconds(),
		"ok":          code == http.StatusAccepted,
	}
	if code != 0 {
		f["status"] = code
	}
	if msg != "" {
		f["error"] = msg
	}
	if parent != "" {
		var span [8]byte
		_, _ = rand.Read(span[:]) // it never fails
		f["trace_id"], f["parent_span_id"], f["span_id"] = parent[3:35], parent[36:52], hex.EncodeToString(span[:])
	}
	s.own.offer(ownRecord{typ: typePerformance, time: began, fields: f})
}

func refuse(w http.ResponseWriter, status int, retry time.Duration, msg string) {
	w.Header().Set("Retry-After", retryAfter(retry))
	httpserver.Problem(w, status, msg)
}

// retryAfter is in whole seconds, at least one.
func retryAfter(d time.Duration) string {
	return strconv.Itoa(max(1, int(math.Ceil(d.Seconds()))))
}

func isEOF(err error) bool { return errors.Is(err, io.EOF) }

// traceparent gives the header if it is one of W3C's version 00, else "": a broken trace does not refuse a record.
func traceparent(h string) string {
	h = strings.TrimSpace(h)
	if len(h) != 55 || h[:3] != "00-" || h[35] != '-' || h[52] != '-' {
		return ""
	}
	for i, c := range []byte(h) {
		if i == 2 || i == 35 || i == 52 {
			continue
		}
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return ""
		}
	}
	if strings.Trim(h[3:35], "0") == "" || strings.Trim(h[36:52], "0") == "" {
		return ""
	}
	return h
}
