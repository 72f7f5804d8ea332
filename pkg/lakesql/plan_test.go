package lakesql

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/millrace/millrace/pkg/codec"
	"github.com/millrace/millrace/pkg/schema/schematest"
)

// words reach past the length at which bounds are cut, and past what one byte holds.
var words = []string{"", "a", "billing", "billing-service-of-the-north", "billing-service-of-the-south", "żółć", "zz\U0010FFFFzz\U0010FFFFzz\U0010FFFFzz", "o'neill"}

// manyFiles has six days with two files each. Some events are there twice, some fields are null.
func manyFiles(t *testing.T) *DB {
	t.Helper()
	typ := schematest.Type(t, "log")
	l := newLake(t, typ)
	offset := int64(0)
	for file := range 12 {
		day := time.Date(2026, 3, 1+file/2, 0, 0, 0, 0, time.UTC)
		var records []codec.Record
		first := offset
		for n := range 8 {
			at := day.Add(time.Duration(n) * 3 * time.Hour)
			if n == 7 {
				at = day.Add(24*time.Hour - time.Microsecond)
			}
			fields := map[string]codec.Value{
				"service": codec.StringValue(words[(file+n)%len(words)]), "host": codec.StringValue(words[file%len(words)]),
				"id": codec.StringValue(event(file, offset)), "body": codec.StringValue(words[n%len(words)]),
			}
			if n%3 == 0 {
				fields["severity"] = codec.StringValue(words[file%3])
			}
			r := record(typ, offset, at, fields)
			if n == 2 && file%2 == 1 { // of the file before, again
				r = record(typ, offset, at, map[string]codec.Value{"id": codec.StringValue(event(file-1, offset-8))})
			}
			records = append(records, r)
			offset++
		}
		store(t, l, typ, first, records...)
	}
	return open(t, l, typ)
}

func event(file int, n int64) string { return fmt.Sprintf("018f%04d-0000-7000-8000-%012d", file, n) }

func read(t *testing.T, d *DB, statement string) (string, Answer) {
	t.Helper()
	var out bytes.Buffer
	a, err := d.Query(t.Context(), Request{Statement: statement}, &out, CSV)
	if err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
	return out.String(), a
}

// TestFiltersChooseFiles has the number of files that are opened for what an analyst may ask.
func TestFiltersChooseFiles(t *testing.T) {
	d := manyFiles(t)
	for where, want := range map[string]int{
		"true":                      12,
		"time < '2026-03-01'":       0,
		"time >= '2026-03-06'":      2,
		"time > '2026-03-06'":       2,
		"time <= '2026-03-02'":      4,
		"time < '2026-03-02'":       2,
		"time = '2026-03-03 03:00'": 2,
		"time between '2026-03-02' and '2026-03-02 12:00' or time > '2026-03-05 23:00'": 6,
		"time >= '2026-03-05' and service = 'billing'":                                  4,
		"date_trunc('day', time) = '2026-03-04'":                                        2,
		"id = '" + event(6, 50) + "'":                                                   2,
		"id in ('" + event(0, 3) + "', '" + event(11, 90) + "')":                        3,
		"time > now()":                                   0,
		"time > now() - interval 100 years":              12,
		"_offset = 3 and time < '2026-03-04'":            6, // the view shows each event once: only what tells events apart goes below
		"time >= '2026-03-01' and time < '2026-03-01'":   0,
		"time not between '2026-03-02' and '2026-03-05'": 12,
		"time::date = '2026-03-04'":                      12, // the zone is in between
		"time < '2026-03-02' and random() < 2":           2,
	} {
		if _, a := read(t, d, "select count(*) from log where "+where); len(a.Reads) != 1 || a.Reads[0].Files != want || a.Reads[0].Of != 12 {
			t.Errorf("where %s: read %+v, want %d files of 12", where, a.Reads, want)
		}
	}
	for statement, want := range map[string]int{
		"select 1": -1, "describe log": -1, "explain select * from log where time < '2026-03-02'": 2,
		"explain analyze select * from log where time < '2026-03-02'":                                     2,
		"from log where time < '2026-03-02' order by time limit 3":                                        2,
		"from log where time < '2026-03-02' union all from log where time > '2026-03-06'":                 4,
		"from log a join log b using (id) where a.time < '2026-03-02'":                                    12, // b is read in full
		"with x as (from log where time < '2026-03-02') select count(*), (select count(*) from x) from x": 2,
		"select * from query('from log where time < timestamptz ''2026-03-02''')":                         2,
		"select count(*) from log where false":                                                            12, // DuckDB leaves the scan out, so nothing is known of it
		"summarize log":                                                                                   12,
	} {
		_, a := read(t, d, statement)
		got := -1
		if len(a.Reads) == 1 {
			got = a.Reads[0].Files
		}
		if got != want {
			t.Errorf("%s: read %+v, want %d files", statement, a.Reads, want)
		}
	}
}

// TestOtherFilesAreNotOpened asks DuckDB itself how many files it has opened.
func TestOtherFilesAreNotOpened(t *testing.T) {
	d := manyFiles(t)
	for where, want := range map[string]string{"true": "Total Files Read: 12", "time >= '2026-03-06'": "Total Files Read: 2"} {
		if got, _ := read(t, d, "explain analyze select max(body) from log where "+where); !strings.Contains(got, want) {
			t.Errorf("%q: %s", where, got)
		}
	}
}

// everything answers over a copy of all rows of a view.
func everything(t *testing.T, d *DB) func(statement string) string {
	t.Helper()
	s, err := d.begin(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.end(); err != nil {
			t.Error(err)
		}
	})
	if reads, err := s.show(t.Context(), "from log"); err != nil || len(reads) != 1 || reads[0].Files != 12 {
		t.Fatalf("the check itself reads %+v, %v", reads, err)
	}
	if err := s.exec(t.Context(), "copying", "CREATE TABLE everything AS FROM log", "CREATE OR REPLACE VIEW log AS FROM everything"); err != nil {
		t.Fatal(err)
	}
	return func(statement string) string {
		var out bytes.Buffer
		p := csvPrinter{w: bufio.NewWriter(&out)}
		if err := s.stream(context.WithoutCancel(t.Context()), statement, nil, p.header, p.row); err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
		if err := p.w.Flush(); err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
}

// TestChoosingFilesChangesNoAnswer compares the answers to random conditions with those over all rows.
func TestChoosingFilesChangesNoAnswer(t *testing.T) {
	deduplicated := manyFiles(t)
	plain := *deduplicated
	plain.views = slices.Clone(plain.views)
	plain.views[0].deduplicate = false
	views := []*DB{deduplicated, &plain}
	truths := []func(string) string{everything(t, deduplicated), everything(t, &plain)}
	narrowed, all := 0, 0
	rapid.Check(t, func(rt *rapid.T) {
		i := rapid.IntRange(0, 1).Draw(rt, "view")
		where := condition(rt, 2, anyKind)
		statement := "select count(*) as n, count(distinct id) as ids, sum(_offset) as offsets, max(body) as body from log where " + where
		got, a := read(t, views[i], statement)
		if want := truths[i](statement); got != want {
			rt.Errorf("where %s: %s over %+v, %s over all files", where, got, a.Reads, want)
		}
		if all++; a.Reads[0].Files < 12 {
			narrowed++
		}
	})
	if narrowed*4 < all {
		t.Errorf("%d of %d conditions chose fewer files: these conditions test little", narrowed, all)
	}
	t.Logf("%d of %d conditions chose fewer files", narrowed, all)
}

// TestNoFileWithAMatchIsLeftOut is the same without a run of DuckDB for each condition, and so over many of them.
func TestNoFileWithAMatchIsLeftOut(t *testing.T) {
	d := manyFiles(t)
	d.views[0].deduplicate = false
	answer := everything(t, d)
	state := d.views[0].state
	all, err := state.Files(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	numbers := map[string]string{} // of the files, by path: each has eight offsets
	for _, f := range all {
		path, _ := f.Local()
		numbers[path] = strings.TrimPrefix(answer("select min(_offset) // 8 as n from read_parquet("+literal(path)+")"), "n\n")
	}
	planner, err := d.begin(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = planner.end() }()
	rapid.Check(t, func(rt *rapid.T) {
		for range 4 {
			where := condition(rt, 2, anyKind)
			files, err := state.Files(t.Context(), planner.choose(t.Context(), "from log where "+where)["log"].filter)
			if err != nil {
				rt.Fatal(err)
			}
			chosen := map[string]bool{}
			for _, f := range files {
				path, _ := f.Local()
				chosen[numbers[path]] = true
			}
			found := answer("select distinct _offset // 8 as n from everything where " + where)
			for line := range strings.Lines(strings.TrimPrefix(found, "n\n")) {
				if !chosen[line] {
					rt.Fatalf("where %s: file %s has a match and was left out", where, strings.TrimSpace(line))
				}
			}
		}
	})
}

const anyKind = -1

// condition draws one; half of those with several parts are about one kind of column.
func condition(rt *rapid.T, depth, kind int) string {
	if kind == anyKind && rapid.Bool().Draw(rt, "of one kind") {
		kind = rapid.SampledFrom([]int{0, 0, 0, 0, 2, 3, 4, 5, 6}).Draw(rt, "kind")
	}
	if depth > 0 && rapid.Bool().Draw(rt, "compound") {
		a, b := condition(rt, depth-1, kind), condition(rt, depth-1, kind)
		return fmt.Sprintf(rapid.SampledFrom([]string{"(%s and %s)", "(%s or %s)", "(%s or %s)", "(not (%s) and %s)", "(%s) is true and %s"}).Draw(rt, "join"), a, b)
	}
	if kind == anyKind {
		kind = rapid.SampledFrom([]int{0, 0, 0, 0, 2, 3, 4, 5, 6}).Draw(rt, "kind")
	}
	op := rapid.SampledFrom([]string{"=", "<", "<=", ">", ">=", "<>", "is not distinct from"}).Draw(rt, "op")
	switch kind {
	case 0:
		at := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(rapid.Int64Range(-1, 13).Draw(rt, "steps")) * 12 * time.Hour)
		at = at.Add(time.Duration(rapid.SampledFrom([]int{0, 0, -1, 1}).Draw(rt, "micros")) * time.Microsecond)
		column := rapid.SampledFrom([]string{"time", "time", "time", "_appended_at"}).Draw(rt, "column")
		if rapid.Bool().Draw(rt, "swapped") {
			return fmt.Sprintf("timestamptz '%s' %s %s", at.Format(time.RFC3339Nano), op, column)
		}
		return fmt.Sprintf("%s %s '%s'", column, op, at.Format(time.RFC3339Nano))
	case 2:
		return fmt.Sprintf("id %s '%s'", op, event(rapid.IntRange(-1, 12).Draw(rt, "file"), rapid.Int64Range(0, 95).Draw(rt, "id")))
	case 3:
		return fmt.Sprintf("_offset %s %s", op, rapid.SampledFrom([]string{"0", "50", "95", "9.5", "9223372036854775807"}).Draw(rt, "offset"))
	case 4:
		return fmt.Sprintf("_topic_partition %s %d", op, rapid.IntRange(0, 2).Draw(rt, "partition"))
	case 5:
		list := rapid.SliceOfN(rapid.SampledFrom(words), 1, 4).Draw(rt, "list")
		for i := range list {
			list[i] = literal(list[i])
		}
		column := rapid.SampledFrom([]string{"service", "host", "severity", "id"}).Draw(rt, "column")
		return fmt.Sprintf("%s %s (%s)", column, rapid.SampledFrom([]string{"in", "not in"}).Draw(rt, "in"), strings.Join(list, ", "))
	default:
		column := rapid.SampledFrom([]string{"service", "host", "severity", "body"}).Draw(rt, "column")
		if rapid.IntRange(0, 4).Draw(rt, "null") == 0 {
			return column + rapid.SampledFrom([]string{" is null", " is not null", " like 'bill%'"}).Draw(rt, "is")
		}
		return fmt.Sprintf("%s %s %s", column, op, literal(rapid.SampledFrom(words).Draw(rt, "word")))
	}
}
