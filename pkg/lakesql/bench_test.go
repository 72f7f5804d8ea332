package lakesql

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"github.com/millrace/millrace/pkg/codec"
	"github.com/millrace/millrace/pkg/lake"
	"github.com/millrace/millrace/pkg/schema/schematest"
	"github.com/millrace/millrace/pkg/telemetry"
)

// BenchmarkDeduplicate gives what it costs to show each event once, over a million log records in 20 files.
func BenchmarkDeduplicate(b *testing.B) {
	const files, rows = 20, 50_000
	typ := schematest.Type(b, "log")
	cfg := lake.Default()
	cfg.Warehouse = b.TempDir()
	l, err := lake.New(cfg, telemetry.Discard())
	if err != nil {
		b.Fatal(err)
	}
	if err := l.Create(b.Context(), typ); err != nil {
		b.Fatal(err)
	}
	for f := range files {
		records := make([]codec.Record, rows)
		for i := range records {
			n := f*rows + i
			records[i] = record(typ, int64(n), base.Add(time.Duration(n)*time.Millisecond), map[string]codec.Value{
				"service": codec.StringValue(fmt.Sprint("service-", n%50)), "body": codec.StringValue(fmt.Sprint("request ", n, " answered")),
			})
		}
		store(b, l, typ, int64(f*rows), records...)
	}
	for _, q := range []struct{ name, statement string }{
		{"count", "select count(*) from log"},
		{"minute", fmt.Sprintf("select count(*) from log where time < '%s'", base.Add(time.Minute).Format(time.RFC3339))},
		{"group", "select service, count(*) from log group by all"},
	} {
		for name, deduplicate := range map[string][]string{"plain": nil, "deduplicated": {All}} {
			b.Run(q.name+"/"+name, func(b *testing.B) {
				d := openWith(b, l, deduplicate, typ)
				for b.Loop() {
					if _, err := d.Query(b.Context(), Request{Statement: q.statement}, &bytes.Buffer{}, CSV); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
