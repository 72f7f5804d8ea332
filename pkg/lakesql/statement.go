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

	"github.com/millrace/millrace/pkg/serve"
)

// ErrRefused says that a statement is not one that reads the lake.
var ErrRefused = errors.New("only a single SELECT or EXPLAIN runs here")

// check has DuckDB's own parser say what a statement is, and which columns it gives. Preparing runs nothing.
func check(conn *sql.Conn, statement string) (columns []Column, err error) {
	// EXPLAIN ANALYZE runs what it explains, so that is what counts.
	_, statement = explained(statement)
	if word := strings.ToUpper(firstWord.FindString(uncommented(statement))); word == "PRAGMA" || word == "EXPLAIN" {
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
		columns, err = described(prepared)
		return err
	})
	return columns, err
}

func described(prepared driver.Stmt) ([]Column, error) {
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
	columns := make([]Column, n)
	for i := range columns {
		if columns[i].Name, err = stmt.ColumnName(i); err != nil {
			return nil, fmt.Errorf("checking statement: %w", err)
		}
		if columns[i].Type, err = stmt.ColumnTypeInfo(i); err != nil {
			columns[i].Type = nil // a type that the driver does not know: its values are written by what they are
		}
	}
	return columns, nil
}

// explained says whether the answer is a plan, and gives the statement that is explained.
func explained(statement string) (bool, string) {
	rest := uncommented(statement)
	m := explain.FindString(rest)
	return m != "", rest[len(m):]
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

// Rows runs a statement and hands each row's values to each, in the order that DuckDB gives them. Values are as
// database/sql scans them: times in UTC, maps as duckdb.OrderedMap. They are valid until each returns.
func (d *DB) Rows(ctx context.Context, r Request, header func([]Column) error, each func([]any) error) (Answer, error) {
	var a Answer
	err := d.with(ctx, r, nil, func(ctx context.Context, s *session, columns []Column) (err error) {
		if a.Reads, err = s.show(ctx, r.Statement); err != nil {
			return err
		}
		err = s.stream(ctx, s.limited(r, columns), columns, header, func(values []any) error {
			if a.Rows == r.Limit && r.Limit > 0 {
				a.Cut = true
				return errEnough
			}
			a.Rows++
			return each(values)
		})
		if errors.Is(err, errEnough) {
			return nil
		}
		return err
	})
	return a, err
}

// errEnough ends a stream of rows.
var errEnough = errors.New("no more rows are wanted")

// with gives do a session in which the statement was found to be one that may run, and the columns that it gives: none
// where it is a plan that is asked for. Folders are further ones that the session may read and write.
func (d *DB) with(ctx context.Context, r Request, folders []string, do func(context.Context, *session, []Column) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, d.cfg.Timeout, fmt.Errorf("%w (sql.timeout is %v)", serve.ErrTooLong, d.cfg.Timeout))
	defer cancel()
	s, err := d.begin(ctx, folders)
	if err == nil {
		err = errors.Join(s.checked(ctx, r, do), s.end())
	}
	if cause := context.Cause(ctx); err != nil && cause != nil && !errors.Is(err, cause) {
		return fmt.Errorf("running query: %w", cause)
	}
	return err
}

func (s *session) checked(ctx context.Context, r Request, do func(context.Context, *session, []Column) error) error {
	if err := s.set(ctx, r.Variables); err != nil {
		return err
	}
	columns, err := check(s.conn, r.Statement)
	if err != nil {
		return err
	}
	if is, _ := explained(r.Statement); is {
		columns = nil // they are those of what is explained
	}
	return do(ctx, s, columns)
}

// limited has DuckDB find no more rows than are wanted, and one by which to know that there are more. The driver holds
// all rows that are found.
func (s *session) limited(r Request, columns []Column) string {
	if r.Limit <= 0 || columns == nil {
		return r.Statement
	}
	statement := fmt.Sprintf("SELECT * FROM (%s\n) LIMIT %d", strings.TrimRight(r.Statement, "; \t\r\n"), r.Limit+1)
	if _, err := check(s.conn, statement); err != nil {
		return r.Statement // as with a comment behind its semicolon
	}
	return statement
}

func (s *session) stream(ctx context.Context, statement string, columns []Column, header func([]Column) error, each func([]any) error) error {
	rows, err := s.conn.QueryContext(ctx, statement)
	if err != nil {
		return fmt.Errorf("running query: %w", err)
	}
	defer func() { _ = rows.Close() }()
	types, err := rows.ColumnTypes()
	if err != nil {
		return fmt.Errorf("running query: %w", err)
	}
	if len(columns) != len(types) {
		columns = make([]Column, len(types))
		for i, t := range types {
			columns[i].Name = t.Name()
		}
	}
	for i, t := range types {
		columns[i].SQL = t.DatabaseTypeName()
	}
	if err := header(columns); err != nil {
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
