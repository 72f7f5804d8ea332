package lakesql

import (
	"bufio"
	"cmp"
	"context"
	"database/sql"
	"encoding/base64"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/duckdb/duckdb-go/v2"
	"github.com/google/uuid"
)

// The formats of an answer.
const (
	Table = "table" // aligned, for a person; held until the widths are known
	CSV   = "csv"   // with a header; null is empty, an empty string is ""
	JSON  = "json"  // one object per line
)

// Query runs a statement and writes its rows.
func (d *DB) Query(ctx context.Context, statement string, w io.Writer, format string) error {
	buf := bufio.NewWriter(w)
	var out printer
	switch format {
	case Table:
		out = &tablePrinter{w: buf}
	case CSV:
		out = &csvPrinter{w: buf}
	case JSON:
		out = &jsonPrinter{w: buf}
	default:
		return fmt.Errorf("writing rows: format %q is none of %s, %s, %s", format, Table, CSV, JSON)
	}
	err := d.Rows(ctx, statement, func(types []*sql.ColumnType) error { return out.header(types) }, out.row)
	if err == nil {
		err = out.end()
	}
	if ferr := buf.Flush(); err == nil && ferr != nil {
		err = fmt.Errorf("writing rows: %w", ferr)
	}
	return err
}

type printer interface {
	header(columns []*sql.ColumnType) error
	row(values []any) error
	end() error
}

// text writes a value for table and CSV.
func text(v any) string {
	switch v := v.(type) {
	case nil:
		return ""
	case string:
		return v
	case bool:
		return strconv.FormatBool(v)
	case time.Time:
		return v.UTC().Format("2006-01-02T15:04:05.000000Z")
	case float64:
		return strconv.FormatFloat(v, 'g', -1, 64)
	case float32:
		return strconv.FormatFloat(float64(v), 'g', -1, 32)
	case []byte:
		return base64.StdEncoding.EncodeToString(v)
	case *big.Int:
		return v.String()
	case duckdb.OrderedMap, map[string]any, []any:
		b, err := json.Marshal(plain(v))
		if err != nil {
			return fmt.Sprint(v)
		}
		return string(b)
	default:
		return fmt.Sprint(plain(v))
	}
}

// plain turns a value into what JSON has. Numbers beyond a double's integers stay digits; NaN and infinities, which
// JSON has not, become strings.
func plain(v any) any {
	switch v := v.(type) {
	case time.Time:
		return text(v)
	case float64:
		return number(v, 64)
	case float32:
		return number(float64(v), 32)
	case *big.Int:
		return json.Number(v.String())
	case duckdb.Decimal:
		return json.Number(v.String())
	case duckdb.UUID:
		return uuid.UUID(v).String()
	case duckdb.Interval:
		return fmt.Sprintf("%d months %d days %d us", v.Months, v.Days, v.Micros)
	case duckdb.OrderedMap:
		return ordered(v)
	case []any:
		out := make([]any, len(v))
		for i := range v {
			out[i] = plain(v[i])
		}
		return out
	case map[string]any:
		out := make(map[string]any, len(v))
		for k := range v {
			out[k] = plain(v[k])
		}
		return out
	default:
		return v
	}
}

func number(f float64, bits int) any {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return strconv.FormatFloat(f, 'g', -1, bits)
	}
	return json.Number(strconv.FormatFloat(f, 'g', -1, bits))
}

func ordered(m duckdb.OrderedMap) map[string]any {
	out := make(map[string]any, m.Len())
	keys, values := m.Keys(), m.Values()
	for i := range keys {
		out[text(keys[i])] = plain(values[i])
	}
	return out
}

// jsonPrinter writes one object per row, its members in the order of the columns.
type jsonPrinter struct {
	w     *bufio.Writer
	names [][]byte
	buf   []byte
}

func (p *jsonPrinter) header(columns []*sql.ColumnType) error {
	for _, c := range columns {
		name, err := json.Marshal(c.Name())
		if err != nil {
			return fmt.Errorf("writing header: %w", err)
		}
		p.names = append(p.names, name)
	}
	return nil
}

func (p *jsonPrinter) row(values []any) error {
	p.buf = append(p.buf[:0], '{')
	for i, v := range values {
		if i > 0 {
			p.buf = append(p.buf, ',')
		}
		b, err := json.Marshal(plain(v))
		if err != nil {
			return fmt.Errorf("writing column %s: %w", p.names[i], err)
		}
		p.buf = append(append(append(p.buf, p.names[i]...), ':'), b...)
	}
	_, err := p.w.Write(append(p.buf, '}', '\n'))
	return err
}

func (p *jsonPrinter) end() error { return nil }

// csvPrinter writes RFC 4180. encoding/csv cannot tell null from an empty string, so an empty string is quoted here.
type csvPrinter struct {
	w *bufio.Writer
}

func (p *csvPrinter) header(columns []*sql.ColumnType) error {
	names := make([]string, len(columns))
	for i, c := range columns {
		names[i] = c.Name()
	}
	w := csv.NewWriter(p.w)
	if err := w.Write(names); err != nil {
		return err
	}
	w.Flush()
	return w.Error()
}

func (p *csvPrinter) row(values []any) error {
	for i, v := range values {
		if i > 0 {
			if err := p.w.WriteByte(','); err != nil {
				return err
			}
		}
		if _, err := p.w.WriteString(csvField(v)); err != nil {
			return err
		}
	}
	return p.w.WriteByte('\n')
}

func (p *csvPrinter) end() error { return nil }

func csvField(v any) string {
	if v == nil {
		return ""
	}
	s := text(v)
	if s == "" || strings.ContainsAny(s, "\",\r\n") || strings.TrimSpace(s) != s {
		return `"` + strings.ReplaceAll(s, `"`, `""`) + `"`
	}
	return s
}

// tablePrinter aligns columns. It holds the first rows to find the widths and prints later ones by them.
type tablePrinter struct {
	w      *bufio.Writer
	names  []string
	rows   [][]string
	widths []int
	count  int
}

// tableRows are held to find the widths.
const tableRows = 1000

func (p *tablePrinter) header(columns []*sql.ColumnType) error {
	for _, c := range columns {
		p.names = append(p.names, c.Name())
	}
	return nil
}

func (p *tablePrinter) row(values []any) error {
	cells := make([]string, len(values))
	for i, v := range values {
		cells[i] = cell(v)
	}
	p.count++
	if p.widths == nil {
		if p.rows = append(p.rows, cells); len(p.rows) < tableRows {
			return nil
		}
		return p.begin()
	}
	return p.line(cells)
}

func cell(v any) string {
	if v == nil {
		return "NULL"
	}
	return strings.NewReplacer("\n", `\n`, "\r", `\r`, "\t", `\t`, "\x1b", `\x1b`).Replace(text(v))
}

func (p *tablePrinter) begin() error {
	p.widths = make([]int, len(p.names))
	for i, n := range p.names {
		widest := slices.MaxFunc(append(p.rows, p.names), func(a, b []string) int {
			return cmp.Compare(utf8.RuneCountInString(a[i]), utf8.RuneCountInString(b[i]))
		})
		p.widths[i] = max(utf8.RuneCountInString(n), utf8.RuneCountInString(widest[i]))
	}
	rule := make([]string, len(p.names))
	for i, n := range p.widths {
		rule[i] = strings.Repeat("-", n)
	}
	for _, cells := range append([][]string{p.names, rule}, p.rows...) {
		if err := p.line(cells); err != nil {
			return err
		}
	}
	p.rows = nil
	return nil
}

func (p *tablePrinter) line(cells []string) error {
	for i, c := range cells {
		if i > 0 {
			c = "  " + c
		}
		if _, err := p.w.WriteString(c); err != nil {
			return err
		}
		if pad := p.widths[i] - utf8.RuneCountInString(cells[i]); pad > 0 && i < len(cells)-1 {
			if _, err := p.w.WriteString(strings.Repeat(" ", pad)); err != nil {
				return err
			}
		}
	}
	return p.w.WriteByte('\n')
}

func (p *tablePrinter) end() error {
	if p.widths == nil {
		if err := p.begin(); err != nil {
			return err
		}
	}
	unit := "rows"
	if p.count == 1 {
		unit = "row"
	}
	_, err := fmt.Fprintf(p.w, "(%d %s)\n", p.count, unit)
	return err
}
