package lake

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/apache/iceberg-go"
	"github.com/apache/iceberg-go/table"

	"github.com/millrace/millrace/pkg/schema"
)

// shape is what a type's table is to look like.
type shape struct {
	schema *iceberg.Schema
	spec   iceberg.PartitionSpec
	order  table.SortOrder
}

// shapeOf reads what the type derives for Iceberg.
func shapeOf(t *schema.Type) (shape, error) {
	var s shape
	s.schema = &iceberg.Schema{}
	if err := json.Unmarshal(t.IcebergSchema(), s.schema); err != nil {
		return s, fmt.Errorf("reading Iceberg schema of %s: %w", t.Name, err)
	}
	if err := json.Unmarshal(t.IcebergPartitionSpec(), &s.spec); err != nil {
		return s, fmt.Errorf("reading partition spec of %s: %w", t.Name, err)
	}
	if err := json.Unmarshal(t.IcebergSortOrder(), &s.order); err != nil {
		return s, fmt.Errorf("reading sort order of %s: %w", t.Name, err)
	}
	return s, nil
}

// describe writes a shape for a person.
func (s shape) describe() string {
	var b strings.Builder
	for _, f := range s.schema.Fields() {
		fmt.Fprintf(&b, "%s %s\n", f.Name, f.Type)
	}
	for _, p := range s.spec.Fields() {
		fmt.Fprintf(&b, "partitioned by %s\n", p.Name)
	}
	return strings.TrimRight(b.String(), "\n")
}
