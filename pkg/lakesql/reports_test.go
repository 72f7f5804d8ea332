package lakesql

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/deploy/reports"
	"github.com/millrace/millrace/pkg/codec"
	"github.com/millrace/millrace/pkg/schema"
	"github.com/millrace/millrace/pkg/schema/schematest"
)

// TestReports has each report over a small lake, with answers that can be worked out by hand.
func TestReports(t *testing.T) {
	usage, metric, performance := schematest.Type(t, "usage"), schematest.Type(t, "metric"), schematest.Type(t, "performance")
	l := newLake(t, usage, metric, performance)
	from := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	to := from.AddDate(0, 0, 2)
	used := func(offset int64, at time.Time, tenant string, quantity int64) codec.Record {
		return record(usage, offset, at, map[string]codec.Value{
			"tenant": codec.StringValue(tenant), "resource": codec.StringValue("storage"),
			"unit": codec.StringValue("By"), "quantity": codec.LongValue(quantity),
		})
	}
	again := map[string]codec.Value{
		"id": codec.StringValue("018f0000-0000-7000-8000-000000000002"), "tenant": codec.StringValue("it's"),
		"resource": codec.StringValue("storage"), "unit": codec.StringValue("By"), "quantity": codec.LongValue(5),
	}
	store(t, l, usage, 0,
		used(0, from.Add(-time.Microsecond), "acme", 1000), used(1, from, "acme", 1<<62), used(2, from, "it's", 5),
		record(usage, 3, from, again), used(4, to.Add(-time.Microsecond), "acme", 1<<62), used(5, to, "acme", 1000))

	var points []codec.Record
	for day, value := range []float64{0.5, 0.6} {
		for name, attribute := range map[string]map[string]string{
			"system.cpu.utilization":        {"cpu.mode": "user"},
			"system.memory.utilization":     {"system.memory.state": "used"},
			"system.filesystem.utilization": {"system.filesystem.state": "used", "system.filesystem.mountpoint": "/"},
		} {
			points = append(points, record(metric, int64(len(points)), from.AddDate(0, 0, day), map[string]codec.Value{
				"host": codec.StringValue("h"), "name": codec.StringValue(name), "value": codec.DoubleValue(value), "attributes": codec.MapValue(attribute),
			}))
		}
		points = append(points, record(metric, int64(len(points)), from.AddDate(0, 0, day), map[string]codec.Value{
			"host": codec.StringValue("h"), "name": codec.StringValue("system.cpu.utilization"), "value": codec.DoubleValue(0.25),
			"attributes": codec.MapValue(map[string]string{"cpu.mode": "system"}),
		}), record(metric, int64(len(points)+1), from.AddDate(0, 0, day), map[string]codec.Value{
			"host": codec.StringValue("h"), "name": codec.StringValue("system.cpu.utilization"), "value": codec.DoubleValue(0.1),
			"attributes": codec.MapValue(map[string]string{"cpu.mode": "idle"}),
		}))
	}
	store(t, l, metric, 0, points...)

	var calls []codec.Record
	for n := range int64(100) {
		fields := map[string]codec.Value{"service": codec.StringValue("s"), "operation": codec.StringValue("get"), "duration_us": codec.LongValue((n + 1) * 1000), "ok": codec.BoolValue(n >= 3)}
		switch {
		case n < 2:
			fields["error"] = codec.StringValue("timeout")
		case n == 2:
			fields["error"] = codec.StringValue("reset")
		case n == 99:
			delete(fields, "ok")
		}
		calls = append(calls, record(performance, n, from.Add(time.Duration(n)*time.Second), fields))
	}
	store(t, l, performance, 0, calls...)

	d := openWith(t, l, Default().Deduplicate, usage, metric, performance)
	run := func(name string, tenant any) string {
		t.Helper()
		r, err := reports.Get(name)
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		request := Request{Statement: r.SQL, Variables: map[string]any{"from": from, "to": to, "tenant": tenant}}
		if _, err := d.Query(t.Context(), request, &out, CSV); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		return out.String()
	}
	const head = "tenant,resource,unit,quantity,records,first,last\n"
	const acme = "acme,storage,By,9223372036854775808,2,2026-03-01T00:00:00.000000Z,2026-03-02T23:59:59.999999Z\n"
	const its = "it's,storage,By,5,1,2026-03-01T00:00:00.000000Z,2026-03-01T00:00:00.000000Z\n"
	for _, c := range []struct {
		name   string
		tenant any
		want   string
	}{
		{"usage", nil, head + acme + its},
		{"usage", "it's", head + its},
		{"usage", "acme' OR true --", head},
		{"capacity", nil, "host,resource,points,mean,highest,latest,per_day,days_until_full\n" +
			"h,cpu,2,0.8,0.85,0.85,0.1,\nh,disk /,2,0.55,0.6,0.6,0.1,4\nh,memory,2,0.55,0.6,0.6,0.1,4\n"},
		{"slowest", nil, "service,operation,calls,p50_ms,p95_ms,p99_ms,max_ms\ns,get,100,50,95,99,100\n"},
		{"errors", "", "service,operation,calls,succeeded,failed,error_rate,most_said,last_failed\n" +
			"s,get,100,96,3,0.030303,timeout,2026-03-01T00:00:02.000000Z\n"},
	} {
		if got := run(c.name, c.tenant); got != c.want {
			t.Errorf("%s of %v: got\n%s\nwant\n%s", c.name, c.tenant, got, c.want)
		}
	}
}

// TestReportsReadThePeriodOnly has the conditions of every report choose files.
func TestReportsReadThePeriodOnly(t *testing.T) {
	var types []*schema.Type
	for _, name := range []string{"usage", "metric", "performance"} {
		types = append(types, schematest.Type(t, name))
	}
	l := newLake(t, types...)
	for _, typ := range types {
		for day := range 5 {
			fields := map[string]codec.Value{}
			if typ.Name == "metric" {
				fields["name"] = codec.StringValue("system.memory.utilization")
			}
			store(t, l, typ, int64(day), record(typ, int64(day), base.AddDate(0, 0, day), fields))
		}
	}
	d := openWith(t, l, Default().Deduplicate, types...)
	all, err := reports.All()
	if err != nil || len(all) < 4 {
		t.Fatal(all, err)
	}
	for _, r := range all {
		if r.Doc == "" || strings.HasPrefix(r.Doc, "SELECT") || !strings.HasSuffix(r.Doc, ".") {
			t.Errorf("%s: its first line is no sentence: %q", r.Name, r.Doc)
		}
		request := Request{Statement: r.SQL, Variables: map[string]any{"from": base.AddDate(0, 0, 1), "to": base.AddDate(0, 0, 2), "tenant": nil}}
		a, err := d.Query(t.Context(), request, &bytes.Buffer{}, CSV)
		if err != nil || len(a.Reads) != 1 || a.Reads[0].Files != 1 || a.Reads[0].Of != 5 {
			t.Errorf("%s: %+v, %v, want 1 file of 5", r.Name, a, err)
		}
	}
}
