package cassandra

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/gocql/gocql"

	"github.com/millrace/millrace/pkg/codec"
	"github.com/millrace/millrace/pkg/schema"
	"github.com/millrace/millrace/pkg/schema/schematest"
	"github.com/millrace/millrace/pkg/stream"
	"github.com/millrace/millrace/pkg/stream/sinktest"
	"github.com/millrace/millrace/pkg/telemetry"
)

func maker(typ *schema.Type) sinktest.Maker {
	return sinktest.Maker{Type: typ, Base: time.Now().Add(-time.Minute).Truncate(time.Second), Seed: "cassandra"}
}

// withField gives the type's next version, which has one field more.
func withField(t *testing.T, typ *schema.Type, field string) *schema.Type {
	t.Helper()
	var doc map[string]any
	if err := json.Unmarshal(typ.JSON, &doc); err != nil {
		t.Fatal(err)
	}
	fields, _ := doc["fields"].([]any)
	doc["fields"] = append(fields, json.RawMessage(field))
	text, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	next, err := schema.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return next
}

func minTime(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

func session(t *testing.T, s *Store) *gocql.Session {
	t.Helper()
	out, err := s.data.get(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// exec runs a statement over a connection of its own, for it may come when the Store is closed.
func exec(t *testing.T, s *Store, statement string) {
	t.Helper()
	c := &connector{cfg: s.cfg, log: s.log}
	defer c.close()
	out, err := c.get(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.execAll(context.Background(), out, []string{statement}); err != nil {
		t.Fatal(err)
	}
}

func datacenter(t *testing.T, s *Store) string {
	t.Helper()
	var dc string
	if err := session(t, s).Query("SELECT data_center FROM system.local").Scan(&dc); err != nil {
		t.Fatal(err)
	}
	return dc
}

func TestDefaultIsValid(t *testing.T) {
	if err := Default().Validate(); err != nil {
		t.Error(err)
	}
}

func TestValidateNamesEveryMistake(t *testing.T) {
	cfg := Config{
		Hosts: []string{"nowhere"}, Keyspace: "Bad-Name", Consistency: "most", Password: "x", Timeout: -1,
		Replication: map[string]int{"dc'1": 1, "dc2": 0}, TLS: TLS{CA: "x", Cert: "y"},
	}
	err := cfg.Validate()
	if err == nil {
		t.Fatal("no error")
	}
	for _, key := range []string{
		"cassandra.hosts[0]", "cassandra.keyspace", "cassandra.consistency", "cassandra.password", "cassandra.timeout",
		"cassandra.replication names", "cassandra.replication.dc2", "cassandra.tls", "cassandra.connections", "cassandra.in_flight",
		"cassandra.batch.rows", "cassandra.batch.bytes", "cassandra.partition_bytes", "cassandra.read.parallel", "cassandra.read.partitions",
	} {
		if !strings.Contains(err.Error(), key) {
			t.Errorf("nothing about %s in:\n%v", key, err)
		}
	}
	if _, err := New(cfg, nil, telemetry.Discard()); err == nil {
		t.Error("New takes a configuration with mistakes")
	}
}

func offline(t *testing.T, address string) *Store {
	t.Helper()
	cfg := Default()
	cfg.Hosts, cfg.Timeout = []string{address}, time.Second
	set, err := schema.NewSet(schematest.Type(t, "log"))
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

// silent accepts connections and never answers: a half-dead node.
func silent(t *testing.T) string {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l.Addr().String()
}

func TestUnreachableIsAnOutage(t *testing.T) {
	address := silent(t)
	for name, s := range map[string]*Store{"closed": offline(t, "127.0.0.1:1"), "silent": offline(t, address)} {
		begun := time.Now()
		err := s.Write(t.Context(), maker(schematest.Type(t, "log")).Batch(0, 0, 5), func(error) { t.Error("done was called") })
		var partial *stream.PartialError
		if err == nil || errors.As(err, &partial) {
			t.Errorf("%s: %v, want an outage", name, err)
		}
		if took := time.Since(begun); took > 20*time.Second {
			t.Errorf("%s: it took %s", name, took)
		}
	}
}

func TestConnectingEndsWithTheContext(t *testing.T) {
	s := offline(t, silent(t))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Ping(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestEmptyBatchNeedsNoServer(t *testing.T) {
	s := offline(t, "127.0.0.1:1")
	called := 0
	if err := s.Write(t.Context(), stream.Batch{Next: 3, Dead: 3}, func(error) { called++ }); err != nil || called != 1 {
		t.Errorf("err %v, %d dones", err, called)
	}
}

// response is an error as gocql gives it for what a server answers.
type response struct {
	code    int
	message string
}

func (r response) Code() int       { return r.code }
func (r response) Message() string { return r.message }
func (r response) Error() string   { return r.message }

func TestFault(t *testing.T) {
	for _, c := range []struct {
		err  error
		want string
	}{
		{response{gocql.ErrCodeInvalid, "Key length of 70000 is longer than maximum of 65535"}, "key_too_long"},
		{response{gocql.ErrCodeInvalid, "String didn't validate."}, "invalid_text"},
		{response{gocql.ErrCodeInvalid, "Request is too big: length 20973443 exceeds maximum allowed length 16777216."}, "too_large"},
		{response{gocql.ErrCodeInvalid, "Rejected an oversized mutation (8388944/4194304) for keyspace: x."}, "too_large"},
		{response{gocql.ErrCodeInvalid, "table log does not exist"}, ""},
		{response{gocql.ErrCodeInvalid, "Undefined column name region in table x.log"}, ""},
		{response{gocql.ErrCodeServer, "String didn't validate."}, ""},
		{response{gocql.ErrCodeUnauthorized, "no permission"}, ""},
		{response{gocql.ErrCodeWriteTimeout, "timed out"}, ""},
		{gocql.ErrNoConnections, ""},
		{context.DeadlineExceeded, ""},
	} {
		if got := fault(c.err); got != c.want {
			t.Errorf("%v is %q, want %q", c.err, got, c.want)
		}
	}
}

func TestKindOf(t *testing.T) {
	for want, err := range map[string]error{
		"cancelled": context.Canceled, "timeout": gocql.ErrTimeoutNoResponse, "connection": gocql.ErrNoConnections,
		"server_timeout": response{gocql.ErrCodeWriteTimeout, ""}, "unavailable": response{gocql.ErrCodeUnavailable, ""},
		"overloaded": response{gocql.ErrCodeOverloaded, ""}, "invalid": response{gocql.ErrCodeInvalid, ""},
		"server": response{gocql.ErrCodeServer, ""},
	} {
		if got := kindOf(err); got != want {
			t.Errorf("%v is %q, want %q", err, got, want)
		}
	}
}

func TestTimeToLiveOf(t *testing.T) {
	now := time.UnixMicro(1_700_000_000_000_000)
	for _, c := range []struct {
		age, retention time.Duration
		want           int
		ok             bool
	}{
		{0, time.Hour, 3600, true},
		{time.Microsecond, time.Hour, 3600, true}, // rounded up
		{time.Hour - time.Microsecond, time.Hour, 1, true},
		{time.Hour, time.Hour, 0, false},
		{48 * time.Hour, time.Hour, 0, false},
		{-time.Minute, time.Hour, 3660, true},
		{0, 0, 0, true},
		{0, 100 * 365 * 24 * time.Hour, 630720000, true},
	} {
		got, ok := timeToLive(now.Add(-c.age).UnixMicro(), c.retention, now.UnixMicro())
		if got != c.want || ok != c.ok {
			t.Errorf("age %s, retention %s: %d %t, want %d %t", c.age, c.retention, got, ok, c.want, c.ok)
		}
	}
}

// filled gives batches as they are before they are sent.
func filled(s *Store, batches ...stream.Batch) []*write {
	var out []*write
	for _, b := range batches {
		cql := b.Type.CQL("k")
		w := &write{store: s, batch: b, insert: newInsert(b.Type, &cql)}
		w.fill()
		out = append(out, w)
	}
	return out
}

// TestRequests: a request holds rows of one partition only and keeps its bounds, and no record is lost or doubled, also
// where batches share requests.
func TestRequests(t *testing.T) {
	typ := schematest.Type(t, "log")
	s := offline(t, "127.0.0.1:1")
	s.cfg.Batch = Batch{Rows: 7, Bytes: 2000}
	m := maker(typ)
	for _, company := range [][]*write{
		filled(s, m.Batch(0, 0, 500)),
		filled(s, m.Batch(0, 0, 100), m.Batch(1, 0, 300), m.Batch(2, 7, 107)),
	} {
		type record struct {
			write *write
			index int32
		}
		seen := map[record]bool{}
		shared := false
		for _, ps := range requests(company) {
			bytes, rows := 0, 0
			first := ""
			for _, p := range ps {
				shared = shared || p.write != ps[0].write
				for _, one := range p.rows {
					rows++
					bytes += one.size
					key := p.write.sheet.bundles[one.bundle].key
					if first == "" {
						first = key
					}
					if key != first || !strings.HasPrefix(string(p.write.sheet.wire[one.at:]), key) {
						t.Error("a request with rows of two partitions")
					}
					if r := (record{p.write, one.record}); seen[r] {
						t.Errorf("record %d is there twice", one.record)
					} else {
						seen[r] = true
					}
				}
			}
			if rows == 0 || rows > 7 || bytes > 2000 && rows > 1 {
				t.Errorf("a request has %d rows, %d bytes, want 1 to 7, 2000 bytes at most", rows, bytes)
			}
		}
		if len(seen) != 500 || shared != (len(company) > 1) {
			t.Errorf("%d records in requests, want 500; shared: %t", len(seen), shared)
		}
	}
}

func TestWarnsOfLargePartitionsOnce(t *testing.T) {
	typ := schematest.Type(t, "log")
	s := offline(t, "127.0.0.1:1")
	s.cfg.PartitionBytes = 1000
	for range 10 {
		s.count(typ, "a", 300)
		s.count(typ, "b", 50)
	}
	if got := value(t, s.m.oversized.WithLabelValues("log")); got != 1 {
		t.Errorf("%g warnings, want 1", got)
	}
}

// TestCells sends each kind's limits through Cassandra's wire form and back.
func TestCells(t *testing.T) {
	f := func(kind schema.Kind, wire gocql.Type, v codec.Value) {
		t.Helper()
		var info gocql.TypeInfo = gocql.NewNativeType(4, wire, "")
		data, err := appendCell([]byte{}, kind, &v)
		if err == nil {
			in := &bound{request: &request{wire: data}, n: len(data), want: wireTypes[kind]}
			data, err = in.MarshalCQL(info)
		}
		if err != nil || data == nil {
			t.Errorf("%s: %v, %v", kind, data, err)
			return
		}
		out := &cell{kind: kind}
		if err := out.UnmarshalCQL(info, data); err != nil {
			t.Errorf("%s: %v", kind, err)
			return
		}
		typ := &schema.Type{Fields: []schema.Field{{Name: "f", Kind: kind}}}
		if want, got := sinktest.Text(typ, []codec.Value{v}), sinktest.Text(typ, []codec.Value{out.value}); want != got {
			t.Errorf("%s: %s became %s", kind, want, got)
		}
		if err := out.UnmarshalCQL(info, nil); err != nil || !out.value.IsNull() {
			t.Errorf("%s: null became %v, %v", kind, out.value, err)
		}
	}
	f(schema.Bool, gocql.TypeBoolean, codec.BoolValue(true))
	f(schema.Bool, gocql.TypeBoolean, codec.BoolValue(false))
	for _, n := range []int64{0, -1, math.MaxInt32, math.MinInt32} {
		f(schema.Int, gocql.TypeInt, codec.LongValue(n))
	}
	for _, n := range []int64{0, -1, math.MaxInt64, math.MinInt64, 1<<53 + 1} {
		f(schema.Long, gocql.TypeBigInt, codec.LongValue(n))
		f(schema.Timestamp, gocql.TypeBigInt, codec.LongValue(n))
	}
	for _, x := range []float64{0, math.Copysign(0, -1), 0.1, math.MaxFloat64, math.SmallestNonzeroFloat64, math.Inf(-1), math.NaN()} {
		f(schema.Double, gocql.TypeDouble, codec.DoubleValue(x))
	}
	f(schema.Float, gocql.TypeFloat, codec.DoubleValue(float64(float32(0.1))))
	for _, s := range []string{"", "plain", "żółć 東京 🚀", "\x00"} {
		f(schema.String, gocql.TypeVarchar, codec.StringValue(s))
		f(schema.Bytes, gocql.TypeBlob, codec.BytesValue([]byte(s)))
	}
	f(schema.String, gocql.TypeVarchar, codec.BytesValue(nil))
	f(schema.UUID, gocql.TypeUUID, codec.StringValue("018f0000-0000-7000-8000-000000000001"))
	for _, m := range []map[string]string{nil, {"": ""}, {"a": "b", "żółć": "東京"}, {"long": strings.Repeat("x", 100000)}} {
		f(schema.Map, gocql.TypeMap, codec.MapValue(m))
	}
}

func TestCellRefusesAnotherColumn(t *testing.T) {
	info := gocql.NewNativeType(4, gocql.TypeTimestamp, "")
	if _, err := (&bound{request: &request{wire: make([]byte, 8)}, n: 8, want: wireTypes[schema.Timestamp]}).MarshalCQL(info); err == nil {
		t.Error("a time in microseconds was taken for a column of milliseconds")
	}
	if err := (&cell{kind: schema.Timestamp}).UnmarshalCQL(info, make([]byte, 8)); err == nil {
		t.Error("a column of milliseconds was taken for a time in microseconds")
	}
}

func FuzzMap(f *testing.F) {
	f.Add([]byte{0, 0, 0, 1, 0, 0, 0, 1, 'k', 0, 0, 0, 0})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(_ *testing.T, data []byte) {
		m, err := avroMap(data)
		if err != nil {
			return
		}
		for range codec.BytesValue(m).Pairs() {
		}
	})
}
