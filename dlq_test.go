package main

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/pkg/codec"
	"github.com/millrace/millrace/pkg/dlq"
	"github.com/millrace/millrace/pkg/schema"
	"github.com/millrace/millrace/pkg/telemetry"
)

// early is a log record whose event time is out of bounds until a moment.
func early(t *testing.T, cfg *Config, until time.Time) *kgo.Record {
	t.Helper()
	types, err := loadTypes(cfg.Types)
	if err != nil {
		t.Fatal(err)
	}
	c, err := codec.New(cfg.Registry, types, telemetry.Discard())
	if err != nil {
		t.Fatal(err)
	}
	enc, err := c.Encoder(t.Context(), "log")
	if err != nil {
		t.Fatal(err)
	}
	v := enc.Defaults()
	v[schema.Time] = codec.LongValue(until.Add(enc.Type().Future).UnixMicro())
	for _, f := range []string{"body", "severity", "service", "host", "source"} {
		v[enc.Type().Index(f)] = codec.StringValue("early")
	}
	r, err := enc.Encode(v)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestDeadLetters is an operator who finds dead letters: one kind can be replayed once a clock is right, the other is
// given up.
func TestDeadLetters(t *testing.T) {
	t.Parallel()
	data := filepath.Join(t.TempDir(), "data")
	p := startDev(t, data)
	cfg, err := loadConfig(filepath.Join(data, devConfigFile))
	if err != nil {
		t.Fatal(err)
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(cfg.Kafka.Brokers...))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	until := time.Now().Add(4 * time.Second)
	garbage := &kgo.Record{Topic: "millrace.log", Value: []byte("garbage")}
	if err := cl.ProduceSync(t.Context(), early(t, cfg, until), garbage).FirstErr(); err != nil {
		t.Fatal(err)
	}
	command := func(args ...string) string {
		t.Helper()
		out, errs, code := millrace(t, "", append([]string{"dlq", args[0], "--data", data}, args[1:]...)...)
		if code != exitOK {
			t.Fatalf("dlq %v: exit code %d: %s%s", args, code, out, errs)
		}
		return out
	}
	counts := func(want int64) error {
		var a dlq.Answer
		if err := p.get(t, "/api/v1/dlq?topic=millrace.log", &a); err != nil {
			return err
		}
		open := int64(0)
		for _, g := range a.Groups {
			open += g.Open
		}
		if open != want {
			return fmt.Errorf("%d letters are open, want %d: %+v", open, want, a.Groups)
		}
		return nil
	}
	eventually(t, "letters of two records for two destinations", func() error { return counts(4) })
	if out := command("list"); !strings.Contains(out, "time_out_of_range") || !strings.Contains(out, "not_avro") {
		t.Errorf("list:\n%s", out)
	}
	if out := command("show", "--reason", "not_avro", "-n", "1"); !strings.Contains(out, "67617262616765") {
		t.Errorf("show of garbage:\n%s", out)
	}
	if out := command("show", "--reason", "time_out_of_range", "--to", devSink); !strings.Contains(out, `"body":"early"`) {
		t.Errorf("show of a record:\n%s", out)
	}

	eventually(t, "the event is in bounds", func() error {
		if left := time.Until(until); left > 0 {
			return fmt.Errorf("%s before", left)
		}
		return nil
	})
	args := []string{"replay", "--reason", "time_out_of_range", "--to", "lake", "--why", "the clock is right"}
	if out := command(append(args, "--dry-run")...); !strings.Contains(out, "would be replayed: 1\n") {
		t.Errorf("dry run:\n%s", out)
	}
	if out := command(args...); !strings.Contains(out, "\nreplayed: 1\n") {
		t.Errorf("replay:\n%s", out)
	}
	sqlEventually(t, data, "SELECT count(*) AS n FROM log WHERE body = 'early'", "n\n1\n")
	p.hits(t, "type=log&q=early&from="+time.Now().Add(-time.Hour).UTC().Format(time.RFC3339)+"&to="+time.Now().Add(time.Hour).UTC().Format(time.RFC3339), 0)
	if out := command("discard", "--topic", "millrace.log", "--reason", "not_avro", "--why", "a test's"); !strings.Contains(out, "\ndiscarded: 2\n") {
		t.Errorf("discard:\n%s", out)
	}
	eventually(t, "one letter is open", func() error { return counts(1) })
	if out := command("show", "--all", "--reason", "not_avro"); !strings.Contains(out, "a test's") {
		t.Errorf("show of a discarded letter:\n%s", out)
	}
	p.stop(t)
}
