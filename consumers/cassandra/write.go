package cassandra

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/gocql/gocql"

	"github.com/millrace/millrace/pkg/stream"
)

// maxTTL is the longest time to live that Cassandra takes: 20 years.
const maxTTL = 20 * 365 * 24 * time.Hour

// Write stores a row for each record, in requests that each belong to one partition, several of them under way. It
// returns when the last request has been sent and calls done when all have been answered.
func (s *Store) Write(ctx context.Context, b stream.Batch, done func(error)) error {
	if len(b.Records) == 0 {
		done(nil)
		return nil
	}
	if err := s.gate.Enter(); err != nil {
		return err
	}
	w := &write{store: s, batch: b, done: s.gate.Leaving(done), sent: make(chan struct{})}
	w.ending = func(do func(error)) func() bool { return context.AfterFunc(ctx, func() { do(context.Cause(ctx)) }) }
	var err error
	if w.session, err = s.connect(ctx); err == nil {
		w.insert, err = s.ready(ctx, w.session, b.Type)
	}
	if err != nil {
		s.gate.Leave()
		s.m.errors.WithLabelValues(kindOf(err)).Inc()
		return fmt.Errorf("preparing to store type %s: %w", b.Type.Name, err)
	}
	w.fill()
	w.scatter(ctx)
	w.insert.queue.send(ctx, w)
	return nil
}

// A write is one batch on its way.
type write struct {
	*stream.Scatter
	store   *Store
	session *gocql.Session
	insert  *insert
	batch   stream.Batch
	done    func(error)
	sheet   *sheet
	odd     map[int]error                 // records that have no wire form
	sent    chan struct{}                 // closed when its last request was begun
	ending  func(func(error)) func() bool // calls the function when the batch's context ends, unless that is taken back
	leave   func()                        // the company of other batches, if it is in any
}

// scatter begins to count the batch's requests, anew if it goes again.
func (w *write) scatter(ctx context.Context) {
	w.Scatter = stream.NewScatter(w.store.limit, w.batch, func(err error) { w.conclude(ctx, err) })
	for record, err := range w.odd {
		w.Refuse(record, err)
	}
}

func (w *write) fill() {
	s, t := w.store, w.batch.Type
	w.sheet = s.takeSheet()
	w.sheet.insert, w.sheet.typ = w.insert, t
	expired := w.sheet.fill(w.batch.Records, w.batch.Bytes, s.Now(), func(record int, err error) {
		if w.odd == nil {
			w.odd = map[int]error{}
		}
		w.odd[record] = w.refused("unencodable", err)
	})
	s.m.expired.WithLabelValues(t.Name).Add(float64(expired))
	for i := range w.sheet.bundles {
		s.count(t, w.sheet.bundles[i].key, w.sheet.bundles[i].bytes)
	}
}

// conclude is called when all requests were answered. What came of requests that were shared with other batches says
// nothing of this one, unless it is success: it then goes again, alone.
func (w *write) conclude(ctx context.Context, err error) {
	if leave := w.leave; leave != nil {
		leave()
		w.leave = nil
		var partial *stream.PartialError
		if err != nil && !errors.As(err, &partial) {
			w.scatter(ctx)
			go post(ctx, []*write{w})
			return
		}
	}
	w.store.giveSheet(w.sheet)
	w.done(err)
}

// deliver stores some rows of one partition. If Cassandra finds fault with the request, its rows go one by one, so that
// the one that is refused takes no other with it.
func (ps parts) deliver(ctx context.Context) error {
	err := ps.exec(ctx)
	w := ps[0].write
	name := w.batch.Type.Name
	switch {
	case err == nil:
		w.store.m.rows.WithLabelValues(name).Add(float64(ps.count()))
		return nil
	case turnedAway(err):
		return fmt.Errorf("%w: %w", stream.ErrThrottle, err)
	case !invalid(err):
		return err
	case ps.count() > 1:
		for _, p := range ps {
			for i := range p.rows {
				if err := (parts{{p.write, p.rows[i : i+1]}}).deliver(ctx); err != nil {
					return err
				}
			}
		}
		return nil
	}
	reason := fault(err)
	if reason == "" {
		w.store.forget(ctx, w.batch.Type)
		return err
	}
	w.Refuse(int(ps[0].rows[0].record), w.refused(reason, err))
	return nil
}

// refused counts a record that can never be stored, and says why.
func (w *write) refused(reason string, err error) error {
	w.store.m.refused.WithLabelValues(w.batch.Type.Name, reason).Inc()
	return fmt.Errorf("%s: %w", reason, err)
}

// exec makes one request.
func (ps parts) exec(ctx context.Context) error {
	w := ps[0].write
	s := w.store
	ctx, cancel := context.WithTimeoutCause(ctx, s.cfg.Timeout, fmt.Errorf("no answer from Cassandra within %s", s.cfg.Timeout))
	defer cancel()
	q := w.insert.take(ps)
	defer w.insert.give(q)
	start := time.Now()
	var err error
	if len(q.entries) == 1 {
		err = w.session.Query(q.entries[0].Stmt, q.entries[0].Args...).WithContext(ctx).Exec()
	} else {
		b := w.session.NewBatch(gocql.UnloggedBatch).WithContext(ctx)
		b.Entries = q.entries
		err = w.session.ExecuteBatch(b)
	}
	s.m.duration.Observe(time.Since(start).Seconds())
	if err != nil {
		if cause := context.Cause(ctx); cause != nil && !errors.Is(err, cause) { // the driver says only that the context ended
			err = fmt.Errorf("%w (%w)", err, cause)
		}
		s.m.errors.WithLabelValues(kindOf(err)).Inc()
	}
	return err
}
