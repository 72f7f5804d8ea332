package lakesql

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/duckdb/duckdb-go/v2"
)

// ErrRefused says that a statement is not one that reads the lake.
var ErrRefused = errors.New("only a single SELECT or EXPLAIN runs here")

// check has DuckDB's own parser say what a statement is, and of what types its columns are. Preparing runs nothing.
func check(conn *sql.Conn, statement string) (columns []duckdb.TypeInfo, err error) {
	rest := uncommented(statement)
	if m := explain.FindString(rest); m != "" {
		// EXPLAIN ANALYZE runs what it explains, so that is what counts.
		rest = rest[len(m):]
		statement = rest
	}
	if word := strings.ToUpper(firstWord.FindString(uncommented(rest))); word == "PRAGMA" || word == "EXPLAIN" {
		return nil, fmt.Errorf("%w: %s", ErrRefused, word) // the parser turns some pragmas into a SELECT
	}
	err = conn.Raw(func(c any) error {
		dc, ok := c.(*duckdb.Conn)
		if !ok {
			return fmt.Errorf("checking statement: connection is a %T", c)
		}
		prepared, err := dc.Prepare(statement)
		if err != nil && strings.Contains(err.Error(), "multi-statement") { // the driver's own error has no name
			return fmt.Errorf("%w: these are several, as PIVOT is without its list of values", ErrRefused)
		}
		if err != nil {
			return fmt.Errorf("preparing statement: %w", err)
		}
		defer func() { _ = prepared.Close() }()
		columns, err = typed(prepared)
		return err
	})
	return columns, err
}

func typed(prepared driver.Stmt) ([]duckdb.TypeInfo, error) {
	stmt, ok := prepared.(*duckdb.Stmt)
	if !ok {
		return nil, fmt.Errorf("checking statement: it is a %T", prepared)
	}
	kind, err := stmt.StatementType()
	if err != nil {
		return nil, fmt.Errorf("checking statement: %w", err)
	}
	if kind != duckdb.STATEMENT_TYPE_SELECT {
		return nil, ErrRefused
	}
	n, err := stmt.ColumnCount()
	if err != nil {
		return nil, fmt.Errorf("checking statement: %w", err)
	}
	columns := make([]duckdb.TypeInfo, n)
	for i := range columns {
		if columns[i], err = stmt.ColumnTypeInfo(i); err != nil {
			columns[i] = nil // a type that the driver does not know: its values are written by what they are
		}
	}
	return columns, nil
}

// isExplain says whether the answer is a plan.
func isExplain(statement string) bool { return explain.MatchString(uncommented(statement)) }

var (
	explain   = regexp.MustCompile(`(?is)^explain(\s+analyze)?(\s*\([^)]*\))?\s+`)
	firstWord = regexp.MustCompile(`^\w+`)
)

// uncommented leaves out the blanks and comments that a statement begins with.
func uncommented(s string) string {
	for {
		s = strings.TrimLeft(s, " \t\r\n\f\v;")
		switch {
		case strings.HasPrefix(s, "--"):
			_, after, found := strings.Cut(s, "\n")
			if !found {
				return ""
			}
			s = after
		case strings.HasPrefix(s, "/*"):
			_, after, found := strings.Cut(s, "*/")
			if !found {
				return ""
			}
			s = after
		default:
			return s
		}
	}
}

// Rows runs a statement and hands each row's values to each, with the columns' names, in the order that DuckDB gives
// them. Values are as database/sql scans them: times in UTC, maps as duckdb.OrderedMap.
func (d *DB) Rows(ctx context.Context, statement string, header func([]Column) error, each func([]any) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, d.cfg.Timeout, fmt.Errorf("the query took longer than %v", d.cfg.Timeout))
	defer cancel()
	conn, err := d.db.Conn(ctx)
	if err != nil {
		return fmt.Errorf("connecting to DuckDB: %w", err)
	}
	defer func() { _ = conn.Close() }()
	types, err := check(conn, statement)
	if err != nil {
		return err
	}
	if isExplain(statement) {
		types = nil // they are those of what is explained
	}
	if err := stream(ctx, conn, statement, types, header, each); err != nil {
		if cause := context.Cause(ctx); cause != nil {
			return fmt.Errorf("running query: %w", cause)
		}
		return err
	}
	return nil
}

func stream(ctx context.Context, conn *sql.Conn, statement string, types []duckdb.TypeInfo, header func([]Column) error, each func([]any) error) error {
	rows, err := conn.QueryContext(ctx, statement)
	if err != nil {
		return fmt.Errorf("running query: %w", err)
	}
	defer func() { _ = rows.Close() }()
	names, err := rows.Columns()
	if err != nil {
		return fmt.Errorf("running query: %w", err)
	}
	columns := make([]Column, len(names))
	for i, name := range names {
		if columns[i].Name = name; len(types) == len(names) {
			columns[i].Type = types[i]
		}
	}
	if err := header(columns); err != nil {
		return err
	}
	values, pointers := make([]any, len(names)), make([]any, len(names))
	for i := range values {
		pointers[i] = &values[i]
	}
	for rows.Next() {
		if err := rows.Scan(pointers...); err != nil {
			return fmt.Errorf("reading row: %w", err)
		}
		if err := each(values); err != nil {
			return err
		}
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("running query: %w", err)
	}
	return nil
}
