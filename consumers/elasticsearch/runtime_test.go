package elasticsearch

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/pkg/codec"
	"github.com/millrace/millrace/pkg/kafka/kafkatest"
	"github.com/millrace/millrace/pkg/schema"
	"github.com/millrace/millrace/pkg/schema/schematest"
	"github.com/millrace/millrace/pkg/stream"
	"github.com/millrace/millrace/pkg/stream/sinktest"
	"github.com/millrace/millrace/pkg/telemetry"
)

// byOffset decodes a record to what the maker makes at its offset.
type byOffset struct{ maker sinktest.Maker }

func (d byOffset) Decode(_ context.Context, r *kgo.Record) (codec.Record, error) {
	made := d.maker.Record(r.Partition, r.Offset)
	made.Source = r
	return made, nil
}

// TestRedeliveredDocumentsAreCounted: what Elasticsearch says it has already is a success, and the runtime counts it.
func TestRedeliveredDocumentsAreCounted(t *testing.T) {
	typ := schematest.Type(t, "log")
	topic := typ.TopicName()
	cluster := kafkatest.New(t, topic)
	f := &fake{t: t, typ: typ}
	f.bulk = func(ids []string, w http.ResponseWriter) {
		all := repeat(dup409, len(ids))
		all[0] = ok201
		items(w, all...)
	}
	reg := prometheus.NewRegistry()
	c, err := stream.New(stream.Default(), "elasticsearch", f.start(), stream.Deps{
		Kafka: cluster.Opts(), Types: []*schema.Type{typ}, Telemetry: telemetry.Set{Log: telemetry.Discard().Log, Metrics: reg},
		Decoder: func(string) stream.Decoder { return byOffset{maker(typ)} },
	})
	if err != nil {
		t.Fatal(err)
	}
	cluster.Produce(t, &kgo.Record{Topic: topic}, &kgo.Record{Topic: topic}, &kgo.Record{Topic: topic})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	for deadline := time.Now().Add(time.Minute); cluster.Committed(t, stream.Group("elasticsearch"), topic)[0] != 3; {
		if time.Now().After(deadline) {
			t.Fatal("the three records were not committed within a minute")
		}
		time.Sleep(50 * time.Millisecond)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() != "millrace_stream_redelivered_records_total" {
			continue
		}
		for _, m := range family.GetMetric() {
			if n := m.GetCounter().GetValue(); n == 2 {
				return
			}
		}
	}
	t.Error("two redelivered records are not counted")
}

// TestCompressionIsASetting: it is off where nothing is said, since on loopback and within a rack it costs more than it
// saves, and then answers are not asked for compressed either.
func TestCompressionIsASetting(t *testing.T) {
	typ := schematest.Type(t, "log")
	for _, on := range []bool{false, true} {
		var request, answer string
		f := &fake{t: t, typ: typ, bulk: func(ids []string, w http.ResponseWriter) { items(w, repeat(ok201, len(ids))...) }}
		f.seen = func(r *http.Request) {
			request, answer = r.Header.Get("Content-Encoding"), r.Header.Get("Accept-Encoding")
		}
		s := f.start()
		if on {
			cfg := s.cfg
			cfg.Gzip = true
			s = newStoreOf(t, cfg, typ)
		}
		if err := store(t, s, maker(typ).Batch(0, 0, 3)); err != nil {
			t.Fatal(err)
		}
		if zipped := strings.Contains(request, "gzip"); zipped != on || strings.Contains(answer, "gzip") != on {
			t.Errorf("gzip %t: the request is encoded %q, the answer may be %q", on, request, answer)
		}
	}
}
