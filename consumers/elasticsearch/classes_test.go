package elasticsearch

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/pkg/schema/schematest"
	"github.com/millrace/millrace/pkg/stream"
)

// What Elasticsearch says of one document.
const (
	ok201      = `{"create":{"status":201}}`
	dup409     = `{"create":{"status":409,"error":{"type":"version_conflict_engine_exception","reason":"exists"}}}`
	parse400   = `{"create":{"status":400,"error":{"type":"document_parsing_exception","reason":"bad","caused_by":{"reason":"deeper"}}}}`
	strict400  = `{"create":{"status":400,"error":{"type":"strict_dynamic_mapping_exception","reason":"strict"}}}`
	shards400  = `{"create":{"status":400,"error":{"type":"validation_exception","reason":"this action would add [1] shards"}}}`
	closed400  = `{"create":{"status":400,"error":{"type":"index_closed_exception","reason":"closed"}}}`
	denied403  = `{"create":{"status":403,"error":{"type":"security_exception","reason":"no"}}}`
	missing404 = `{"create":{"status":404,"error":{"type":"index_not_found_exception","reason":"no such index"}}}`
	full429    = `{"create":{"status":429,"error":{"type":"cluster_block_exception","reason":"disk usage exceeded flood-stage watermark"}}}`
	busy429    = `{"create":{"status":429,"error":{"type":"es_rejected_execution_exception","reason":"queue full"}}}`
	down503    = `{"create":{"status":503,"error":{"type":"unavailable_shards_exception","reason":"primary"}}}`
)

func repeat(item string, n int) []string { return slices.Repeat([]string{item}, n) }

// failure is any other thing that it can say.
func failure(status int, kind string) string {
	return fmt.Sprintf(`{"create":{"status":%d,"error":{"type":%q,"reason":"so it is"}}}`, status, kind)
}

const storedAll stream.Class = "" // no error

// TestClassOfAnItem has one document of three answered in each way, and the others created: what Elasticsearch says of a
// document is a class, and the class alone decides.
func TestClassOfAnItem(t *testing.T) {
	typ := schematest.Type(t, "log")
	for _, c := range []struct {
		item string
		want stream.Class
		sent int // requests
	}{
		{ok201, storedAll, 1},
		{dup409, storedAll, 1},
		{parse400, stream.ClassRecord, 1},
		{strict400, stream.ClassRecord, 2}, // after a look whether the index lacks the field
		{busy429, stream.ClassThrottle, 1},
		{failure(429, "circuit_breaking_exception"), stream.ClassThrottle, 1},
		{full429, stream.ClassOutage, 1},
		{shards400, stream.ClassOutage, 1},
		{closed400, stream.ClassOutage, 1},
		{failure(400, "illegal_argument_exception"), stream.ClassOutage, 1},
		{failure(400, "mapper_parsing_exception"), stream.ClassOutage, 1},
		{failure(400, "a_new_kind_of_exception"), stream.ClassOutage, 1},
		{failure(401, "security_exception"), stream.ClassOutage, 1},
		{denied403, stream.ClassOutage, 1},
		{missing404, stream.ClassOutage, 1},
		{failure(418, "teapot"), stream.ClassOutage, 1},
		{failure(500, "document_parsing_exception"), stream.ClassOutage, 4}, // the first and three more
		{failure(502, ""), stream.ClassOutage, 4},
		{down503, stream.ClassOutage, 4},
		{failure(504, "process_cluster_event_timeout_exception"), stream.ClassOutage, 4},
		{`{"create":{"status":400}}`, stream.ClassOutage, 1},
		{`{"create":{"status":200}}`, stream.ClassOutage, 1}, // not what creating a document answers
		{`{}`, stream.ClassOutage, 1},
	} {
		t.Run(c.item, func(t *testing.T) {
			f := &fake{t: t, typ: typ}
			f.bulk = func(ids []string, w http.ResponseWriter) {
				all := repeat(ok201, len(ids))
				all[len(ids)/2] = c.item
				items(w, all...)
			}
			got, refused := classOf(t, f.start())
			if got != c.want || (c.want == stream.ClassRecord) != (len(refused) == 1 && refused[1] != nil) {
				t.Errorf("class %q, refused %v; want %q, of record 1 if it is its own", got, refused, c.want)
			}
			if c.item == parse400 && !strings.Contains(fmt.Sprint(refused[1]), "bad: deeper") {
				t.Errorf("the reason is %v, want Elasticsearch's own", refused[1])
			}
			if len(f.requests()) != c.sent {
				t.Errorf("%d requests, want %d", len(f.requests()), c.sent)
			}
			if c.sent > 1 && len(f.requests()[1]) != 1 {
				t.Errorf("%d documents sent again, want the one", len(f.requests()[1]))
			}
		})
	}
}

// TestClassOfARequest: what is wrong with a request as a whole is never a record's fault, but for one record's size.
func TestClassOfARequest(t *testing.T) {
	typ := schematest.Type(t, "log")
	answer := func(status int, body string) func([]string, http.ResponseWriter) {
		return func(_ []string, w http.ResponseWriter) {
			w.WriteHeader(status)
			_, _ = fmt.Fprint(w, body)
		}
	}
	said := func(status int, kind string) func([]string, http.ResponseWriter) {
		return answer(status, fmt.Sprintf(`{"error":{"type":%q,"reason":"of the whole"},"status":%d}`, kind, status))
	}
	late := make(chan struct{})
	for name, c := range map[string]struct {
		bulk func([]string, http.ResponseWriter)
		want stream.Class
	}{
		"400":             {said(400, "illegal_argument_exception"), stream.ClassOutage},
		"400 parsing":     {said(400, "document_parsing_exception"), stream.ClassOutage},
		"400 strict":      {said(400, "strict_dynamic_mapping_exception"), stream.ClassOutage},
		"401":             {said(401, "security_exception"), stream.ClassOutage},
		"403":             {answer(403, `{"error":"no"}`), stream.ClassOutage},
		"404":             {answer(404, ``), stream.ClassOutage},
		"408":             {answer(408, ``), stream.ClassOutage},
		"429":             {said(429, "circuit_breaking_exception"), stream.ClassThrottle},
		"429 of a proxy":  {answer(429, `<html>slow down</html>`), stream.ClassThrottle},
		"500":             {said(500, "illegal_state_exception"), stream.ClassOutage},
		"502":             {answer(502, `<html>proxy</html>`), stream.ClassOutage},
		"503":             {answer(503, `<html>proxy</html>`), stream.ClassOutage},
		"504":             {answer(504, ``), stream.ClassOutage},
		"not JSON":        {answer(200, `<html>proxy</html>`), stream.ClassOutage},
		"empty":           {answer(200, `{}`), stream.ClassOutage},
		"too few":         {answer(200, `{"items":[`+ok201+`]}`), stream.ClassOutage},
		"too many":        {answer(200, `{"items":[`+strings.Join(repeat(ok201, 4), ",")+`]}`), stream.ClassOutage},
		"half":            {answer(200, `{"items":[`+strings.Join(repeat(ok201, 3), ",")), stream.ClassOutage},
		"more":            {answer(200, `{"items":[`+strings.Join(repeat(ok201, 3), ",")+`]}{}`), stream.ClassOutage},
		"update":          {answer(200, `{"items":[`+strings.Join(repeat(`{"update":{"status":201}}`, 3), ",")+`]}`), stream.ClassOutage},
		"connection lost": {func([]string, http.ResponseWriter) { panic(http.ErrAbortHandler) }, stream.ClassOutage}, //nolint:forbidigo // how a handler drops its connection
		"no answer":       {func([]string, http.ResponseWriter) { <-late }, stream.ClassOutage},
		"created":         {answer(200, `{"items":[`+strings.Join(repeat(ok201, 3), ",")+`]}`), storedAll},
	} {
		t.Run(name, func(t *testing.T) {
			f := &fake{t: t, typ: typ, bulk: c.bulk}
			s := f.start()
			if name == "no answer" {
				s.client.timeout = 50 * time.Millisecond
				t.Cleanup(func() { close(late) }) // before the server's, which waits for its handlers
			}
			if got, refused := classOf(t, s); got != c.want || refused != nil {
				t.Errorf("class %q, refused %v; want %q", got, refused, c.want)
			}
			if len(f.requests()) != 1 {
				t.Errorf("%d requests, want 1: the runtime tries again, not the client", len(f.requests()))
			}
		})
	}
	t.Run("connection refused", func(t *testing.T) {
		srv := httptest.NewServer(http.NotFoundHandler())
		s := newStore(t, srv.URL, typ)
		srv.Close()
		if got, refused := classOf(t, s); got != stream.ClassOutage || refused != nil {
			t.Errorf("class %q, refused %v; want an outage", got, refused)
		}
	})
}

// classOf sends a request of three documents as a Scatter does, once, and gives the class of what comes of it.
func classOf(t *testing.T, s *Store) (class stream.Class, refused map[int]error) {
	t.Helper()
	result := make(chan error, 1)
	p := parcelOf(s, maker(s.types.All()[0]).Batch(0, 0, 3), func(err error) { result <- err })
	if err := p.deliver(t.Context()); err != nil {
		return stream.Classify(err), nil
	}
	p.Close()
	err := <-result
	if err == nil {
		return storedAll, nil
	}
	if partial, ok := errors.AsType[*stream.PartialError](err); ok {
		refused = partial.Failed
	}
	return stream.Classify(err), refused
}

// parcelOf is a batch as one request, on its way.
func parcelOf(s *Store, b stream.Batch, done func(error)) *parcel {
	q := s.requests.get(0, 0)
	for i := range b.Records {
		start := len(q.body)
		q.body = appendDoc(q.body, "i", &b.Records[i])
		q.docs = append(q.docs, doc{i, start, len(q.body)})
	}
	return &parcel{write: &write{Scatter: stream.NewScatter(s.limit, b, done), store: s, batch: b}, todo: []*request{q}}
}

// TestThrottle: what Elasticsearch turns away for want of room is a throttle, and what is left is sent again alone.
func TestThrottle(t *testing.T) {
	typ := schematest.Type(t, "log")
	b := maker(typ).Batch(0, 0, 3)
	bad := string(b.Records[1].ID())
	for name, c := range map[string]struct {
		bulk func(ids []string, w http.ResponseWriter)
		left []string
	}{
		"item": {func(ids []string, w http.ResponseWriter) {
			all := repeat(ok201, len(ids))
			all[slices.Index(ids, bad)] = busy429
			items(w, all...)
		}, []string{bad}},
		"request": {func(_ []string, w http.ResponseWriter) {
			w.WriteHeader(http.StatusTooManyRequests)
			_, _ = fmt.Fprint(w, `{"error":{"type":"circuit_breaking_exception","reason":"memory"},"status":429}`)
		}, []string{string(b.Records[0].ID()), bad, string(b.Records[2].ID())}},
	} {
		t.Run(name, func(t *testing.T) {
			f := &fake{t: t, typ: typ, bulk: c.bulk}
			s := f.start()
			p := parcelOf(s, b, func(error) {})
			for i := range 3 {
				err := p.deliver(t.Context())
				if part := i == 0 && len(c.left) < 3; !errors.Is(err, stream.ErrThrottle) || errors.Is(err, stream.ErrThrottlePart) != part {
					t.Errorf("got %v, want a throttle, of a part: %t", err, part)
				}
			}
			for _, ids := range f.requests()[1:] {
				if !slices.Equal(ids, c.left) {
					t.Errorf("sent %v again, want %v", ids, c.left)
				}
			}
			f.bulk = func(ids []string, w http.ResponseWriter) { items(w, repeat(ok201, len(ids))...) }
			if err := p.deliver(t.Context()); err != nil || len(p.todo) != 0 || len(f.requests()) != 4 {
				t.Errorf("got %v after %d requests, %d to do; want all done after 4", err, len(f.requests()), len(p.todo))
			}
		})
	}
}

// TestTurnedAwayThenTaken sends only what was turned away again, and tells the refused one by its place in the batch.
func TestTurnedAwayThenTaken(t *testing.T) {
	typ := schematest.Type(t, "log")
	f := &fake{t: t, typ: typ}
	f.bulk = func(_ []string, w http.ResponseWriter) {
		switch len(f.requests()) {
		case 1:
			items(w, ok201, busy429, ok201, down503, busy429)
		case 2:
			items(w, ok201, parse400, busy429)
		default:
			items(w, ok201)
		}
	}
	b := maker(typ).Batch(0, 0, 5)
	err := store(t, f.start(), b)
	var partial *stream.PartialError
	if !errors.As(err, &partial) || !slices.Equal(slices.Collect(maps.Keys(partial.Failed)), []int{3}) {
		t.Errorf("done got %v, want record 3 refused", err)
	}
	id := func(i int) string { return string(b.Records[i].ID()) }
	want := [][]string{{id(0), id(1), id(2), id(3), id(4)}, {id(1), id(3), id(4)}, {id(4)}}
	if !slices.EqualFunc(f.requests(), want, slices.Equal[[]string]) {
		t.Errorf("sent %v, want %v", f.requests(), want)
	}
}
