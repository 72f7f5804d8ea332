package main

import (
	"slices"
	"testing"

	"github.com/millrace/millrace/pkg/schema"
)

// TestBareKeysAreOurs: the bare loop has by hand what the sink has from the type. That the rows are the same is for the
// real server to say.
func TestBareKeysAreOurs(t *testing.T) {
	b, records := encoded(t, 100)
	var columns []string
	for _, c := range b.typ.CQL("k").Columns {
		columns = append(columns, c.Name)
	}
	if want := []string{
		"tenant", "service", "bucket", "shard", "time", "id", "host", "datacenter",
		"severity", "body", "source", "trace_id", "span_id", "attributes",
	}; !slices.Equal(columns, want) || len(want) != bareColumns || len(b.typ.Cassandra.Partition)+2 != bareKey {
		t.Errorf("the columns are %v, want %v", columns, want)
	}
	if got := b.typ.Cassandra.Retention.Microseconds(); got != bareRetained {
		t.Errorf("the retention is %d µs, want %d", got, int64(bareRetained))
	}
	for _, r := range decoded(t, b, records) {
		if got, want := int(bareShard(string(r.ID()))), schema.Shard(b.typ, r.Values); got != want {
			t.Errorf("the shard of %s is %d, want %d", r.ID(), got, want)
		}
		if got, want := r.TimeMicros()/bareBucket*bareBucket, b.typ.Bucket(r.TimeMicros()).UnixMicro(); got != want {
			t.Errorf("the bucket of %d is %d, want %d", r.TimeMicros(), got, want)
		}
	}
}
