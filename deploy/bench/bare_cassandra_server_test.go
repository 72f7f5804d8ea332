package main

import (
	"reflect"
	"testing"
	"time"

	"github.com/gocql/gocql"

	"github.com/millrace/millrace/pkg/servertest"
	"github.com/millrace/millrace/pkg/stream"
	"github.com/millrace/millrace/pkg/telemetry"
)

// TestBareRowsAreOurs: the bare loop writes what the sink writes, with the same keys, times to live and write times.
func TestBareRowsAreOurs(t *testing.T) {
	servers, ok := servertest.Require(t)
	if !ok {
		return
	}
	b, records := encoded(t, 1000)
	ours, bare := servers.Keyspace(t), servers.Keyspace(t)

	store, err := b.cassandra(t.Context(), ours)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	stored := make(chan error, 1)
	batch := stream.Batch{Topic: b.typ.Topic.Name, Next: int64(len(records)), Type: b.typ, Records: decoded(t, b, records)}
	if err := store.Write(t.Context(), batch, func(err error) { stored <- err }); err != nil {
		t.Fatal(err)
	}
	if err := <-stored; err != nil {
		t.Fatal(err)
	}

	b.tel = telemetry.Discard()
	planner, err := b.cassandra(t.Context(), bare)
	if err != nil {
		t.Fatal(err)
	}
	defer planner.Close()
	session, err := bareSession(bare)
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	w := newBareWriter(session, b.typ, bare)
	now := time.Now().UnixMicro()
	for range 2 { // the second time into memory that is used again
		for _, r := range records {
			if err := w.add(t.Context(), r, now); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.drain(t.Context()); err != nil {
			t.Fatal(err)
		}
	}

	want, got := tableOf(t, session, b.typ.CQL(ours).Table), tableOf(t, session, b.typ.CQL(bare).Table)
	if len(want) != len(records) || len(got) != len(records) {
		t.Fatalf("%d and %d rows, want %d", len(want), len(got), len(records))
	}
	for id, row := range want {
		left, _ := row["left"].(int)
		mine, _ := got[id]["left"].(int)
		if left == 0 || max(left-mine, mine-left) > 10 { // it runs down between the two readings
			t.Errorf("%s has %d s to live, want %d", id, mine, left)
		}
		delete(row, "left")
		delete(got[id], "left")
		if !reflect.DeepEqual(got[id], row) {
			t.Errorf("the row is\n%v, want\n%v", got[id], row)
		}
	}
}

// tableOf gives all rows by id, column by column, with time to live and write times. A column that was never written has
// the write time 0, an empty one has not.
func tableOf(t *testing.T, session *gocql.Session, table string) map[gocql.UUID]map[string]any {
	t.Helper()
	iter := session.Query("SELECT tenant, service, bucket, shard, time, id, host, datacenter, severity, body, source, trace_id, span_id, attributes," +
		" TTL(body) AS left, WRITETIME(body) AS written, WRITETIME(severity) AS noted, WRITETIME(attributes) AS mapped FROM " + table).WithContext(t.Context()).Iter()
	out := map[gocql.UUID]map[string]any{}
	for row := (map[string]any{}); iter.MapScan(row); row = map[string]any{} {
		id, _ := row["id"].(gocql.UUID)
		out[id] = row
	}
	if err := iter.Close(); err != nil {
		t.Fatal(err)
	}
	return out
}
