package codec

import (
	"encoding/base64"
	"math"
	"strconv"
	"time"

	"github.com/millrace/millrace/pkg/schema"
)

// AppendJSON appends r as a JSON object, its fields in the type's order: nulls are left out, times are RFC 3339 in UTC
// with six digits, maps are objects, bytes are base64, integers exact digits, doubles the shortest digits that read
// back the same. JSON has no word for a double that is not a number or infinite: they become the strings "NaN",
// "Infinity" and "-Infinity". A time outside the years 0 to 9999 is its microseconds, as a number.
func AppendJSON(dst []byte, r *Record) []byte {
	dst = append(dst, '{')
	first := true
	for i := range r.Values {
		v := &r.Values[i]
		if v.IsNull() {
			continue
		}
		if !first {
			dst = append(dst, ',')
		}
		first = false
		f := &r.Type.Fields[i]
		dst = append(append(append(dst, '"'), f.Name...), '"', ':') // Avro's names need no escape
		dst = appendJSONValue(dst, f.Kind, v)
	}
	return append(dst, '}')
}

func appendJSONValue(dst []byte, kind schema.Kind, v *Value) []byte {
	switch kind {
	case schema.Bool:
		return strconv.AppendBool(dst, v.Bool())
	case schema.Int, schema.Long:
		return strconv.AppendInt(dst, v.Long(), 10)
	case schema.Float:
		return appendJSONFloat(dst, v.Double(), 32)
	case schema.Double:
		return appendJSONFloat(dst, v.Double(), 64)
	case schema.Timestamp:
		return appendJSONTime(dst, v.Long())
	case schema.Bytes:
		dst = base64.StdEncoding.AppendEncode(append(dst, '"'), v.Bytes())
		return append(dst, '"')
	case schema.Map:
		dst = append(dst, '{')
		first := true
		walkMap(v.Bytes(), func(k, e []byte) bool {
			if !first {
				dst = append(dst, ',')
			}
			first = false
			dst = append(appendJSONString(dst, k), ':')
			dst = appendJSONString(dst, e)
			return true
		})
		return append(dst, '}')
	default:
		return appendJSONString(dst, v.Bytes())
	}
}

func appendJSONFloat(dst []byte, f float64, bits int) []byte {
	switch {
	case math.IsNaN(f):
		return append(dst, `"NaN"`...)
	case math.IsInf(f, 1):
		return append(dst, `"Infinity"`...)
	case math.IsInf(f, -1):
		return append(dst, `"-Infinity"`...)
	}
	format := byte('f')
	if abs := math.Abs(f); abs != 0 && (abs < 1e-6 || abs >= 1e21) {
		format = 'e'
	}
	return strconv.AppendFloat(dst, f, format, -1, bits)
}

// appendJSONTime writes "2006-01-02T15:04:05.000000Z" without a layout, which costs more than the rest of a record.
func appendJSONTime(dst []byte, micros int64) []byte {
	t := time.UnixMicro(micros).UTC()
	year, month, day := t.Date()
	if year < 0 || year > 9999 {
		return strconv.AppendInt(dst, micros, 10)
	}
	hour, minute, second := t.Clock()
	dst = appendDigits(append(dst, '"'), year, 4)
	dst = appendDigits(append(dst, '-'), int(month), 2)
	dst = appendDigits(append(dst, '-'), day, 2)
	dst = appendDigits(append(dst, 'T'), hour, 2)
	dst = appendDigits(append(dst, ':'), minute, 2)
	dst = appendDigits(append(dst, ':'), second, 2)
	dst = appendDigits(append(dst, '.'), t.Nanosecond()/1000, 6)
	return append(dst, 'Z', '"')
}

func appendDigits(dst []byte, n, width int) []byte {
	for range width {
		dst = append(dst, '0')
	}
	for i := len(dst) - 1; n > 0; i-- {
		dst[i] = byte('0' + n%10)
		n /= 10
	}
	return dst
}

const hexDigits = "0123456789abcdef"

// appendJSONString writes a string that is UTF-8.
func appendJSONString(dst, s []byte) []byte {
	dst = append(dst, '"')
	start := 0
	for i, c := range s {
		if c >= 0x20 && c != '"' && c != '\\' {
			continue
		}
		dst = append(dst, s[start:i]...)
		start = i + 1
		switch c {
		case '"', '\\':
			dst = append(dst, '\\', c)
		case '\n':
			dst = append(dst, '\\', 'n')
		case '\r':
			dst = append(dst, '\\', 'r')
		case '\t':
			dst = append(dst, '\\', 't')
		default:
			dst = append(dst, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&0xf])
		}
	}
	return append(append(dst, s[start:]...), '"')
}
