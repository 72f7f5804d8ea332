package main

import (
	"bytes"
	"encoding/json"
	"reflect"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sr/srfake"

	"github.com/millrace/millrace/pkg/codec"
	"github.com/millrace/millrace/pkg/schema"
	"github.com/millrace/millrace/pkg/schema/schematest"
	"github.com/millrace/millrace/pkg/telemetry"
)

// TestBareDocumentsAreOurs: the bare loop writes what the sink writes.
func TestBareDocumentsAreOurs(t *testing.T) {
	registry := srfake.New()
	defer registry.Close()
	typ := schematest.Type(t, "log")
	types, err := schema.NewSet(typ)
	if err != nil {
		t.Fatal(err)
	}
	cfg := codec.Default()
	cfg.URLs = []string{registry.URL()}
	c, err := codec.New(cfg, types, telemetry.Discard())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Register(t.Context(), typ); err != nil {
		t.Fatal(err)
	}
	encoder, err := c.Encoder(t.Context(), typ.Name)
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{typ: typ}
	q := &bareRequest{avro: typ.Avro, index: typ.IndexPrefix("i") + "-"}
	var records []*kgo.Record
	for i := range 100 {
		values := b.values(i)
		if i%3 == 0 {
			values[typ.Index("severity")] = codec.Value{}
			values[typ.Index("body")] = codec.StringValue("żółć \"quoted\" \\ \n\t\x01")
		}
		r, err := encoder.Encode(values)
		if err != nil {
			t.Fatal(err)
		}
		var l bareLog
		if _, err := q.avro.Decode(r.Value[5:], &l); err != nil {
			t.Fatal(err)
		}
		q.add(&l)
		records = append(records, r)
	}
	decoder := c.Decoder(typ.Name)
	lines := bytes.Split(bytes.TrimSuffix(q.body, []byte("\n")), []byte("\n"))
	if len(lines) != 2*len(records) {
		t.Fatalf("%d lines for %d records", len(lines), len(records))
	}
	for i, r := range records {
		record, err := decoder.Decode(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		want := any(map[string]any{"create": map[string]any{
			"_index": typ.IndexName("i", record.TimeMicros()), "_id": string(record.ID()),
		}})
		if got := parsed(t, lines[2*i]); !reflect.DeepEqual(got, want) {
			t.Errorf("the action is %v, want %v", got, want)
		}
		if got, want := parsed(t, lines[2*i+1]), parsed(t, codec.AppendJSON(nil, &record)); !reflect.DeepEqual(got, want) {
			t.Errorf("the document is\n%v, want\n%v", got, want)
		}
	}
}

func parsed(t *testing.T, line []byte) (v any) {
	t.Helper()
	if err := json.Unmarshal(line, &v); err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	return v
}
