package cassandra

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/gocql/gocql"

	"github.com/millrace/millrace/pkg/codec"
	"github.com/millrace/millrace/pkg/schema"
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
	var t *table
	if err == nil {
		t, err = s.ready(ctx, session, b.Type)
	}
	if err != nil {
		s.gate.Leave()
		s.m.errors.WithLabelValues(kindOf(err)).Inc()
		return fmt.Errorf("preparing to store type %s: %w", b.Type.Name, err)
	}
	w := &write{Scatter: stream.NewScatter(s.limit, b, s.gate.Leaving(done)), store: s, session: session, table: t, batch: b}
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
	table   *table
	batch   stream.Batch
}

// A row is one record with what its key is made of besides its fields.
type row struct {
	record int
	bucket int64 // milliseconds, as a CQL timestamp has it
	shard  int
	ttl    int // seconds; 0 is for ever
}

// group puts rows of one partition together, up to the bounds of a request. Records past their retention are counted
// and left out.
func (w *write) group() [][]row {
	s, t := w.store, w.batch.Type
	type open struct{ at, bytes int }
	groups := make([][]row, 0, 16)
	byKey := make(map[string]*open)
	now := s.Now()
	expired := 0
	var key []byte
	for i := range w.batch.Records {
		r := &w.batch.Records[i]
		ttl, ok := timeToLive(r.TimeMicros(), t.Cassandra.Retention, now)
		if !ok {
			expired++
			continue
		}
		one := row{record: i, ttl: ttl, bucket: t.Bucket(r.TimeMicros()).UnixMilli(), shard: schema.Shard(t, r.Values)}
		key = partitionKey(key[:0], t, r, &one)
		size := rowBytes(r)
		s.count(t, key, size)
		o := byKey[string(key)]
		switch {
		case o == nil:
			o = &open{at: len(groups)}
			byKey[string(key)] = o
			groups = append(groups, nil)
		case len(groups[o.at]) >= s.cfg.Batch.Rows || o.bytes+size > int(s.cfg.Batch.Bytes):
			*o = open{at: len(groups)}
			groups = append(groups, nil)
		}
		groups[o.at] = append(groups[o.at], one)
		o.bytes += size
	}
	s.m.expired.WithLabelValues(t.Name).Add(float64(expired))
	return groups
}

// timeToLive is what remains of the retention since the event's time, in whole seconds, rounded up: a replay a moment
// later then ends at the same second, or one before. It is false when nothing remains.
func timeToLive(micros int64, retention time.Duration, now time.Time) (int, bool) {
	if retention <= 0 {
		return 0, true
	}
	left := time.UnixMicro(micros).Add(retention).Sub(now)
	if left <= 0 {
		return 0, false // and never a time to live of 0, which is for ever
	}
	return int((min(left, maxTTL) + time.Second - 1) / time.Second), true
}

// partitionKey tells partitions apart within a batch; it is not Cassandra's own form.
func partitionKey(dst []byte, t *schema.Type, r *codec.Record, one *row) []byte {
	dst = binary.BigEndian.AppendUint64(dst, uint64(one.bucket)) //nolint:gosec // only the bits matter
	dst = binary.BigEndian.AppendUint32(dst, uint32(one.shard))  //nolint:gosec // small
	for _, i := range t.Cassandra.Partition {
		v := &r.Values[i]
		dst = binary.AppendUvarint(dst, uint64(len(v.Bytes())))
		dst = append(dst, v.Bytes()...)
		dst = binary.BigEndian.AppendUint64(dst, uint64(v.Long())) //nolint:gosec // only the bits matter
	}
	return dst
}

// rowBytes estimates a row's size by that of its record.
func rowBytes(r *codec.Record) int {
	size := 48
	for i := range r.Values {
		size += len(r.Values[i].Bytes()) + 10
	}
	return size
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
	w.store.m.refused.WithLabelValues(name, reason).Inc()
	w.Refuse(rows[0].record, fmt.Errorf("%s: %w", reason, err))
	return nil
}

// exec makes one request.
func (w *write) exec(ctx context.Context, rows []row) error {
	s := w.store
	ctx, cancel := context.WithTimeoutCause(ctx, s.cfg.Timeout, fmt.Errorf("no answer from Cassandra within %s", s.cfg.Timeout))
	defer cancel()
	args := w.bind(rows)
	start := time.Now()
	var err error
	if len(rows) == 1 {
		err = w.session.Query(w.table.cql.Insert, args[0]...).WithContext(ctx).Exec()
	} else {
		b := w.session.NewBatch(gocql.UnloggedBatch).WithContext(ctx)
		b.Entries = make([]gocql.BatchEntry, len(rows))
		for i := range rows {
			b.Entries[i] = gocql.BatchEntry{Stmt: w.table.cql.Insert, Args: args[i], Idempotent: true}
		}
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

// bind gives the arguments of the insert for each row, by position. A null is unset: a null that is bound would be a
// tombstone.
func (w *write) bind(rows []row) [][]any {
	columns, t := w.table.cql.Columns, w.batch.Type
	width := len(columns) + 2
	cells := make([]cell, len(rows)*len(columns))
	flat := make([]any, 0, len(rows)*width)
	args := make([][]any, len(rows))
	for i := range rows {
		r := &w.batch.Records[rows[i].record]
		start := len(flat)
		for j, col := range columns {
			switch {
			case col.Field == schema.BucketColumn:
				flat = append(flat, rows[i].bucket)
			case col.Field == schema.ShardColumn:
				flat = append(flat, rows[i].shard)
			case r.Values[col.Field].IsNull():
				flat = append(flat, gocql.UnsetValue)
			default:
				c := &cells[i*len(columns)+j]
				*c = cell{value: r.Values[col.Field], kind: t.Fields[col.Field].Kind}
				flat = append(flat, c)
			}
		}
		flat = append(flat, rows[i].ttl, writeTime(r))
		args[i] = flat[start:len(flat):len(flat)]
	}
	return args
}

// writeTime is the row's write timestamp: the same for every replay, and later for a later record.
func writeTime(r *codec.Record) int64 { return r.Source.Timestamp.UnixMicro() + r.Source.Offset%1000 }
