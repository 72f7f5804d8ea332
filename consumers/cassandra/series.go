package cassandra

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gocql/gocql"

	"github.com/millrace/millrace/pkg/schema"
	"github.com/millrace/millrace/pkg/serve"
)

const (
	metricType    = "metric"
	defaultPoints = 10000
	seriesPage    = 1000
)

// Series reads the partitions of the metric that the time range touches, newest first, many at once, and stops when
// the limit is reached.
func (s *Store) Series(ctx context.Context, q serve.SeriesQuery) (series []serve.Series, truncated bool, err error) {
	t := s.types.Get(metricType)
	if t == nil {
		return nil, false, fmt.Errorf("there is no type %q", metricType)
	}
	r := &reader{store: s, typ: t, q: q, limit: q.Limit}
	if r.limit <= 0 {
		r.limit = defaultPoints
	}
	if r.statement, err = seriesStatement(t, s.cfg.Keyspace); err != nil {
		return nil, false, err
	}
	if r.session, err = s.connect(ctx); err != nil {
		return nil, false, err
	}
	samples, truncated, err := r.read(ctx)
	if err != nil {
		return nil, false, fmt.Errorf("reading metric %q: %w", q.Metric, err)
	}
	return group(q, samples), truncated, nil
}

// sample is one point with what tells its series from others.
type sample struct {
	micros                  int64
	id                      gocql.UUID
	value                   float64
	unit, service, host, dc string
	attributes              map[string]string
}

type reader struct {
	store     *Store
	session   *gocql.Session
	typ       *schema.Type
	q         serve.SeriesQuery
	limit     int
	statement string
}

// seriesStatement reads one partition. The metric's key has to be its tenant and its name: the read is by them.
func seriesStatement(t *schema.Type, keyspace string) (string, error) {
	name, value, unit, attributes := t.Index("name"), t.Index("value"), t.Index("unit"), t.Index("attributes")
	if !slices.Equal(t.Cassandra.Partition, []int{schema.Tenant, name}) || min(value, unit, attributes) < 0 {
		return "", errors.New("type metric is not keyed by tenant and name, or has no value, unit or attributes: its series cannot be read")
	}
	column := func(i int) string { return quoted(t.Fields[i].Column()) }
	at := column(schema.Time)
	return fmt.Sprintf("SELECT %s, %s, %s, %s, %s, %s, %s, %s FROM %s WHERE %s = ? AND %s = ? AND bucket = ? AND shard = ? AND %s >= ? AND %s < ?",
		at, column(schema.ID), column(value), column(unit), column(schema.Service), column(schema.Host), column(schema.Datacenter),
		column(attributes), t.CQL(keyspace).Table, column(schema.Tenant), column(name), at, at), nil
}

// read gives the newest samples, at most as many as the limit, and whether there are more.
func (r *reader) read(ctx context.Context) ([]sample, bool, error) {
	width := r.typ.Cassandra.Bucket
	if !r.q.From.Before(r.q.To) {
		return nil, false, nil
	}
	oldest := r.typ.Bucket(r.q.From.UnixMicro())
	newest := r.typ.Bucket(r.q.To.UnixMicro() - 1)
	if floor := r.typ.Bucket(r.store.Now().Add(-r.typ.Cassandra.Retention).UnixMicro()); r.typ.Cassandra.Retention > 0 && oldest.Before(floor) {
		oldest = floor // what is older has expired
	}
	shards := r.typ.Cassandra.Shards
	if n := (int64(newest.Sub(oldest)/width) + 1) * int64(shards); n > int64(r.store.cfg.Read.Partitions) {
		return nil, false, serve.BadQuery("the time range touches %d partitions, more than cassandra.read.partitions (%d): ask for less", n, r.store.cfg.Read.Partitions)
	}
	// Whole buckets at a time: within a round the partitions are read at once, between rounds it can stop.
	step := max(1, r.store.cfg.Read.Parallel/shards)
	var all []sample
	for !newest.Before(oldest) {
		var buckets []time.Time
		for ; len(buckets) < step && !newest.Before(oldest); newest = newest.Add(-width) {
			buckets = append(buckets, newest)
		}
		more, err := r.round(ctx, buckets)
		if err != nil {
			return nil, false, err
		}
		if all = append(all, more...); len(all) > r.limit {
			slices.SortFunc(all, func(a, b sample) int { return cmp.Compare(b.micros, a.micros) })
			return all[:r.limit], true, nil
		}
	}
	return all, false, nil
}

// round reads all shards of some buckets at once.
func (r *reader) round(ctx context.Context, buckets []time.Time) ([]sample, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex
		all   []sample
		first error
	)
	for _, b := range buckets {
		for shard := range r.typ.Cassandra.Shards {
			select {
			case r.store.reads <- struct{}{}:
			case <-ctx.Done():
				wg.Wait()
				return nil, cmp.Or(first, context.Cause(ctx))
			}
			wg.Go(func() {
				part, err := r.partition(ctx, b, shard)
				<-r.store.reads
				mu.Lock()
				defer mu.Unlock()
				all = append(all, part...)
				if err != nil && first == nil {
					first = err
					cancel()
				}
			})
		}
	}
	wg.Wait()
	return all, first
}

// partition reads one partition, newest first, until it has as many samples as could be wanted.
func (r *reader) partition(ctx context.Context, bucket time.Time, shard int) ([]sample, error) {
	ctx, cancel := context.WithTimeout(ctx, r.store.cfg.Timeout)
	defer cancel()
	iter := r.session.Query(r.statement, r.q.Tenant, r.q.Metric, bucket.UnixMilli(), shard,
		ceilMicros(r.q.From), ceilMicros(r.q.To)).WithContext(ctx).PageSize(min(seriesPage, r.limit+1)).Iter()
	var out []sample
	for len(out) <= r.limit {
		var one sample
		if !iter.Scan(&one.micros, &one.id, &one.value, &one.unit, &one.service, &one.host, &one.dc, &one.attributes) {
			break
		}
		if r.wants(&one) {
			out = append(out, one)
		}
	}
	return out, iter.Close()
}

// ceilMicros keeps a bound that lies between two microseconds on the right side of both.
func ceilMicros(t time.Time) int64 {
	micros := t.UnixMicro()
	if t.Nanosecond()%1000 != 0 {
		micros++
	}
	return micros
}

func (r *reader) wants(one *sample) bool {
	if math.IsNaN(one.value) || math.IsInf(one.value, 0) {
		return false // JSON has no word for it: one such point would cost the caller the whole answer
	}
	if r.q.Service != "" && one.service != r.q.Service || r.q.Host != "" && one.host != r.q.Host {
		return false
	}
	for k, v := range r.q.Labels {
		if got, ok := one.attributes[k]; !ok || got != v {
			return false
		}
	}
	return true
}

// group puts samples of the same labels together, oldest first.
func group(q serve.SeriesQuery, samples []sample) []serve.Series {
	slices.SortFunc(samples, func(a, b sample) int {
		return cmp.Or(cmp.Compare(a.micros, b.micros), slices.Compare(a.id[:], b.id[:]))
	})
	byKey := make(map[string]*serve.Series)
	for i := range samples {
		one := &samples[i]
		key := seriesKey(one)
		series := byKey[key]
		if series == nil {
			series = &serve.Series{Metric: q.Metric, Labels: one.labels(q.Tenant)}
			byKey[key] = series
		}
		series.Unit = cmp.Or(one.unit, series.Unit)
		series.Points = append(series.Points, serve.Point{Time: time.UnixMicro(one.micros).UTC(), Value: one.value})
	}
	out := make([]serve.Series, 0, len(byKey))
	for _, key := range slices.Sorted(maps.Keys(byKey)) {
		out = append(out, *byKey[key])
	}
	return out
}

func (o *sample) labels(tenant string) map[string]string {
	labels := make(map[string]string, len(o.attributes)+4)
	maps.Copy(labels, o.attributes)
	for name, value := range map[string]string{"service": o.service, "host": o.host, "datacenter": o.dc, "tenant": tenant} {
		if value != "" {
			labels[name] = value
		}
	}
	return labels
}

func seriesKey(o *sample) string {
	var b strings.Builder
	write := func(text string) { fmt.Fprintf(&b, "%d:%s", len(text), text) }
	write(o.service)
	write(o.host)
	write(o.dc)
	for _, k := range slices.Sorted(maps.Keys(o.attributes)) {
		write(k)
		write(o.attributes[k])
	}
	return b.String()
}
