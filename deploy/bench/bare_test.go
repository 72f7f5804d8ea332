package main

import (
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sr/srfake"

	"github.com/millrace/millrace/pkg/codec"
	"github.com/millrace/millrace/pkg/schema"
	"github.com/millrace/millrace/pkg/schema/schematest"
	"github.com/millrace/millrace/pkg/telemetry"
)

// encoded gives records of the built-in log as they come from Kafka, with nulls and odd characters in some, and what
// they are decoded by.
func encoded(t *testing.T, count int) (*bench, []*kgo.Record) {
	t.Helper()
	registry := srfake.New()
	t.Cleanup(registry.Close)
	b := &bench{typ: schematest.Type(t, "log"), tel: telemetry.Discard()}
	var err error
	if b.types, err = schema.NewSet(b.typ); err != nil {
		t.Fatal(err)
	}
	cfg := codec.Default()
	cfg.URLs = []string{registry.URL()}
	if b.codec, err = codec.New(cfg, b.types, b.tel); err != nil {
		t.Fatal(err)
	}
	if _, err := b.codec.Register(t.Context(), b.typ); err != nil {
		t.Fatal(err)
	}
	encoder, err := b.codec.Encoder(t.Context(), b.typ.Name)
	if err != nil {
		t.Fatal(err)
	}
	var records []*kgo.Record
	for i := range count {
		values := b.values(i)
		if i%3 == 0 {
			values[b.typ.Index("severity")] = codec.Value{}
			values[b.typ.Index("body")] = codec.StringValue("żółć \"quoted\" \\ \n\t\x01")
			values[b.typ.Index("attributes")] = codec.MapValue(nil)
		}
		r, err := encoder.Encode(values)
		if err != nil {
			t.Fatal(err)
		}
		r.Timestamp, r.Offset = time.Now().Truncate(time.Millisecond), int64(i)
		records = append(records, r)
	}
	return b, records
}

// decoded gives the same as a sink gets them.
func decoded(t *testing.T, b *bench, records []*kgo.Record) []codec.Record {
	t.Helper()
	decoder := b.codec.Decoder(b.typ.Name)
	var out []codec.Record
	for _, r := range records {
		record, err := decoder.Decode(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, record)
	}
	return out
}
