package lakesql

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/apache/iceberg-go"

	"github.com/millrace/millrace/pkg/lake"
)

// unplanned are the optimizers of DuckDB that are off while a statement is planned over empty tables: those that look at
// the data, which would leave out a scan of nothing, and those that move columns, which only blur what is read here.
var unplanned = []string{
	"statistics_propagation", "empty_result_pullup", "row_group_pruner", "join_order", "build_side_probe_side",
	"join_elimination", "join_filter_pushdown", "late_materialization", "limit_pushdown", "top_n",
	"top_n_window_elimination", "window_self_join", "sampling_pushdown", "sum_rewriter", "compressed_materialization",
	"common_aggregate", "common_subexpressions", "common_subplan", "duplicate_groups", "reorder_filter", "unused_columns",
	"column_lifetime", "extension",
}

// choice is what a statement needs of a view: the rows for which filter is true, or, where it is nil, all of them.
type choice struct{ filter iceberg.BooleanExpression }

// choose gives the views that a statement reads, with what it needs of each. It leans to the safe side: what it does not
// understand narrows nothing.
func (s *session) choose(ctx context.Context, statement string) map[string]choice {
	_, statement = explained(statement)
	bound, err := s.scans(ctx, statement, false)
	if err != nil { // what DuckDB cannot write down, as a scan of a file
		all := map[string]choice{}
		for _, v := range s.views {
			all[v.name] = choice{}
		}
		return all
	}
	chosen := map[string]choice{}
	optimized, err := s.scans(ctx, statement, true)
	for _, v := range s.views {
		if len(bound[v.name]) == 0 {
			continue
		}
		// A scan that the optimizer has found to be needless is not to be guessed about.
		if err != nil || len(optimized[v.name]) < len(bound[v.name]) {
			chosen[v.name] = choice{}
			continue
		}
		chosen[v.name] = choice{anyOf(optimized[v.name], func(scan scan) iceberg.BooleanExpression { return scan.filter(v.columns) })}
	}
	return chosen
}

// anyOf is true where one of them is; nil, which is everything, where one is nil.
func anyOf[T any](of []T, filter func(T) iceberg.BooleanExpression) iceberg.BooleanExpression {
	var all iceberg.BooleanExpression
	for i, o := range of {
		f := filter(o)
		switch {
		case f == nil:
			return nil
		case i == 0:
			all = f
		default:
			all = iceberg.NewOr(all, f)
		}
	}
	return all
}

// allOf is true where all of them are that are known; nil where none is.
func allOf[T any](of []T, filter func(T) iceberg.BooleanExpression) iceberg.BooleanExpression {
	var all iceberg.BooleanExpression
	for _, o := range of {
		f := filter(o)
		switch {
		case f == nil:
		case all == nil:
			all = f
		default:
			all = iceberg.NewAnd(all, f)
		}
	}
	return all
}

// scan is a read of a table in a plan, with the conditions that are pushed down into it.
type scan struct {
	Function struct {
		Schema string `json:"schema"`
		Table  string `json:"table"`
	} `json:"function_data"`
	TableFilters struct {
		Filters []columnFilter `json:"filters"`
	} `json:"table_filters"`
}

type columnFilter struct {
	Column int         `json:"key"` // its position in the table
	Value  tableFilter `json:"value"`
}

func (s scan) filter(columns []lake.Column) iceberg.BooleanExpression {
	return allOf(s.TableFilters.Filters, func(f columnFilter) iceberg.BooleanExpression {
		if f.Column < 0 || f.Column >= len(columns) {
			return nil // the row's number
		}
		return f.Value.on(columns[f.Column])
	})
}

// scans lists the reads of the stubs in a statement's plan, by view.
func (s *session) scans(ctx context.Context, statement string, optimized bool) (map[string][]scan, error) {
	var text string
	row := s.conn.QueryRowContext(ctx, fmt.Sprintf("SELECT json_serialize_plan(%s, optimize := %t)::VARCHAR", literal(statement), optimized))
	if err := row.Scan(&text); err != nil {
		return nil, fmt.Errorf("planning statement: %w", err)
	}
	var plan struct {
		Error   bool            `json:"error"`
		Message string          `json:"error_message"`
		Plans   json.RawMessage `json:"plans"`
	}
	if err := json.Unmarshal([]byte(text), &plan); err != nil {
		return nil, fmt.Errorf("reading plan: %w", err)
	}
	if plan.Error {
		return nil, fmt.Errorf("planning statement: %s", plan.Message)
	}
	found := map[string][]scan{}
	return found, gather(plan.Plans, found)
}

// gather looks for scans of stubs, wherever they are in a plan.
func gather(raw json.RawMessage, found map[string][]scan) error {
	var (
		list []json.RawMessage
		node map[string]json.RawMessage
		err  error
	)
	switch raw = bytes.TrimSpace(raw); {
	case bytes.HasPrefix(raw, []byte("[")):
		err = json.Unmarshal(raw, &list)
	case bytes.HasPrefix(raw, []byte("{")):
		err = json.Unmarshal(raw, &node)
	}
	if err != nil {
		return fmt.Errorf("reading plan: %w", err)
	}
	if string(node["type"]) == `"LOGICAL_GET"` {
		var s scan
		if err := json.Unmarshal(raw, &s); err != nil {
			return fmt.Errorf("reading a scan of the plan: %w", err)
		}
		if s.Function.Schema == stubs {
			found[s.Function.Table] = append(found[s.Function.Table], s)
		}
	}
	for _, item := range slices.AppendSeq(list, maps.Values(node)) {
		if err := gather(item, found); err != nil {
			return err
		}
	}
	return nil
}

// tableFilter is a condition on one column, as DuckDB's scans know it.
type tableFilter struct {
	Type       string        `json:"filter_type"`
	Comparison string        `json:"comparison_type"`
	Constant   *constant     `json:"constant"`
	Values     []constant    `json:"values"`
	Child      *tableFilter  `json:"child_filter"`
	Children   []tableFilter `json:"child_filters"`
	Expr       *expression   `json:"expr"`
}

// on gives the condition in Iceberg's terms; nil where it is not understood.
func (f tableFilter) on(c lake.Column) iceberg.BooleanExpression {
	sub := func(f tableFilter) iceberg.BooleanExpression { return f.on(c) }
	switch f.Type {
	case "CONSTANT_COMPARISON":
		return comparison(c, f.Comparison, f.Constant)
	case "IN_FILTER":
		return anyOf(f.Values, func(v constant) iceberg.BooleanExpression { return comparison(c, "COMPARE_EQUAL", &v) })
	case "CONJUNCTION_AND":
		return allOf(f.Children, sub)
	case "CONJUNCTION_OR":
		return anyOf(f.Children, sub)
	case "OPTIONAL_FILTER": // one that follows from others: a scan may use it to leave out what it rules out
		if f.Child != nil {
			return f.Child.on(c)
		}
	case "EXPRESSION_FILTER":
		if f.Expr != nil {
			return f.Expr.on(c)
		}
	}
	return nil
}

// expression is a condition as the rest of DuckDB knows it. Within a table filter it is about the filter's column.
type expression struct {
	Class    string       `json:"expression_class"`
	Type     string       `json:"type"`
	Children []expression `json:"children"`
	Left     *expression  `json:"left"`
	Right    *expression  `json:"right"`
	Value    *constant    `json:"value"`
}

func (e expression) on(c lake.Column) iceberg.BooleanExpression {
	sub := func(e expression) iceberg.BooleanExpression { return e.on(c) }
	switch {
	case e.Class == "BOUND_CONJUNCTION" && e.Type == "CONJUNCTION_AND":
		return allOf(e.Children, sub)
	case e.Class == "BOUND_CONJUNCTION" && e.Type == "CONJUNCTION_OR":
		return anyOf(e.Children, sub)
	case e.Class == "BOUND_COMPARISON" && e.Left != nil && e.Right != nil &&
		e.Left.Class == "BOUND_REF" && e.Right.Class == "BOUND_CONSTANT":
		return comparison(c, e.Type, e.Right.Value)
	default:
		return nil
	}
}

// constant is a value in a plan.
type constant struct {
	Null bool `json:"is_null"`
	Type struct {
		ID string `json:"id"`
	} `json:"type"`
	Value json.RawMessage `json:"value"`
}

var operations = map[string]iceberg.Operation{
	"COMPARE_EQUAL": iceberg.OpEQ, "COMPARE_LESSTHAN": iceberg.OpLT, "COMPARE_LESSTHANOREQUALTO": iceberg.OpLTEQ,
	"COMPARE_GREATERTHAN": iceberg.OpGT, "COMPARE_GREATERTHANOREQUALTO": iceberg.OpGTEQ,
}

func comparison(c lake.Column, kind string, v *constant) iceberg.BooleanExpression {
	op, ok := operations[kind]
	if !ok || v == nil || v.Null {
		return nil
	}
	value := v.literal(c.Type)
	if value == nil {
		return nil
	}
	return iceberg.LiteralPredicate(op, iceberg.Reference(c.Name), value)
}

// literal is for the types whose order in DuckDB is that of Iceberg's bounds. NaN is not in bounds, so no floats.
func (v *constant) literal(column string) iceberg.Literal {
	switch {
	case column == "timestamptz" && v.Type.ID == "TIMESTAMP WITH TIME ZONE":
		return parsed(v.Value, func(n int64) iceberg.Literal { return iceberg.NewLiteral(iceberg.Timestamp(n)) })
	case column == "long" && v.Type.ID == "BIGINT":
		return parsed(v.Value, iceberg.NewLiteral[int64])
	case column == "int" && v.Type.ID == "INTEGER":
		return parsed(v.Value, iceberg.NewLiteral[int32])
	case column == "string" && v.Type.ID == "VARCHAR":
		return parsed(v.Value, iceberg.NewLiteral[string])
	default:
		return nil
	}
}

func parsed[T any](raw json.RawMessage, literal func(T) iceberg.Literal) iceberg.Literal {
	var v T
	if json.Unmarshal(raw, &v) != nil {
		return nil
	}
	return literal(v)
}
