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

// check has DuckDB's own parser say what a statement is. Preparing runs nothing.
func check(conn *sql.Conn, statement string) error {
	rest := uncommented(statement)
	if m := explain.FindString(rest); m != "" {
		// EXPLAIN ANALYZE runs what it explains, so that is what counts.
		rest = rest[len(m):]
		statement = rest
	}
	if word := strings.ToUpper(firstWord.FindString(uncommented(rest))); word == "PRAGMA" || word == "EXPLAIN" {
		return fmt.Errorf("%w: %s", ErrRefused, word) // the parser turns some pragmas into a SELECT
	}
	return conn.Raw(func(c any) error {
		dc, ok := c.(*duckdb.Conn)
		if !ok {
			return fmt.Errorf("checking statement: connection is a %T", c)
		}
		prepared, err := dc.Prepare(statement) // refuses several statements
		if err != nil {
			return fmt.Errorf("preparing statement: %w", err)
		}
		defer func() { _ = prepared.Close() }()
		return typed(prepared)
	})
}

func typed(prepared driver.Stmt) error {
	stmt, ok := prepared.(*duckdb.Stmt)
	if !ok {
		return fmt.Errorf("checking statement: it is a %T", prepared)
	}
	kind, err := stmt.StatementType()
	if err != nil {
		return fmt.Errorf("checking statement: %w", err)
	}
	if kind != duckdb.STATEMENT_TYPE_SELECT {
		return ErrRefused
	}
	return nil
}

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
func (d *DB) Rows(ctx context.Context, statement string, header func([]*sql.ColumnType) error, each func([]any) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, d.cfg.Timeout, fmt.Errorf("the query took longer than %v", d.cfg.Timeout))
	defer cancel()
	conn, err := d.db.Conn(ctx)
	if err != nil {
		return fmt.Errorf("connecting to DuckDB: %w", err)
	}
	defer func() { _ = conn.Close() }()
	if err := check(conn, statement); err != nil {
		return err
	}
	if err := stream(ctx, conn, statement, header, each); err != nil {
		if cause := context.Cause(ctx); cause != nil {
			return fmt.Errorf("running query: %w", cause)
		}
		return err
	}
	return nil
}

func stream(ctx context.Context, conn *sql.Conn, statement string, header func([]*sql.ColumnType) error, each func([]any) error) error {
	rows, err := conn.QueryContext(ctx, statement)
	if err != nil {
		return fmt.Errorf("running query: %w", err)
	}
	defer func() { _ = rows.Close() }()
	types, err := rows.ColumnTypes()
	if err != nil {
		return fmt.Errorf("running query: %w", err)
	}
	if err := header(types); err != nil {
		return err
	}
	values, pointers := make([]any, len(types)), make([]any, len(types))
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
