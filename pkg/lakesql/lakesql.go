// Package lakesql answers SQL over the lake with DuckDB: a view per data type, named as the type, over the files of its
// table's current snapshot.
//
// The database is in memory and lives for a session. Once the views are made it can read the lake's files and nothing
// else, and write nowhere; only SELECT and EXPLAIN run.
package lakesql

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/duckdb/duckdb-go/v2"

	"github.com/millrace/millrace/pkg/lake"
	"github.com/millrace/millrace/pkg/schema"
)

// DB is a session.
type DB struct {
	cfg       Config
	connector *duckdb.Connector
	db        *sql.DB
}

// Open reads where each type's table stands and makes the views. A type without a table, or without rows, gets an empty
// view with its columns. Later commits are not seen.
func Open(ctx context.Context, cfg Config, l *lake.Lake, types []*schema.Type) (*DB, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if err := known(cfg.Deduplicate, types); err != nil {
		return nil, err
	}
	connector, err := duckdb.NewConnector("", nil)
	if err != nil {
		return nil, fmt.Errorf("starting DuckDB: %w", err)
	}
	d := &DB{cfg: cfg, connector: connector, db: sql.OpenDB(connector)}
	if err := d.prepare(ctx, l, types); err != nil {
		return nil, errors.Join(err, d.Close())
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

// Close ends the session.
func (d *DB) Close() error { return errors.Join(d.db.Close(), d.connector.Close()) }

func (d *DB) prepare(ctx context.Context, l *lake.Lake, types []*schema.Type) error {
	settings := []string{
		fmt.Sprintf("SET memory_limit = '%d B'", d.cfg.Memory),
		fmt.Sprintf("SET threads = %d", d.cfg.Threads),
		"SET TimeZone = 'UTC'",
		"SET temp_directory = ''",
		"SET autoinstall_known_extensions = false",
		"SET autoload_known_extensions = false",
		"SET python_enable_replacements = false",
	}
	for _, s := range settings {
		if _, err := d.db.ExecContext(ctx, s); err != nil && !strings.Contains(err.Error(), "unrecognized configuration") {
			return fmt.Errorf("setting up DuckDB: %w", err)
		}
	}
	var folders []string
	for _, t := range types {
		in, err := d.view(ctx, l, t)
		if err != nil {
			return err
		}
		folders = append(folders, in...)
	}
	return d.lock(ctx, folders)
}

// lock closes the session to everything but the folders of the files, for good.
func (d *DB) lock(ctx context.Context, folders []string) error {
	slices.Sort(folders)
	quoted := make([]string, 0, len(folders))
	for _, f := range slices.Compact(folders) {
		quoted = append(quoted, literal(f))
	}
	for _, s := range []string{
		"SET allowed_directories = [" + strings.Join(quoted, ", ") + "]",
		"SET enable_external_access = false",
		"SET lock_configuration = true",
	} {
		if _, err := d.db.ExecContext(ctx, s); err != nil {
			return fmt.Errorf("closing DuckDB to the outside: %w", err)
		}
	}
	return nil
}

// view makes a type's view and gives the folders that its files are in.
func (d *DB) view(ctx context.Context, l *lake.Lake, t *schema.Type) ([]string, error) {
	columns, files, err := describe(ctx, l, t)
	if err != nil {
		return nil, err
	}
	var names, nulls, fields, folders []string
	for _, c := range columns {
		typ, err := duckType(c.Type)
		if err != nil {
			return nil, fmt.Errorf("reading column %s of table %s: %w", c.Name, t.Lake.Table, err)
		}
		names = append(names, identifier(c.Name))
		nulls = append(nulls, fmt.Sprintf("CAST(NULL AS %s) AS %s", typ, identifier(c.Name)))
		fields = append(fields, fmt.Sprintf("%d: {name: %s, type: %s, default_value: NULL}", c.ID, literal(c.Name), literal(typ)))
	}
	from := "(SELECT " + strings.Join(nulls, ", ") + " WHERE false)"
	if len(files) > 0 {
		quoted := make([]string, len(files))
		for i, f := range files {
			f = strings.TrimPrefix(f, "file://")
			quoted[i] = literal(f)
			folders = append(folders, path.Dir(f))
		}
		from = fmt.Sprintf("read_parquet([%s], schema = MAP {%s}, hive_partitioning = false)", strings.Join(quoted, ", "), strings.Join(fields, ", "))
	}
	query := "SELECT " + strings.Join(names, ", ") + " FROM " + from
	if slices.Contains(d.cfg.Deduplicate, t.Name) || slices.Contains(d.cfg.Deduplicate, All) {
		query += ` QUALIFY row_number() OVER (PARTITION BY id, "time" ORDER BY _appended_at, _topic, _topic_partition, _offset) = 1`
	}
	if _, err := d.db.ExecContext(ctx, "CREATE VIEW "+identifier(t.Name)+" AS "+query); err != nil {
		return nil, fmt.Errorf("making view %s: %w", t.Name, err)
	}
	return folders, nil
}

// describe gives a table's columns and files; for a type without a table, the columns that it would have.
func describe(ctx context.Context, l *lake.Lake, t *schema.Type) ([]lake.Column, []string, error) {
	table, err := l.Open(ctx, t)
	if errors.Is(err, lake.ErrNoTable) {
		columns, err := lake.ColumnsOf(t)
		return columns, nil, err
	}
	if err != nil {
		return nil, nil, err
	}
	files, err := table.Files(ctx)
	return table.Columns(), files, err
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
