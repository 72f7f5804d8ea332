package gateway

import (
	"context"
	"encoding/binary"
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/pkg/client"
	"github.com/millrace/millrace/pkg/codec"
)

// result is what became of one record. Time comes with every record that was not accepted, so that sending it again
// with id and time is the same event.
type result struct {
	Index   int    `json:"index"`
	Status  int    `json:"status"` // 202, or as the whole request would be answered if it were this record alone
	ID      string `json:"id,omitempty"`
	Time    string `json:"time,omitempty"`
	Field   string `json:"field,omitempty"`
	Error   string `json:"error,omitempty"`
	Outcome string `json:"outcome,omitempty"` // "unknown": the record may be in Kafka

	tenant *tenant // whose bill it is on
	bytes  int64
}

// sender is in whose name a request comes.
type sender struct {
	tenant *tenant // whose limits hold, and whose bill it is; "other" beyond the bound
	name   string  // what the records say; "" leaves them their own
}

// answer is the body of every reply that speaks of records.
type answer struct {
	Accepted int      `json:"accepted"`
	Failed   int      `json:"failed"`
	Error    string   `json:"error,omitempty"` // why the rest of the body was not read
	Results  []result `json:"results"`
}

// request is one POST under way. Its results are written by the handler and by the publisher's callbacks.
type request struct {
	s           *Server
	typ         string
	from        sender
	traceparent string
	bytes       int64

	ctx    context.Context //nolint:containedctx // the time that the records have, renewed with each; it is the request's state
	cancel context.CancelFunc
	timer  *time.Timer

	mu      sync.Mutex
	results []result
	pending int
	read    bool          // the body is read: when nothing is pending any more, all is done
	closed  bool          // the answer is being written: late callbacks change nothing
	done    chan struct{} // closed when read and nothing is pending
	stop    *bodyError    // why the rest of the body was not read
}

func (s *Server) newRequest(ctx context.Context, typ string, from sender, traceparent string) *request {
	q := &request{s: s, typ: typ, from: from, traceparent: traceparent, done: make(chan struct{})}
	// A client that goes away does not take back what it sent.
	q.ctx, q.cancel = context.WithCancel(context.WithoutCancel(ctx))
	q.timer = time.AfterFunc(s.cfg.Timeout, q.cancel)
	return q
}

// readAll publishes the body's records as they come.
func (q *request) readAll(sp *splitter) {
	for {
		raw, err := sp.next()
		var re *recordError
		switch {
		case err == nil:
			q.bytes += int64(len(raw))
			q.record(raw)
		case errors.As(err, &re):
			q.add(result{Status: re.status, Error: re.msg})
		case isEOF(err):
			return
		default:
			q.stop = readError(err)
			return
		}
		switch {
		case q.ctx.Err() != nil:
			q.stop = &bodyError{http.StatusServiceUnavailable, errTimeout.Error() + "; the rest of the body was not read"}
			return
		case len(q.results) >= q.s.cfg.MaxRecords:
			if _, err := sp.next(); !isEOF(err) {
				q.stop = &bodyError{http.StatusRequestEntityTooLarge, "the request has too many records; the rest was not read"}
			}
			return
		}
	}
}

// record publishes one record.
func (q *request) record(raw []byte) {
	if !q.from.tenant.take(q.s.now()) {
		q.s.m.limited.WithLabelValues("tenant_records").Inc()
		q.add(result{Status: http.StatusTooManyRequests, Error: "the tenant's rate is used up"})
		return
	}
	enc, err := q.s.pub.Encoder(q.ctx, q.typ)
	if err != nil {
		q.add(result{Status: http.StatusServiceUnavailable, Error: err.Error()})
		return
	}
	rec, err := enc.EncodeJSONFor(raw, q.from.name)
	if err != nil {
		res := result{Status: http.StatusBadRequest, Error: err.Error()}
		if fe, ok := errors.AsType[*codec.FieldError](err); ok {
			res.Field = fe.Field
		}
		q.add(res)
		return
	}
	if q.traceparent != "" {
		rec.Headers = append(rec.Headers, kgo.RecordHeader{Key: "traceparent", Value: []byte(q.traceparent)})
	}
	q.produce(rec, int64(len(raw)))
}

func (q *request) produce(rec *kgo.Record, size int64) {
	q.timer.Reset(q.s.cfg.Timeout)
	var res result
	res.ID, res.Time = identity(rec.Value)
	res.tenant, res.bytes = q.payer(rec.Value), size
	if q.s.bytes.acquire(q.ctx, size) != nil {
		res.Status, res.Error = http.StatusServiceUnavailable, errTimeout.Error()+"; this record was not sent"
		q.add(res)
		return
	}
	q.mu.Lock()
	res.Index = len(q.results)
	q.results = append(q.results, res)
	q.pending++
	q.mu.Unlock()
	err := q.s.pub.Produce(q.ctx, rec, func(err error) {
		q.s.bytes.release(size)
		q.acknowledged(res.Index, err)
	})
	if err != nil {
		q.s.bytes.release(size)
		q.finish(res.Index, func(r *result) {
			if errors.Is(err, kerr.MessageTooLarge) {
				r.Status, r.Error = http.StatusRequestEntityTooLarge, "the record is larger than Kafka takes"
				return
			}
			r.Status, r.Error = http.StatusServiceUnavailable, "not sent: "+err.Error()
		})
	}
}

// acknowledged notes Kafka's answer for one record.
func (q *request) acknowledged(i int, err error) {
	q.finish(i, func(r *result) {
		switch {
		case err == nil:
			r.Status, r.Time = http.StatusAccepted, ""
		case errors.Is(err, kerr.MessageTooLarge):
			r.Status, r.Error = http.StatusRequestEntityTooLarge, "the record is larger than Kafka takes"
		case client.OutcomeOf(err) == client.Failed:
			r.Status, r.Error = http.StatusServiceUnavailable, "not stored: "+err.Error()
		default:
			r.Status, r.Error, r.Outcome = http.StatusServiceUnavailable, err.Error(), "unknown"
		}
	})
}

// payer is on whose bill a record is: on that of the request's tenant, which is the record's, or if the request names
// none on that of the tenant whom the record names.
func (q *request) payer(value []byte) *tenant {
	if q.from.name != "" {
		return q.from.tenant
	}
	name := tenantOf(value)
	switch {
	case name == "":
		return q.from.tenant
	case !validTenant(name):
		name = otherTenants
	}
	return q.s.tenants.get(name, q.s.now())
}

// usage is what is on whose bill once the answer is given: the records that were accepted, and all bytes. Those of
// records that could not be read are the request's.
func (q *request) usage() map[*tenant]*usage {
	q.mu.Lock()
	defer q.mu.Unlock()
	bills := map[*tenant]*usage{q.from.tenant: {bytes: q.bytes}}
	for _, r := range q.results {
		if r.tenant == nil {
			continue
		}
		u := bills[r.tenant]
		if u == nil {
			u = &usage{}
			bills[r.tenant] = u
		}
		u.bytes += r.bytes
		bills[q.from.tenant].bytes -= r.bytes
		if r.Status == http.StatusAccepted {
			u.records++
		}
	}
	return bills
}

func (q *request) finish(i int, set func(*result)) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.pending--
	if !q.closed {
		set(&q.results[i])
	}
	if q.read && q.pending == 0 {
		close(q.done)
	}
}

// add notes a record that is not published.
func (q *request) add(r result) {
	q.mu.Lock()
	defer q.mu.Unlock()
	r.Index = len(q.results)
	q.results = append(q.results, r)
}

// wait waits for the acknowledgements; it says whether the client is still there.
func (q *request) wait(client context.Context) bool {
	q.timer.Reset(q.s.cfg.Timeout)
	q.mu.Lock()
	q.read = true
	if q.pending == 0 {
		close(q.done)
	}
	q.mu.Unlock()
	select {
	case <-q.done:
	case <-q.ctx.Done():
	case <-client.Done():
		return false // the timer ends q.ctx
	}
	q.timer.Stop()
	q.cancel()
	return true
}

// answer closes the request and gives its reply. Records without an acknowledgement are unknown.
func (q *request) answer() (int, answer) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	a := answer{Results: q.results}
	failed := map[int]int{} // how many records by status
	for i := range a.Results {
		r := &a.Results[i]
		if r.Status == 0 {
			r.Status, r.Error, r.Outcome = http.StatusServiceUnavailable, errTimeout.Error(), "unknown"
		}
		if r.Status == http.StatusAccepted {
			a.Accepted++
		} else {
			a.Failed++
			failed[r.Status]++
		}
		q.s.m.records.WithLabelValues(q.typ, resultLabel(r.Status)).Inc()
	}
	if q.stop != nil {
		a.Error = q.stop.msg
		failed[q.stop.status]++
	}
	if a.Results == nil {
		a.Results = []result{}
	}
	return status(a.Accepted, failed), a
}

// status is the whole reply's: 202 when nothing failed, 207 when something did, and when nothing was accepted what
// the client should do about it: come again (503, 429) if that can help any of them, else mend them.
func status(accepted int, failed map[int]int) int {
	switch {
	case len(failed) == 0:
		return http.StatusAccepted
	case accepted > 0:
		return http.StatusMultiStatus
	case failed[http.StatusServiceUnavailable] > 0:
		return http.StatusServiceUnavailable
	case failed[http.StatusTooManyRequests] > 0:
		return http.StatusTooManyRequests
	case len(failed) == 1:
		for code := range failed {
			return code
		}
	}
	return http.StatusBadRequest
}

func resultLabel(status int) string {
	switch status {
	case http.StatusAccepted:
		return resAccepted
	case http.StatusTooManyRequests:
		return resLimited
	case http.StatusServiceUnavailable:
		return resFailed
	default:
		return resRejected
	}
}

// identity reads id and time, the first two fields of every type, from a record in the wire format: five bytes of
// schema id, then the id's length, 36 characters, and the time in microseconds.
func identity(value []byte) (id, at string) {
	const head = 5
	if len(value) < head+38 || value[head] != 36<<1 {
		return "", ""
	}
	micros, n := binary.Varint(value[head+37:])
	if n <= 0 {
		return "", ""
	}
	return string(value[head+1 : head+37]), time.UnixMicro(micros).UTC().Format("2006-01-02T15:04:05.000000Z")
}

// tenantOf reads the tenant, the fourth of the four strings after id and time that every type has.
func tenantOf(value []byte) string {
	const head = 5
	if len(value) < head+38 {
		return ""
	}
	rest := value[head+37:]
	_, n := binary.Varint(rest)
	var text []byte
	for range 4 {
		if n <= 0 {
			return ""
		}
		rest = rest[n:]
		length, m := binary.Varint(rest)
		if m <= 0 || length < 0 || length > int64(len(rest)-m) {
			return ""
		}
		text, n = rest[m:m+int(length)], m+int(length)
	}
	return string(text)
}
