package devstore

import (
	"context"
	"database/sql"
	"fmt"
	"strings"

	"github.com/duckdb/duckdb-go/v2"

	"github.com/millrace/millrace/pkg/schema"
)

// table is what is known of a type's table. It does not change; an evolved one is another table.
type table struct {
	typ     *schema.Type        // the newest version seen: the columns of a read
	columns map[string]struct{} // that the table has; no fewer than typ's fields
}

// execer is *sql.DB or *sql.Conn.
type execer interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// loadTable makes the type's table, or brings an older one up to date.
func loadTable(ctx context.Context, db execer, t *schema.Type) (*table, error) {
	columns, err := readColumns(ctx, db, t.Name)
	if err != nil {
		return nil, err
	}
	if len(columns) == 0 {
		if _, err := db.ExecContext(ctx, createTable(t)); err != nil {
			return nil, fmt.Errorf("making table %s: %w", t.Name, err)
		}
		if columns, err = readColumns(ctx, db, t.Name); err != nil {
			return nil, err
		}
	}
	return (&table{typ: t, columns: columns}).evolve(ctx, db, t)
}

func readColumns(ctx context.Context, db execer, name string) (map[string]struct{}, error) {
	rows, err := db.QueryContext(ctx, `SELECT column_name FROM information_schema.columns WHERE table_schema = 'main' AND table_name = ?`, name)
	if err != nil {
		return nil, fmt.Errorf("reading the columns of %s: %w", name, err)
	}
	defer func() { _ = rows.Close() }()
	columns := map[string]struct{}{}
	for rows.Next() {
		var c string
		if err := rows.Scan(&c); err != nil {
			return nil, fmt.Errorf("reading the columns of %s: %w", name, err)
		}
		columns[c] = struct{}{}
	}
	return columns, rows.Err()
}

// evolve gives the table with every field of t. A renamed field takes its column along. Rows from before a new field
// have null in it, as in Cassandra and Elasticsearch.
func (tb *table) evolve(ctx context.Context, db execer, t *schema.Type) (*table, error) {
	columns := map[string]struct{}{}
	for c := range tb.columns {
		columns[c] = struct{}{}
	}
	for _, f := range t.Fields {
		if _, ok := columns[f.Name]; ok {
			continue
		}
		ddl := fmt.Sprintf("ALTER TABLE %s ADD COLUMN %s %s", quote(t.Name), quote(f.Name), columnType(f.Kind))
		for _, a := range f.Aliases {
			if _, ok := columns[a]; ok {
				ddl = fmt.Sprintf("ALTER TABLE %s RENAME COLUMN %s TO %s", quote(t.Name), quote(a), quote(f.Name))
				delete(columns, a)
				break
			}
		}
		if _, err := db.ExecContext(ctx, ddl); err != nil {
			return nil, fmt.Errorf("adding %s to table %s: %w", f.Name, t.Name, err)
		}
		columns[f.Name] = struct{}{}
	}
	return &table{typ: t, columns: columns}, nil
}

// has says whether every field of t has a column, by its name or, when t is older, by the name that it has now.
func (tb *table) has(t *schema.Type) bool {
	for i := range t.Fields {
		if tb.column(t, i) == "" {
			return false
		}
	}
	return true
}

// column gives the column of t's field at position i, "" if there is none.
func (tb *table) column(t *schema.Type, i int) string {
	name := t.Fields[i].Name
	if j := tb.typ.Index(name); j >= 0 {
		return tb.typ.Fields[j].Name
	}
	if _, ok := tb.columns[name]; ok {
		return name
	}
	return ""
}

func createTable(t *schema.Type) string {
	var b strings.Builder
	fmt.Fprintf(&b, "CREATE TABLE %s (", quote(t.Name))
	for i, f := range t.Fields {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(quote(f.Name) + " " + columnType(f.Kind))
	}
	return b.String() + ")"
}

// columnType is DuckDB's type for a kind. Times stay numbers: DuckDB's TIMESTAMP does not hold every int64.
func columnType(k schema.Kind) string {
	switch k {
	case schema.Bool:
		return "BOOLEAN"
	case schema.Int:
		return "INTEGER"
	case schema.Long, schema.Timestamp:
		return "BIGINT"
	case schema.Float:
		return "FLOAT"
	case schema.Double:
		return "DOUBLE"
	case schema.UUID:
		return "UUID"
	case schema.Bytes:
		return "BLOB"
	case schema.Map:
		return "MAP(VARCHAR, VARCHAR)"
	default:
		return "VARCHAR"
	}
}

func typeInfo(k schema.Kind) (duckdb.TypeInfo, error) {
	var id duckdb.Type
	switch k {
	case schema.Bool:
		id = duckdb.TYPE_BOOLEAN
	case schema.Int:
		id = duckdb.TYPE_INTEGER
	case schema.Long, schema.Timestamp:
		id = duckdb.TYPE_BIGINT
	case schema.Float:
		id = duckdb.TYPE_FLOAT
	case schema.Double:
		id = duckdb.TYPE_DOUBLE
	case schema.UUID:
		id = duckdb.TYPE_UUID
	case schema.Bytes:
		id = duckdb.TYPE_BLOB
	case schema.Map:
		text, err := duckdb.NewTypeInfo(duckdb.TYPE_VARCHAR)
		if err != nil {
			return nil, err
		}
		return duckdb.NewMapInfo(text, text)
	default:
		id = duckdb.TYPE_VARCHAR
	}
	return duckdb.NewTypeInfo(id)
}

func quote(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }
