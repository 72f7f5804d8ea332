package lakesql

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/pkg/codec"
	"github.com/millrace/millrace/pkg/lake"
	"github.com/millrace/millrace/pkg/schema"
	"github.com/millrace/millrace/pkg/schema/schematest"
	"github.com/millrace/millrace/pkg/telemetry"
)

var base = time.Date(2026, 3, 1, 23, 59, 59, 999_000_000, time.UTC)

func newLake(t *testing.T, types ...*schema.Type) *lake.Lake {
	t.Helper()
	cfg := lake.Default()
	cfg.Warehouse = t.TempDir()
	l, err := lake.New(cfg, telemetry.Discard())
	if err != nil {
		t.Fatal(err)
	}
	for _, typ := range types {
		if err := l.Create(t.Context(), typ); err != nil {
			t.Fatal(err)
		}
	}
	return l
}

// record makes a record with the fields given by name; others are null, or empty.
func record(typ *schema.Type, offset int64, at time.Time, fields map[string]codec.Value) codec.Record {
	values := make([]codec.Value, len(typ.Fields))
	for i, f := range typ.Fields {
		switch {
		case f.Nullable:
		case f.Kind == schema.Map:
			values[i] = codec.MapValue(nil)
		default:
			values[i] = codec.StringValue("")
		}
	}
	values[schema.ID] = codec.StringValue(fmt.Sprintf("018f0000-0000-7000-8000-%012d", offset))
	values[schema.Time] = codec.LongValue(at.UnixMicro())
	for name, v := range fields {
		values[typ.Index(name)] = v
	}
	return codec.Record{
		Source: &kgo.Record{Topic: typ.Topic.Name, Partition: 1, Offset: offset, Timestamp: at.Add(time.Second)},
		Type:   typ, Values: values,
	}
}

func store(t testing.TB, l *lake.Lake, typ *schema.Type, first int64, records ...codec.Record) {
	t.Helper()
	storeThrough(t, l, typ, first, time.Time{}, records...)
}

// storeThrough is store with the append time of the last record; zero leaves it out.
func storeThrough(t testing.TB, l *lake.Lake, typ *schema.Type, first int64, through time.Time, records ...codec.Record) {
	t.Helper()
	table, err := l.Open(t.Context(), typ)
	if err != nil {
		t.Fatal(err)
	}
	w, err := table.NewWriter(t.Context(), lake.WriterConfig{Memory: 1 << 20, GroupRows: 1000})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Add(t.Context(), typ, records); err != nil {
		t.Fatal(err)
	}
	files, err := w.Finish()
	if err != nil {
		t.Fatal(err)
	}
	n := int64(len(records))
	counts := lake.Counts{First: first, Next: first + n, Rows: n}
	if !through.IsZero() {
		counts.Through = through.UnixMicro()
	}
	err = table.Commit(t.Context(), &lake.Commit{
		Files:   files,
		Sources: map[string]lake.Source{typ.Topic.Name: {Cluster: "c", TopicID: "t"}},
		Spans: map[lake.TopicPartition]lake.Counts{
			{Topic: typ.Topic.Name, Partition: 1}: counts,
		},
	})
	if err != nil {
		t.Fatal(err)
	}
}

func open(t *testing.T, l *lake.Lake, types ...*schema.Type) *DB {
	t.Helper()
	return openWith(t, l, []string{All}, types...)
}

func openWith(t testing.TB, l *lake.Lake, deduplicate []string, types ...*schema.Type) *DB {
	t.Helper()
	cfg := Default()
	cfg.Deduplicate = deduplicate
	d, err := Open(t.Context(), cfg, l, types, lake.AsOf{})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func query(t *testing.T, d *DB, statement, format string) string {
	t.Helper()
	var out bytes.Buffer
	if _, err := d.Query(t.Context(), Request{Statement: statement}, &out, format); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
	return out.String()
}

func TestRowsAreFound(t *testing.T) {
	typ := schematest.Type(t, "log")
	l := newLake(t, typ)
	store(t, l, typ, 0,
		record(typ, 0, base, map[string]codec.Value{
			"body": codec.StringValue("disk full"), "service": codec.StringValue("billing"),
			"attributes": codec.MapValue(map[string]string{"k": "v", "żółć": ""}),
		}),
		record(typ, 1, base.Add(2*time.Second), map[string]codec.Value{"body": codec.StringValue("other")}))
	d := open(t, l, typ)

	got := query(t, d, "select body from log where service='billing'", CSV)
	if want := "body\ndisk full\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	got = query(t, d, `select id, "time", host, severity, attributes, _topic, _topic_partition, _offset, _appended_at from log order by _offset`, JSON)
	want := `{"id":"018f0000-0000-7000-8000-000000000000","time":"2026-03-01T23:59:59.999000Z","host":"","severity":null,` +
		`"attributes":{"k":"v","żółć":""},"_topic":"millrace.log","_topic_partition":1,"_offset":0,"_appended_at":"2026-03-02T00:00:00.999000Z"}`
	if line, _, _ := strings.Cut(got, "\n"); line != want {
		t.Errorf("got\n%s\nwant\n%s", line, want)
	}
	if got := query(t, d, "select count(*) as n, count(distinct date_trunc('day', time)) as days from log", CSV); got != "n,days\n2,2\n" {
		t.Errorf("got %q", got)
	}
}

// TestEveryKind writes a type with a field of every kind at its limits and reads it back exactly.
func TestEveryKind(t *testing.T) {
	typ := schematest.NetworkFlow(t)
	l := newLake(t, typ)
	full := map[string]codec.Value{
		"src_ip": codec.StringValue("10.0.0.1"), "dst_ip": codec.StringValue("żółć 東京 🚀"),
		"dst_port": codec.LongValue(math.MinInt32), "octets": codec.LongValue(math.MaxInt64),
		"established": codec.BoolValue(true), "sampling": codec.DoubleValue(float64(float32(0.1))),
		"rtt_ms": codec.DoubleValue(math.MaxFloat64), "head": codec.BytesValue([]byte{0, 0xff}),
		"first_seen": codec.LongValue(1_700_000_000_123_456), "sensor": codec.StringValue("018f0000-0000-7000-8000-00000000000a"),
		"blocked": codec.BoolValue(false), "icmp_code": codec.LongValue(math.MaxInt32), "as_number": codec.LongValue(math.MinInt64),
		"loss": codec.DoubleValue(-math.MaxFloat32), "jitter_ms": codec.DoubleValue(-math.SmallestNonzeroFloat64),
		"tail": codec.BytesValue(nil), "session_id": codec.StringValue("018f0000-0000-7000-8000-00000000000b"),
		"closed_at": codec.LongValue(-1), "note": codec.StringValue(""), "headers": codec.MapValue(nil),
	}
	store(t, l, typ, 0, record(typ, 0, base, full), record(typ, 1, base, map[string]codec.Value{"headers": codec.MapValue(map[string]string{"a": "b"})}))
	got := query(t, open(t, l, typ), "select * exclude (id, time) from network_flow order by _offset", JSON)
	lines := strings.Split(strings.TrimSpace(got), "\n")
	want := []string{
		`{"service":"","host":"","datacenter":"","tenant":"","src_ip":"10.0.0.1","dst_ip":"żółć 東京 🚀","dst_port":-2147483648,` +
			`"octets":9223372036854775807,"established":true,"sampling":0.1,"rtt_ms":1.7976931348623157e+308,"head":"AP8=",` +
			`"first_seen":"2023-11-14T22:13:20.123456Z","sensor":"018f0000-0000-7000-8000-00000000000a","blocked":false,` +
			`"icmp_code":2147483647,"as_number":-9223372036854775808,"loss":-3.4028235e+38,"jitter_ms":-5e-324,"tail":"",` +
			`"session_id":"018f0000-0000-7000-8000-00000000000b","closed_at":"1969-12-31T23:59:59.999999Z","note":"","headers":{},` +
			`"attributes":{},"_topic":"millrace.network_flow","_topic_partition":1,"_offset":0,"_appended_at":"2026-03-02T00:00:00.999000Z"}`,
		`{"service":"","host":"","datacenter":"","tenant":"","src_ip":"","dst_ip":"","dst_port":0,"octets":0,"established":false,` +
			`"sampling":0,"rtt_ms":0,"head":"","first_seen":"1970-01-01T00:00:00.000000Z","sensor":"","blocked":null,"icmp_code":null,` +
			`"as_number":null,"loss":null,"jitter_ms":null,"tail":null,"session_id":null,"closed_at":null,"note":null,` +
			`"headers":{"a":"b"},"attributes":{},"_topic":"millrace.network_flow","_topic_partition":1,"_offset":1,"_appended_at":"2026-03-02T00:00:00.999000Z"}`,
	}
	for i := range want {
		if i >= len(lines) || lines[i] != want[i] {
			t.Errorf("row %d: got\n%s\nwant\n%s", i, lines[min(i, len(lines)-1)], want[i])
		}
	}
}

func TestTheLakeIsAllThatIsRead(t *testing.T) {
	typ := schematest.Type(t, "log")
	l := newLake(t, typ)
	store(t, l, typ, 0, record(typ, 0, base, nil))
	d := open(t, l, typ)
	inside := t.TempDir() + "/out.csv"
	for _, statement := range []string{
		"select * from read_csv('/etc/passwd')",
		"select * from '/etc/passwd'",
		"select * from read_text('/etc/passwd')",
		"select * from glob('/etc/*')",
		"copy log to '" + inside + "'",
		"copy (select 1) to '" + inside + "'",
		"explain analyze copy (select 1) to '" + inside + "'",
		"explain copy (select 1) to '" + inside + "'",
		"EXPLAIN (analyze) copy (select 1) to '" + inside + "'",
		"/* x */ explain /* y */ analyze copy (select 1) to '" + inside + "'",
		"attach '/tmp/x.db'",
		"install httpfs",
		"load httpfs",
		"pragma version",
		"-- a comment\n pragma table_info('log')",
		"/* */ PRAGMA database_list",
		"set memory_limit = '1GB'",
		"reset all",
		"create table x as select 1",
		"create view x as select 1",
		"insert into log select * from log",
		"drop view log",
		"call pragma_version()",
		"export database '/tmp/x'",
		"select 1; select 2",
		"select 1; copy (select 1) to '" + inside + "'",
		"prepare p as select 1",
		"begin",
		"checkpoint",
		"vacuum",
		"",
		"-- nothing",
	} {
		var out bytes.Buffer
		if _, err := d.Query(t.Context(), Request{Statement: statement}, &out, CSV); err == nil {
			t.Errorf("%q ran: %s", statement, out.String())
		}
	}
	for _, statement := range []string{
		"select count(*) from log", "-- c\nSELECT 1", "with x as (select 1 as a) select a from x", "explain select * from log",
		"explain analyze select * from log", "describe log", "show tables", "summarize log", "from log", "values (1)", "select 1;",
	} {
		var out bytes.Buffer
		if _, err := d.Query(t.Context(), Request{Statement: statement}, &out, JSON); err != nil {
			t.Errorf("%q did not run: %v", statement, err)
		}
	}
}

func TestRefusalIsNamed(t *testing.T) {
	d := open(t, newLake(t))
	for _, statement := range []string{
		"create table x (a int)", "select 1; select 2", "explain select 1; select 2",
		"pivot (select 1 as a, 2 as b) on a using sum(b)", "begin",
	} {
		_, err := d.Query(t.Context(), Request{Statement: statement}, &bytes.Buffer{}, CSV)
		if !errors.Is(err, ErrRefused) || strings.Contains(err.Error(), "Context") {
			t.Errorf("%q: got %v, want ErrRefused", statement, err)
		}
	}
}

func TestAnEmptyTableHasItsColumns(t *testing.T) {
	made, missing := schematest.Type(t, "metric"), schematest.Type(t, "usage")
	d := open(t, newLake(t, made), made, missing)
	for _, view := range []string{"metric", "usage"} {
		got := query(t, d, "select column_name || ' ' || column_type as c from (describe "+view+") where column_name in ('time', 'attributes', '_offset') order by 1", CSV)
		if want := "c\n_offset BIGINT\n\"attributes MAP(VARCHAR, VARCHAR)\"\ntime TIMESTAMP WITH TIME ZONE\n"; got != want {
			t.Errorf("%s: got %q, want %q", view, got, want)
		}
		if got := query(t, d, "select count(*) as n from "+view, CSV); got != "n\n0\n" {
			t.Errorf("%s: got %q", view, got)
		}
	}
}

// TestEachEventOnce has an event that was published twice, as after a producer's crash, and one of the same id at
// another time, which is another event.
func TestEachEventOnce(t *testing.T) {
	types := []*schema.Type{schematest.Type(t, "usage"), schematest.Type(t, "log")}
	l := newLake(t, types...)
	for _, typ := range types {
		twice := map[string]codec.Value{"id": codec.StringValue("018f0000-0000-7000-8000-00000000ffff"), "service": codec.StringValue("a")}
		later := base.Add(time.Second)
		store(t, l, typ, 0, record(typ, 0, base, twice), record(typ, 1, base, twice), record(typ, 2, base, nil), record(typ, 3, later, twice))
		store(t, l, typ, 4, record(typ, 4, base, twice))
	}
	const statement = "select (select count(*) from usage) as u, (select count(*) from log) as l, (select min(_offset) from log where service = 'a') as f"
	for want, names := range map[string][]string{
		"u,l,f\n3,5,0\n": Default().Deduplicate, "u,l,f\n5,3,0\n": {"log"}, "u,l,f\n3,3,0\n": {All}, "u,l,f\n5,5,0\n": nil,
	} {
		for _, memory := range []int64{eventMemory, 1 << 29} { // the second is a pass for each row
			d := openWith(t, l, names, types...)
			d.eventMemory = memory
			if got := query(t, d, statement, CSV); got != want {
				t.Errorf("%q: got %q, want %q", names, got, want)
			}
		}
	}
	cfg := Default()
	cfg.Deduplicate = []string{"usage", "uzage"}
	if _, err := Open(t.Context(), cfg, l, types, lake.AsOf{}); err == nil || !strings.Contains(err.Error(), `sql.deduplicate names "uzage"`) {
		t.Errorf("got %v for a name that is mistyped", err)
	}
}

const evolved = `{"type": "record", "name": "log", "namespace": "millrace", "doc": "x",
"millrace": {"time_bound": {"past": "30d", "future": "10m"}, "topic": {"partitions": 6, "key": ["service"], "retention": "7d"},
"cassandra": {"partition": ["service"], "bucket": "1h", "shards": 8, "shard_by": ["id"], "row_bytes": 400, "retention": "7d"},
"elasticsearch": {"text": ["body"], "shards": 1, "retention": "14d"},
"lake": {"partition": "day(time)", "sort": ["service"], "retention": "365d"}},
"fields": [
 {"name": "id", "type": {"type": "string", "logicalType": "uuid"}},
 {"name": "time", "type": {"type": "long", "logicalType": "timestamp-micros"}},
 {"name": "service", "type": "string", "default": ""}, {"name": "host", "type": "string", "default": ""},
 {"name": "datacenter", "type": "string", "default": ""}, {"name": "tenant", "type": "string", "default": ""},
 {"name": "level", "aliases": ["severity"], "type": ["null", "string"], "default": null},
 {"name": "body", "type": "string"},
 {"name": "source", "type": ["null", "string"], "default": null},
 {"name": "trace_id", "type": ["null", "string"], "default": null},
 {"name": "span_id", "type": ["null", "string"], "default": null},
 {"name": "code", "type": ["null", "int"], "default": null},
 {"name": "attributes", "type": {"type": "map", "values": "string"}, "default": {}}
]}`

// TestARenamedColumnIsOne writes with three versions of a type: files older than a column give null, and a renamed
// column is one. A process that still has the old version goes on writing.
func TestARenamedColumnIsOne(t *testing.T) {
	old := schematest.Type(t, "log")
	newer, err := schema.Parse([]byte(evolved))
	if err != nil {
		t.Fatal(err)
	}
	l := newLake(t, old)
	store(t, l, old, 0, record(old, 0, base, map[string]codec.Value{"severity": codec.StringValue("old")}))
	store(t, l, newer, 1, record(newer, 1, base, map[string]codec.Value{"level": codec.StringValue("new"), "code": codec.LongValue(5)}))
	store(t, l, old, 2, record(old, 2, base, map[string]codec.Value{"severity": codec.StringValue("late")}))
	d := open(t, l, newer)
	if got := query(t, d, "select level, code from log order by _offset", CSV); got != "level,code\nold,\nnew,5\nlate,\n" {
		t.Errorf("got %q", got)
	}
	var fields []string
	for line := range strings.Lines(query(t, d, "describe log", JSON)) {
		var c map[string]any
		if err := json.Unmarshal([]byte(line), &c); err != nil {
			t.Fatal(err)
		}
		fields = append(fields, fmt.Sprint(c["column_name"]))
	}
	if strings.Contains(strings.Join(fields, " "), "severity") {
		t.Errorf("the old name came back: %v", fields)
	}
}

func TestFormats(t *testing.T) {
	d := open(t, newLake(t))
	const statement = `select null as a, '' as b, 'x"y' as c, 1.5::decimal(4,2) as d, [1, 2] as e, 'nan'::double as f,
		170141183460469231731687303715884105727::hugeint as g, timestamp with time zone '2026-01-02 03:04:05.000001+00' as h`
	for format, want := range map[string]string{
		CSV:   "a,b,c,d,e,f,g,h\n,\"\",\"x\"\"y\",1.50,\"[1,2]\",NaN,170141183460469231731687303715884105727,2026-01-02T03:04:05.000001Z\n",
		JSON:  `{"a":null,"b":"","c":"x\"y","d":1.50,"e":[1,2],"f":"NaN","g":170141183460469231731687303715884105727,"h":"2026-01-02T03:04:05.000001Z"}` + "\n",
		Table: "NULL     x\"y",
	} {
		if got := query(t, d, statement, format); format == Table && !strings.Contains(got, want) || format != Table && got != want {
			t.Errorf("%s: got %q, want %q", format, got, want)
		}
	}
	if _, err := d.Query(t.Context(), Request{Statement: "select 1"}, &bytes.Buffer{}, "xml"); err == nil {
		t.Error("an unknown format was taken")
	}
}

func TestTimeout(t *testing.T) {
	cfg := Default()
	cfg.Timeout, cfg.Deduplicate = 200*time.Millisecond, nil
	d, err := Open(t.Context(), cfg, newLake(t), nil, lake.AsOf{})
	if err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	_, err = d.Query(t.Context(), Request{Statement: "select count(*) from range(1000000000) a, range(1000000000) b where a.range % 7 = b.range % 11"}, &bytes.Buffer{}, CSV)
	if err == nil || !strings.Contains(err.Error(), "took too long") || time.Since(begun) > 30*time.Second {
		t.Errorf("got %v after %v", err, time.Since(begun))
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := d.Query(ctx, Request{Statement: "select 1"}, &bytes.Buffer{}, CSV); err == nil {
		t.Error("a cancelled query ran")
	}
}

// TestVersionsOfATypeShareAFile has records of two versions come in turns, as while producers are replaced one by one.
func TestVersionsOfATypeShareAFile(t *testing.T) {
	old := schematest.Type(t, "log")
	newer, err := schema.Parse([]byte(evolved))
	if err != nil {
		t.Fatal(err)
	}
	l := newLake(t, old)
	table, err := l.Open(t.Context(), newer)
	if err != nil {
		t.Fatal(err)
	}
	w, err := table.NewWriter(t.Context(), lake.WriterConfig{Memory: 1 << 20, GroupRows: 1000})
	if err != nil {
		t.Fatal(err)
	}
	for n := range int64(40) {
		typ, field := newer, "level"
		if n%2 == 1 {
			typ, field = old, "severity"
		}
		r := record(typ, n, base.Add(time.Duration(n)*time.Microsecond), map[string]codec.Value{field: codec.StringValue(strconv.Itoa(int(n)))})
		if err := w.Add(t.Context(), typ, []codec.Record{r}); err != nil {
			t.Fatal(err)
		}
	}
	files, err := w.Finish()
	if err != nil || len(files) != 1 || files[0].Count() != 40 {
		t.Fatalf("%d files (%v), want one of 40 rows", len(files), err)
	}
	err = table.Commit(t.Context(), &lake.Commit{
		Files: files, Sources: map[string]lake.Source{old.Topic.Name: {Cluster: "c", TopicID: "t"}},
		Spans: map[lake.TopicPartition]lake.Counts{{Topic: old.Topic.Name}: {Next: 40, Rows: 40}},
	})
	if err != nil {
		t.Fatal(err)
	}
	got := query(t, open(t, l, newer), "select count(*) as n, count_if(level = _offset::varchar) as right_ones from log", CSV)
	if got != "n,right_ones\n40,40\n" {
		t.Errorf("got %q", got)
	}
}
