package main

import (
	"bytes"
	"encoding/json"
	"reflect"
	"testing"

	"github.com/millrace/millrace/pkg/codec"
)

// TestBareDocumentsAreOurs: the bare loop writes what the sink writes.
func TestBareDocumentsAreOurs(t *testing.T) {
	b, records := encoded(t, 100)
	q := &bareRequest{avro: b.typ.Avro, index: b.typ.IndexPrefix("i") + "-"}
	for _, r := range records {
		var l bareLog
		if _, err := q.avro.Decode(r.Value[5:], &l); err != nil {
			t.Fatal(err)
		}
		q.add(&l)
	}
	lines := bytes.Split(bytes.TrimSuffix(q.body, []byte("\n")), []byte("\n"))
	if len(lines) != 2*len(records) {
		t.Fatalf("%d lines for %d records", len(lines), len(records))
	}
	for i, record := range decoded(t, b, records) {
		want := any(map[string]any{"create": map[string]any{
			"_index": b.typ.IndexName("i", record.TimeMicros()), "_id": string(record.ID()),
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
