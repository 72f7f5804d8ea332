package logtail

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/pkg/client"
	"github.com/millrace/millrace/pkg/codec"
	"github.com/millrace/millrace/pkg/kafka/kafkatest"
	"github.com/millrace/millrace/pkg/schema"
	"github.com/millrace/millrace/pkg/telemetry"
)

// TestThroughTheSDK runs the whole producer on an embedded broker, through an outage, a rotation and a restart, and
// decodes what arrived.
func TestThroughTheSDK(t *testing.T) {
	r := newRig(t, func(c *Config) { c.Poll, c.Drain = 20*time.Millisecond, 10*time.Second })
	cluster := kafkatest.New(t, "millrace.log")
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
	if _, err := c.Register(t.Context(), set.Get("log")); err != nil {
		t.Fatal(err)
	}
	link := cluster.Link()
	publisher, err := client.New(client.Default(), c, telemetry.Discard(), link.Opts(kgo.MetadataMinAge(50*time.Millisecond)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = publisher.Close(context.Background()) })

	run := func(until func(*Tailer) bool) {
		t.Helper()
		tail, err := New(r.cfg, publisher, telemetry.Discard())
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- tail.Run(ctx) }()
		for end := time.Now().Add(20 * time.Second); !until(tail); time.Sleep(5 * time.Millisecond) {
			if time.Now().After(end) {
				t.Error("it does not come to its end")
				break
			}
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	lines := 0
	more := func(n int) {
		for range n {
			r.write("a.log", fmt.Sprintf("%s h app[7]: line %d €\n", time.Now().UTC().Format("2006-01-02T15:04:05.000000Z"), lines))
			lines++
		}
	}
	more(50)
	link.Cut()
	began := time.Now()
	run(func(tail *Tailer) bool {
		if link != nil && time.Since(began) > 300*time.Millisecond {
			link.Mend()
			more(50)
			r.rename("a.log", "a.log.1")
			more(50)
			link = nil
		}
		return value(t, tail.m.published) >= 150
	})
	more(25)
	run(func(tail *Tailer) bool { return value(t, tail.m.published) >= 25 })

	decoder := c.Decoder("log")
	ids, bodies := map[string]bool{}, map[string]bool{}
	for _, raw := range cluster.Records(t, "millrace.log") {
		rec, err := decoder.Decode(t.Context(), raw)
		if err != nil {
			t.Fatal(err)
		}
		ids[string(rec.ID())] = true
		bodies[rec.Values[rec.Type.Index("body")].String()] = true
		if s := rec.Values[schema.Service].String(); s != "app" {
			t.Errorf("service %q", s)
		}
	}
	if len(ids) != lines || len(bodies) != lines {
		t.Errorf("%d ids and %d bodies of %d lines", len(ids), len(bodies), lines)
	}
}
