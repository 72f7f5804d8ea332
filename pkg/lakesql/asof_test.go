package lakesql

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/pkg/codec"
	"github.com/millrace/millrace/pkg/lake"
	"github.com/millrace/millrace/pkg/schema"
	"github.com/millrace/millrace/pkg/schema/schematest"
	"github.com/millrace/millrace/pkg/telemetry"
)

func openAsOf(t *testing.T, l *lake.Lake, asOf string, types ...*schema.Type) *DB {
	t.Helper()
	at, err := lake.ParseAsOf(asOf)
	if err != nil {
		t.Fatal(err)
	}
	d, err := Open(t.Context(), Default(), l, types, at)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// TestAsOf reads a table of three commits, and beside it one that began after the first of them.
func TestAsOf(t *testing.T) {
	log, usage := schematest.Type(t, "log"), schematest.Type(t, "usage")
	l := newLake(t, log, usage)
	const statement = "select count(*) from log"
	var past []Read
	for n := range int64(3) {
		store(t, l, log, n, record(log, n, base, nil))
		_, a := read(t, openAsOf(t, l, "", log, usage), statement)
		past = append(past, a.Reads...)
		if n == 0 {
			store(t, l, usage, 0, record(usage, 0, base, nil))
		}
	}
	for n, r := range past {
		want := fmt.Sprintf("count_star()\n%d\n", n+1)
		for _, asOf := range []string{fmt.Sprint(r.Snapshot), r.Committed.Format(time.RFC3339Nano), r.Committed.In(time.FixedZone("", 7200)).Format(time.RFC3339Nano)} {
			got, a := read(t, openAsOf(t, l, asOf, log, usage), statement)
			if got != want || len(a.Reads) != 1 || a.Reads[0] != r {
				t.Errorf("as of %s: %q from %+v, want %q from %+v", asOf, got, a.Reads, want, r)
			}
		}
	}
	// The other table is as it was when the snapshot was made: at the first there was nothing of it yet.
	if got, _ := read(t, openAsOf(t, l, fmt.Sprint(past[1].Snapshot), log, usage), "select count(*) from usage"); got != "count_star()\n1\n" {
		t.Errorf("usage as of log's second snapshot: %q", got)
	}
	fails := func(asOf, statement, want string) {
		t.Helper()
		_, err := openAsOf(t, l, asOf, log, usage).Query(t.Context(), Request{Statement: statement}, &bytes.Buffer{}, CSV)
		if !errors.Is(err, lake.ErrNoState) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s as of %s: %v, want %q", statement, asOf, err, want)
		}
	}
	fails(fmt.Sprint(past[0].Snapshot), "select count(*) from usage", "the table's first commit was at ")
	fails("2001-02-03T04:05:06Z", statement, "the table's first commit was at "+past[0].Committed.Format(time.RFC3339Nano))
	if _, err := Open(t.Context(), Default(), l, []*schema.Type{log, usage}, lake.AsOf{Snapshot: 5}); !errors.Is(err, lake.ErrNoState) {
		t.Errorf("a snapshot of no table: %v", err)
	}
	for _, s := range []string{"yesterday", "-5", "2026-03-01"} {
		if _, err := lake.ParseAsOf(s); err == nil || !strings.Contains(err.Error(), "RFC 3339") {
			t.Errorf("%s: %v", s, err)
		}
	}
}

func TestAsOfAStateThatHasExpired(t *testing.T) {
	typ := schematest.Type(t, "usage")
	cfg := lake.Default()
	cfg.Warehouse, cfg.Snapshots = t.TempDir(), lake.Snapshots{Age: time.Nanosecond, Keep: 1, Most: 1}
	l, err := lake.New(cfg, telemetry.Discard())
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Create(t.Context(), typ); err != nil {
		t.Fatal(err)
	}
	const statement = "select count(*) from usage"
	var first Read
	for n := range int64(3) {
		store(t, l, typ, n, record(typ, n, base, nil))
		if n == 0 {
			_, a := read(t, openAsOf(t, l, "", typ), statement)
			first = a.Reads[0]
		}
	}
	table, err := l.Open(t.Context(), typ)
	if err != nil {
		t.Fatal(err)
	}
	if err := table.Expire(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, err = openAsOf(t, l, first.Committed.Format(time.RFC3339Nano), typ).Query(t.Context(), Request{Statement: statement}, &bytes.Buffer{}, CSV)
	if !errors.Is(err, lake.ErrNoState) || !strings.Contains(err.Error(), "have expired (lake.snapshots)") {
		t.Errorf("by time: %v", err)
	}
	_, err = Open(t.Context(), Default(), l, []*schema.Type{typ}, lake.AsOf{Snapshot: first.Snapshot})
	if !errors.Is(err, lake.ErrNoState) || !strings.Contains(err.Error(), "lake.snapshots") {
		t.Errorf("by id: %v", err)
	}
}

// TestAsOfAnOlderSchema has the columns under the names that they had.
func TestAsOfAnOlderSchema(t *testing.T) {
	old := schematest.Type(t, "log")
	newer, err := schema.Parse([]byte(evolved))
	if err != nil {
		t.Fatal(err)
	}
	usage := schematest.Type(t, "usage") // sql.deduplicate names it
	l := newLake(t, old)
	store(t, l, old, 0, record(old, 0, base, map[string]codec.Value{"severity": codec.StringValue("old")}))
	_, a := read(t, openAsOf(t, l, "", old, usage), "from log")
	store(t, l, newer, 1, record(newer, 1, base, map[string]codec.Value{"level": codec.StringValue("new")}))
	if got, _ := read(t, openAsOf(t, l, "", newer, usage), "select level from log where level >= 'a' order by 1"); got != "level\nnew\nold\n" {
		t.Errorf("now: %q", got)
	}
	if got, _ := read(t, openAsOf(t, l, fmt.Sprint(a.Reads[0].Snapshot), newer, usage), "select severity from log where severity >= 'a'"); got != "severity\nold\n" {
		t.Errorf("then: %q", got)
	}
}

// TestValidThroughIsThatOfTheState has it grow with each commit, and an earlier state keep its own.
func TestValidThroughIsThatOfTheState(t *testing.T) {
	typ := schematest.Type(t, "usage")
	l := newLake(t, typ)
	var all []Read
	for n := range int64(2) {
		at := base.Add(time.Duration(n) * time.Hour)
		storeThrough(t, l, typ, n, at, record(typ, n, base, nil))
		_, a := read(t, openAsOf(t, l, "", typ), "from usage")
		if got := a.Reads[0].ValidThrough; !got.Equal(at) {
			t.Errorf("commit %d: valid through %s, want %s", n, got, at)
		}
		all = append(all, a.Reads[0])
	}
	_, a := read(t, openAsOf(t, l, fmt.Sprint(all[0].Snapshot), typ), "from usage")
	if got := a.Reads[0]; got != all[0] {
		t.Errorf("then: %+v, want %+v", got, all[0])
	}
}
