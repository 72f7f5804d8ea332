package devstore

import (
	"context"
	"database/sql"
	"fmt"
	"strings"

	"github.com/duckdb/duckdb-go/v2"

	"github.com/millrace/millrace/pkg/codec"
	"github.com/millrace/millrace/pkg/schema"
	"github.com/millrace/millrace/pkg/serve"
)

// Scan reads every row of a type, in no order, for those who check what arrived. The values are by the positions of
// the newest version seen, which Type gives.
func (s *Store) Scan(ctx context.Context, typeName string, fn func(values []codec.Value) error) error {
	db, t, err := s.reader(ctx, typeName)
	if err != nil {
		return err
	}
	return each(ctx, db, t, "", nil, fn)
}

// Type gives the version by whose positions Scan reads.
func (s *Store) Type(ctx context.Context, typeName string) (*schema.Type, error) {
	_, t, err := s.reader(ctx, typeName)
	return t, err
}

func (s *Store) reader(ctx context.Context, typeName string) (*sql.DB, *schema.Type, error) {
	db, err := s.open(ctx)
	if err != nil {
		return nil, nil, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	tb := s.tables[typeName]
	if tb == nil {
		return nil, nil, serve.BadQuery("type=%s is not a data type", typeName)
	}
	return db, tb.typ, nil
}

// each calls fn with the values of every row that the rest of the query (WHERE, ORDER BY, LIMIT) leaves.
func each(ctx context.Context, db *sql.DB, t *schema.Type, rest string, args []any, fn func([]codec.Value) error) error {
	query := "SELECT " + selectList(t) + " FROM " + quote(t.Name) + " " + rest //nolint:gosec // names are quoted, values are arguments
	rows, err := db.QueryContext(ctx, query, args...)
	if err != nil {
		return fmt.Errorf("reading %s: %w", t.Name, err)
	}
	defer func() { _ = rows.Close() }()
	row, into := make([]any, len(t.Fields)), make([]any, len(t.Fields))
	for i := range row {
		into[i] = &row[i]
	}
	for rows.Next() {
		if err := rows.Scan(into...); err != nil {
			return fmt.Errorf("reading %s: %w", t.Name, err)
		}
		values := make([]codec.Value, len(row))
		for i := range row {
			if values[i], err = fromDuck(t.Fields[i], row[i]); err != nil {
				return fmt.Errorf("reading %s: %w", t.Name, err)
			}
		}
		if err := fn(values); err != nil {
			return err
		}
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("reading %s: %w", t.Name, err)
	}
	return nil
}

func selectList(t *schema.Type) string {
	columns := make([]string, len(t.Fields))
	for i, f := range t.Fields {
		if columns[i] = quote(f.Name); f.Kind == schema.UUID {
			columns[i] = "CAST(" + columns[i] + " AS VARCHAR)"
		}
	}
	return strings.Join(columns, ", ")
}

// fromDuck is the reverse of toDuck.
func fromDuck(f schema.Field, v any) (codec.Value, error) {
	switch x := v.(type) {
	case nil:
		return codec.Value{}, nil
	case bool:
		return codec.BoolValue(x), nil
	case int32:
		return codec.LongValue(int64(x)), nil
	case int64:
		return codec.LongValue(x), nil
	case float32:
		return codec.DoubleValue(float64(x)), nil
	case float64:
		return codec.DoubleValue(x), nil
	case string:
		return codec.StringValue(x), nil
	case []byte:
		return codec.BytesValue(x), nil
	case duckdb.OrderedMap:
		kv := make([]string, 0, 2*x.Len())
		values := x.Values()
		for i, k := range x.Keys() {
			kv = append(kv, text(k), text(values[i]))
		}
		return codec.PairsValue(kv...), nil
	default:
		return codec.Value{}, fmt.Errorf("column %s holds a %T", f.Name, v)
	}
}

func text(v any) string {
	s, _ := v.(string)
	return s
}
