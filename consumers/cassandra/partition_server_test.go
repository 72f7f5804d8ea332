package cassandra

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/pkg/codec"
	"github.com/millrace/millrace/pkg/event"
	"github.com/millrace/millrace/pkg/schema"
	"github.com/millrace/millrace/pkg/servertest"
	"github.com/millrace/millrace/pkg/stream"
)

// sampled is how much of a bucket is written. Rows of a partition cost the same each, so the rest need not be.
const sampled = 0.2

// TestPartitionsStayUnderTheBound has one key of each type bring records at the rate that `millrace check` states, for a
// part of a bucket, and stores those of the fullest shard: Cassandra says what they take, uncompressed, and from that follows
// the largest partition that the type has at that rate.
func TestPartitionsStayUnderTheBound(t *testing.T) {
	t.Parallel()
	servers, ok := servertest.Require(t)
	if !ok {
		return
	}
	types, err := schema.Builtin()
	if err != nil {
		t.Fatal(err)
	}
	s := open(t, servers, types...)
	for _, typ := range types {
		table := typ.CQL(s.cfg.Keyspace).Table
		exec(t, s, "ALTER TABLE "+table+" WITH compression = {'enabled': false}")
		n := int(typ.MaxRate() * typ.Cassandra.Bucket.Seconds() * sampled)
		key := keyOf(typ, n)
		shard, stored := key.fill(t, s)
		exec(t, s, "ALTER TABLE "+table+" WITH memtable_flush_period_in_ms = 1000")
		onDisk := s.settledSize(t, typ, int64(stored)*40)
		size, bound := float64(onDisk)/sampled, float64(s.cfg.PartitionBytes)
		t.Logf("%s: at %.0f records/s of one key the largest partition of %s (shard %d of %d) has %d rows of %d bytes, where the schema says %d: %.1f MB of %.1f",
			typ.Name, typ.MaxRate(), typ.Cassandra.Bucket, shard, typ.Cassandra.Shards, int(float64(stored)/sampled), int(onDisk)/stored,
			typ.Cassandra.RowBytes, size/1e6, bound/1e6)
		if size > bound {
			t.Errorf("%s: the largest partition has %.0f bytes, more than the bound of %.0f: raise cassandra.row_bytes in its schema", typ.Name, size, bound)
		}
	}
}

// key is all records of one key in a part of one bucket.
type key struct {
	typ   *schema.Type
	n     int
	begun time.Time
}

func keyOf(typ *schema.Type, n int) key {
	return key{typ, n, typ.Bucket(time.Now().Add(-2 * typ.Cassandra.Bucket).UnixMicro())}
}

// record is the nth: what services write, in the sizes that they write it in.
func (k key) record(i int) codec.Record {
	at := k.begun.Add(time.Duration(float64(k.typ.Cassandra.Bucket) * sampled * float64(i) / float64(k.n))).Truncate(time.Microsecond)
	random := rand.New(rand.NewPCG(uint64(i), 1))
	host := i % 2000
	values := make([]codec.Value, len(k.typ.Fields))
	set := func(name string, v codec.Value) {
		if at := k.typ.Index(name); at >= 0 {
			values[at] = v
		}
	}
	text := func(name, s string) { set(name, codec.StringValue(s)) }
	text("id", event.DeriveID(at, k.typ.Name, fmt.Sprint(i)))
	set("time", codec.LongValue(at.UnixMicro()))
	text("service", "checkout")
	text("host", fmt.Sprintf("web-%04d.eu-west-1", host))
	text("datacenter", "eu-west-1")
	text("tenant", "acme")
	text("trace_id", fmt.Sprintf("%016x%016x", random.Uint64(), random.Uint64()))
	text("span_id", fmt.Sprintf("%016x", random.Uint64()))
	text("unit", "By")
	set("attributes", codec.MapValue(map[string]string{"deployment": "blue", "zone": string("abc"[host%3])}))
	switch k.typ.Name {
	case "log":
		text("severity", "INFO")
		text("source", "/var/log/checkout/app.log")
		text("body", fmt.Sprintf("GET /api/v1/baskets/%08x/items took %dms and gave 200 to a client of version 4.%d", random.Uint32(), random.IntN(900), random.IntN(30)))
	case "metric":
		text("name", "process.memory.usage")
		text("kind", "gauge")
		set("value", codec.DoubleValue(random.Float64()*1e9))
		values[k.typ.Index("attributes")] = codec.MapValue(map[string]string{"process": "checkout"})
	case "usage":
		text("resource", "gateway.records")
		set("quantity", codec.LongValue(random.Int64N(1e6)))
		set("period_start", codec.LongValue(at.Add(-10*time.Second).UnixMicro()))
		set("period_end", codec.LongValue(at.UnixMicro()))
		values[k.typ.Index("attributes")] = codec.MapValue(nil)
	case "performance":
		text("operation", "POST /v1/events/{type}")
		set("duration_us", codec.LongValue(random.Int64N(1e6)))
		set("ok", codec.BoolValue(true))
		set("status", codec.LongValue(202))
		text("parent_span_id", fmt.Sprintf("%016x", random.Uint64()))
		values[k.typ.Index("attributes")] = codec.MapValue(nil)
	}
	source := &kgo.Record{Topic: k.typ.TopicName(), Offset: int64(i), Timestamp: at.Add(time.Second).Truncate(time.Millisecond)}
	return codec.Record{Source: source, Type: k.typ, Values: values}
}

// fill stores the records of the fullest shard, and says which that is and how many they are.
func (k key) fill(t *testing.T, s *Store) (shard, stored int) {
	t.Helper()
	counts := make([]int, k.typ.Cassandra.Shards)
	for i := range k.n {
		counts[schema.Shard(k.typ, k.record(i).Values)]++
	}
	stored = slices.Max(counts)
	shard = slices.Index(counts, stored)
	b := stream.Batch{Topic: k.typ.TopicName(), Type: k.typ}
	flush := func() {
		t.Helper()
		if err := store(t, s, b); err != nil {
			t.Fatal(err)
		}
		b.Records, b.First = b.Records[:0], b.Next
	}
	for i := range k.n {
		r := k.record(i)
		if schema.Shard(k.typ, r.Values) != shard {
			continue
		}
		if b.Records, b.Next = append(b.Records, r), int64(i)+1; len(b.Records) == 5000 {
			flush()
		}
	}
	flush()
	return shard, stored
}

// settledSize waits until all that was written to a table lies in files, and gives their size: it is at least a given one
// then, and the same for a few flushes.
func (s *Store) settledSize(t *testing.T, typ *schema.Type, least int64) int64 {
	t.Helper()
	last, same := int64(-1), 0
	for deadline := time.Now().Add(3 * time.Minute); time.Now().Before(deadline); time.Sleep(time.Second) {
		var mebibytes int64
		err := session(t, s).Query("SELECT mebibytes FROM system_views.disk_usage WHERE keyspace_name = ? AND table_name = ?",
			s.cfg.Keyspace, typ.Cassandra.Table).WithContext(t.Context()).Scan(&mebibytes)
		if err != nil {
			t.Fatal(err)
		}
		size := mebibytes << 20
		if size != last {
			last, same = size, 0
		}
		if same++; size >= least && same > 4 {
			return size
		}
	}
	t.Fatalf("in three minutes the size of table %s did not settle: it was %d bytes at last", typ.Name, last)
	return 0
}
