package schema_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace/millrace/pkg/schema"
	"github.com/millrace/millrace/pkg/schema/schematest"
)

var update = flag.Bool("update", false, "write the golden files anew")

// TestGolden holds every derivation of every type against a file, so that a change of a table or a topic is seen in
// review as what it is.
func TestGolden(t *testing.T) {
	types, err := schema.Builtin()
	if err != nil {
		t.Fatal(err)
	}
	for _, typ := range append(types, schematest.NetworkFlow(t)) {
		t.Run(typ.Name, func(t *testing.T) {
			golden(t, typ.Name+".topic.txt", topics(typ))
			golden(t, typ.Name+".cql", cqlText(typ.CQL("telemetry")))
			golden(t, typ.Name+".index.json", indented(t, typ.IndexTemplate("millrace", 1)))
			golden(t, typ.Name+".iceberg.json", indented(t, fmt.Appendf(nil, `{"schema":%s,"partition-spec":%s,"sort-order":%s}`,
				typ.IcebergSchema(), typ.IcebergPartitionSpec(), typ.IcebergSortOrder())))
		})
	}
}

// TestBadSchemas holds the text of the errors: testdata/bad/<name>.avsc and .txt.
func TestBadSchemas(t *testing.T) {
	paths, err := filepath.Glob("testdata/bad/*.avsc")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no bad schemas: %v", err)
	}
	for _, path := range paths {
		name := strings.TrimSuffix(filepath.Base(path), ".avsc")
		t.Run(name, func(t *testing.T) {
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			_, err = schema.Parse(data)
			if err == nil {
				t.Fatal("was accepted")
			}
			golden(t, filepath.Join("bad", name+".txt"), err.Error()+"\n")
		})
	}
}

func topics(typ *schema.Type) string {
	var out strings.Builder
	fmt.Fprintf(&out, "subject %s\n", typ.Subject())
	for _, spec := range []schema.TopicSpec{typ.TopicSpec(), typ.DLQSpec()} {
		fmt.Fprintf(&out, "topic %s, %d partitions\n", spec.Name, spec.Partitions)
		for _, key := range slices.Sorted(maps.Keys(spec.Configs)) {
			fmt.Fprintf(&out, "  %s=%s\n", key, spec.Configs[key])
		}
	}
	fmt.Fprintf(&out, "one key may bring %.0f records/s\n", typ.MaxRate())
	return out.String()
}

func cqlText(c schema.CQL) string {
	return c.Create + ";\n\n" + c.SetOptions + ";\n\n" + c.Insert + ";\n"
}

func indented(t *testing.T, data []byte) string {
	t.Helper()
	var out bytes.Buffer
	if err := json.Indent(&out, data, "", "  "); err != nil {
		t.Fatal(err)
	}
	return out.String() + "\n"
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s differs (-want +got); if it is meant, run with -update:\n%s", path, diff)
	}
}
