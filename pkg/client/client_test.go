package client_test

import (
	"context"
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.opentelemetry.io/otel/trace"

	"github.com/millrace/millrace/pkg/client"
	"github.com/millrace/millrace/pkg/codec"
	"github.com/millrace/millrace/pkg/kafka/kafkatest"
	"github.com/millrace/millrace/pkg/schema"
	"github.com/millrace/millrace/pkg/telemetry"
)

const topic = "millrace.log"

func newCodec(t *testing.T, url string) *codec.Codec {
	t.Helper()
	types, err := schema.Builtin()
	if err != nil {
		t.Fatal(err)
	}
	set, err := schema.NewSet(types...)
	if err != nil {
		t.Fatal(err)
	}
	cfg := codec.Default()
	cfg.URLs = []string{url}
	c, err := codec.New(cfg, set, telemetry.Discard())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// config is the default without compression: what zstd keeps in a pool must not outlive a synctest bubble.
func config() client.Config {
	cfg := client.Default()
	cfg.Compression = "none"
	return cfg
}

func newClient(t *testing.T, cfg client.Config, opts []kgo.Opt) *client.Client {
	t.Helper()
	c, err := client.New(cfg, newCodec(t, "http://127.0.0.1:1"), telemetry.Discard(), opts)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func record(size int) *kgo.Record {
	return &kgo.Record{Topic: topic, Value: []byte(strings.Repeat("x", size))}
}

func closeClient(t *testing.T, c *client.Client) client.Report {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	r, err := c.Close(ctx)
	if err != nil {
		t.Errorf("closing: %v", err)
	}
	return r
}

func TestEveryRecordIsAccountedForOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cluster := kafkatest.NewVirtual(t, topic)
		c := newClient(t, config(), cluster.Opts())
		var calls atomic.Int64
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for range 500 {
					if err := c.Produce(t.Context(), record(100), func(error) { calls.Add(1) }); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		r := closeClient(t, c)
		if want := (client.Report{Accepted: 2000, Acknowledged: 2000}); r != want || calls.Load() != 2000 {
			t.Errorf("report %+v with %d callbacks, want %+v", r, calls.Load(), want)
		}
		if n := len(cluster.Records(t, topic)); n != 2000 {
			t.Errorf("%d records in Kafka", n)
		}
		if err := c.Produce(t.Context(), record(1), nil); !errors.Is(err, client.ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
	})
}

// Whoever deletes a topic and makes it again need not restart the services that publish to it.
func TestTopicMadeAnewIsPublishedTo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cluster := kafkatest.NewVirtual(t, topic)
		c := newClient(t, config(), cluster.Opts())
		send := func() error {
			result := make(chan error, 1)
			if err := c.Produce(t.Context(), record(100), func(err error) { result <- err }); err != nil {
				t.Fatal(err)
			}
			return <-result
		}
		if err := send(); err != nil {
			t.Fatal(err)
		}
		if err := cluster.DeleteTopic(topic); err != nil {
			t.Fatal(err)
		}
		cluster.Create(t, topic, 3)
		failures := 0
		for ; failures < 100 && send() != nil; failures++ {
			time.Sleep(time.Second)
		}
		if failures == 0 || failures == 100 {
			t.Errorf("%d records failed before one was taken, want some, and an end of it", failures)
		}
		for range 10 {
			if err := send(); err != nil {
				t.Errorf("afterwards: %v", err)
			}
		}
		closeClient(t, c)
		if n := len(cluster.Records(t, topic)); n != 11 {
			t.Errorf("%d records are in the new topic, want 11", n)
		}
	})
}

func TestFullBufferShedsOrBlocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cluster := kafkatest.NewVirtual(t, topic)
		link := cluster.Link()
		link.Cut()
		cfg := config()
		cfg.Records, cfg.Bytes, cfg.Full, cfg.Delivery = 10, 500, client.Shed, 0
		shed := newClient(t, cfg, link.Opts())
		taken := 0
		for range 20 {
			err := shed.Produce(t.Context(), record(100), nil)
			switch {
			case err == nil:
				taken++
			case !errors.Is(err, client.ErrFull):
				t.Fatal(err)
			}
		}
		if taken != 5 {
			t.Errorf("%d records of 100 bytes in a buffer of 500", taken)
		}

		cfg.Full = client.Block
		block := newClient(t, cfg, link.Opts())
		for range 5 {
			if err := block.Produce(t.Context(), record(100), nil); err != nil {
				t.Fatal(err)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		if err := block.Produce(ctx, record(100), nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("waiting for room: %v", err)
		}
		waited := make(chan error)
		go func() { waited <- block.Produce(t.Context(), record(100), nil) }()
		time.Sleep(time.Minute)
		link.Mend()
		if err := <-waited; err != nil {
			t.Errorf("after the outage: %v", err)
		}
		if r := closeClient(t, block); r != (client.Report{Accepted: 6, Acknowledged: 6}) {
			t.Errorf("blocking: %+v", r)
		}
		if r := closeClient(t, shed); r != (client.Report{Accepted: 5, Acknowledged: 5}) {
			t.Errorf("shedding: %+v", r)
		}
	})
}

func TestTooLargeIsThatRecordsErrorAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cluster := kafkatest.NewVirtual(t, topic)
		c := newClient(t, config(), cluster.Opts())
		var large error
		for i := range 10 {
			size := 100
			if i == 5 {
				size = 2 << 20
			}
			err := c.Produce(t.Context(), record(size), func(err error) {
				if i == 5 {
					large = err
				} else if err != nil {
					t.Errorf("record %d: %v", i, err)
				}
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		r := closeClient(t, c)
		if !errors.Is(large, kerr.MessageTooLarge) || r != (client.Report{Accepted: 10, Acknowledged: 9, Failed: 1}) {
			t.Errorf("large: %v, %+v", large, r)
		}
	})
}

func TestCloseInAnOutageCountsUnknown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cluster := kafkatest.NewVirtual(t, topic)
		link := cluster.Link()
		c := newClient(t, config(), link.Opts())
		if err := c.Produce(t.Context(), record(1), nil); err != nil {
			t.Fatal(err)
		}
		if err := c.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		link.Cut()
		calls := 0
		for range 7 {
			if err := c.Produce(t.Context(), record(1), func(err error) {
				calls++
				if err == nil {
					t.Error("acknowledged without a broker")
				}
			}); err != nil {
				t.Fatal(err)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		r, err := c.Close(ctx)
		if err == nil || calls != 7 || r != (client.Report{Accepted: 8, Acknowledged: 1, Unknown: 7}) {
			t.Errorf("%+v, %d callbacks, %v", r, calls, err)
		}
	})
}

func TestTraceTravelsInTheHeaders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cluster := kafkatest.NewVirtual(t, topic)
		c := newClient(t, config(), cluster.Opts())
		sc := trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}, TraceFlags: 1})
		if err := c.Produce(trace.ContextWithSpanContext(t.Context(), sc), record(1), nil); err != nil {
			t.Fatal(err)
		}
		if err := c.Produce(t.Context(), record(1), nil); err != nil {
			t.Fatal(err)
		}
		closeClient(t, c)
		got := 0
		for _, r := range cluster.Records(t, topic) {
			for _, h := range r.Headers {
				if h.Key == "traceparent" && string(h.Value) == "00-01000000000000000000000000000000-0200000000000000-01" {
					got++
				}
			}
		}
		if got != 1 {
			t.Errorf("%d records with the trace, want 1", got)
		}
	})
}

func TestCutConnectionsDoubleNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cluster := kafkatest.NewVirtual(t, topic)
		link := cluster.Link()
		cfg := config()
		cfg.Delivery, cfg.Linger = 0, time.Millisecond
		c := newClient(t, cfg, link.Opts())
		var once [3000]atomic.Int32
		for i := range once {
			r := record(0)
			r.Value = []byte(strconv.Itoa(i))
			if err := c.Produce(t.Context(), r, func(err error) {
				once[i].Add(1)
				if err != nil {
					t.Errorf("record %d: %v", i, err)
				}
			}); err != nil {
				t.Fatal(err)
			}
			if i%100 == 50 { // in the middle of what is in flight
				time.Sleep(time.Millisecond)
				link.Cut()
				time.Sleep(time.Second)
				link.Mend()
			}
		}
		if r := closeClient(t, c); r != (client.Report{Accepted: 3000, Acknowledged: 3000}) {
			t.Errorf("%+v", r)
		}
		seen := map[string]int{}
		for _, r := range cluster.Records(t, topic) {
			seen[string(r.Value)]++
		}
		for i := range once {
			if n := once[i].Load(); n != 1 {
				t.Errorf("record %d: %d callbacks", i, n)
			}
			if n := seen[strconv.Itoa(i)]; n != 1 {
				t.Errorf("record %d is %d times in Kafka", i, n)
			}
		}
	})
}

func TestSendTakesEachForm(t *testing.T) {
	cluster := kafkatest.New(t, topic)
	cdc := newCodec(t, cluster.RegistryURL(t))
	types, err := schema.Builtin()
	if err != nil {
		t.Fatal(err)
	}
	for _, typ := range types {
		if _, err := cdc.Register(t.Context(), typ); err != nil {
			t.Fatal(err)
		}
	}
	c, err := client.New(client.Default(), cdc, telemetry.Discard(), cluster.Opts())
	if err != nil {
		t.Fatal(err)
	}
	enc, err := c.Encoder(t.Context(), "log")
	if err != nil {
		t.Fatal(err)
	}
	values := enc.Defaults()
	values[enc.Type().Index("body")] = codec.StringValue("b")
	for _, event := range []any{
		Log{Body: "b"},
		&Log{Body: "b"},
		map[string]any{"body": "b", "time": time.Now()},
		[]byte(`{"body":"b"}`),
		json.RawMessage(`{"body":"b"}`),
		values,
	} {
		if err := c.Send(t.Context(), "log", event, nil); err != nil {
			t.Errorf("%T: %v", event, err)
		}
	}
	f := func(typ string, event any) {
		t.Helper()
		if err := c.Send(t.Context(), typ, event, func(error) { t.Error("done was called") }); err == nil {
			t.Errorf("%T was taken", event)
		}
	}
	f("nosuch", []byte(`{"body":"b"}`))
	f("log", []byte(`{}`))
	f("log", map[string]any{"body": make(chan int)})
	f("log", map[string]any{"body": 1})
	f("log", nil)
	if r := closeClient(t, c); r.Acknowledged != 6 || r.Accepted != 6 {
		t.Errorf("%+v", r)
	}
	d := cdc.Decoder("log")
	for _, r := range cluster.Records(t, topic) {
		rec, err := d.Decode(t.Context(), r)
		if err != nil || rec.Values[rec.Type.Index("body")].String() != "b" {
			t.Errorf("%v %s", err, codec.AppendJSON(nil, &rec))
		}
	}
}

func TestConfigNamesEveryMistake(t *testing.T) {
	err := client.Config{Linger: -1, Delivery: 1}.Validate()
	for _, key := range []string{"records", "bytes", "full", "compression", "linger", "delivery"} {
		if err == nil || !strings.Contains(err.Error(), "client."+key) {
			t.Errorf("%s is not named in: %v", key, err)
		}
	}
	if err := client.Default().Validate(); err != nil {
		t.Error(err)
	}
}
