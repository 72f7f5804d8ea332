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
	session, err := s.connect(ctx)
	var insert *insert
	if err == nil {
		insert, err = s.ready(ctx, session, b.Type)
	}
	if err != nil {
		s.gate.Leave()
		s.m.errors.WithLabelValues(kindOf(err)).Inc()
		return fmt.Errorf("preparing to store type %s: %w", b.Type.Name, err)
	}
	w := &write{store: s, session: session, insert: insert, batch: b}
	w.Scatter = stream.NewScatter(s.limit, b, s.gate.Leaving(func(err error) {
		s.wires.give(w.wire) // no request reads it any more
		done(err)
	}))
	for _, rows := range w.group() {
		if !w.send(ctx, rows) {
			break
		}
	}
	w.Close()
	return nil
}

// A write is one batch on its way.
type write struct {
	*stream.Scatter
	store   *Store
	session *gocql.Session
	insert  *insert
	batch   stream.Batch
	wire    *[]byte // all rows, argument by argument, each after its length in four bytes
}

// A row is one record in the wire form of the insert's arguments.
type row struct {
	record int
	at     int // where it begins in the batch's wire
	key    int // its first bytes, which are the partition's
	size   int
}

// A partition is what a batch has for one of Cassandra's partitions.
type partition struct {
	rows, bytes int
	next        int // where its next row goes
}

// group brings all records into wire form, in the order in which they lie in memory, and gives the rows of each request:
// those of one partition together, up to the bounds of a request. Records past their retention are counted and left out.
func (w *write) group() [][]row {
	s, t := w.store, w.batch.Type
	records := w.batch.Records
	now := s.Now().UnixMicro()
	e := encoder{insert: w.insert, typ: t, wire: s.wires.take(w.batch.Bytes + len(records)*(len(w.insert.arguments)+wireOverhead)*lengthBytes)}
	found := make([]row, 0, len(records))
	of := make([]int32, 0, len(records)) // the partition of each row that was found
	var partitions []partition
	byKey := make(map[string]int32)
	expired := 0
	for i := range records {
		r := &records[i]
		ttl, ok := timeToLive(r.TimeMicros(), t.Cassandra.Retention, now)
		if !ok {
			expired++
			continue
		}
		one, err := e.row(r, ttl)
		if err != nil {
			w.refuse(i, "unencodable", err)
			continue
		}
		one.record = i
		key := e.wire[one.at : one.at+one.key]
		p, known := byKey[string(key)]
		if !known {
			p = int32(len(partitions)) //nolint:gosec // no more than records
			byKey[string(key)] = p
			partitions = append(partitions, partition{})
		}
		partitions[p].rows++
		partitions[p].bytes += one.size
		found, of = append(found, one), append(of, p)
	}
	w.wire = &e.wire
	s.m.expired.WithLabelValues(t.Name).Add(float64(expired))
	for key, p := range byKey {
		s.count(t, key, partitions[p].bytes)
	}
	return w.cut(sorted(found, of, partitions), partitions)
}

// sorted gives the rows partition by partition, each in the order that they had.
func sorted(found []row, of []int32, partitions []partition) []row {
	next := 0
	for i := range partitions {
		partitions[i].next = next
		next += partitions[i].rows
	}
	rows := make([]row, len(found))
	for i := range found {
		p := &partitions[of[i]]
		rows[p.next] = found[i]
		p.next++
	}
	return rows
}

// cut gives the rows of each request out of rows that are sorted.
func (w *write) cut(rows []row, partitions []partition) [][]row {
	most, bound := w.store.cfg.Batch.Rows, int(w.store.cfg.Batch.Bytes)
	requests := make([][]row, 0, len(partitions))
	for _, p := range partitions {
		mine := rows[p.next-p.rows : p.next : p.next]
		if p.rows <= most && p.bytes <= bound {
			requests = append(requests, mine)
			continue
		}
		from, bytes := 0, 0
		for i := range mine {
			if i > from && (i-from >= most || bytes+mine[i].size > bound) {
				requests = append(requests, mine[from:i:i])
				from, bytes = i, 0
			}
			bytes += mine[i].size
		}
		requests = append(requests, mine[from:])
	}
	return requests
}

// timeToLive is what remains at now of the retention since the event's time, both in microseconds, in whole seconds,
// rounded up: a replay a moment later then ends at the same second, or one before. It is false when nothing remains.
func timeToLive(micros int64, retention time.Duration, now int64) (int, bool) {
	if retention <= 0 {
		return 0, true
	}
	left := micros + retention.Microseconds() - now
	if left <= 0 {
		return 0, false // and never a time to live of 0, which is for ever
	}
	const second = int64(time.Second / time.Microsecond)
	return int((min(left, maxTTL.Microseconds()) + second - 1) / second), true
}

// send starts a request once there is a slot, and says whether to go on.
func (w *write) send(ctx context.Context, rows []row) bool {
	return w.Go(ctx, func() error { return w.deliver(ctx, rows) })
}

// deliver stores some rows of one partition. If Cassandra finds fault with the request, its rows go one by one, so that
// the one that is refused takes no other with it.
func (w *write) deliver(ctx context.Context, rows []row) error {
	err := w.exec(ctx, rows)
	name := w.batch.Type.Name
	switch {
	case err == nil:
		w.store.m.rows.WithLabelValues(name).Add(float64(len(rows)))
		return nil
	case turnedAway(err):
		return fmt.Errorf("%w: %w", stream.ErrThrottle, err)
	case !invalid(err):
		return err
	case len(rows) > 1:
		for i := range rows {
			if err := w.deliver(ctx, rows[i:i+1]); err != nil {
				return err
			}
		}
		return nil
	}
	reason := fault(err)
	if reason == "" {
		w.store.forget(ctx, w.batch.Type)
		return err
	}
	w.refuse(rows[0].record, reason, err)
	return nil
}

func (w *write) refuse(record int, reason string, err error) {
	w.store.m.refused.WithLabelValues(w.batch.Type.Name, reason).Inc()
	w.Refuse(record, fmt.Errorf("%s: %w", reason, err))
}

// exec makes one request.
func (w *write) exec(ctx context.Context, rows []row) error {
	s := w.store
	ctx, cancel := context.WithTimeoutCause(ctx, s.cfg.Timeout, fmt.Errorf("no answer from Cassandra within %s", s.cfg.Timeout))
	defer cancel()
	q := w.insert.take(*w.wire, rows)
	defer w.insert.give(q)
	start := time.Now()
	var err error
	if len(rows) == 1 {
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
