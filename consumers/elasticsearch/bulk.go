package elasticsearch

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"time"
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
}

const bulkPath = "items.create.status,items.create.error.type,items.create.error.reason,items.create.error.caused_by.reason"

// A verdict is what becomes of one document.
type verdict int

const (
	created verdict = iota
	duplicate
	again   // turned away for the moment
	unknown // a field that the index does not have: evolve it, once, then try again
	refused // for what it holds
	outage  // anything else: nothing is wrong with the document
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
	case status == http.StatusTooManyRequests || status >= 500:
		return again
	case status == http.StatusBadRequest && e != nil && e.Type == "document_parsing_exception":
		return refused
	case status == http.StatusBadRequest && e != nil && e.Type == "strict_dynamic_mapping_exception":
		return unknown
	}
	return outage
}

// deliver sends documents until each is stored or refused, or gives the outage that prevents it. Documents that were
// turned away for the moment are sent again alone.
func (w *write) deliver(ctx context.Context, q request) error {
	s := w.store
	evolved := false
	for attempt := 0; ; attempt++ {
		answer, err := s.bulk(ctx, q)
		if isStatus(err, http.StatusRequestEntityTooLarge) {
			return w.tooLarge(ctx, q, err)
		}
		if err != nil {
			return err
		}
		rest, missing, last, err := w.sort(q.docs, answer, evolved)
		if err != nil {
			return err
		}
		if len(rest) == 0 {
			return nil
		}
		if missing {
			evolved = true
			s.known.forget(w.batch.Type)
			if err := s.ready(ctx, w.batch.Type); err != nil {
				return err
			}
		}
		if attempt >= s.cfg.Retry.Attempts {
			s.m.errors.WithLabelValues("turned_away").Inc()
			return fmt.Errorf("sending %d documents %d times: %w", len(rest), attempt+1, last)
		}
		s.m.retried.WithLabelValues(w.batch.Type.Name).Add(float64(len(rest)))
		if err := pause(ctx, s.cfg.Retry, attempt); err != nil {
			return fmt.Errorf("%w, after %w", err, last)
		}
		q = q.only(rest)
	}
}

// sort reads the result of each document. It gives those to send again, whether some of them need the index to evolve
// first, and the last reason for sending again.
func (w *write) sort(docs []doc, answer *bulkAnswer, evolved bool) (rest []doc, missing bool, last, err error) {
	s, name := w.store, w.batch.Type.Name
	var stored, repeated int
	for i, d := range docs {
		item := answer.Items[i].Create
		why := &StatusError{Status: item.Status}
		if item.Error != nil {
			why.Type, why.Reason = item.Error.Type, item.Error.reason()
		}
		v := judge(item.Status, item.Error)
		if v == unknown && evolved {
			v = refused
		}
		switch v {
		case created:
			stored++
		case duplicate:
			repeated++
		case again, unknown:
			rest, last = append(rest, d), why
			missing = missing || v == unknown
		case refused:
			w.refuse(d.record, why, why.Type)
		case outage:
			s.m.errors.WithLabelValues("item").Inc()
			return nil, false, nil, why
		}
	}
	s.m.documents.WithLabelValues(name).Add(float64(stored))
	s.m.duplicates.WithLabelValues(name).Add(float64(repeated))
	return rest, missing, last, nil
}

// tooLarge halves a request that is too large, for Elasticsearch or for a proxy before it, down to the document that
// can never be sent.
func (w *write) tooLarge(ctx context.Context, q request, err error) error {
	if len(q.docs) == 1 {
		w.refuse(q.docs[0].record, err, "too_large")
		return nil
	}
	half := len(q.docs) / 2
	if err := w.deliver(ctx, q.only(q.docs[:half])); err != nil {
		return err
	}
	return w.deliver(ctx, q.only(q.docs[half:]))
}

// bulk makes one request and checks that every document has its result.
func (s *Store) bulk(ctx context.Context, q request) (*bulkAnswer, error) {
	start := time.Now()
	var answer bulkAnswer
	err := s.client.do(ctx, http.MethodPost, "/_bulk", url.Values{"filter_path": {bulkPath}}, asNDJSON, q.body, &answer)
	s.m.duration.Observe(time.Since(start).Seconds())
	s.m.bytes.Add(float64(len(q.body)))
	if err == nil && len(answer.Items) != len(q.docs) {
		err = fmt.Errorf("the answer is about %d of %d documents", len(answer.Items), len(q.docs))
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

// pause waits before the next attempt: twice as long each time, with jitter so that partitions do not come together.
func pause(ctx context.Context, r Retry, attempt int) error {
	wait := r.Max
	if attempt < 20 {
		wait = min(r.Max, r.Min<<attempt)
	}
	wait = wait/2 + rand.N(wait/2+1) //nolint:gosec // jitter is no secret
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
