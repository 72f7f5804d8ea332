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
	Table    = "table"    // aligned, for a person; held until the widths are known
	CSV      = "csv"      // with a header; null is empty, an empty string is ""
	JSON     = "json"     // one object per line
	Document = "document" // one object, of columns, rows, whether they were cut, and what was read
)

// Query runs a statement and writes its rows. An answer that is cut says so at its end.
func (d *DB) Query(ctx context.Context, r Request, w io.Writer, format string) (Answer, error) {
	if format == Parquet {
		return d.parquet(ctx, r, w)
	}
	buf := bufio.NewWriterSize(w, 32<<10)
	var out printer
	switch format {
	case Table:
		out = &tablePrinter{w: buf}
	case CSV:
		out = &csvPrinter{w: buf}
	case JSON:
		out = &jsonPrinter{w: buf}
	case Document:
		out = &documentPrinter{jsonPrinter: jsonPrinter{w: buf}}
	default:
		return Answer{}, fmt.Errorf("writing rows: format %q is none of %s, %s, %s, %s, %s", format, Table, CSV, JSON, Document, Parquet)
	}
	if is, _ := explained(r.Statement); is && format == Table {
		out = planPrinter{w: buf}
	}
	a, err := d.Rows(ctx, r, out.header, out.row)
	if err == nil {
		err = out.end(a)
	}
	if ferr := buf.Flush(); err == nil && ferr != nil {
		err = fmt.Errorf("writing rows: %w", ferr)
	}
	return a, err
}

// cut is what a person reads where rows were left out.
func (a Answer) cut() string { return fmt.Sprintf("cut off after %d rows: there are more", a.Rows) }

type printer interface {
	header(columns []Column) error
	row(values []any) error
	end(a Answer) error
}

// documentPrinter writes one JSON object. Its rows are objects, as those of jsonPrinter.
type documentPrinter struct {
	jsonPrinter
	rows int
}

func (p *documentPrinter) header(columns []Column) error {
	type column struct {
		Name string `json:"name"`
		Type string `json:"type"`
	}
	described := make([]column, len(columns))
	for i, c := range columns {
		described[i] = column{c.Name, c.SQL}
	}
	if err := p.jsonPrinter.header(columns); err != nil {
		return err
	}
	_, err := p.w.Write(append(plainJSON([]byte(`{"columns":`), described), `,"rows":[`...))
	return err
}

func (p *documentPrinter) row(values []any) error {
	separator := ",\n"
	if p.rows++; p.rows == 1 {
		separator = "\n"
	}
	if _, err := p.w.WriteString(separator); err != nil {
		return err
	}
	_, err := p.w.Write(p.object(values))
	return err
}

func (p *documentPrinter) end(a Answer) error {
	reads := a.Reads
	if reads == nil {
		reads = []Read{}
	}
	end := fmt.Appendf(nil, "],\"truncated\":%t,\"tables\":", a.Cut)
	_, err := p.w.Write(append(plainJSON(end, reads), "}\n"...))
	return err
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

func (p *jsonPrinter) object(values []any) []byte {
	p.buf = append(p.buf[:0], '{')
	for i, v := range values {
		if i > 0 {
			p.buf = append(p.buf, ',')
		}
		p.buf = appendJSON(append(p.buf, p.names[i]...), v, p.columns[i].Type)
	}
	p.buf = append(p.buf, '}')
	return p.buf
}

func (p *jsonPrinter) row(values []any) error {
	_, err := p.w.Write(append(p.object(values), '\n'))
	return err
}

func (p *jsonPrinter) end(a Answer) error {
	if !a.Cut {
		return nil
	}
	_, err := p.w.WriteString("{\"truncated\":true}\n")
	return err
}

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

// end marks a cut in a way that a reader of several columns stumbles over.
func (p *csvPrinter) end(a Answer) error {
	if !a.Cut {
		return nil
	}
	_, err := p.w.WriteString("# " + a.cut() + "\n")
	return err
}

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

func (p *tablePrinter) end(a Answer) error {
	if p.widths == nil {
		if err := p.begin(); err != nil {
			return err
		}
	}
	unit := "rows"
	if p.count == 1 {
		unit = "row"
	}
	if a.Cut {
		_, err := fmt.Fprintf(p.w, "(%s)\n", a.cut())
		return err
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

func (p planPrinter) end(Answer) error { return nil }
