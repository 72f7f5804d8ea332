package schema_test

import (
	"bytes"
	"fmt"
	"iter"
	"math"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace/millrace/pkg/schema"
	"github.com/millrace/millrace/pkg/schema/schematest"
)

func TestAlter(t *testing.T) {
	const body = `, {"name": "body", "type": "string", "default": ""}`
	first := parse(t, record(`{}`, body)).CQL("ks")
	same, err := first.Alter(first.Types())
	if err != nil || len(same) != 0 {
		t.Errorf("altering a table to what it is: %v, %v", same, err)
	}

	second := parse(t, record(`{}`, `, {"name": "text", "type": "string", "default": "", "aliases": ["body"]},
		{"name": "labels", "type": {"type": "map", "values": "string"}, "default": {}}, {"name": "n", "type": ["null", "int"], "default": null}`)).CQL("ks")
	got, err := second.Alter(first.Types())
	want := []string{
		`ALTER TABLE "ks"."sample" ADD IF NOT EXISTS "labels" frozen<map<text, text>>`,
		`ALTER TABLE "ks"."sample" ADD IF NOT EXISTS "n" int`,
	}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("a rename keeps its column, new fields get one (-want +got), %v:\n%s", err, diff)
	}

	other := parse(t, record(`{}`, `, {"name": "body", "type": "long", "default": 0}`)).CQL("ks")
	if got, err := other.Alter(first.Types()); err == nil {
		t.Errorf("a column's type was changed: %v", got)
	}
	if got, err := first.Alter(second.Types()); err != nil || len(got) != 0 {
		t.Errorf("an older version must leave a newer table alone: %v, %v", got, err)
	}
}

// TestInsertBinds: the prepared statement, the columns and the values have one order.
func TestInsertBinds(t *testing.T) {
	typ := schematest.NetworkFlow(t)
	c := typ.CQL("ks")
	if got := bytes.Count([]byte(c.Insert), []byte("?")); got != len(c.Columns)+2 {
		t.Errorf("%d binds for %d columns, a time to live and a write time", got, len(c.Columns))
	}
	seen := map[int]bool{}
	for _, col := range c.Columns {
		if seen[col.Field] {
			t.Errorf("column %s stands for field %d, as another does", col.Name, col.Field)
		}
		seen[col.Field] = true
	}
	if !seen[schema.BucketColumn] || !seen[schema.ShardColumn] || len(seen) != len(typ.Fields)+2 {
		t.Errorf("%d columns for %d fields, bucket and shard", len(seen), len(typ.Fields))
	}
}

func TestCompactionWindows(t *testing.T) {
	for retention, want := range map[string]string{"1h": "2 MINUTES", "1d": "48 MINUTES", "7d": "6 HOURS", "30d": "1 DAYS", "90d": "3 DAYS", "365d": "13 DAYS"} {
		c := parse(t, record(`{"cassandra": {"retention": "`+retention+`"}}`, "")).CQL("ks").Compaction
		if got := c["compaction_window_size"] + " " + c["compaction_window_unit"]; got != want {
			t.Errorf("windows of %s for %s, want %s", got, retention, want)
		}
	}
}

func TestBucket(t *testing.T) {
	typ := parse(t, record(`{"cassandra": {"bucket": "15m"}}`, ""))
	for text, want := range map[string]string{
		"2026-03-01T10:14:59.999999Z": "2026-03-01T10:00:00Z",
		"2026-03-01T10:15:00Z":        "2026-03-01T10:15:00Z",
		"1970-01-01T00:00:00Z":        "1970-01-01T00:00:00Z",
		"1969-12-31T23:59:59.999999Z": "1969-12-31T23:45:00Z",
		"1969-12-31T23:45:00Z":        "1969-12-31T23:45:00Z",
	} {
		at, err := time.Parse(time.RFC3339, text)
		if err != nil {
			t.Fatal(err)
		}
		if got := typ.Bucket(at.UnixMicro()).Format(time.RFC3339Nano); got != want {
			t.Errorf("Bucket(%s) = %s, want %s", text, got, want)
		}
	}
}

func TestMaxRate(t *testing.T) {
	typ := parse(t, record(`{"cassandra": {"bucket": "1h", "shards": 4, "row_bytes": 1000}}`, ""))
	// 100 MB are 100,000 rows of 1,000 bytes; an hour has 3,600 s, and there are four partitions for it.
	if got, want := typ.MaxRate(), 100000.0/3600*4; math.Abs(got-want) > 1e-9 {
		t.Errorf("MaxRate() = %v, want %v", got, want)
	}
}

// value is a schema.ShardValue; codec.Value is the one in use.
type value struct {
	v     any
	pairs [][2]string
}

func (v value) IsNull() bool    { return v.v == nil && v.pairs == nil }
func (v value) Bool() bool      { b, _ := v.v.(bool); return b }
func (v value) Long() int64     { n, _ := v.v.(int64); return n }
func (v value) Double() float64 { f, _ := v.v.(float64); return f }
func (v value) Bytes() []byte   { s, _ := v.v.(string); return []byte(s) }
func (v value) Pairs() iter.Seq2[[]byte, []byte] {
	return func(yield func([]byte, []byte) bool) {
		for _, p := range v.pairs {
			if !yield([]byte(p[0]), []byte(p[1])) {
				return
			}
		}
	}
}

// TestShardIsStable holds the hash to values that were computed apart from this code, from its description: rows that
// are stored already are found by it.
func TestShardIsStable(t *testing.T) {
	typ := parse(t, record(`{"cassandra": {"shards": 1000, "shard_by": ["flag", "n", "x", "s", "m"]}}`, `,
		{"name": "flag", "type": "boolean"}, {"name": "n", "type": "long"}, {"name": "x", "type": "double"}, {"name": "s", "type": ["null", "string"]},
		{"name": "m", "type": {"type": "map", "values": "string"}}`))
	row := func(flag, n, x, s any, pairs ...[2]string) int {
		values := make([]value, schema.Common, schema.Common+5)
		values = append(values, value{v: flag}, value{v: n}, value{v: x}, value{v: s}, value{v: "", pairs: pairs})
		return schema.Shard(typ, values)
	}
	ab, cd := [2]string{"a", "b"}, [2]string{"cd", "é"}
	for _, c := range []struct {
		name      string
		got, want int
	}{
		{"empty", row(false, int64(0), 0.0, ""), shardEmpty},
		{"null is not empty", row(false, int64(0), 0.0, nil), shardNull},
		{"values", row(true, int64(-1), 1.5, "text", ab, cd), shardValues},
		{"pairs in another order", row(true, int64(-1), 1.5, "text", cd, ab), shardValues},
		{"pairs split elsewhere", row(true, int64(-1), 1.5, "text", [2]string{"ab", ""}, cd), shardSplit},
	} {
		if c.got != c.want {
			t.Errorf("%s: shard %d, want %d", c.name, c.got, c.want)
		}
	}
}

const (
	shardEmpty  = 11
	shardNull   = 956
	shardValues = 847
	shardSplit  = 631
)

// TestShardSpreads: ids that differ in few bits must not meet in few shards.
func TestShardSpreads(t *testing.T) {
	typ := parse(t, record(`{"cassandra": {"shards": 8}}`, ""))
	const n = 8000
	count := make([]int, 8)
	values := make([]value, schema.Common)
	for i := range n {
		values[schema.ID] = value{v: fmt.Sprintf("01890a5d-ac96-774b-bcce-%012x", i)}
		count[schema.Shard(typ, values)]++
	}
	for shard, c := range count {
		if c < n/8*8/10 || c > n/8*12/10 {
			t.Errorf("shard %d has %d of %d records, more than a fifth off an eighth", shard, c, n)
		}
	}
}
