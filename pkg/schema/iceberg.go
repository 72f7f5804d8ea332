package schema

// The lake's own columns, which say where a row is from. They stand after the type's fields. None of them may be called as
// one of Iceberg's metadata columns, of which _partition is one: Spark reads no table that has it.
const (
	LakeTopic      = "_topic"           // string
	LakePartition  = "_topic_partition" // int
	LakeOffset     = "_offset"          // long
	LakeAppendedAt = "_appended_at"     // timestamptz: the record's append time
)

// LakeColumn is one column of an Iceberg table.
type LakeColumn struct {
	Name     string
	Type     any // "string", or a map's object, as the Iceberg specification writes it
	Doc      string
	Required bool
	ID       int // at creation; the table's own schema decides later
	Field    int // position in Type.Fields, or -1 for one of the lake's own
}

type icebergField struct {
	ID       int    `json:"id"`
	Name     string `json:"name"`
	Required bool   `json:"required"`
	Type     any    `json:"type"`
	Doc      string `json:"doc,omitempty"`
}

type icebergMap struct {
	Type          string `json:"type"`
	KeyID         int    `json:"key-id"`
	Key           string `json:"key"`
	ValueID       int    `json:"value-id"`
	ValueRequired bool   `json:"value-required"`
	Value         string `json:"value"`
}

// LakeColumns are the table's columns. Ids are numbered as iceberg-go numbers a new table's: a map's key and value
// right after the map. They hold for a table made from this version; one that has evolved has its own.
//
// A column is required where every version that can ever be compatible has the field: the common fields and those
// without a default. Others may come and go, and rows from before must stay readable.
func (t *Type) LakeColumns() []LakeColumn {
	var cols []LakeColumn
	id := 0
	next := func() int { id++; return id }
	for i, f := range t.Fields {
		col := LakeColumn{
			Name: f.Name, Doc: f.Doc, ID: next(), Field: i,
			Required: i < Common || (!f.Nullable && !f.HasDefault),
		}
		if f.Kind == Map {
			col.Type = icebergMap{Type: "map", KeyID: next(), Key: "string", ValueID: next(), ValueRequired: true, Value: "string"}
		} else {
			col.Type = icebergType(f.Kind)
		}
		cols = append(cols, col)
	}
	for _, own := range []LakeColumn{
		{Name: LakeTopic, Type: "string", Doc: "The Kafka topic that the row is from."},
		{Name: LakePartition, Type: "int", Doc: "Its partition."},
		{Name: LakeOffset, Type: "long", Doc: "Its offset there."},
		{Name: LakeAppendedAt, Type: "timestamptz", Doc: "When Kafka appended it."},
	} {
		own.ID, own.Required, own.Field = next(), true, -1
		cols = append(cols, own)
	}
	return cols
}

// icebergType keeps uuids as strings: engines disagree about Iceberg's uuid type.
func icebergType(k Kind) string {
	switch k {
	case Bool:
		return "boolean"
	case Int:
		return "int"
	case Long:
		return "long"
	case Float:
		return "float"
	case Double:
		return "double"
	case Bytes:
		return "binary"
	case Timestamp:
		return "timestamptz"
	default:
		return "string"
	}
}

// IcebergSchema is the table's schema as JSON of the Iceberg specification, version 2.
func (t *Type) IcebergSchema() []byte {
	cols := t.LakeColumns()
	fields := make([]icebergField, len(cols))
	for i, col := range cols {
		fields[i] = icebergField{ID: col.ID, Name: col.Name, Required: col.Required, Type: col.Type, Doc: col.Doc}
	}
	return toJSON(struct {
		Type   string         `json:"type"`
		ID     int            `json:"schema-id"`
		Fields []icebergField `json:"fields"`
	}{"struct", 0, fields})
}

type icebergPartition struct {
	SourceID  int    `json:"source-id"`
	FieldID   int    `json:"field-id"`
	Name      string `json:"name"`
	Transform string `json:"transform"`
}

// IcebergPartitionSpec is the table's partition spec: by day or hour of the event time.
func (t *Type) IcebergPartitionSpec() []byte {
	transform := "day"
	if t.Lake.Partition == "hour(time)" {
		transform = "hour"
	}
	return toJSON(struct {
		ID     int                `json:"spec-id"`
		Fields []icebergPartition `json:"fields"`
	}{0, []icebergPartition{{SourceID: t.LakeColumns()[Time].ID, FieldID: 1000, Name: "time_" + transform, Transform: transform}}})
}

type icebergSort struct {
	Transform string `json:"transform"`
	SourceID  int    `json:"source-id"`
	Direction string `json:"direction"`
	NullOrder string `json:"null-order"`
}

// IcebergSortOrder is the table's sort order: the fields under lake.sort, ascending, nulls first. Without any it is the
// unsorted order, whose id is 0.
func (t *Type) IcebergSortOrder() []byte {
	cols := t.LakeColumns()
	fields := make([]icebergSort, len(t.Lake.Sort))
	for i, field := range t.Lake.Sort {
		fields[i] = icebergSort{Transform: "identity", SourceID: cols[field].ID, Direction: "asc", NullOrder: "nulls-first"}
	}
	return toJSON(struct {
		ID     int           `json:"order-id"`
		Fields []icebergSort `json:"fields"`
	}{min(len(fields), 1), fields})
}
