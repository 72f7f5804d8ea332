package lake

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/pkg/codec"
	"github.com/millrace/millrace/pkg/schema"
	"github.com/millrace/millrace/pkg/schema/schematest"
	"github.com/millrace/millrace/pkg/telemetry"
)

// BenchmarkWrite measures the way from decoded log records of about 300 bytes to closed, synced files.
func BenchmarkWrite(b *testing.B) {
	const rows = 100_000
	cfg := Default()
	cfg.Warehouse = b.TempDir()
	l, err := New(cfg, telemetry.Discard())
	if err != nil {
		b.Fatal(err)
	}
	typ := schematest.Type(b, "log")
	if err := l.Create(b.Context(), typ); err != nil {
		b.Fatal(err)
	}
	table, err := l.Open(b.Context(), typ)
	if err != nil {
		b.Fatal(err)
	}
	records := logs(typ, rows)
	b.ReportAllocs()
	var size int64
	for b.Loop() {
		w, err := table.NewWriter(b.Context(), WriterConfig{Memory: 64 << 20, GroupRows: 100_000})
		if err != nil {
			b.Fatal(err)
		}
		for i := 0; i < rows; i += 1000 {
			if err := w.Add(b.Context(), typ, records[i:i+1000]); err != nil {
				b.Fatal(err)
			}
		}
		files, err := w.Finish()
		if err != nil {
			b.Fatal(err)
		}
		size = 0
		for _, f := range files {
			size += f.FileSizeBytes()
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/rows, "ns/row")
	b.ReportMetric(float64(size)/rows, "B/row")
}

func logs(typ *schema.Type, n int) []codec.Record {
	records := make([]codec.Record, n)
	value := make([]byte, 300)
	for i := range records {
		at := base.Add(time.Duration(i) * time.Microsecond)
		v := make([]codec.Value, len(typ.Fields))
		set := func(name string, val codec.Value) { v[typ.Index(name)] = val }
		set("id", codec.StringValue(fmt.Sprintf("018f%04x-%04x-7000-8000-%012x", i%65536, (i*7)%65536, i*2654435761)))
		set("time", codec.LongValue(at.UnixMicro()))
		for _, name := range []string{"datacenter", "tenant"} {
			set(name, codec.StringValue(name))
		}
		set("service", codec.StringValue(fmt.Sprint("service-", i%20)))
		set("host", codec.StringValue(fmt.Sprint("host-", i%200)))
		set("severity", codec.StringValue([]string{"INFO", "WARN", "ERROR"}[i%3]))
		set("body", codec.StringValue(fmt.Sprintf("request %d to /api/v1/items/%d took %d ms %s", i, i*31%9973, i%977, strings.Repeat("x", i%60))))
		set("trace_id", codec.StringValue(fmt.Sprintf("%032x", i*2654435761)))
		set("attributes", codec.MapValue(map[string]string{"method": "GET", "status": strconv.Itoa(200 + i%5)}))
		records[i] = codec.Record{Type: typ, Values: v, Source: &kgo.Record{
			Topic: typ.Topic.Name, Partition: int32(i % 6), Offset: int64(i / 6), Timestamp: at, Value: value,
		}}
	}
	return records
}
