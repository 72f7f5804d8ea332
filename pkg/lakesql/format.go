package lakesql

import (
	"bufio"
	"cmp"
	"context"
	"encoding/csv"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/duckdb/duckdb-go/v2"
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
	if format == Table && isExplain(statement) {
		out = planPrinter{w: buf}
	}
	err := d.Rows(ctx, statement, out.header, out.row)
	if err == nil {
		err = out.end()
	}
	if ferr := buf.Flush(); err == nil && ferr != nil {
		err = fmt.Errorf("writing rows: %w", ferr)
	}
	return err
}

type printer interface {
	header(columns []Column) error
	row(values []any) error
	end() error
}

// jsonPrinter writes one object per row, its members in the order of the columns.
type jsonPrinter struct {
	w       *bufio.Writer
	columns []Column
	names   [][]byte
	buf     []byte
}

func (p *jsonPrinter) header(columns []Column) error {
	p.columns = columns
	for _, c := range columns {
		p.names = append(p.names, append(quoted(nil, c.Name), ':'))
	}
	return nil
}

func (p *jsonPrinter) row(values []any) error {
	p.buf = append(p.buf[:0], '{')
	for i, v := range values {
		if i > 0 {
			p.buf = append(p.buf, ',')
		}
		p.buf = appendJSON(append(p.buf, p.names[i]...), v, p.columns[i].Type)
	}
	_, err := p.w.Write(append(p.buf, '}', '\n'))
	return err
}

func (p *jsonPrinter) end() error { return nil }

// csvPrinter writes RFC 4180. encoding/csv cannot tell null from an empty string, so an empty string is quoted here.
type csvPrinter struct {
	w       *bufio.Writer
	columns []Column
}

func (p *csvPrinter) header(columns []Column) error {
	p.columns = columns
	names := make([]string, len(columns))
	for i, c := range columns {
		names[i] = c.Name
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
		if _, err := p.w.WriteString(csvField(v, p.columns[i].Type)); err != nil {
			return err
		}
	}
	return p.w.WriteByte('\n')
}

func (p *csvPrinter) end() error { return nil }

func csvField(v any, t duckdb.TypeInfo) string {
	if v == nil {
		return ""
	}
	s := text(v, t)
	if s == "" || strings.ContainsAny(s, "\",\r\n") || strings.TrimSpace(s) != s {
		return `"` + strings.ReplaceAll(s, `"`, `""`) + `"`
	}
	return s
}

// tablePrinter aligns columns. It holds the first rows to find the widths and prints later ones by them.
type tablePrinter struct {
	w       *bufio.Writer
	columns []Column
	names   []string
	rows    [][]string
	widths  []int
	count   int
}

// tableRows are held to find the widths.
const tableRows = 1000

func (p *tablePrinter) header(columns []Column) error {
	p.columns = columns
	for _, c := range columns {
		p.names = append(p.names, visible(c.Name))
	}
	return nil
}

func (p *tablePrinter) row(values []any) error {
	cells := make([]string, len(values))
	for i, v := range values {
		cells[i] = cell(v, p.columns[i].Type)
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

func cell(v any, t duckdb.TypeInfo) string {
	if v == nil {
		return "NULL"
	}
	return visible(text(v, t))
}

// visible escapes what would change the terminal or the order of what it shows.
func visible(s string) string {
	if strings.IndexFunc(s, hidden) < 0 {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		if hidden(r) {
			b.WriteString(strings.Trim(strconv.QuoteRuneToASCII(r), "'"))
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}

// hidden is a control character, C1's included, or one that ends a line or turns the direction of text.
func hidden(r rune) bool {
	return unicode.IsControl(r) || r >= 0x2028 && r <= 0x202e || r >= 0x2066 && r <= 0x2069
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

// planPrinter writes EXPLAIN's text as it is drawn.
type planPrinter struct{ w *bufio.Writer }

func (p planPrinter) header([]Column) error { return nil }

func (p planPrinter) row(values []any) error {
	for line := range strings.Lines(text(values[len(values)-1], nil)) {
		if _, err := p.w.WriteString(visible(strings.TrimRight(line, "\n")) + "\n"); err != nil {
			return err
		}
	}
	return nil
}

func (p planPrinter) end() error { return nil }
