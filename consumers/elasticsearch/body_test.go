package elasticsearch

import (
	"bytes"
	"encoding/json"
	"math"
	"strings"
	"testing"

	"github.com/millrace/millrace/pkg/codec"
	"github.com/millrace/millrace/pkg/schema/schematest"
	"github.com/millrace/millrace/pkg/serve"
	"github.com/millrace/millrace/pkg/stream/sinktest"
)

func TestIDsAreQuoted(t *testing.T) {
	for _, id := range []string{"018f0000-0000-7000-8000-000000000001", "a\"},\"x\":\n", "żółć", ""} {
		var got string
		if err := json.Unmarshal(appendQuoted(nil, []byte(id)), &got); err != nil || got != id {
			t.Errorf("%q became %q, %v", id, got, err)
		}
	}
}

func TestPathsAreEscaped(t *testing.T) {
	if got := pathOf("a/b?c", "_search"); got != "/a%2Fb%3Fc/_search" {
		t.Error(got)
	}
}

func TestSearchBody(t *testing.T) {
	typ, metric := schematest.Type(t, "log"), schematest.Type(t, "metric")
	s := newStore(t, "http://127.0.0.1:1", typ, metric)
	evil := `" OR *:* {"match_all":{}} \`
	body, err := s.searchBody(typ, serve.SearchQuery{Text: evil, Filters: map[string]string{"service": evil, "attributes.a.b": evil}})
	if err != nil {
		t.Fatal(err)
	}
	var got any
	if err := json.Unmarshal(body, &got); err != nil {
		t.Fatal(err)
	}
	text, _ := json.Marshal(evil)
	if n := bytes.Count(body, text); n != 3 {
		t.Errorf("the text stands %d times as a value, want 3: %s", n, body)
	}
	for name, q := range map[string]serve.SearchQuery{
		"no such field":        {Filters: map[string]string{"nope": "x"}},
		"full text":            {Filters: map[string]string{"body": "x"}},
		"a map":                {Filters: map[string]string{"attributes": "x"}},
		"no key":               {Filters: map[string]string{"attributes.": "x"}},
		"below a plain string": {Filters: map[string]string{"service.x": "x"}},
	} {
		if _, err := s.searchBody(typ, q); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, err := s.searchBody(metric, serve.SearchQuery{Text: "x"}); err == nil || !strings.Contains(err.Error(), "no full-text field") {
		t.Errorf("text in a type without any: %v", err)
	}
}

func TestValidateNamesEveryMistake(t *testing.T) {
	if err := Default().Validate(); err != nil {
		t.Error(err)
	}
	err := Config{URLs: []string{"nowhere", "http://u:p@h"}, Prefix: "Bad", Password: "x", Replicas: -1}.Validate()
	if err == nil {
		t.Fatal("no error")
	}
	for _, key := range []string{"urls[0]", "urls[1]", "prefix", "password", "replicas", "timeout", "bulk", "in_flight", "retry", "count"} {
		if !strings.Contains(err.Error(), "elasticsearch."+key) {
			t.Errorf("nothing about elasticsearch.%s in:\n%v", key, err)
		}
	}
}

func TestOnlyOurIndices(t *testing.T) {
	typ := schematest.Type(t, "log")
	s := newStore(t, "http://127.0.0.1:1", typ)
	for index, want := range map[string]bool{
		"millrace-log-2026.01.02": true, "millrace-log-2026.01.02-copy": false, "millrace-log-archive": false,
		"millrace-login-2026.01.02": false, "xmillrace-log-2026.01.02": false, "millrace-log-": false,
	} {
		if got := s.isOurs(typ, index); got != want {
			t.Errorf("%s: %t, want %t", index, got, want)
		}
	}
}

// TestSourceIsExact reads back what codec writes, for the values that JSON readers like to round.
func TestSourceIsExact(t *testing.T) {
	typ := schematest.NetworkFlow(t)
	set := func(r *codec.Record, field string, v codec.Value) { r.Values[typ.Index(field)] = v }
	for i := range int64(200) {
		r := maker(typ).Record(0, i)
		set(&r, "octets", codec.LongValue(math.MaxInt64-i))
		set(&r, "as_number", codec.LongValue(math.MinInt64+i))
		set(&r, "rtt_ms", codec.DoubleValue([]float64{math.Inf(1), math.Copysign(0, -1), math.MaxFloat64, 1e-320, 0.1}[i%5]))
		set(&r, "closed_at", codec.LongValue([]int64{0, -1, 253402300800000000, math.MaxInt64}[i%4]))
		got, err := parseSource(typ, codec.AppendJSON(nil, &r))
		if err != nil {
			t.Fatal(err)
		}
		if a, b := codec.Fingerprint(typ, r.Values, ""), codec.Fingerprint(typ, got, ""); a != b {
			t.Fatalf("record %d:\n%s\nbecame\n%s", i, sinktest.Text(typ, r.Values), sinktest.Text(typ, got))
		}
	}
}
