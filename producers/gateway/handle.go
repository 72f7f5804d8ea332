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

// events answers POST /v1/events/{type}, and makes a performance record of each request that comes to an end.
func (s *Server) events(w http.ResponseWriter, r *http.Request) {
	if s.stopping.Load() {
		refuse(w, http.StatusServiceUnavailable, 2*time.Second, errStopping)
		drainBody(w, r)
		return
	}
	e := exchange{began: s.now(), operation: noType, parent: traceparent(r.Header.Get("Traceparent"))}
	s.exchange(w, r, &e)
	if e.code != http.StatusAccepted { // all of it was read then
		drainBody(w, r)
	}
	s.observe(&e)
}

const errStopping = "the gateway is stopping; nothing was stored"

// noType stands for the type in the operation of requests that were answered before it was known that there is one:
// operations are few, whatever is asked for.
const noType = "{type}"

// exchange is what is to be said of one request in the gateway's own records.
type exchange struct {
	began                     time.Time
	operation, tenant, parent string
	code                      int // 0 where the client did not wait for it
	msg                       string
}

// refuse answers with an error. A retry of 0 says nothing of when to come again.
func (e *exchange) refuse(w http.ResponseWriter, code int, retry time.Duration, msg string) {
	e.code, e.msg = code, msg
	if retry > 0 {
		w.Header().Set("Retry-After", retryAfter(retry))
	}
	httpserver.Problem(w, code, msg)
}

func (s *Server) exchange(w http.ResponseWriter, r *http.Request, e *exchange) {
	name := r.Header.Get("X-Millrace-Tenant")
	if name == "" {
		name = s.cfg.DefaultTenant
	}
	if !validTenant(name) {
		e.refuse(w, http.StatusBadRequest, 0, "X-Millrace-Tenant has characters outside of letters, digits and ._- or is longer than 128")
		return
	}
	t := s.tenants.get(name, e.began)
	e.tenant = t.name
	release, retry := s.admit(t, e.began)
	if release == nil {
		if s.stopping.Load() { // it holds all slots
			e.refuse(w, http.StatusServiceUnavailable, 2*time.Second, errStopping)
			return
		}
		e.refuse(w, http.StatusTooManyRequests, retry, "too much is under way; come again later")
		return
	}
	defer release()

	typ := r.PathValue("type")
	_, err := s.pub.Encoder(r.Context(), typ)
	switch {
	case errors.Is(err, codec.ErrUnknownType):
		e.refuse(w, http.StatusNotFound, 0, "there is no type of this name")
	case err != nil:
		e.refuse(w, http.StatusServiceUnavailable, 2*time.Second, "nothing was stored: "+err.Error())
	default:
		e.operation = typ
		s.take(w, r, sender{tenant: t, name: name}, e)
	}
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

// take reads, publishes and answers.
func (s *Server) take(w http.ResponseWriter, r *http.Request, from sender, e *exchange) {
	sp, closeBody, err := s.body(w, r)
	if err != nil {
		be := readError(err)
		e.refuse(w, be.status, 0, be.msg)
		return
	}
	defer closeBody()
	typ := e.operation
	q := s.newRequest(r.Context(), typ, from, e.parent)
	q.readAll(sp)
	present := q.wait(r.Context())
	code, a := q.answer()
	s.tenants.count(from.tenant, 1, 0, 0)
	for t, u := range q.usage() {
		s.tenants.count(t, 0, u.records, u.bytes)
	}
	s.m.bytes.WithLabelValues(typ).Add(float64(q.bytes))
	if !present {
		s.m.left.Inc()
		e.msg = "the client went away"
		return
	}
	if code == http.StatusServiceUnavailable || code == http.StatusTooManyRequests {
		w.Header().Set("Retry-After", retryAfter(max(time.Second, from.tenant.wait(s.now()))))
	}
	if q.stop != nil && len(a.Results) == 0 {
		e.refuse(w, q.stop.status, 0, q.stop.msg)
		return
	}
	e.code, e.msg = code, summary(a)
	httpserver.JSON(w, code, a)
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

// observe makes the request a performance record. The operation names a type that exists, or none, so there are few.
func (s *Server) observe(e *exchange) {
	if !s.cfg.OwnRecords {
		return
	}
	f := map[string]any{
		"tenant": e.tenant, "operation": "POST /v1/events/" + e.operation,
		"duration_us": s.now().Sub(e.began).Microseconds(),
		"ok":          e.code == http.StatusAccepted,
	}
	if e.code != 0 {
		f["status"] = e.code
	}
	if e.msg != "" {
		f["error"] = e.msg
	}
	if e.parent != "" {
		var span [8]byte
		_, _ = rand.Read(span[:]) // it never fails
		f["trace_id"], f["parent_span_id"], f["span_id"] = e.parent[3:35], e.parent[36:52], hex.EncodeToString(span[:])
	}
	s.own.offer(ownRecord{typ: typePerformance, time: e.began, fields: f})
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
