package lakesql

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/pkg/codec"
	"github.com/millrace/millrace/pkg/lake"
	"github.com/millrace/millrace/pkg/schema"
	"github.com/millrace/millrace/pkg/schema/schematest"
)

// where opens a condition on a type's table as it is now.
func where(t testing.TB, l *lake.Lake, typ *schema.Type, condition string) (*Where, *lake.Table, error) {
	t.Helper()
	table, err := l.Open(t.Context(), typ)
	if err != nil {
		t.Fatal(err)
	}
	state, err := table.At(lake.AsOf{})
	if err != nil {
		t.Fatal(err)
	}
	w, err := OpenWhere(t.Context(), Default(), typ.Name, state, condition)
	if err == nil {
		t.Cleanup(func() { _ = w.Close() })
	}
	return w, table, err
}

// erase deletes, and proves that the table still adds up.
func erase(t testing.TB, l *lake.Lake, typ *schema.Type, condition string) lake.Deleted {
	t.Helper()
	w, table, err := where(t, l, typ, condition)
	if err != nil {
		t.Fatalf("%s: %v", condition, err)
	}
	done, err := table.Delete(t.Context(), lake.Deletion{Where: w, Reason: "asked for", Memory: 1 << 20, GroupRows: 1000, Batch: 1 << 20})
	if err != nil {
		t.Fatalf("%s: %v", condition, err)
	}
	v, err := table.Verify(t.Context(), 64<<20)
	if err != nil || !v.OK() || len(v.Partitions) > 0 && v.Partitions[0].Deleted < done.Rows {
		t.Fatalf("%s: %+v (%v)", condition, v, err)
	}
	return done
}

// TestAConditionIsOneExpression has every way out of the parentheses that we know of, and what reads more than a row.
func TestAConditionIsOneExpression(t *testing.T) {
	t.Parallel()
	typ := schematest.Type(t, "log")
	l := newLake(t, typ)
	store(t, l, typ, 0, record(typ, 0, base, map[string]codec.Value{"tenant": codec.StringValue("acme")}))
	for _, condition := range []string{
		"", " ", "-- true", "true;", "true; drop table log", "true) ; delete from log where (true", "1=1) union select (1", "true) union select (true", "true) intersect select (true",
		"1=1) union all select 1 from log where (true", "false) or (true) union (select 1", "true) limit (1", "true) order by (1",
		"true) where (true", "true) from log where (true", "true) from (select 1", "true), (true", "true, true", "true) as x, (true",
		"true) except (select false", "true) group by (1", "true) having (true", "true) qualify (true", "true) using sample (1",
		"true) /* ", "/* true", "'", "$$", "true as x", "*", "columns(*) = 1", "log.* is null",
		"exists (select 1)", "(select true)", "tenant in (select tenant from log)", "tenant = (select max(tenant) from log)", "(from log)",
		"(values (true))", "tenant = any(select 'acme')", "(with x as (select true) select * from x)",
		"exists (from read_csv('/etc/passwd'))", "exists (from '/etc/passwd')", "exists (from glob('/*'))",
		"count(*) > 0", "max(tenant) = 'acme'", "row_number() over () = 1", "unnest([true])", "list(tenant) = []",
		"random() < 0.5", "RANDOM() < 0.5", "uuid() <> gen_random_uuid()", "nextval('a') = 1", "setseed(0.5) is null", "sleep_ms(1) is null",
		"pg_sleep(1) is null", "main.random() < 2", "0.5.random() < 1", "list_filter([1], x -> random() > 0.5) = [1]", "error('x')",
		"write_log('x') is null", "current_query() = ''", "pg_get_viewdef(1) is null", "getenv('HOME') = ''", "read_text('/etc/passwd') = ''",
		"tenant = ?", "tenant = $1", "tenant = $name", "#1 = 1", "default", "tenant", "1", "null", "'true'", "_offset", "nobody = 1",
		"tenant = 'acme' and", "tenant == 'acme') or (true) union (select 1", "file_row_number = 0", "filename = ''", "rowid = 0", "usage.tenant = ''",
	} {
		if _, _, err := where(t, l, typ, condition); !errors.Is(err, ErrCondition) {
			t.Errorf("%q: got %v, want ErrCondition", condition, err)
		}
	}
	for condition, want := range map[string]bool{
		"true": true, "true -- )": true, "false": false, "1 = 1": true, "tenant = 'acme'": true, "tenant = 'acme' -- theirs": true, "/* c */ tenant = 'acme'": true,
		"log.tenant = 'acme'": true, "(tenant) = ('acme') and (true)": true, "tenant in ('a', 'acme')": true, "tenant like 'ac%'": true,
		"TENANT = 'acme'": true, "tenant = $$acme$$": true, "time < now()": true, "time < current_timestamp - interval 1 day": true,
		`time between timestamptz '2026-01-01 00:00:00Z' and timestamptz '2027-01-01 00:00:00Z'`: true, "severity is null": true,
		"severity = 'x'": false, "severity <> 'x'": false, "not (severity = 'x')": false, "null::boolean": false, "not tenant = 'acme'": false,
		"attributes['k'] is null": true, "case when tenant = 'acme' then true else false end": true, "cast(_offset as varchar) = '0'": true,
		"list_filter([1, 2], x -> x > 1) = [2]": true, "try_cast(tenant as integer) is null": true, "regexp_matches(tenant, '^a')": true,
		"tenant = ');drop table log;--'": false, "lower(tenant) = 'acme'": true, "tenant collate nocase = 'ACME'": true, "_offset = 0 or tenant = ';'": true,
		"current_date > date '2020-01-01'": true,
	} {
		w, table, err := where(t, l, typ, condition)
		if err != nil {
			t.Errorf("%q: %v", condition, err)
			continue
		}
		d, err := table.Delete(t.Context(), lake.Deletion{Where: w, Memory: 1 << 20, DryRun: true})
		if err != nil || (d.Rows == 1) != want {
			t.Errorf("%q: %d rows (%v), want one: %v", condition, d.Rows, err, want)
		}
	}
}

// TestNowStandsStill: a condition on it means the same rows in every pass.
func TestNowStandsStill(t *testing.T) {
	typ := schematest.Type(t, "log")
	l := newLake(t, typ)
	store(t, l, typ, 0, record(typ, 0, time.Now(), nil))
	w, table, err := where(t, l, typ, "time > now()")
	if err != nil {
		t.Fatal(err)
	}
	store(t, l, typ, 1, record(typ, 1, time.Now(), nil))
	if err := table.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	d, err := table.Delete(t.Context(), lake.Deletion{Where: w, Memory: 1 << 20, DryRun: true})
	if err != nil || d.Rows != 1 {
		t.Errorf("%d rows are younger than the condition (%v), want 1", d.Rows, err)
	}
}

// TestDeleteAgainstAModel deletes from random tables of three versions of a type, with nulls, a renamed column and events that
// are there twice, and looks at every row that was.
func TestDeleteAgainstAModel(t *testing.T) {
	t.Parallel()
	old := schematest.Type(t, "log")
	newer, err := schema.Parse([]byte(evolved))
	if err != nil {
		t.Fatal(err)
	}
	type row struct {
		service, level, body string
		at                   time.Time
		code                 int64
		none                 bool // level and code are null
	}
	conditions := []struct {
		text string
		is   func(o int64, r row) bool
	}{
		{"service = 'b'", func(_ int64, r row) bool { return r.service == "b" }},
		{"level = 'x'", func(_ int64, r row) bool { return !r.none && r.level == "x" }},
		{"level <> 'x'", func(_ int64, r row) bool { return !r.none && r.level != "x" }},
		{"not (level = 'x')", func(_ int64, r row) bool { return !r.none && r.level != "x" }},
		{"level is null", func(_ int64, r row) bool { return r.none }},
		{"level = 'x' or service = 'a'", func(_ int64, r row) bool { return !r.none && r.level == "x" || r.service == "a" }},
		{"code >= 1", func(_ int64, r row) bool { return r.code >= 1 }},
		{"code is distinct from 1", func(_ int64, r row) bool { return r.code != 1 }},
		{"time < timestamptz '2026-03-03 00:00:00Z'", func(_ int64, r row) bool { return r.at.Day() < 3 }},
		{"time >= timestamptz '2026-03-02 00:00:00Z' and service in ('a', 'c')", func(_ int64, r row) bool { return r.at.Day() >= 2 && r.service != "b" }},
		{"_offset between 5 and 11", func(o int64, _ row) bool { return o >= 5 && o <= 11 }},
		{"body like '%o''neill%'", func(_ int64, r row) bool { return strings.Contains(r.body, "o'neill") }},
		{"true", func(int64, row) bool { return true }},
		{"service = 'nobody'", func(int64, row) bool { return false }},
	}
	for seed := range uint64(14) {
		l := newLake(t, old)
		random := rand.New(rand.NewPCG(seed, 1))
		pick := func(of ...string) string { return of[random.IntN(len(of))] }
		rows := map[int64]row{}
		for file, next := 0, int64(0); file < 2+random.IntN(6); file++ {
			typ, level := old, "severity"
			if file > 0 && random.IntN(2) == 0 {
				typ, level = newer, "level"
			}
			var records []codec.Record
			first := next
			for range 1 + random.IntN(12) {
				r := row{pick("a", "b", "c"), pick("x", "y"), pick("", "mr o'neill", "z"), time.Date(2026, 3, 1+random.IntN(4), random.IntN(24), 0, 0, 0, time.UTC), 0, random.IntN(3) == 0}
				fields := map[string]codec.Value{"service": codec.StringValue(r.service), "body": codec.StringValue(r.body)}
				if !r.none {
					fields[level] = codec.StringValue(r.level)
					if typ == newer {
						r.code = int64(1 + random.IntN(2))
						fields["code"] = codec.LongValue(r.code)
					}
				}
				if random.IntN(4) == 0 {
					fields["id"] = codec.StringValue("018f0000-0000-7000-8000-00000000ffff")
				}
				records = append(records, record(typ, next, r.at, fields))
				rows[next] = r
				next++
			}
			store(t, l, typ, first, records...)
		}
		if random.IntN(2) == 0 { // files that are sorted
			table, err := l.Open(t.Context(), newer)
			if err != nil {
				t.Fatal(err)
			}
			_, err = table.Compact(t.Context(), lake.Compaction{Target: 1 << 20, Memory: 1 << 20, GroupRows: 5, Now: time.Date(2026, 3, 2+random.IntN(4), 0, 0, 0, 0, time.UTC)})
			if err != nil {
				t.Fatal(err)
			}
		}
		for n := range uint64(2) {
			c := conditions[(2*seed+n)%uint64(len(conditions))]
			before := everyRow(t, l, newer)
			done := erase(t, l, newer, withLevel(t, l, c.text))
			after := everyRow(t, l, newer)
			meantRows := 0
			for o, was := range before {
				now, there := after[o]
				meant := c.is(o, rows[o])
				if meant {
					meantRows++
				}
				if there == meant || there && now != was {
					t.Errorf("seed %d: %s: offset %d is there: %v; %s, was %s", seed, c.text, o, there, now, was)
				}
			}
			if int(done.Rows) != meantRows || len(after) != len(before)-meantRows {
				t.Errorf("seed %d: %s: %d deleted, %d left of %d; want %d deleted", seed, c.text, done.Rows, len(after), len(before), meantRows)
			}
		}
	}
}

// withLevel calls the columns of a condition as the table does now.
func withLevel(t *testing.T, l *lake.Lake, condition string) string {
	t.Helper()
	table, err := l.Open(t.Context(), schematest.Type(t, "log"))
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, c := range table.Columns() {
		names[c.Name] = true
	}
	if !names["level"] {
		condition = strings.ReplaceAll(condition, "level", "severity")
	}
	if !names["code"] {
		condition = strings.ReplaceAll(condition, "code", "null::integer")
	}
	return condition
}

// everyRow is the table by offset.
func everyRow(t *testing.T, l *lake.Lake, typ *schema.Type) map[int64]string {
	t.Helper()
	all := map[int64]string{}
	d := openWith(t, l, nil, typ)
	for line := range strings.Lines(query(t, d, "select _offset, log from log", JSON)) {
		var o int64
		if _, err := fmt.Sscanf(line, `{"_offset":%d,`, &o); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		all[o] = line
	}
	return all
}

// TestARepeatIsDeletedToo: an event that was published twice is two rows, of which a view shows one.
func TestARepeatIsDeletedToo(t *testing.T) {
	typ := schematest.Type(t, "usage")
	l := newLake(t, typ)
	twice := map[string]codec.Value{"id": codec.StringValue("018f0000-0000-7000-8000-00000000ffff"), "tenant": codec.StringValue("acme")}
	store(t, l, typ, 0, record(typ, 0, base, twice), record(typ, 1, base, twice), record(typ, 2, base, nil))
	if done := erase(t, l, typ, "tenant = 'acme'"); done.Rows != 2 {
		t.Errorf("%d rows, want both", done.Rows)
	}
	if got := query(t, openWith(t, l, nil, typ), "select _offset from usage", CSV); got != "_offset\n2\n" {
		t.Errorf("left is %q", got)
	}
}

// TestAConditionChoosesFiles: what it rules out is not opened, nor needs to be readable.
func TestAConditionChoosesFiles(t *testing.T) {
	typ := schematest.Type(t, "log")
	l := newLake(t, typ)
	for n := range int64(4) {
		store(t, l, typ, n, record(typ, n, base.Add(time.Duration(n)*24*time.Hour), map[string]codec.Value{"tenant": codec.StringValue(fmt.Sprint("t", n))}))
	}
	w, table, err := where(t, l, typ, "tenant = 't1' and time < timestamptz '2026-03-04 00:00:00Z'")
	if err != nil {
		t.Fatal(err)
	}
	state, err := table.At(lake.AsOf{})
	if err != nil {
		t.Fatal(err)
	}
	chosen, err := state.Files(t.Context(), w.Filter())
	if err != nil || len(chosen) != 1 {
		t.Fatalf("%v (%v), want one file", chosen, err)
	}
	all, err := state.Files(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range all {
		if file != chosen[0] {
			if err := os.Remove(file.Location); err != nil {
				t.Fatal(err)
			}
		}
	}
	done, err := table.Delete(t.Context(), lake.Deletion{Where: w, Reason: "r", Memory: 1 << 20, GroupRows: 10})
	if err != nil || done.Rows != 1 || done.Gone != 1 {
		t.Errorf("%+v (%v)", done, err)
	}
}

// TestAConditionThatFailsOnARow changes nothing.
func TestAConditionThatFailsOnARow(t *testing.T) {
	typ := schematest.Type(t, "log")
	l := newLake(t, typ)
	for n, tenant := range []string{"5", "acme"} {
		store(t, l, typ, int64(n), record(typ, int64(n), base, map[string]codec.Value{"tenant": codec.StringValue(tenant)}))
	}
	w, table, err := where(t, l, typ, "cast(tenant as integer) = 5")
	if err != nil {
		t.Fatal(err)
	}
	_, err = table.Delete(t.Context(), lake.Deletion{Where: w, Reason: "r", Memory: 1 << 20, GroupRows: 10, Batch: 1 << 20})
	if err == nil || !strings.Contains(err.Error(), "looking for rows in ") {
		t.Errorf("got %v", err)
	}
	if got := len(everyRow(t, l, typ)); got != 2 {
		t.Errorf("%d rows are left", got)
	}
}
