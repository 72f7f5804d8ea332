package lakesql

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math"
	"math/big"
	"strconv"
	"strings"
	"time"

	"github.com/duckdb/duckdb-go/v2"
	"github.com/google/uuid"
)

// Column is a column of an answer. The driver gives a date, a time of day and a timestamp as the same Go type, and a
// UUID as bytes: the type tells them apart, within lists and structs too.
type Column struct {
	Name string
	SQL  string          // the type as DuckDB writes it
	Type duckdb.TypeInfo // nil for EXPLAIN's text
}

// text writes a value for table and CSV, as DuckDB's own shell does, but for nested values, which are JSON, and blobs,
// which are base64.
func text(v any, t duckdb.TypeInfo) string {
	if v == nil {
		return ""
	}
	if s, _, ok := scalar(v, t); ok {
		return s
	}
	if u, ok := v.(duckdb.Union); ok {
		return text(u.Value, member(t, u.Tag))
	}
	return string(appendJSON(nil, v, t))
}

// appendJSON writes a value as JSON. Numbers stay exact, however many digits they have; NaN and infinities, which JSON
// has not, become strings.
func appendJSON(dst []byte, v any, t duckdb.TypeInfo) []byte {
	if v == nil {
		return append(dst, "null"...)
	}
	if s, bare, ok := scalar(v, t); bare {
		return append(dst, s...)
	} else if ok {
		return quoted(dst, s)
	}
	switch v := v.(type) {
	case []any:
		return appendList(dst, v, child(t))
	case map[string]any:
		if d, ok := details(t).(*duckdb.StructDetails); ok {
			return appendStruct(dst, v, d)
		}
		return plainJSON(dst, v) // out of a column of JSON
	case duckdb.OrderedMap:
		return appendMap(dst, v, t)
	case duckdb.Union:
		return appendJSON(dst, v.Value, member(t, v.Tag))
	default:
		return quoted(dst, fmt.Sprint(v))
	}
}

func details(t duckdb.TypeInfo) duckdb.TypeDetails {
	if t == nil {
		return nil
	}
	return t.Details()
}

func kindOf(t duckdb.TypeInfo) duckdb.Type {
	if t == nil {
		return duckdb.TYPE_INVALID
	}
	return t.InternalType()
}

func child(t duckdb.TypeInfo) duckdb.TypeInfo {
	switch d := details(t).(type) {
	case *duckdb.ListDetails:
		return d.Child
	case *duckdb.ArrayDetails:
		return d.Child
	default:
		return nil
	}
}

func member(t duckdb.TypeInfo, tag string) duckdb.TypeInfo {
	if d, ok := details(t).(*duckdb.UnionDetails); ok {
		for _, m := range d.Members {
			if m.Name == tag {
				return m.Type
			}
		}
	}
	return nil
}

func appendList(dst []byte, list []any, t duckdb.TypeInfo) []byte {
	dst = append(dst, '[')
	for i, v := range list {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendJSON(dst, v, t)
	}
	return append(dst, ']')
}

func appendStruct(dst []byte, m map[string]any, d *duckdb.StructDetails) []byte {
	dst = append(dst, '{')
	for i, e := range d.Entries {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(quoted(dst, e.Name()), ':')
		dst = appendJSON(dst, m[e.Name()], e.Info())
	}
	return append(dst, '}')
}

func appendMap(dst []byte, m duckdb.OrderedMap, t duckdb.TypeInfo) []byte {
	var key, value duckdb.TypeInfo
	if d, ok := details(t).(*duckdb.MapDetails); ok {
		key, value = d.Key, d.Value
	}
	dst = append(dst, '{')
	values := m.Values()
	for i, k := range m.Keys() {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(quoted(dst, text(k, key)), ':')
		dst = appendJSON(dst, values[i], value)
	}
	return append(dst, '}')
}

// scalar writes a value that holds no others. Bare says that JSON takes the text without quotes.
func scalar(v any, t duckdb.TypeInfo) (s string, bare, ok bool) {
	switch v := v.(type) {
	case string:
		return v, false, true
	case bool:
		return strconv.FormatBool(v), true, true
	case int8, int16, int32, int64, int, uint8, uint16, uint32, uint64, uint:
		return fmt.Sprint(v), true, true
	case *big.Int:
		return v.String(), true, true
	case duckdb.Decimal:
		return decimal(v), true, true
	case float64:
		s, bare = float(v, 64)
		return s, bare, true
	case float32:
		s, bare = float(float64(v), 32)
		return s, bare, true
	case time.Time:
		return moment(v, kindOf(t)), false, true
	case duckdb.Interval:
		return interval(v), false, true
	case []byte:
		if id, err := uuid.FromBytes(v); err == nil && kindOf(t) == duckdb.TYPE_UUID {
			return id.String(), false, true
		}
		return base64.StdEncoding.EncodeToString(v), false, true
	default:
		return "", false, false
	}
}

// float has an exponent where DuckDB has one.
func float(f float64, bits int) (s string, bare bool) {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return strconv.FormatFloat(f, 'g', -1, bits), false
	}
	format := byte('f')
	if a := math.Abs(f); a != 0 && (a < 1e-4 || a >= 1e16) {
		format = 'e'
	}
	return strconv.FormatFloat(f, format, -1, bits), true
}

// decimal keeps the zeros at the end: they are the column's.
func decimal(d duckdb.Decimal) string {
	digits := new(big.Int).Abs(d.Value).String()
	if scale := int(d.Scale); scale > 0 {
		if missing := scale + 1 - len(digits); missing > 0 {
			digits = strings.Repeat("0", missing) + digits
		}
		digits = digits[:len(digits)-scale] + "." + digits[len(digits)-scale:]
	}
	if d.Value.Sign() < 0 {
		return "-" + digits
	}
	return digits
}

// moment writes a point in time as our API does, and what has no zone as DuckDB does.
func moment(v time.Time, kind duckdb.Type) string {
	switch kind {
	case duckdb.TYPE_DATE:
		return day(v)
	case duckdb.TYPE_TIME:
		return v.Format("15:04:05.999999")
	case duckdb.TYPE_TIME_TZ:
		return v.Format("15:04:05.999999") + strings.TrimSuffix(v.Format("-07:00"), ":00")
	}
	switch v.UnixMicro() {
	case math.MaxInt64:
		return "infinity"
	case -math.MaxInt64:
		return "-infinity"
	}
	switch kind {
	case duckdb.TYPE_TIMESTAMP, duckdb.TYPE_TIMESTAMP_S, duckdb.TYPE_TIMESTAMP_MS, duckdb.TYPE_TIMESTAMP_NS:
		return day(v) + v.Format(" 15:04:05.999999999")
	default:
		return v.UTC().Format("2006-01-02T15:04:05.000000Z")
	}
}

func day(v time.Time) string {
	if year := v.Year(); year <= 0 {
		return fmt.Sprintf("%04d-%02d-%02d (BC)", 1-year, v.Month(), v.Day())
	}
	return v.Format(time.DateOnly)
}

// interval writes the parts that are not zero.
func interval(v duckdb.Interval) string {
	var parts []string
	add := func(n int32, unit string) {
		switch n {
		case 0:
		case 1, -1:
			parts = append(parts, fmt.Sprintf("%d %s", n, unit))
		default:
			parts = append(parts, fmt.Sprintf("%d %ss", n, unit))
		}
	}
	add(v.Months/12, "year")
	add(v.Months%12, "month")
	add(v.Days, "day")
	if v.Micros != 0 || len(parts) == 0 {
		sign, micros := "", uint64(v.Micros) //nolint:gosec // the smallest int64 has no counterpart above zero
		if v.Micros < 0 {
			sign, micros = "-", -micros
		}
		const second = 1e6
		s := fmt.Sprintf("%s%02d:%02d:%02d", sign, micros/(3600*second), micros/(60*second)%60, micros/second%60)
		if rest := micros % second; rest != 0 {
			s += strings.TrimRight(fmt.Sprintf(".%06d", rest), "0")
		}
		parts = append(parts, s)
	}
	return strings.Join(parts, " ")
}

// quoted writes a JSON string, whose < > & stay what they are: this is no HTML.
func quoted(dst []byte, s string) []byte { return plainJSON(dst, s) }

func plainJSON(dst []byte, v any) []byte {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return plainJSON(dst, fmt.Sprint(v))
	}
	return append(dst, bytes.TrimSuffix(buf.Bytes(), []byte("\n"))...)
}
