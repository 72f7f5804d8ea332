package codec_test

import (
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sr/srfake"

	"github.com/millrace/millrace/pkg/codec"
	"github.com/millrace/millrace/pkg/schema"
	"github.com/millrace/millrace/pkg/telemetry"
)

// logRecord is the type log as a struct, for twmb/avro.
type logRecord struct {
	ID         string            `avro:"id"`
	Time       time.Time         `avro:"time"`
	Service    string            `avro:"service"`
	Host       string            `avro:"host"`
	Datacenter string            `avro:"datacenter"`
	Tenant     string            `avro:"tenant"`
	Severity   *string           `avro:"severity"`
	Body       string            `avro:"body"`
	Source     *string           `avro:"source"`
	TraceID    *string           `avro:"trace_id"`
	SpanID     *string           `avro:"span_id"`
	Attributes map[string]string `avro:"attributes"`
}

// benchLog is a log of about 250 bytes and what decodes it.
func benchLog(b *testing.B) (*kgo.Record, *codec.Codec, *schema.Type) {
	b.Helper()
	reg := srfake.New()
	b.Cleanup(reg.Close)
	types, err := schema.Builtin()
	if err != nil {
		b.Fatal(err)
	}
	set, err := schema.NewSet(types...)
	if err != nil {
		b.Fatal(err)
	}
	cfg := codec.Default()
	cfg.URLs = []string{reg.URL()}
	c, err := codec.New(cfg, set, telemetry.Discard())
	if err != nil {
		b.Fatal(err)
	}
	if _, err := c.Register(b.Context(), set.Get("log")); err != nil {
		b.Fatal(err)
	}
	e, err := c.Encoder(b.Context(), "log")
	if err != nil {
		b.Fatal(err)
	}
	r, err := e.EncodeJSON([]byte(benchJSON))
	if err != nil {
		b.Fatal(err)
	}
	r.Timestamp = time.Now()
	return r, c, set.Get("log")
}

var benchJSON = `{"service":"billing","host":"host-17.example","datacenter":"dc1","tenant":"acme","severity":"ERROR","body":"` +
	strings.Repeat("request failed, ", 5) + `","trace_id":"0af7651916cd43dd8448eb211c80319c","span_id":"b7ad6b7169203331",` +
	`"attributes":{"http.status":"503","route":"/v1/pay"}}`

func BenchmarkDecode(b *testing.B) {
	r, c, typ := benchLog(b)
	b.Run("positional", func(b *testing.B) {
		d := c.Decoder("log")
		b.SetBytes(int64(len(r.Value)))
		b.ReportAllocs()
		for b.Loop() {
			if _, err := d.Decode(b.Context(), r); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("twmb_struct", func(b *testing.B) {
		b.SetBytes(int64(len(r.Value)))
		b.ReportAllocs()
		for b.Loop() {
			var l logRecord
			if _, err := typ.Avro.Decode(r.Value[5:], &l); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkEncodeJSON(b *testing.B) {
	_, c, _ := benchLog(b)
	e, err := c.Encoder(b.Context(), "log")
	if err != nil {
		b.Fatal(err)
	}
	in := []byte(benchJSON)
	b.SetBytes(int64(len(in)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := e.EncodeJSON(in); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAppendJSON(b *testing.B) {
	r, c, _ := benchLog(b)
	rec, err := c.Decoder("log").Decode(b.Context(), r)
	if err != nil {
		b.Fatal(err)
	}
	var dst []byte
	b.ReportAllocs()
	for b.Loop() {
		dst = codec.AppendJSON(dst[:0], &rec)
	}
}
