package lake

import (
	"errors"
	"fmt"

	"github.com/apache/iceberg-go"
	"github.com/parquet-go/parquet-go"

	"github.com/millrace/millrace/pkg/schema"
)

// Sources of a column that are not a position in the record's values.
const (
	fromNothing = -1 - iota
	fromTopic
	fromPartition
	fromOffset
	fromAppendTime
)

// idColumn is the one that no two rows have the same of.
const idColumn = "id"

// A leaf is one column of the Parquet file, by the index parquet-go gave it.
type leaf struct {
	index    int
	id       int  // Iceberg field id
	column   int  // index into layout.columns
	maxDef   int  // definition level of a value that is there
	required bool // of the top-level column
	mapKey   bool
	mapValue bool
	bounded  bool // has statistics that Iceberg keeps
}

// A column is one field of the Iceberg schema.
type column struct {
	name     string
	id       int
	kind     schema.Kind // of the values in the file
	required bool
	leaf     int // the index of the first that it has
}

// layout is how the rows of one Iceberg schema lie in Parquet.
type layout struct {
	schemaID int
	columns  []column
	parquet  *parquet.Schema
	leaves   []leaf
}

// newLayout derives the Parquet schema, with field ids, from an Iceberg schema.
func newLayout(sc *iceberg.Schema) (*layout, error) {
	l := &layout{schemaID: sc.ID}
	group := parquet.Group{}
	byName := map[string]int{}
	ids := map[string][3]int{} // field, key, value
	for _, f := range sc.Fields() {
		node, kind, err := parquetNode(f)
		if err != nil {
			return nil, fmt.Errorf("laying out column %s: %w", f.Name, err)
		}
		if !f.Required {
			node = parquet.Optional(node)
		}
		group[f.Name] = parquet.FieldID(node, f.ID)
		byName[f.Name] = len(l.columns)
		id := [3]int{f.ID}
		if m, ok := f.Type.(*iceberg.MapType); ok {
			id[1], id[2] = m.KeyID, m.ValueID
		}
		ids[f.Name] = id
		l.columns = append(l.columns, column{name: f.Name, id: f.ID, kind: kind, required: f.Required})
	}
	l.parquet = parquet.NewSchema("table", group)
	for _, path := range l.parquet.Columns() {
		c, ok := l.parquet.Lookup(path...)
		if !ok {
			return nil, fmt.Errorf("laying out column %v: not in the Parquet schema", path)
		}
		col := byName[path[0]]
		lf := leaf{
			index: c.ColumnIndex, column: col, maxDef: c.MaxDefinitionLevel,
			required: l.columns[col].required, id: ids[path[0]][0], bounded: len(path) == 1,
		}
		switch path[len(path)-1] {
		case "key":
			lf.mapKey = len(path) == 3
		case "value":
			lf.mapValue = len(path) == 3
		}
		if lf.mapKey {
			lf.id = ids[path[0]][1]
		}
		if lf.mapValue {
			lf.id = ids[path[0]][2]
		}
		if !lf.mapValue {
			l.columns[col].leaf = lf.index
		}
		l.leaves = append(l.leaves, lf)
	}
	return l, nil
}

// parquetNode gives a column's Parquet type and the kind of the values in it. Encodings are chosen by the type: times
// and offsets are nearly sorted, so delta; words repeat, so a dictionary, which falls back to plain when they do not. Ids are
// plain: Iceberg's vectorized reader, and with it Spark, knows neither of Parquet's delta encodings for strings.
func parquetNode(f iceberg.NestedField) (parquet.Node, schema.Kind, error) {
	switch t := f.Type.(type) {
	case iceberg.BooleanType:
		return parquet.Leaf(parquet.BooleanType), schema.Bool, nil
	case iceberg.Int32Type:
		return parquet.Encoded(parquet.Leaf(parquet.Int32Type), &parquet.RLEDictionary), schema.Int, nil
	case iceberg.Int64Type:
		return parquet.Encoded(parquet.Leaf(parquet.Int64Type), &parquet.DeltaBinaryPacked), schema.Long, nil
	case iceberg.Float32Type:
		return parquet.Leaf(parquet.FloatType), schema.Float, nil
	case iceberg.Float64Type:
		return parquet.Leaf(parquet.DoubleType), schema.Double, nil
	case iceberg.StringType:
		if f.Name == idColumn { // no two are alike
			return parquet.Encoded(parquet.String(), &parquet.Plain), schema.String, nil
		}
		return parquet.Encoded(parquet.String(), &parquet.RLEDictionary), schema.String, nil
	case iceberg.BinaryType:
		return parquet.Leaf(parquet.ByteArrayType), schema.Bytes, nil
	case iceberg.UUIDType:
		return parquet.UUID(), schema.UUID, nil
	case iceberg.TimestampTzType:
		return parquet.Encoded(parquet.TimestampAdjusted(parquet.Microsecond, true), &parquet.DeltaBinaryPacked), schema.Timestamp, nil
	case *iceberg.MapType:
		if t.KeyType != iceberg.PrimitiveTypes.String || t.ValueType != iceberg.PrimitiveTypes.String {
			return nil, 0, fmt.Errorf("a map from %s to %s is not one of strings", t.KeyType, t.ValueType)
		}
		key := parquet.FieldID(parquet.Encoded(parquet.String(), &parquet.RLEDictionary), t.KeyID)
		value := parquet.Encoded(parquet.String(), &parquet.RLEDictionary)
		if !t.ValueRequired {
			value = parquet.Optional(value)
		}
		return parquet.Map(key, parquet.FieldID(value, t.ValueID)), schema.Map, nil
	default:
		return nil, 0, fmt.Errorf("type %s has no place in a Millrace table", f.Type)
	}
}

// A plan says where each column of a layout comes from in the records of one type.
type plan struct {
	typ  *schema.Type
	from []int // by column: a position in the values, or one of the from constants
}

// newPlan matches columns with a type's fields by name and by alias, in both directions: renamed holds what a column
// was called before, so that records of an older version land in the renamed column.
func newPlan(l *layout, t *schema.Type, renamed map[string][]string) (*plan, error) {
	p := &plan{typ: t, from: make([]int, len(l.columns))}
	used := map[int]bool{}
	for i, c := range l.columns {
		switch c.name {
		case schema.LakeTopic:
			p.from[i] = fromTopic
		case schema.LakePartition:
			p.from[i] = fromPartition
		case schema.LakeOffset:
			p.from[i] = fromOffset
		case schema.LakeAppendedAt:
			p.from[i] = fromAppendTime
		default:
			p.from[i] = position(t, c.name, renamed[c.name])
			if p.from[i] == fromNothing && c.required {
				return nil, fmt.Errorf("planning rows of %s: column %s is required and the type has no such field", t.Name, c.name)
			}
			if p.from[i] >= 0 {
				used[p.from[i]] = true
				if err := fits(t.Fields[p.from[i]], c); err != nil {
					return nil, fmt.Errorf("planning rows of %s: %w", t.Name, err)
				}
			}
		}
	}
	for i, f := range t.Fields {
		if !used[i] {
			return nil, fmt.Errorf("planning rows of %s: %w: %s", t.Name, errNoColumn, f.Name)
		}
	}
	return p, nil
}

// errNoColumn says that the table is older than the type.
var errNoColumn = errors.New("the table has no column for field")

func position(t *schema.Type, name string, former []string) int {
	if i := t.Index(name); i >= 0 {
		return i
	}
	for _, n := range former {
		if i := t.Index(n); i >= 0 {
			return i
		}
	}
	return fromNothing
}

// fits says whether a field's values can lie in a column.
func fits(f schema.Field, c column) error {
	if f.Kind != c.kind && (f.Kind != schema.UUID || c.kind != schema.String) {
		return fmt.Errorf("field %s and column %s are of different types", f.Name, c.name)
	}
	if f.Nullable && c.required {
		return fmt.Errorf("%w that may be null: %s", errNoColumn, f.Name)
	}
	return nil
}
