package cassandra

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/pkg/codec"
	"github.com/millrace/millrace/pkg/provision"
	"github.com/millrace/millrace/pkg/schema"
	"github.com/millrace/millrace/pkg/schema/schematest"
	"github.com/millrace/millrace/pkg/serve"
	"github.com/millrace/millrace/pkg/servertest"
	"github.com/millrace/millrace/pkg/servertest/cqlproxy"
	"github.com/millrace/millrace/pkg/stream"
	"github.com/millrace/millrace/pkg/stream/sinktest"
	"github.com/millrace/millrace/pkg/telemetry"
)

// open makes a Store with its tables in a keyspace of its own.
func open(t *testing.T, servers servertest.Servers, types ...*schema.Type) *Store {
	t.Helper()
	s := unplanned(t, servers, servers.Keyspace(t), types...)
	apply(t, s)
	return s
}

func unplanned(t *testing.T, servers servertest.Servers, keyspace string, types ...*schema.Type) *Store {
	t.Helper()
	cfg := Default()
	cfg.Hosts, cfg.Keyspace, cfg.Timeout = servers.Cassandra, keyspace, 30*time.Second
	return storeOf(t, cfg, types...)
}

// behindProxy opens two stores of the same tables: one directly, and one whose answers the proxy between may change.
func behindProxy(t *testing.T, servers servertest.Servers, typ *schema.Type, seed uint64) (direct, s *Store, p *cqlproxy.Proxy) {
	t.Helper()
	direct = open(t, servers, typ)
	p, err := cqlproxy.Start(servers.Cassandra[0], seed)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return direct, unplanned(t, servertest.Servers{Cassandra: []string{p.Address()}}, direct.cfg.Keyspace, typ), p
}

func storeOf(t *testing.T, cfg Config, types ...*schema.Type) *Store {
	t.Helper()
	set, err := schema.NewSet(types...)
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(cfg, set, telemetry.Discard())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func apply(t *testing.T, s *Store) []provision.Change {
	t.Helper()
	changes, err := s.Plan(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range changes {
		if err := c.Apply(t.Context()); err != nil {
			t.Fatalf("%s: %v", c.Object, err)
		}
	}
	return changes
}

// store writes a batch and gives what done was called with.
func store(t *testing.T, s *Store, b stream.Batch) error {
	t.Helper()
	result := make(chan error, 1)
	if err := s.Write(t.Context(), b, func(err error) { result <- err }); err != nil {
		return err
	}
	select {
	case err := <-result:
		return err
	case <-time.After(time.Minute):
		t.Fatal("done was not called within a minute")
		return nil
	}
}

func rows(t *testing.T, s *Store, typ *schema.Type) [][]codec.Value {
	t.Helper()
	var out [][]codec.Value
	if err := s.Scan(t.Context(), typ.Name, func(v []codec.Value) error { out = append(out, v); return nil }); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestContract(t *testing.T) {
	servers, ok := servertest.Require(t)
	if !ok {
		return
	}
	for _, typ := range []*schema.Type{schematest.NetworkFlow(t), schematest.Type(t, "log")} {
		t.Run(typ.Name, func(t *testing.T) {
			sinktest.Test(t, func(t *testing.T) sinktest.Harness {
				s := open(t, servers, typ)
				return sinktest.Harness{
					Sink: s, Type: typ,
					Read: func(t *testing.T) [][]codec.Value { return rows(t, s, typ) },
					// The tenant is in each type's partition key, which is at most 65,535 bytes.
					Refuse: func(v []codec.Value) { v[schema.Tenant] = codec.StringValue(strings.Repeat("x", 70000)) },
				}
			})
		})
	}
}

// TestRefusedRows holds the list of messages that make a dead letter against the real server.
func TestRefusedRows(t *testing.T) {
	servers, ok := servertest.Require(t)
	if !ok {
		return
	}
	typ := schematest.Type(t, "log")
	body := typ.Index("body")
	for want, change := range map[string]func(v []codec.Value){
		"key_too_long": func(v []codec.Value) { v[schema.Service] = codec.StringValue(strings.Repeat("x", 65536)) },
		"invalid_text": func(v []codec.Value) { v[body] = codec.BytesValue([]byte("\xff")) },
		"too_large":    func(v []codec.Value) { v[body] = codec.StringValue(strings.Repeat("x", 17<<20)) },
	} {
		t.Run(want, func(t *testing.T) {
			s := open(t, servers, typ)
			b := maker(typ).Batch(0, 0, 5)
			change(b.Records[2].Values)
			err := store(t, s, b)
			var partial *stream.PartialError
			if !errors.As(err, &partial) || !slices.Equal(slices.Collect(maps.Keys(partial.Failed)), []int{2}) {
				t.Fatalf("done got %v, want record 2 refused", err)
			}
			if !strings.HasPrefix(partial.Failed[2].Error(), want+": ") {
				t.Errorf("the reason is %q, want %s", partial.Failed[2], want)
			}
			if got := value(t, s.m.refused.WithLabelValues("log", want)); got != 1 {
				t.Errorf("%g refused, want 1", got)
			}
			if got := len(rows(t, s, typ)); got != 4 {
				t.Errorf("%d rows, want 4", got)
			}
		})
	}
}

func TestMissingTableIsAnOutage(t *testing.T) {
	servers, ok := servertest.Require(t)
	if !ok {
		return
	}
	typ := schematest.Type(t, "log")
	for name, keyspace := range map[string]string{"keyspace": servertest.Name(t), "table": servers.Keyspace(t)} {
		err := store(t, unplanned(t, servers, keyspace, typ), maker(typ).Batch(0, 0, 5))
		var partial *stream.PartialError
		if err == nil || errors.As(err, &partial) || !strings.Contains(err.Error(), "millrace topics apply") {
			t.Errorf("without a %s: %v, want an outage that says what to do", name, err)
		}
	}
}

func TestDroppedTableIsAnOutage(t *testing.T) {
	servers, ok := servertest.Require(t)
	if !ok {
		return
	}
	typ := schematest.Type(t, "log")
	s := open(t, servers, typ)
	if err := store(t, s, maker(typ).Batch(0, 0, 5)); err != nil {
		t.Fatal(err)
	}
	exec(t, s, "DROP TABLE "+typ.CQL(s.cfg.Keyspace).Table)
	err := store(t, s, maker(typ).Batch(0, 5, 10))
	var partial *stream.PartialError
	if err == nil || errors.As(err, &partial) {
		t.Errorf("after the table was dropped: %v, want an outage", err)
	}
	apply(t, s)
	if err := store(t, s, maker(typ).Batch(0, 5, 10)); err != nil {
		t.Errorf("after the table was made again: %v", err)
	}
}

// TestReplayChangesNothing compares write times: a row written again with another one would be another row to every
// replica.
func TestReplayChangesNothing(t *testing.T) {
	servers, ok := servertest.Require(t)
	if !ok {
		return
	}
	typ := schematest.Type(t, "log")
	s := open(t, servers, typ)
	b := maker(typ).Batch(0, 3, 1503)
	if err := store(t, s, b); err != nil {
		t.Fatal(err)
	}
	before := writeTimes(t, s, typ)
	for range 2 {
		if err := store(t, s, b); err != nil {
			t.Fatal(err)
		}
	}
	after := writeTimes(t, s, typ)
	if len(before) != 1500 || !maps.Equal(before, after) {
		t.Errorf("%d rows before, %d after, or other write times", len(before), len(after))
	}
	for i := range b.Records {
		r := &b.Records[i]
		want := r.Source.Timestamp.UnixMicro() + r.Source.Offset%1000
		if got := before[string(r.ID())]; got != want {
			t.Fatalf("offset %d has the write time %d, want %d", r.Source.Offset, got, want)
		}
	}
}

func writeTimes(t *testing.T, s *Store, typ *schema.Type) map[string]int64 {
	t.Helper()
	out := map[string]int64{}
	iter := session(t, s).Query("SELECT id, WRITETIME(body) FROM " + typ.CQL(s.cfg.Keyspace).Table).WithContext(t.Context()).Iter()
	var id string
	var at int64
	for iter.Scan(&id, &at) {
		out[id] = at
	}
	if err := iter.Close(); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestNullsAreUnset(t *testing.T) {
	servers, ok := servertest.Require(t)
	if !ok {
		return
	}
	typ := schematest.Type(t, "log")
	s := open(t, servers, typ)
	m := maker(typ)
	b := m.Batch(0, 0, 1)
	source := typ.Index("source")
	if err := store(t, s, b); err != nil {
		t.Fatal(err)
	}
	// A later replay of the same row with a null must not take away what is there: a bound null would.
	again := m.Batch(0, 0, 1)
	again.Records[0].Source.Timestamp = again.Records[0].Source.Timestamp.Add(time.Second)
	again.Records[0].Values[source] = codec.Value{}
	if err := store(t, s, again); err != nil {
		t.Fatal(err)
	}
	if got := rows(t, s, typ); len(got) != 1 || got[0][source].IsNull() {
		t.Errorf("got %d rows, or a null was written over a value", len(got))
	}
}

func TestTimeToLive(t *testing.T) {
	servers, ok := servertest.Require(t)
	if !ok {
		return
	}
	typ := schematest.Type(t, "log") // kept for 7 days
	s := open(t, servers, typ)
	b := maker(typ).Batch(0, 0, 3)
	now := time.Now()
	set := func(i int, at time.Time) { b.Records[i].Values[schema.Time] = codec.LongValue(at.UnixMicro()) }
	set(0, now)
	set(1, now.Add(-typ.Cassandra.Retention+time.Hour))
	set(2, now.Add(-typ.Cassandra.Retention))
	if err := store(t, s, b); err != nil {
		t.Fatal(err)
	}
	if got := value(t, s.m.expired.WithLabelValues("log")); got != 1 {
		t.Errorf("%g expired, want 1", got)
	}
	left := map[string]int{}
	iter := session(t, s).Query("SELECT id, TTL(body) FROM " + typ.CQL(s.cfg.Keyspace).Table).WithContext(t.Context()).Iter()
	var id string
	var ttl int
	for iter.Scan(&id, &ttl) {
		left[id] = ttl
	}
	if err := iter.Close(); err != nil {
		t.Fatal(err)
	}
	near := func(i int, want time.Duration) {
		got := time.Duration(left[string(b.Records[i].ID())]) * time.Second
		if got > want+time.Second || got < want-time.Minute {
			t.Errorf("record %d has %s to live, want %s", i, got, want)
		}
	}
	near(0, typ.Cassandra.Retention)
	near(1, time.Hour)
	if len(left) != 2 {
		t.Errorf("%d rows, want 2", len(left))
	}
}

// TestEvolvesWhileRunning meets a newer version of a type, and an older one beside it.
func TestEvolvesWhileRunning(t *testing.T) {
	servers, ok := servertest.Require(t)
	if !ok {
		return
	}
	v1 := schematest.Type(t, "log")
	v2 := withField(t, v1, `{"name": "region", "type": ["null", "string"], "default": null}`)
	old := open(t, servers, v1)
	if err := store(t, old, maker(v1).Batch(0, 0, 20)); err != nil {
		t.Fatal(err)
	}
	young := unplanned(t, servers, old.cfg.Keyspace, v2)
	want := maker(v2).Batch(0, 20, 40)
	if err := store(t, young, want); err != nil {
		t.Fatal(err)
	}
	if err := store(t, old, want); err != nil { // the same process takes it up too
		t.Fatal(err)
	}
	if err := store(t, old, maker(v1).Batch(0, 40, 60)); err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, v := range rows(t, young, v2) {
		got[v[schema.ID].String()] = codec.Fingerprint(v2, v, "")
	}
	if len(got) != 60 {
		t.Errorf("%d rows, want 60", len(got))
	}
	for _, r := range want.Records {
		if fp := codec.Fingerprint(v2, r.Values, ""); got[string(r.ID())] != fp {
			t.Errorf("record %s differs", r.ID())
		}
	}
	if n := value(t, young.m.evolved.WithLabelValues("log")); n != 1 {
		t.Errorf("%g columns added, want 1", n)
	}
	if n := value(t, old.m.evolved.WithLabelValues("log")); n != 0 {
		t.Errorf("the second process added %g columns, want none", n)
	}
}

func TestPlan(t *testing.T) {
	servers, ok := servertest.Require(t)
	if !ok {
		return
	}
	v1 := schematest.Type(t, "log")
	keyspace := servertest.Name(t)
	s := unplanned(t, servers, keyspace, v1, schematest.NetworkFlow(t))
	t.Cleanup(func() { exec(t, s, "DROP KEYSPACE IF EXISTS "+keyspace) })
	var objects []string
	for _, c := range apply(t, s) {
		objects = append(objects, c.Object)
	}
	if want := []string{"keyspace " + keyspace, "table " + keyspace + ".log", "table " + keyspace + ".network_flow"}; !slices.Equal(objects, want) {
		t.Errorf("the first plan has %v, want %v", objects, want)
	}
	if left := apply(t, s); len(left) != 0 {
		t.Errorf("a second plan has %+v, want nothing", left)
	}
	exec(t, s, "ALTER TABLE "+keyspace+".log WITH default_time_to_live = 60")
	changed := unplanned(t, servers, keyspace, withField(t, v1, `{"name": "region", "type": ["null", "string"], "default": null}`))
	changed.cfg.Replication = map[string]int{datacenter(t, s): 2}
	var details []string
	for _, c := range apply(t, changed) {
		details = append(details, c.Detail)
	}
	text := strings.Join(details, "\n")
	for _, want := range []string{"copies: 2 in", "add column region text", "default time to live 1m0s becomes 168h0m0s"} {
		if !strings.Contains(text, want) {
			t.Errorf("the plan lacks %q:\n%s", want, text)
		}
	}
	if left := apply(t, changed); len(left) != 0 {
		t.Errorf("a plan after the changes has %+v, want nothing", left)
	}
}

func TestSeries(t *testing.T) {
	servers, ok := servertest.Require(t)
	if !ok {
		return
	}
	typ := schematest.Type(t, "metric")
	s := open(t, servers, typ)
	base := time.Now().Add(-5 * time.Hour).Truncate(time.Hour)
	b := maker(typ).Batch(0, 0, 240)
	set := func(r *codec.Record, field string, v codec.Value) { r.Values[typ.Index(field)] = v }
	for i := range b.Records {
		r := &b.Records[i]
		set(r, "time", codec.LongValue(base.Add(time.Duration(i)*time.Minute).UnixMicro()))
		set(r, "tenant", codec.StringValue("acme"))
		set(r, "name", codec.StringValue("system.cpu.utilization"))
		set(r, "service", codec.StringValue("shop"))
		set(r, "host", codec.StringValue(fmt.Sprintf("h%d", i%2)))
		set(r, "value", codec.DoubleValue(float64(i)))
		set(r, "attributes", codec.MapValue(map[string]string{"cpu": strconv.Itoa(i % 4)}))
	}
	if err := store(t, s, b); err != nil {
		t.Fatal(err)
	}
	query := serve.SeriesQuery{Metric: "system.cpu.utilization", Tenant: "acme", From: base, To: base.Add(4 * time.Hour), Limit: 1000}
	for name, c := range map[string]struct {
		change    func(*serve.SeriesQuery)
		series    int
		points    int
		truncated bool
	}{
		"all":          {func(*serve.SeriesQuery) {}, 4, 240, false},
		"one host":     {func(q *serve.SeriesQuery) { q.Host = "h1" }, 2, 120, false},
		"one label":    {func(q *serve.SeriesQuery) { q.Labels = map[string]string{"cpu": "3"} }, 1, 60, false},
		"other tenant": {func(q *serve.SeriesQuery) { q.Tenant = "" }, 0, 0, false},
		"window":       {func(q *serve.SeriesQuery) { q.From, q.To = base.Add(time.Hour), base.Add(2*time.Hour) }, 4, 60, false},
		"limit":        {func(q *serve.SeriesQuery) { q.Limit = 100 }, 4, 100, true},
		"exact limit":  {func(q *serve.SeriesQuery) { q.Limit = 240 }, 4, 240, false},
	} {
		t.Run(name, func(t *testing.T) {
			q := query
			c.change(&q)
			got, truncated, err := s.Series(t.Context(), q)
			if err != nil {
				t.Fatal(err)
			}
			points, oldest := 0, q.To
			for _, one := range got {
				points += len(one.Points)
				oldest = minTime(oldest, one.Points[0].Time)
				if !slices.IsSortedFunc(one.Points, func(a, b serve.Point) int { return a.Time.Compare(b.Time) }) {
					t.Error("points are not oldest first")
				}
				if one.Labels["service"] != "shop" || one.Labels["tenant"] != "acme" {
					t.Errorf("labels are %v", one.Labels)
				}
			}
			if len(got) != c.series || points != c.points || truncated != c.truncated {
				t.Errorf("%d series, %d points, truncated %t; want %d, %d, %t", len(got), points, truncated, c.series, c.points, c.truncated)
			}
			if c.truncated && !oldest.Equal(base.Add(140*time.Minute)) {
				t.Errorf("the oldest point is of %s: the newest were not kept", oldest)
			}
		})
	}
}

func TestCloseEndsWrites(t *testing.T) {
	servers, ok := servertest.Require(t)
	if !ok {
		return
	}
	typ := schematest.Type(t, "log")
	s := open(t, servers, typ)
	if err := s.Ping(t.Context()); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- s.Run(ctx) }()
	result := make(chan error, 1)
	if err := s.Write(t.Context(), maker(typ).Batch(0, 0, 2000), func(err error) { result <- err }); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-ran; err != nil {
		t.Error(err)
	}
	if err := <-result; err != nil {
		t.Errorf("the batch under way got %v: Run did not wait for it", err)
	}
	if err := s.Write(t.Context(), maker(typ).Batch(0, 0, 1), func(error) { t.Error("done after close") }); !errors.Is(err, stream.ErrClosed) {
		t.Errorf("a write after the end got %v", err)
	}
}
