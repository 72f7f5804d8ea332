package elasticsearch

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/millrace/millrace/pkg/codec"
	"github.com/millrace/millrace/pkg/stream"
)

// Write creates a document for each record, in requests cut by size with several of them under way. It returns when
// the last request has been sent and calls done when all have been answered.
func (s *Store) Write(ctx context.Context, b stream.Batch, done func(error)) error {
	if len(b.Records) == 0 {
		done(nil)
		return nil
	}
	if err := s.gate.Enter(); err != nil {
		return err
	}
	if err := s.ready(ctx, b.Type); err != nil {
		s.gate.Leave()
		return fmt.Errorf("preparing to index type %s: %w", b.Type.Name, err)
	}
	w := &write{Scatter: stream.NewScatter(s.limit, b, s.gate.Leaving(done)), store: s, batch: b}
	w.cut(ctx)
	w.Close()
	return nil
}

// A write is one batch on its way.
type write struct {
	*stream.Scatter
	store *Store
	batch stream.Batch
}

// cut makes requests of the configured size and sends each as soon as there is a slot for it. It stops early after an
// outage: the batch comes again as a whole.
func (w *write) cut(ctx context.Context) {
	s, t := w.store, w.batch.Type
	limit := int(s.cfg.Bulk)
	room := min(limit, w.batch.Bytes*2+len(w.batch.Records)*100) + 4096 // where a request is new
	day, index, past, expired := int64(-1<<62), "", false, 0
	now := s.Now()
	var q *request
	for i := range w.batch.Records {
		r := &w.batch.Records[i]
		if d := floorDay(r.TimeMicros()); d != day {
			day, index = d, t.IndexName(s.cfg.Prefix, r.TimeMicros())
			past = t.IndexExpired(s.cfg.Prefix, index, now)
		}
		if past { // its index would be deleted within the hour, and made again by the next such record
			expired++
			continue
		}
		if q == nil {
			q = s.requests.get(room, len(w.batch.Records)-i)
		}
		start := len(q.body)
		q.body = appendDoc(q.body, index, r)
		q.docs = append(q.docs, doc{i, start, len(q.body)})
		if len(q.body) >= limit {
			if !w.send(ctx, q) {
				return
			}
			q = nil
		}
	}
	if q != nil && !w.send(ctx, q) {
		return
	}
	s.m.expired.WithLabelValues(t.Name).Add(float64(expired))
}

// floorDay counts days since 1970.
func floorDay(micros int64) int64 {
	const day = 24 * 3600 * 1000000
	n := micros / day
	if micros%day < 0 {
		n--
	}
	return n
}

// appendDoc adds the action line and the source line. The id comes from a record: it is quoted as JSON like any text.
func appendDoc(dst []byte, index string, r *codec.Record) []byte {
	dst = append(dst, `{"create":{"_index":"`...)
	dst = append(dst, index...) // made of the prefix and the type's name, which need no escape
	dst = append(dst, `","_id":`...)
	dst = appendQuoted(dst, r.ID())
	dst = append(dst, "}}\n"...)
	dst = codec.AppendJSON(dst, r)
	return append(dst, '\n')
}

func appendQuoted(dst, text []byte) []byte {
	for _, c := range text {
		if (c < '0' || c > '9') && (c < 'a' || c > 'z') && c != '-' { // not the UUID that the codec lets through
			q, err := json.Marshal(string(text))
			if err != nil { // cannot be: it is a string
				q = []byte(`""`)
			}
			return append(dst, q...)
		}
	}
	dst = append(dst, '"')
	dst = append(dst, text...)
	return append(dst, '"')
}

// send starts a request once there is a slot, and says whether to go on.
func (w *write) send(ctx context.Context, q *request) bool {
	p := &parcel{write: w, todo: []*request{q}}
	return w.Go(ctx, func() error { return p.deliver(ctx) })
}

// refuse notes a record that can never be stored.
func (w *write) refuse(record int, err error, reason string) {
	w.store.m.refused.WithLabelValues(w.batch.Type.Name, reason).Inc()
	w.Refuse(record, err)
}
