package lakesql

import (
	"strings"
	"testing"
	"unicode/utf8"
)

// TestValuesAreWrittenAsDuckDBWritesThem compares with DuckDB's own cast to text, which is what its shell prints.
func TestValuesAreWrittenAsDuckDBWritesThem(t *testing.T) {
	d := open(t, newLake(t))
	for _, value := range []string{
		"'018f0000-0000-7000-8000-00000000000a'::uuid", "date '2020-01-01'", "date '0044-03-15 (BC)'", "date '12345-01-02'",
		"time '01:02:03'", "time '01:02:03.5'", "'01:02:03+02'::timetz", "'01:02:03.25-02:30'::timetz",
		"timestamp '2020-01-01 01:02:03'", "timestamp '2020-01-01 01:02:03.000001'", "timestamp '0044-03-15 (BC) 01:02:03'",
		"'2020-01-01 01:02:03'::timestamp_s", "'2020-01-01 01:02:03.5'::timestamp_ms", "'2020-01-01 01:02:03.000000001'::timestamp_ns",
		"'infinity'::timestamp", "'-infinity'::timestamp",
		"interval 1 day", "interval 0 days", "interval '14 months 2 days 3 hours'", "interval '-1 month'", "interval '-90 minutes'",
		"interval '1.5 seconds'", "interval '1000 hours'", "interval '-25 months 1 day'",
		"1.50::decimal(4,2)", "(-0.05)::decimal(4,2)", "0::decimal(38,10)", "99999999999999999999999999999999999999::decimal(38,0)",
		"(-170141183460469231731687303715884105728)::hugeint", "340282366920938463463374607431768211455::uhugeint",
		"18446744073709551615::ubigint", "(-128)::tinyint", "0.1::double", "1e15::double + 0.5", "0.0001::double", "0.00001::double", "1e16::double",
		"1e300::double", "0.1::float", "1.5e10::double + 0.5", "true", "'a'::enum('a', 'b')", "'x'::union(n int, s varchar)", "'<&>'",
	} {
		want := query(t, d, "select ("+value+")::varchar as v", CSV)
		if got := query(t, d, "select "+value+" as v", CSV); got != want {
			t.Errorf("%s: got %q, want %q", value, got, want)
		}
	}
}

func TestNestedValues(t *testing.T) {
	d := open(t, newLake(t))
	for value, want := range map[string]string{
		"[date '2020-01-01', null]":                                      `["2020-01-01",null]`,
		"{'z': time '01:02:03', 'a': [interval 1 day], 'm': 1.50}":       `{"z":"01:02:03","a":["1 day"],"m":1.50}`,
		"map {'k': {'u': '018f0000-0000-7000-8000-00000000000a'::uuid}}": `{"k":{"u":"018f0000-0000-7000-8000-00000000000a"}}`,
		"map {date '2020-01-01': timestamp '2020-01-01 01:02:03'}":       `{"2020-01-01":"2020-01-01 01:02:03"}`,
		"[1, 2]::int[2]": `[1,2]`,
		"[170141183460469231731687303715884105727]": `[170141183460469231731687303715884105727]`,
		"[timestamptz '2026-01-02 03:04:05+00']":    `["2026-01-02T03:04:05.000000Z"]`,
		"['<&>']":                                   `["<&>"]`,
		"[1000000::double, 'nan'::double]":          `[1000000,"NaN"]`,
		"[union_value(d := date '2020-01-01')]":     `["2020-01-01"]`,
		`'{"b": "<", "a": [1]}'::json`:              `{"a":[1],"b":"<"}`,
		"null::date[]":                              `null`,
	} {
		if got := query(t, d, "select "+value+" as v", JSON); got != `{"v":`+want+"}\n" {
			t.Errorf("%s: got %s, want %s", value, got, want)
		}
	}
	if got := query(t, d, `select '<&>' as "<&>"`, JSON); got != `{"<&>":"<&>"}`+"\n" {
		t.Errorf("got %s", got)
	}
}

func TestATableShowsWhatIsHidden(t *testing.T) {
	d := open(t, newLake(t))
	got := query(t, d, `select 'a' || chr(7) || chr(155) || chr(27) || '[2J' || chr(8238) || chr(10) || 'ż' as "x`+"\x1b"+`y"`, Table)
	const line = `a\a\u009b\x1b[2J\u202e\nż`
	if want := `x\x1by` + "\n" + strings.Repeat("-", utf8.RuneCountInString(line)) + "\n" + line + "\n(1 row)\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := query(t, d, "select 'a' || chr(0) || 'b' as v", Table); !strings.Contains(got, `a\x00b`) {
		t.Errorf("got %q", got)
	}
}

func TestAPlanIsLines(t *testing.T) {
	d := open(t, newLake(t))
	for _, statement := range []string{"explain select 1", "-- c\nEXPLAIN ANALYZE select 1"} {
		got := query(t, d, statement, Table)
		if n := len(strings.Split(got, "\n")); n < 5 || strings.Contains(got, `\n`) || strings.Contains(got, "explain_") {
			t.Errorf("%s: %d lines: %q", statement, n, got)
		}
	}
}
