package schema

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Columns of a Cassandra table that are not a field of the type, as Column.Field has them.
const (
	BucketColumn = -1 // timestamp: the start of the bucket that the event time lies in, see Type.Bucket
	ShardColumn  = -2 // int: see Shard
)

const (
	windows = 30 // compaction windows in a retention: few enough files to read, small enough steps of deletion
	// gcGrace must outlast the hints kept for a node that is away (three hours by default). Nothing is ever deleted
	// by hand and a replay writes what was there, so that a revived cell does no harm; expired files go a day later.
	gcGrace = day
)

// Column is one column of a Cassandra table.
type Column struct {
	Name  string
	Type  string // as system_schema.columns writes it
	Field int    // position in Type.Fields, or BucketColumn or ShardColumn
}

// CQL is how a type lies in Cassandra.
//
// The event time is a bigint of microseconds and not a timestamp, which has only milliseconds; other timestamps too.
// Maps are frozen: one cell, without the tombstone that writing a whole unfrozen map leaves each time, and an empty one
// stays different from null. Null fields are to be left unset, for a bound null is a tombstone.
//
// A column can never be renamed, so a renamed field keeps its first name here: see Field.Column.
type CQL struct {
	Table   string   // with its keyspace, quoted
	Columns []Column // in the order of the table: partition fields, bucket, shard, time, id, then all others
	Create  string
	// Insert binds the Columns in their order, then the time to live in seconds, then the write time in microseconds.
	Insert string

	// The table's options, as system_schema.tables has them; SetOptions is the statement that sets them all.
	TTL        time.Duration
	GCGrace    time.Duration
	Compaction map[string]string
	Comment    string
	SetOptions string
}

// Column is the field's name in Cassandra: the first it ever had.
func (f Field) Column() string {
	if len(f.Aliases) > 0 {
		return f.Aliases[0]
	}
	return f.Name
}

// CQL derives the type's table.
func (t *Type) CQL(keyspace string) CQL {
	c := CQL{
		Table:      quote(keyspace) + "." + quote(t.Cassandra.Table),
		Columns:    t.columns(),
		TTL:        t.Cassandra.Retention,
		GCGrace:    gcGrace,
		Compaction: compaction(t.Cassandra.Retention),
		Comment:    t.Doc,
	}
	var names, lines []string
	for _, col := range c.Columns {
		names = append(names, quote(col.Name))
		lines = append(lines, "  "+quote(col.Name)+" "+col.Type+",\n")
	}
	key := len(t.Cassandra.Partition) + 2 // with bucket and shard
	c.Create = fmt.Sprintf("CREATE TABLE IF NOT EXISTS %s (\n%s  PRIMARY KEY ((%s), %s)\n) WITH CLUSTERING ORDER BY (%s DESC, %s ASC)\n  AND %s",
		c.Table, strings.Join(lines, ""), strings.Join(names[:key], ", "), strings.Join(names[key:key+2], ", "),
		names[key], names[key+1], c.options())
	c.Insert = fmt.Sprintf("INSERT INTO %s (%s) VALUES (?%s) USING TTL ? AND TIMESTAMP ?",
		c.Table, strings.Join(names, ", "), strings.Repeat(", ?", len(names)-1))
	c.SetOptions = fmt.Sprintf("ALTER TABLE %s WITH %s", c.Table, c.options())
	return c
}

// Alter gives the statements that bring a table with the columns have (name to type, as in system_schema.columns) up to
// this version. It only adds: a column that no field has any more keeps its data until that expires. A column of
// another type is an error, for Cassandra cannot change one.
func (c CQL) Alter(have map[string]string) ([]string, error) {
	var statements []string
	for _, col := range c.Columns {
		switch is, exists := have[col.Name]; {
		case !exists:
			statements = append(statements, fmt.Sprintf("ALTER TABLE %s ADD IF NOT EXISTS %s %s", c.Table, quote(col.Name), col.Type))
		case is != col.Type:
			return nil, fmt.Errorf("altering table %s: column %s is a %s and cannot become a %s", c.Table, col.Name, is, col.Type)
		}
	}
	return statements, nil
}

// Types gives the columns' types by name, as Alter takes them.
func (c CQL) Types() map[string]string {
	types := make(map[string]string, len(c.Columns))
	for _, col := range c.Columns {
		types[col.Name] = col.Type
	}
	return types
}

// columns puts the key first, since that is how the table is read.
func (t *Type) columns() []Column {
	var cols []Column
	field := func(i int) {
		f := t.Fields[i]
		cols = append(cols, Column{Name: f.Column(), Type: cqlType(f.Kind), Field: i})
	}
	for _, i := range t.Cassandra.Partition {
		field(i)
	}
	cols = append(cols,
		Column{Name: "bucket", Type: "timestamp", Field: BucketColumn},
		Column{Name: "shard", Type: "int", Field: ShardColumn})
	field(Time)
	field(ID)
	for i := range t.Fields {
		if i != Time && i != ID && !slices.Contains(t.Cassandra.Partition, i) {
			field(i)
		}
	}
	return cols
}

func cqlType(k Kind) string {
	switch k {
	case Bool:
		return "boolean"
	case Int:
		return "int"
	case Long, Timestamp:
		return "bigint"
	case Float:
		return "float"
	case Double:
		return "double"
	case Bytes:
		return "blob"
	case UUID:
		return "uuid"
	case Map:
		return "frozen<map<text, text>>"
	default:
		return "text"
	}
}

// options are without read repair: it would write old rows into the newest window and keep that from expiring. Rows
// never change, so a quorum read sees the same without it.
func (c CQL) options() string {
	var parts []string
	for _, key := range []string{"class", "compaction_window_size", "compaction_window_unit"} {
		parts = append(parts, literal(key)+": "+literal(c.Compaction[key]))
	}
	return fmt.Sprintf("compaction = {%s}\n  AND default_time_to_live = %d\n  AND gc_grace_seconds = %d\n  AND read_repair = 'NONE'\n  AND comment = %s",
		strings.Join(parts, ", "), int64(c.TTL/time.Second), int64(c.GCGrace/time.Second), literal(c.Comment))
}

// compaction cuts the retention into about as many time windows as are good, in the largest unit that fits.
func compaction(retention time.Duration) map[string]string {
	window := max(retention/windows, time.Minute)
	unit, name := time.Minute, "MINUTES"
	switch {
	case window >= day:
		unit, name = day, "DAYS"
	case window >= time.Hour:
		unit, name = time.Hour, "HOURS"
	}
	return map[string]string{
		"class":                  "TimeWindowCompactionStrategy",
		"compaction_window_size": strconv.FormatInt(int64((window+unit-1)/unit), 10),
		"compaction_window_unit": name,
	}
}

func quote(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

func literal(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

// Bucket gives the start of the bucket that an event time in microseconds lies in. Buckets are counted from 1970.
func (t *Type) Bucket(micros int64) time.Time {
	width := t.Cassandra.Bucket.Microseconds()
	n := micros / width
	if micros%width < 0 {
		n--
	}
	return time.UnixMicro(n * width).UTC()
}

// maxPartition is the size at which a Cassandra partition begins to cost: slow compaction, large reads.
const maxPartition = 100e6

// MaxRate is how many records a second one key (one combination of the partition fields) may bring, so that its
// partitions stay under 100 MB, given rows of the size the schema states and an even spread over the shards.
func (t *Type) MaxRate() float64 {
	c := t.Cassandra
	return maxPartition / float64(c.RowBytes) / c.Bucket.Seconds() * float64(c.Shards)
}
