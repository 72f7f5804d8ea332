package devstore

import (
	"context"
	"database/sql/driver"
	"fmt"
	"math"
	"strings"
	"sync"
	"time"

	"github.com/duckdb/duckdb-go/v2"
	"github.com/google/uuid"

	"github.com/millrace/millrace/pkg/codec"
	"github.com/millrace/millrace/pkg/schema"
	"github.com/millrace/millrace/pkg/stream"
)

// queue holds the batches that wait for the next commit: whoever gets to write takes all of them, so that many small
// batches share one transaction and one fsync.
type queue struct {
	mu      sync.Mutex
	waiting []*waiting
}

type waiting struct {
	batch stream.Batch
	done  func(error)
}

func (q *queue) add(w *waiting) {
	q.mu.Lock()
	q.waiting = append(q.waiting, w)
	q.mu.Unlock()
}

func (q *queue) takeAll() []*waiting {
	q.mu.Lock()
	defer q.mu.Unlock()
	all := q.waiting
	q.waiting = nil
	return all
}

// remove takes w back; false if somebody is already writing it.
func (q *queue) remove(w *waiting) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	for i, x := range q.waiting {
		if x == w {
			q.waiting = append(q.waiting[:i], q.waiting[i+1:]...)
			return true
		}
	}
	return false
}

// Write stores a batch; it returns once done was called, or somebody else's commit is about to call it.
func (s *Store) Write(ctx context.Context, b stream.Batch, done func(error)) error {
	if _, err := s.open(ctx); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	w := &waiting{b, done}
	s.queue.add(w)
	if err := s.lockWriter(ctx); err != nil {
		if s.queue.remove(w) {
			return err
		}
		return nil // it is being written, and done will be called
	}
	defer s.unlockWriter()
	all := s.queue.takeAll()
	if len(all) == 0 {
		return nil
	}
	// The batches of others must not fail because this caller gives up.
	err := s.commit(context.WithoutCancel(ctx), all)
	for _, w := range all {
		w.done(err)
	}
	return nil
}

// commit makes batches durable in one transaction. The caller holds the writer.
func (s *Store) commit(ctx context.Context, all []*waiting) (err error) {
	began := time.Now()
	byType := map[*schema.Type][]codec.Record{}
	var order []*schema.Type
	for _, w := range all {
		t := w.batch.Type
		if t == nil || len(w.batch.Records) == 0 {
			continue
		}
		if byType[t] == nil {
			order = append(order, t)
		}
		byType[t] = append(byType[t], w.batch.Records...)
	}
	if len(order) == 0 {
		return nil
	}
	conn, err := s.writerConn(ctx)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			s.dropConn()
		}
	}()
	tables := make([]*table, len(order))
	for i, t := range order {
		if tables[i], err = s.tableFor(ctx, conn, t); err != nil {
			return err
		}
	}
	if _, err := conn.ExecContext(ctx, "BEGIN"); err != nil {
		return fmt.Errorf("beginning a transaction: %w", err)
	}
	stored := make([]int64, len(order))
	for i, t := range order {
		err := conn.Raw(func(dc any) (err error) {
			stored[i], err = insert(ctx, dc, tables[i], t, byType[t])
			return err
		})
		if err != nil {
			return fmt.Errorf("storing %d records of %s: %w", len(byType[t]), t.Name, err)
		}
	}
	// DuckDB syncs its write-ahead log before COMMIT returns.
	if _, err := conn.ExecContext(ctx, "COMMIT"); err != nil {
		return fmt.Errorf("committing: %w", err)
	}
	for i, t := range order {
		s.m.rows.WithLabelValues(t.Name).Add(float64(stored[i]))
		s.m.repeats.WithLabelValues(t.Name).Add(float64(int64(len(byType[t])) - stored[i]))
	}
	s.m.commits.Observe(time.Since(began).Seconds())
	return nil
}

// tableFor gives the table for records of t, evolved if it must be.
func (s *Store) tableFor(ctx context.Context, db execer, t *schema.Type) (*table, error) {
	s.mu.RLock()
	tb := s.tables[t.Name]
	s.mu.RUnlock()
	if tb != nil && (tb.typ == t || tb.has(t)) {
		return tb, nil
	}
	var err error
	if tb == nil {
		tb, err = loadTable(ctx, db, t)
	} else {
		tb, err = tb.evolve(ctx, db, t)
		s.log.Info("table evolved", "type", t.Name)
	}
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.tables[t.Name] = tb
	s.mu.Unlock()
	return tb, nil
}

// insert adds the records that the table does not hold yet. The look for repeats is a join over the batch's range of
// times only, which DuckDB answers from the few row groups that overlap it; an index would cost memory for every row.
func insert(ctx context.Context, driverConn any, tb *table, t *schema.Type, records []codec.Record) (int64, error) {
	dc, ok := driverConn.(*duckdb.Conn)
	if !ok {
		return 0, fmt.Errorf("the connection is a %T", driverConn)
	}
	fresh, low, high := distinct(records)
	a, err := newAppender(dc, tb, t, low, high)
	if err != nil {
		return 0, err
	}
	row := make([]driver.Value, len(t.Fields))
	for _, r := range fresh {
		for i := range t.Fields {
			if row[i], err = toDuck(t.Fields[i].Kind, r.Values[i]); err != nil {
				break
			}
		}
		if err == nil {
			err = a.AppendRow(row...)
		}
		if err != nil {
			_ = a.Clear() // close must not store half of them
			_ = a.CloseWithCancel(ctx)
			return 0, err
		}
	}
	return int64(len(fresh)), a.CloseWithCancel(ctx)
}

func newAppender(dc *duckdb.Conn, tb *table, t *schema.Type, low, high int64) (*duckdb.Appender, error) {
	infos := make([]duckdb.TypeInfo, len(t.Fields))
	columns := make([]string, len(t.Fields))
	names := make([]string, len(t.Fields))
	for i, f := range t.Fields {
		var err error
		if infos[i], err = typeInfo(f.Kind); err != nil {
			return nil, err
		}
		columns[i] = quote(tb.column(t, i))
		names[i] = fmt.Sprintf("c%d", i)
	}
	query := fmt.Sprintf(`INSERT INTO %s (%s) SELECT %s FROM fresh WHERE NOT EXISTS (
		SELECT 1 FROM %s o WHERE o."time" BETWEEN %d AND %d AND o."time" = fresh.c%d AND o."id" = fresh.c%d)`,
		quote(t.Name), strings.Join(columns, ", "), strings.Join(names, ", "),
		quote(t.Name), low, high, schema.Time, schema.ID)
	return duckdb.NewQueryAppender(dc, query, "fresh", infos, names)
}

// distinct leaves repeats within the records out, and gives the range of their times.
func distinct(records []codec.Record) (fresh []*codec.Record, low, high int64) {
	type key struct {
		id string
		at int64
	}
	seen := make(map[key]struct{}, len(records))
	low, high = math.MaxInt64, math.MinInt64
	for i := range records {
		r := &records[i]
		k := key{string(r.ID()), r.TimeMicros()}
		if _, ok := seen[k]; ok {
			continue
		}
		seen[k] = struct{}{}
		fresh = append(fresh, r)
		low, high = min(low, k.at), max(high, k.at)
	}
	return fresh, low, high
}

// toDuck gives a value as the appender takes it.
func toDuck(k schema.Kind, v codec.Value) (driver.Value, error) {
	if v.IsNull() {
		return nil, nil //nolint:nilnil // null is a value
	}
	switch k {
	case schema.Bool:
		return v.Bool(), nil
	case schema.Int:
		return int32(v.Long()), nil //nolint:gosec // the codec checked it
	case schema.Long, schema.Timestamp:
		return v.Long(), nil
	case schema.Float:
		return float32(v.Double()), nil
	case schema.Double:
		return v.Double(), nil
	case schema.UUID:
		id, err := uuid.ParseBytes(v.Bytes())
		return duckdb.UUID(id), err
	case schema.Map:
		var m duckdb.OrderedMap
		for key, val := range v.Pairs() {
			m.Set(string(key), string(val))
		}
		return m, nil
	case schema.Bytes:
		return v.Bytes(), nil
	default:
		return v.String(), nil
	}
}
