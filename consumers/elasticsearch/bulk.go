package elasticsearch

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"time"

	"github.com/failsafe-go/failsafe-go"
	"github.com/failsafe-go/failsafe-go/retrypolicy"

	"github.com/millrace/millrace/pkg/failpoint"
	"github.com/millrace/millrace/pkg/stream"
)

// itemError is why one document was not created.
type itemError struct {
	Type     string     `json:"type"`
	Reason   string     `json:"reason"`
	CausedBy *itemError `json:"caused_by"`
}

func (e itemError) reason() string {
	text := e.Reason
	if c := e.CausedBy; c != nil && c.Reason != "" {
		text += ": " + c.Reason
	}
	const most = 1000 // it goes into a header of the dead letter, and may hold a preview of the value
	if len(text) > most {
		text = text[:most] + "…"
	}
	return text
}

// bulkAnswer is what filter_path leaves of an answer. Every item's status is read, not only whether there were errors.
type bulkAnswer struct {
	Items []struct {
		Create struct {
			Status int        `json:"status"`
			Error  *itemError `json:"error"`
		} `json:"create"`
	} `json:"items"`
	created bool // all of them; Items is empty
}

const bulkPath = "items.create.status,items.create.error.type,items.create.error.reason,items.create.error.caused_by.reason"

// isAllCreated says whether an answer is, to the byte, that of n created documents. Nearly every answer is, and reading
// it as JSON would take a tenth of all the time that is spent on its documents.
func isAllCreated(data []byte, n int) bool {
	const begin, item, end = `{"items":[`, `{"create":{"status":201}}`, `]}`
	if n == 0 || len(data) != len(begin)+n*len(item)+(n-1)+len(end) || string(data[:len(begin)]) != begin {
		return false
	}
	rest := data[len(begin):]
	for range n - 1 {
		if string(rest[:len(item)]) != item || rest[len(item)] != ',' {
			return false
		}
		rest = rest[len(item)+1:]
	}
	return string(rest) == item+end
}

// A verdict is what becomes of one document.
type verdict int

const (
	created verdict = iota
	duplicate
	turnedAway // by a queue or a memory bound that is full
	failed     // Elasticsearch could not store it now
	unknown    // a field that the index does not have: evolve it, once, then try again
	refused    // for what it holds
	outage     // anything else: nothing is wrong with the document
)

// judge reads one item's result. The errors that are a document's own fault are those found by experiment on a real
// server (see TestRefusedDocuments); a 400 can as well be the shard limit, a closed index or an unusable name, and a
// dead letter then would lose good data.
func judge(status int, e *itemError) verdict {
	switch {
	case status == http.StatusCreated:
		return created
	case status == http.StatusConflict:
		return duplicate
	case status == http.StatusTooManyRequests && e != nil && e.Type == "cluster_block_exception":
		return outage // the disk is full: fewer requests at once do not help
	case status == http.StatusTooManyRequests:
		return turnedAway
	case status >= 500:
		return failed
	case status == http.StatusBadRequest && e != nil && e.Type == "document_parsing_exception":
		return refused
	case status == http.StatusBadRequest && e != nil && e.Type == "strict_dynamic_mapping_exception":
		return unknown
	}
	return outage
}

// A parcel is what is left to do of one request.
type parcel struct {
	*write
	todo    []*request // more than one after a request that was too large
	evolved bool
}

// deliver sends documents until each is stored or refused, or gives the outage that prevents it, or stream.ErrThrottle:
// then it is called again, and sends what was turned away alone. It is called with a permit and keeps it while it waits
// for documents that failed, at most as often as configured in a row.
func (p *parcel) deliver(ctx context.Context) error {
	for len(p.todo) > 0 {
		var err error
		_ = failsafe.With(p.store.retry).WithContext(ctx).Run(func() error { // its own error is err, or that ctx ended
			err = p.send(ctx)
			return err
		})
		switch failed, ok := errors.AsType[*failedError](err); {
		case ok && ctx.Err() != nil:
			return fmt.Errorf("%w, after %w", context.Cause(ctx), failed)
		case ok:
			p.store.m.errors.WithLabelValues("failed").Inc()
			return fmt.Errorf("%w, and so %d times more", failed, p.store.cfg.Retry.Attempts)
		case err != nil:
			return err
		}
	}
	return nil
}

// failedError is why some documents of a request could not be stored now. They are sent again soon, alone.
type failedError struct {
	documents int
	why       error
}

func (e *failedError) Error() string {
	return fmt.Sprintf("storing %d documents: %v", e.documents, e.why)
}
func (e *failedError) Unwrap() error { return e.why }

// newRetry makes the policy by which documents that failed are sent again, before the whole batch is given back.
func newRetry(r Retry) retrypolicy.RetryPolicy[any] {
	return retrypolicy.NewBuilder[any]().
		HandleIf(func(_ any, err error) bool { _, ok := errors.AsType[*failedError](err); return ok }).
		WithMaxRetries(r.Attempts).
		ReturnLastFailure().
		WithDelayFunc(func(e failsafe.ExecutionAttempt[any]) time.Duration { // with jitter, so that partitions do not come together
			wait := r.Max
			if e.Attempts() < 20 {
				wait = min(r.Max, r.Min<<(e.Attempts()-1))
			}
			return wait/2 + rand.N(wait/2+1) //nolint:gosec // jitter is no secret
		}).
		Build()
}

// send makes one request and keeps in todo what has to be sent again.
func (p *parcel) send(ctx context.Context) error {
	s, q := p.store, p.todo[0]
	answer, err := s.bulk(ctx, q)
	switch {
	case isStatus(err, http.StatusRequestEntityTooLarge):
		p.halve(q, err)
		return nil
	case isStatus(err, http.StatusTooManyRequests):
		s.m.retried.WithLabelValues(p.batch.Type.Name).Add(float64(len(q.docs)))
		return fmt.Errorf("%w: %w", stream.ErrThrottle, err)
	case err != nil:
		return err
	}
	left, err := p.sort(q.docs, answer)
	if err != nil {
		return err
	}
	if len(left.docs) == 0 {
		p.todo = p.todo[1:]
		s.requests.put(q)
		return nil
	}
	sent := len(q.docs)
	s.m.retried.WithLabelValues(p.batch.Type.Name).Add(float64(len(left.docs)))
	p.todo[0] = q.only(left.docs)
	s.requests.put(q)
	if left.unknown {
		p.evolved = true
		s.known.forget(p.batch.Type)
		if err := s.ready(ctx, p.batch.Type); err != nil {
			return err
		}
	}
	if left.failed != nil {
		return &failedError{len(left.docs), left.failed}
	}
	if left.turnedAway != nil {
		how := stream.ErrThrottle
		if len(left.docs) < sent {
			how = stream.ErrThrottlePart
		}
		return fmt.Errorf("%w: %d documents: %w", how, len(left.docs), left.turnedAway)
	}
	return nil
}

// leftover is what has to be sent again of a request.
type leftover struct {
	docs       []doc
	unknown    bool  // some need the index to evolve first
	turnedAway error // the last reason, if some were
	failed     error // the last reason, if some did
}

// sort reads the result of each document.
func (p *parcel) sort(docs []doc, answer *bulkAnswer) (left leftover, err error) {
	m, name := p.store.m, p.batch.Type.Name
	if answer.created {
		m.documents.WithLabelValues(name).Add(float64(len(docs)))
		return left, nil
	}
	var stored, repeated int
	for i, d := range docs {
		item := answer.Items[i].Create
		v := judge(item.Status, item.Error)
		if v == created {
			stored++
			continue
		}
		if v == duplicate {
			repeated++
			continue
		}
		why := &StatusError{Status: item.Status}
		if item.Error != nil {
			why.Type, why.Reason = item.Error.Type, item.Error.reason()
		}
		switch {
		case v == refused, v == unknown && p.evolved:
			p.refuse(d.record, why, why.Type)
			continue
		case v == unknown:
			left.unknown = true
		case v == turnedAway:
			left.turnedAway = why
		case v == failed:
			left.failed = why
		default:
			m.errors.WithLabelValues("item").Inc()
			return leftover{}, why
		}
		left.docs = append(left.docs, d)
	}
	m.documents.WithLabelValues(name).Add(float64(stored))
	m.duplicates.WithLabelValues(name).Add(float64(repeated))
	p.Repeated(repeated)
	return left, nil
}

// halve makes two of a request that is too large, for Elasticsearch or for a proxy before it, down to the document that
// can never be sent.
func (p *parcel) halve(q *request, err error) {
	p.todo = p.todo[1:]
	if len(q.docs) == 1 {
		p.refuse(q.docs[0].record, err, "too_large")
		return
	}
	half := len(q.docs) / 2
	p.todo = append([]*request{q.only(q.docs[:half]), q.only(q.docs[half:])}, p.todo...)
}

// bulk makes one request and checks that every document has its result.
func (s *Store) bulk(ctx context.Context, q *request) (*bulkAnswer, error) {
	start := time.Now()
	q.sent = newPayload(q.body)
	data, err := s.client.exchange(ctx, http.MethodPost, "/_bulk", url.Values{"filter_path": {bulkPath}}, asNDJSON, q.sent)
	s.m.duration.Observe(time.Since(start).Seconds())
	s.m.bytes.Add(float64(len(q.body)))
	var answer bulkAnswer
	switch {
	case err != nil:
	case isAllCreated(data, len(q.docs)), failpoint.Broken == failpoint.Bulk200:
		answer.created = true
	default:
		if err = readJSON(data, &answer); err == nil && len(answer.Items) != len(q.docs) {
			err = fmt.Errorf("the answer is about %d of %d documents", len(answer.Items), len(q.docs))
		}
	}
	if err != nil {
		s.m.errors.WithLabelValues(kindOf(err)).Inc()
		return nil, err
	}
	return &answer, nil
}

func kindOf(err error) string {
	var se *StatusError
	switch {
	case errors.As(err, &se):
		return "status"
	case errors.Is(err, context.Canceled):
		return "cancelled"
	case errors.Is(err, context.DeadlineExceeded):
		return "timeout"
	}
	return "connection"
}
