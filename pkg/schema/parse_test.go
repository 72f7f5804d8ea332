package schema_test

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/millrace/millrace/pkg/schema"
	"github.com/millrace/millrace/pkg/schema/schematest"
)

// common is how every type's fields begin.
const common = `
	{"name": "id", "type": {"type": "string", "logicalType": "uuid"}},
	{"name": "time", "type": {"type": "long", "logicalType": "timestamp-micros"}},
	{"name": "service", "type": "string", "default": ""},
	{"name": "host", "type": "string", "default": ""},
	{"name": "datacenter", "type": "string", "default": ""},
	{"name": "tenant", "type": "string", "default": ""}`

// record is a type named sample with more fields (each with a comma before it) and attributes.
func record(attributes, fields string) string {
	return `{"type": "record", "name": "sample", "millrace": ` + attributes + `, "fields": [` + common + fields + `]}`
}

func parse(t *testing.T, text string) *schema.Type {
	t.Helper()
	typ, err := schema.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return typ
}

// TestMinimal shows how little a new type needs.
func TestMinimal(t *testing.T) {
	const day = 24 * time.Hour
	typ := parse(t, record(`{}`, `, {"name": "temperature", "type": "double"}`))
	want := &schema.Type{
		Name: "sample", Past: 30 * day, Future: 10 * time.Minute,
		Topic: schema.Topic{Name: "millrace.sample", Partitions: 6, Key: []int{schema.Service, schema.Host}, Retention: 7 * day},
		Cassandra: schema.Cassandra{
			Table: "sample", Partition: []int{schema.Tenant, schema.Service}, Bucket: time.Hour, Shards: 8,
			ShardBy: []int{schema.ID}, RowBytes: 256, Retention: 7 * day,
		},
		Elasticsearch: schema.Elasticsearch{Index: "millrace-sample", Shards: 1, Retention: 7 * day},
		Lake: schema.Lake{
			Table: "sample", Partition: "day(time)", Sort: []int{schema.Service, schema.Host, schema.Time}, Retention: 365 * day,
		},
	}
	ignore := cmpopts.IgnoreFields(schema.Type{}, "JSON", "Avro", "Fields")
	if diff := cmp.Diff(want, typ, ignore, cmpopts.IgnoreUnexported(schema.Type{})); diff != "" {
		t.Errorf("defaults (-want +got):\n%s", diff)
	}
	if f := typ.Fields[schema.Common]; f.Name != "temperature" || f.Kind != schema.Double || f.Nullable || f.HasDefault {
		t.Errorf("temperature is %+v", f)
	}
}

func TestFieldsOfEveryKind(t *testing.T) {
	typ := schematest.NetworkFlow(t)
	field := func(name string) schema.Field {
		i := typ.Index(name)
		if i < 0 {
			t.Fatalf("no field %s", name)
		}
		return typ.Fields[i]
	}
	for name, want := range map[string]schema.Field{
		"octets":      {Name: "octets", Kind: schema.Long, Doc: "Bytes sent in both directions."},
		"established": {Name: "established", Kind: schema.Bool, HasDefault: true, Default: false},
		"sampling":    {Name: "sampling", Kind: schema.Float, HasDefault: true, Default: json.Number("1")},
		"first_seen":  {Name: "first_seen", Kind: schema.Timestamp, HasDefault: true, Default: json.Number("0")},
		"session_id":  {Name: "session_id", Kind: schema.UUID, Nullable: true, HasDefault: true},
		"headers":     {Name: "headers", Kind: schema.Map, Nullable: true, HasDefault: true},
		"attributes":  {Name: "attributes", Kind: schema.Map, HasDefault: true, Default: map[string]any{}},
	} {
		if diff := cmp.Diff(want, field(name)); diff != "" {
			t.Errorf("field %s (-want +got):\n%s", name, diff)
		}
	}
	kinds := map[schema.Kind]bool{}
	for _, f := range typ.Fields {
		kinds[f.Kind] = true
	}
	if len(kinds) != int(schema.Map) {
		t.Errorf("%d kinds in the type that is to have all %d", len(kinds), schema.Map)
	}
}

// TestRegisteredJSON: a consumer builds its type from what the registry gives back, so all must be in it.
func TestRegisteredJSON(t *testing.T) {
	typ := schematest.NetworkFlow(t)
	again, err := schema.Parse(typ.JSON)
	if err != nil {
		t.Fatal(err)
	}
	opts := []cmp.Option{cmpopts.IgnoreUnexported(schema.Type{}), cmpopts.IgnoreFields(schema.Type{}, "Avro")}
	if diff := cmp.Diff(typ, again, opts...); diff != "" {
		t.Errorf("read back from its JSON (-want +got):\n%s", diff)
	}
}

// TestParseWith: a registry that drops attributes does not change the tables.
func TestParseWith(t *testing.T) {
	known := schematest.NetworkFlow(t)
	var vals map[string]json.RawMessage
	if err := json.Unmarshal(known.JSON, &vals); err != nil {
		t.Fatal(err)
	}
	delete(vals, "millrace")
	// The registry's version is newer: dst_port is called port there.
	vals["fields"] = []byte(strings.Replace(string(vals["fields"]), `"name":"dst_port"`, `"name":"port","aliases":["dst_port"]`, 1))
	stripped, err := json.Marshal(vals)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := schema.ParseWith(stripped, nil); err == nil {
		t.Error("without attributes and without a fallback it was accepted")
	}
	typ, err := schema.ParseWith(stripped, known)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(known.Cassandra, typ.Cassandra); diff != "" {
		t.Errorf("Cassandra (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(known.Topic, typ.Topic); diff != "" {
		t.Errorf("topic (-want +got):\n%s", diff)
	}
	if string(typ.JSON) != string(stripped) {
		t.Error("the JSON is not the one that the registry gave")
	}
	// What stands there goes before the fallback.
	own := parse(t, record(`{"topic": {"partitions": 2}}`, ""))
	if with, err := schema.ParseWith(own.JSON, known); err != nil || with.Topic.Partitions != 2 {
		t.Errorf("the fallback replaced attributes that are there: %v", err)
	}
}

func TestLoad(t *testing.T) {
	files := fstest.MapFS{
		"sample.avsc": {Data: []byte(record(`{}`, ""))},
		"README.md":   {Data: []byte("no schema")},
	}
	types, err := schema.Load(files)
	if err != nil || len(types) != 1 || types[0].Name != "sample" {
		t.Errorf("loaded %v, %v", types, err)
	}
	files["other.avsc"] = files["sample.avsc"]
	files["torn.avsc"] = &fstest.MapFile{Data: []byte("{")}
	_, err = schema.Load(files)
	var joined interface{ Unwrap() []error }
	if !errors.As(err, &joined) || len(joined.Unwrap()) != 2 {
		t.Errorf("want the mistakes of both files, got %v", err)
	}
}

// FuzzParse: whatever bytes come, Parse answers, and what it accepts it accepts again from its own JSON and derives
// everything from.
func FuzzParse(f *testing.F) {
	for _, pattern := range []string{"../../schemas/*.avsc", "schematest/*.avsc", "testdata/bad/*.avsc"} {
		paths, err := filepath.Glob(pattern)
		if err != nil || len(paths) == 0 {
			f.Fatalf("no seeds in %s: %v", pattern, err)
		}
		for _, path := range paths {
			data, err := os.ReadFile(path)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(data)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		typ, err := schema.Parse(data)
		if err != nil {
			if typ != nil || err.Error() == "" {
				t.Fatalf("an error with a type, or without a text: %v", err)
			}
			return
		}
		again, err := schema.Parse(typ.JSON)
		if err != nil {
			t.Fatalf("its own JSON is refused: %v", err)
		}
		if err := schema.Compatible(typ, again); err != nil {
			t.Fatalf("not compatible with itself: %v", err)
		}
		if c := typ.CQL("k"); len(c.Columns) != len(typ.Fields)+2 {
			t.Fatalf("%d columns for %d fields", len(c.Columns), len(typ.Fields))
		}
		for _, derived := range [][]byte{
			typ.IndexTemplate("p", 0), typ.IndexMapping(), typ.IcebergSchema(), typ.IcebergPartitionSpec(), typ.IcebergSortOrder(),
		} {
			if !json.Valid(derived) {
				t.Fatalf("not JSON: %q", derived)
			}
		}
	})
}

// TestDocumentedType: what docs/types.md calls the smallest type is one.
func TestDocumentedType(t *testing.T) {
	doc, err := os.ReadFile("../../docs/types.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(doc), "```json\n")
	example, _, found := strings.Cut(rest, "```")
	if !found {
		t.Fatal("no example in docs/types.md")
	}
	if typ := parse(t, example); typ.Name != "door" {
		t.Errorf("the type is %s", typ.Name)
	}
}
