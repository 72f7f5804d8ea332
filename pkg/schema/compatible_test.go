package schema_test

import (
	"strings"
	"testing"

	"github.com/millrace/millrace/pkg/schema"
)

func TestCompatible(t *testing.T) {
	const body = `, {"name": "body", "type": "string", "default": ""}`
	const must = `, {"name": "n", "type": "long"}`
	for _, c := range []struct {
		name       string
		was, is    [2]string // attributes and fields
		want       []string  // in the error, one per line; none = compatible
		alsoBefore bool      // the other way is compatible too
	}{
		{"the same", [2]string{`{}`, body}, [2]string{`{}`, body}, nil, true},
		{"a new field with a default", [2]string{`{}`, ""}, [2]string{`{}`, body}, nil, true},
		{"a new field without one", [2]string{`{}`, ""}, [2]string{`{}`, must}, []string{`field "n": is new and needs a default`}, false},
		{"a new field that may be null", [2]string{`{}`, ""}, [2]string{`{}`, `, {"name": "n", "type": ["null", "long"], "default": null}`}, nil, true},
		{"null without a default", [2]string{`{}`, ""}, [2]string{`{}`, `, {"name": "n", "type": ["null", "long"]}`}, []string{`field "n": is new and needs a default`}, false},
		{"a field less", [2]string{`{}`, must}, [2]string{`{}`, ""}, []string{`field "n": cannot be left out`}, false},
		{"a wider type", [2]string{`{}`, `, {"name": "n", "type": "int"}`}, [2]string{`{}`, must}, []string{`field "n": was of type int and cannot become long`}, false},
		{
			"another logical type",
			[2]string{`{}`, must},
			[2]string{`{}`, `, {"name": "n", "type": {"type": "long", "logicalType": "timestamp-micros"}}`},
			[]string{`field "n": was of type long and cannot become timestamp`},
			false,
		},
		{"null allowed", [2]string{`{}`, must}, [2]string{`{}`, `, {"name": "n", "type": ["null", "long"]}`}, []string{`field "n": cannot change whether it is null`}, false},
		{
			"a rename with an alias and defaults",
			[2]string{`{}`, body},
			[2]string{`{}`, `, {"name": "text", "type": "string", "default": "", "aliases": ["body"]}`},
			nil, false,
		},
		{
			"a rename without a default",
			[2]string{`{}`, must},
			[2]string{`{}`, `, {"name": "count", "type": "long", "aliases": ["n"]}`},
			[]string{`field "count": was named "n": only a field with a default in both versions can be renamed`},
			false,
		},
		{
			"a rename of a renamed field",
			[2]string{`{}`, `, {"name": "text", "type": "string", "default": "", "aliases": ["body"]}`},
			[2]string{`{}`, `, {"name": "words", "type": "string", "default": "", "aliases": ["body", "text"]}`},
			nil, false,
		},
		{
			"aliases in the wrong order",
			[2]string{`{}`, `, {"name": "text", "type": "string", "default": "", "aliases": ["body"]}`},
			[2]string{`{}`, `, {"name": "words", "type": "string", "default": "", "aliases": ["text", "body"]}`},
			[]string{`field "words": its first alias must be "body"`},
			false,
		},
		{
			"retention, search shards, sort and more partitions",
			[2]string{`{"topic": {"partitions": 3}}`, ""},
			[2]string{`{"topic": {"partitions": 6, "retention": "1d"}, "cassandra": {"retention": "1d", "row_bytes": 9}, "elasticsearch": {"shards": 2}, "lake": {"sort": ["time"]}}`, ""},
			nil, false,
		},
		{
			"all that is fixed",
			[2]string{`{}`, body},
			[2]string{`{"topic": {"partitions": 3, "key": ["host"]}, "cassandra": {"partition": ["host"], "bucket": "1d", "shards": 2, "shard_by": ["time"]},
				"elasticsearch": {"text": ["body"]}, "lake": {"partition": "hour(time)"}}`, body},
			[]string{
				`millrace.topic.key: was ["service" "host"] and cannot become ["host"]`,
				`millrace.cassandra.partition: was ["tenant" "service"] and cannot become ["host"]`,
				`millrace.cassandra.shard_by: was ["id"] and cannot become ["time"]`,
				`millrace.cassandra.bucket: was 1h and cannot become 1d`,
				`millrace.cassandra.shards: was 8 and cannot become 2`,
				`millrace.lake.partition: was day(time) and cannot become hour(time)`,
				`millrace.topic.partitions: was 6 and cannot become 3`,
				`millrace.elasticsearch.text: field "body" cannot change between full text and keyword`,
			},
			false,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			was, is := parse(t, record(c.was[0], c.was[1])), parse(t, record(c.is[0], c.is[1]))
			wantLines(t, schema.Compatible(was, is), c.want)
			if c.alsoBefore {
				wantLines(t, schema.Compatible(is, was), nil)
			}
		})
	}
}

func TestCompatibleNeedsOneName(t *testing.T) {
	was := parse(t, record(`{}`, ""))
	other := parse(t, strings.Replace(record(`{}`, ""), `"sample"`, `"other"`, 1))
	wantLines(t, schema.Compatible(was, other), []string{"name: is sample in the other version"})
}

func wantLines(t *testing.T, err error, want []string) {
	t.Helper()
	var got []string
	if err != nil {
		got = strings.Split(err.Error(), "\n")
	}
	if len(got) != len(want) {
		t.Fatalf("%d reasons, want %d:\n%s", len(got), len(want), strings.Join(got, "\n"))
	}
	for i := range want {
		if !strings.Contains(got[i], want[i]) {
			t.Errorf("reason %d is %q, want %q", i, got[i], want[i])
		}
	}
}
