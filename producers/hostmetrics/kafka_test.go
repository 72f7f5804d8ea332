package hostmetrics

import (
	"context"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/pkg/client"
	"github.com/millrace/millrace/pkg/codec"
	"github.com/millrace/millrace/pkg/kafka/kafkatest"
	"github.com/millrace/millrace/pkg/schema"
	"github.com/millrace/millrace/pkg/telemetry"
)

// TestThroughTheSDK runs the whole producer on an embedded broker that is away at first, and decodes what arrived.
func TestThroughTheSDK(t *testing.T) {
	cluster := kafkatest.New(t, "millrace.metric")
	types, err := schema.Builtin()
	if err != nil {
		t.Fatal(err)
	}
	set, err := schema.NewSet(types...)
	if err != nil {
		t.Fatal(err)
	}
	registry := codec.Default()
	registry.URLs = []string{cluster.RegistryURL(t)}
	c, err := codec.New(registry, set, telemetry.Discard())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Register(t.Context(), set.Get("metric")); err != nil {
		t.Fatal(err)
	}
	link := cluster.Link()
	publisher, err := client.New(client.Default(), c, telemetry.Discard(), link.Opts(kgo.MetadataMinAge(50*time.Millisecond)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = publisher.Close(context.Background()) })
	cfg := testConfig(t)
	cfg.Interval, cfg.Drain = 100*time.Millisecond, 10*time.Second
	a, err := New(cfg, publisher, telemetry.Discard())
	if err != nil {
		t.Fatal(err)
	}

	link.Cut()
	stop := start(t, a)
	until(t, func() bool { return value(t, a.m.records) >= 200 })
	if n := value(t, a.m.published); n != 0 {
		t.Errorf("%v records are published without a broker", n)
	}
	link.Mend()
	until(t, func() bool { return value(t, a.m.published) >= 200 })
	stop()

	decoder := c.Decoder("metric")
	ids := map[string]bool{}
	for _, raw := range cluster.Records(t, "millrace.metric") {
		rec, err := decoder.Decode(t.Context(), raw)
		if err != nil {
			t.Fatal(err)
		}
		ids[string(rec.ID())] = true
		name := rec.Values[rec.Type.Index("name")].String()
		if name == "" || rec.Values[schema.Host].String() != "h1" || rec.Values[rec.Type.Index("unit")].IsNull() {
			t.Errorf("record %q of host %q", name, rec.Values[schema.Host].String())
		}
	}
	if n := int(value(t, a.m.records)); len(ids) != n {
		t.Errorf("%d of %d records arrived", len(ids), n)
	}
}

func until(t *testing.T, done func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it does not come to its end")
		}
	}
}
