// Package lakesql answers SQL over the lake with DuckDB: a view per data type, named as the type, over the files of one
// state of its table.
//
// Each statement has a database of its own, in memory. It can read the data files of the lake's tables and nothing else,
// and write nowhere; only SELECT and EXPLAIN run. What a statement asks for is taken from DuckDB's own plan, and chooses
// the files. DuckDB reads files on this machine's disk: those on an object store come there first, into a cache.
package lakesql

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/millrace/millrace/pkg/diskcache"
	"github.com/millrace/millrace/pkg/lake"
	"github.com/millrace/millrace/pkg/schema"
)

// DB is the lake at one moment, or at an earlier one. Its methods may be called from several goroutines.
type DB struct {
	cfg   Config
	cache *diskcache.Cache
	views []view

	eventMemory int64 // bytes; the constant, but in tests
}

// view is a type as it is shown.
type view struct {
	name        string
	columns     []lake.Column
	state       *lake.State // nil: there is no table
	deduplicate bool
	err         error // why there is nothing to show; told to whoever asks
}

// Open reads where each type's table stands. A type without a table, or without rows, has an empty view with its columns.
// Later commits are not seen. A snapshot in asOf is that of one table; the others are as they were when it was made.
func Open(ctx context.Context, cfg Config, l *lake.Lake, types []*schema.Type, asOf lake.AsOf) (*DB, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if err := known(cfg.Deduplicate, types); err != nil {
		return nil, err
	}
	tables := make([]*lake.Table, len(types))
	for i, t := range types {
		var err error
		if tables[i], err = l.Open(ctx, t); err != nil && !errors.Is(err, lake.ErrNoTable) {
			return nil, err
		}
	}
	states, err := at(tables, asOf)
	if err != nil {
		return nil, err
	}
	d := &DB{cfg: cfg, cache: diskcache.New(cfg.Cache), eventMemory: eventMemory}
	for i, t := range types {
		v := view{name: t.Name, state: states[i].state, err: states[i].err}
		v.deduplicate = slices.Contains(cfg.Deduplicate, t.Name) || slices.Contains(cfg.Deduplicate, All)
		if v.state != nil {
			v.columns = v.state.Columns()
		} else if v.columns, err = lake.ColumnsOf(t); err != nil {
			return nil, err
		}
		d.views = append(d.views, v)
	}
	return d, nil
}

// known finds a name that is mistyped: its view would show events twice and nobody would see why.
func known(names []string, types []*schema.Type) error {
	var errs []error
	for _, name := range names {
		if name != All && !slices.ContainsFunc(types, func(t *schema.Type) bool { return t.Name == name }) {
			errs = append(errs, fmt.Errorf("sql.deduplicate names %q, which is not a data type", name))
		}
	}
	return errors.Join(errs...)
}

type stateOrError struct {
	state *lake.State
	err   error
}

// at gives the tables' states; nothing for a table that is not there.
func at(tables []*lake.Table, asOf lake.AsOf) ([]stateOrError, error) {
	states := make([]stateOrError, len(tables))
	owner := -1
	for i, t := range tables {
		if t == nil {
			continue
		}
		states[i].state, states[i].err = t.At(asOf)
		if asOf.Snapshot != 0 && states[i].err == nil {
			owner = i
		}
	}
	if asOf.Snapshot == 0 {
		return states, nil
	}
	if owner < 0 {
		return nil, fmt.Errorf("reading the lake as of snapshot %d: %w: no table has it, or has it any more (lake.snapshots)", asOf.Snapshot, lake.ErrNoState)
	}
	_, made, _ := states[owner].state.Snapshot()
	for i, t := range tables {
		if t != nil && i != owner {
			states[i].state, states[i].err = t.At(lake.AsOf{Time: made})
		}
	}
	return states, nil
}

// Request is one statement.
type Request struct {
	Statement string
	Variables map[string]any // what getvariable gives: strings, times, nil
	Limit     int            // rows; 0 is all of them
}

// Answer says what a statement has read and given.
type Answer struct {
	Rows  int
	Cut   bool // there are more rows than Request.Limit
	Reads []Read
}

// Read is a table that a statement has read.
type Read struct {
	Type         string    `json:"type"`
	Snapshot     int64     `json:"snapshot,string,omitempty"` // 0: nothing is committed yet
	Committed    time.Time `json:"committed,omitzero"`
	ValidThrough time.Time `json:"valid_through,omitzero"` // what was appended to the topic until then is there; zero: not known
	Files        int       `json:"files"`                  // that can hold what was asked for,
	Of           int       `json:"of,omitempty"`           // out of these; 0: not known
	Bytes        int64     `json:"bytes,omitempty"`        // of those files; where they are on an object store:
	Fetched      int64     `json:"fetched,omitempty"`      // of these, what was not in sql.cache
}

// source is the FROM of a view over chosen files.
func (v view) source(files []string) (string, error) {
	var nulls, fields []string
	for _, c := range v.columns {
		typ, err := duckType(c.Type)
		if err != nil {
			return "", fmt.Errorf("reading column %s of %s: %w", c.Name, v.name, err)
		}
		nulls = append(nulls, fmt.Sprintf("CAST(NULL AS %s) AS %s", typ, identifier(c.Name)))
		fields = append(fields, fmt.Sprintf("%d: {name: %s, type: %s, default_value: NULL}", c.ID, literal(c.Name), literal(typ)))
	}
	if len(files) == 0 {
		return "(SELECT " + strings.Join(nulls, ", ") + " WHERE false)", nil
	}
	quoted := make([]string, len(files))
	for i, f := range files {
		quoted[i] = literal(f)
	}
	return fmt.Sprintf("read_parquet([%s], schema = MAP {%s}, hive_partitioning = false)", strings.Join(quoted, ", "), strings.Join(fields, ", ")), nil
}

// onlyFirst leaves the first of the rows of an event.
const onlyFirst = ` QUALIFY row_number() OVER (PARTITION BY id, "time" ORDER BY _appended_at, _topic, _topic_partition, _offset) = 1`

// create is the statement that makes the view over what from names.
func (v view) create(from string) string {
	query := "SELECT " + strings.Join(v.names(), ", ") + " FROM " + from
	if v.deduplicate {
		query += onlyFirst
	}
	return "CREATE OR REPLACE VIEW " + identifier(v.name) + " AS " + query
}

// names are the columns, quoted.
func (v view) names() []string {
	names := make([]string, len(v.columns))
	for i, c := range v.columns {
		names[i] = identifier(c.Name)
	}
	return names
}

func duckType(iceberg string) (string, error) {
	switch iceberg {
	case "boolean":
		return "BOOLEAN", nil
	case "int":
		return "INTEGER", nil
	case "long":
		return "BIGINT", nil
	case "float":
		return "FLOAT", nil
	case "double":
		return "DOUBLE", nil
	case "string":
		return "VARCHAR", nil
	case "binary":
		return "BLOB", nil
	case "uuid":
		return "UUID", nil
	case "timestamptz":
		return "TIMESTAMP WITH TIME ZONE", nil
	case "map<string, string>":
		return "MAP(VARCHAR, VARCHAR)", nil
	default:
		return "", fmt.Errorf("type %s has no counterpart", iceberg)
	}
}

// literal quotes a string for SQL.
func literal(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

// identifier quotes a name for SQL.
func identifier(s string) string { return `"` + strings.ReplaceAll(s, `"`, `""`) + `"` }
