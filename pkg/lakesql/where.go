package lakesql

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"

	"github.com/apache/iceberg-go"
	"github.com/duckdb/duckdb-go/v2"

	"github.com/millrace/millrace/pkg/diskcache"
	"github.com/millrace/millrace/pkg/lake"
)

// ErrCondition says that a text is not a condition on a row of the lake.
var ErrCondition = errors.New("not a condition on one row")

// Where is a condition on the rows of one table, as they are in its files: a row per Kafka record, whatever
// sql.deduplicate says. It is one expression over the row's columns, which reads nothing else and gives the same whenever it
// is asked; now() is when it was opened. It is not safe for concurrent use.
type Where struct {
	session *session
	view    view
	text    string
	filter  iceberg.BooleanExpression
}

var _ lake.Condition = (*Where)(nil)

// OpenWhere checks a condition on the table of a type, with the columns that the state has. Close ends it.
func OpenWhere(ctx context.Context, cfg Config, typ string, state *lake.State, condition string) (*Where, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	v := view{name: typ, state: state, columns: state.Columns()}
	s, err := (&DB{cfg: cfg, cache: diskcache.New(cfg.Cache), views: []view{v}}).begin(ctx, nil)
	if err != nil {
		return nil, err
	}
	w := &Where{session: s, view: v, text: "(" + condition + "\n)"} // the line ends a comment
	if err := w.check(ctx); err != nil {
		return nil, errors.Join(err, s.end())
	}
	w.filter = s.choose(ctx, w.over(identifier(v.name)))[v.name].filter
	return w, errors.Join(s.planned(ctx), s.lock(ctx))
}

// Close ends it.
func (w *Where) Close() error { return w.session.end() }

// Filter implements lake.Condition.
func (w *Where) Filter() iceberg.BooleanExpression { return w.filter }

// over is a query of the rows.
func (w *Where) over(from string) string {
	return "SELECT 1 FROM " + from + " WHERE " + w.text
}

// Rows implements lake.Condition.
func (w *Where) Rows(ctx context.Context, file lake.File, each func(row int64) error) (err error) {
	location := file.Location
	r := &reading{Read: Read{Type: w.view.name}, state: w.view.state, files: []lake.File{file}, paths: make([]string, 1)}
	if err := w.session.fetch(ctx, []*reading{r}); err != nil {
		return err
	}
	if _, local := file.Local(); !local {
		defer func() { err = errors.Join(err, os.Remove(r.paths[0])) }() // what the session has of it: the next ones want the room
	}
	from, err := w.view.source(r.paths)
	if err != nil {
		return err
	}
	from = from[:len(from)-1] + ", file_row_number = true)"
	rows, err := w.session.conn.QueryContext(ctx,
		fmt.Sprintf("SELECT file_row_number FROM %s AS %s WHERE %s", from, identifier(w.view.name), w.text))
	if err != nil {
		return fmt.Errorf("looking for rows in %s: %w", location, err)
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var row int64
		if err := rows.Scan(&row); err != nil {
			return fmt.Errorf("looking for rows in %s: %w", location, err)
		}
		if err := each(row); err != nil {
			return err
		}
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("looking for rows in %s: %w", location, err)
	}
	return nil
}

// check has DuckDB's own parser say that the text is one expression, and its binder that it is true or false of a row.
func (w *Where) check(ctx context.Context) error {
	like, _, err := w.parse(ctx, "(true)")
	if err != nil {
		return err
	}
	around, expression, err := w.parse(ctx, w.text)
	if err != nil {
		return err
	}
	// With a parenthesis that closes ours there is more of the statement than in the one with a constant in its place.
	if len(expression) != 1 || !reflect.DeepEqual(around, like) {
		return fmt.Errorf("%w: it is more than one expression", ErrCondition)
	}
	volatile, err := w.volatile(ctx)
	if err != nil {
		return err
	}
	if err := plainRow(expression[0], volatile); err != nil {
		return err
	}
	columns, err := check(w.session.conn, "SELECT "+w.text+" FROM "+identifier(w.view.name))
	if err != nil {
		return fmt.Errorf("%w: %w", ErrCondition, err)
	}
	if len(columns) != 1 || columns[0].Type == nil || columns[0].Type.InternalType() != duckdb.TYPE_BOOLEAN {
		return fmt.Errorf("%w: it is neither true nor false; compare something, as in tenant = 'acme'", ErrCondition)
	}
	if _, err := check(w.session.conn, w.over(identifier(w.view.name))); err != nil { // as an aggregate may not
		return fmt.Errorf("%w: %w", ErrCondition, err)
	}
	return nil
}

// parse gives the statement that selects an expression, without it, and the expressions that it selects.
func (w *Where) parse(ctx context.Context, expression string) (around map[string]any, selected []any, err error) {
	var text string
	row := w.session.conn.QueryRowContext(ctx, fmt.Sprintf("SELECT json_serialize_sql(%s)::VARCHAR", literal("SELECT "+expression)))
	if err := row.Scan(&text); err != nil {
		return nil, nil, fmt.Errorf("parsing the condition: %w", err)
	}
	var parsed struct {
		Error      bool             `json:"error"`
		Message    string           `json:"error_message"`
		Statements []map[string]any `json:"statements"`
	}
	if err := json.Unmarshal([]byte(text), &parsed); err != nil {
		return nil, nil, fmt.Errorf("parsing the condition: %w", err)
	}
	if parsed.Error {
		return nil, nil, fmt.Errorf("%w: %s", ErrCondition, parsed.Message)
	}
	if len(parsed.Statements) != 1 {
		return nil, nil, fmt.Errorf("%w: these are several statements", ErrCondition)
	}
	around = parsed.Statements[0]
	if node, ok := around["node"].(map[string]any); ok {
		selected, _ = node["select_list"].([]any)
		delete(node, "select_list")
	}
	return around, selected, nil
}

// classes are those of DuckDB's expressions that say something of one row. A subquery, a window, a parameter and * do not.
var classes = []string{
	"BETWEEN", "CASE", "CAST", "COLLATE", "COLUMN_REF", "COMPARISON", "CONJUNCTION", "CONSTANT", "FUNCTION", "LAMBDA",
	"LAMBDA_REF", "OPERATOR", "TYPE",
}

// plainRow goes through an expression as DuckDB has parsed it.
func plainRow(node any, volatile map[string]bool) error {
	switch node := node.(type) {
	case []any:
		for _, item := range node {
			if err := plainRow(item, volatile); err != nil {
				return err
			}
		}
	case map[string]any:
		if class, ok := node["class"].(string); ok && !slices.Contains(classes, class) {
			return fmt.Errorf("%w: a %s is not read here", ErrCondition, class)
		}
		if name, ok := node["function_name"].(string); ok && volatile[strings.ToLower(name)] {
			return fmt.Errorf("%w: %s() does not give the same each time", ErrCondition, name)
		}
		for _, item := range node {
			if err := plainRow(item, volatile); err != nil {
				return err
			}
		}
	}
	return nil
}

// volatile are the functions that give something else each time or do something, and the macros that are made of other
// than functions of one row.
func (w *Where) volatile(ctx context.Context) (map[string]bool, error) {
	rows, err := w.session.conn.QueryContext(ctx, `SELECT DISTINCT function_name FROM duckdb_functions() WHERE stability = 'VOLATILE'
		OR function_type = 'macro' AND (macro_definition ILIKE '%select%' OR function_name IN ('pg_sleep', 'current_query'))`)
	if err != nil {
		return nil, fmt.Errorf("listing functions: %w", err)
	}
	defer func() { _ = rows.Close() }()
	names := map[string]bool{}
	for rows.Next() {
		var name sql.NullString
		if err := rows.Scan(&name); err != nil {
			return nil, fmt.Errorf("listing functions: %w", err)
		}
		names[name.String] = true
	}
	return names, rows.Err()
}
