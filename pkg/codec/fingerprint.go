package codec

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"math"
	"slices"
	"strconv"

	"github.com/millrace/millrace/pkg/schema"
)

// Fingerprint hashes all fields of a record, so that what arrived can be proved to be what was sent, by a program in
// any language. It is the first 16 bytes, as 32 hexadecimal digits, of the SHA-256 of this text:
//
// for each field that is not null, in the byte order of their names: name, '=', value, newline, where value is
//
//	boolean          t or f
//	int, long        decimal digits, with '-' where negative
//	timestamp        its microseconds since 1970, as a long
//	float, double    the 16 lower-case hexadecimal digits of the double's IEEE 754 bits (a float is widened;
//	                 every NaN is 7ff8000000000000)
//	string, uuid     length in bytes of its UTF-8, ':', the bytes
//	bytes            length, ':', the bytes
//	map              for each entry, in the byte order of the keys: key as a string, '>', value as a string
//
// Entries of maps under the key skipAttribute are left out: a record can so carry its own fingerprint.
func Fingerprint(t *schema.Type, values []Value, skipAttribute string) string {
	sum := sha256.Sum256(canonical(t, values, skipAttribute))
	return hex.EncodeToString(sum[:16])
}

func canonical(t *schema.Type, values []Value, skipAttribute string) []byte {
	order := make([]int, len(t.Fields))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int { return cmp.Compare(t.Fields[a].Name, t.Fields[b].Name) })
	buf := make([]byte, 0, 512)
	for _, i := range order {
		if i < len(values) && !values[i].IsNull() {
			buf = append(append(buf, t.Fields[i].Name...), '=')
			buf = append(appendCanonical(buf, t.Fields[i].Kind, &values[i], skipAttribute), '\n')
		}
	}
	return buf
}

func appendCanonical(dst []byte, kind schema.Kind, v *Value, skip string) []byte {
	switch kind {
	case schema.Bool:
		if v.Bool() {
			return append(dst, 't')
		}
		return append(dst, 'f')
	case schema.Int, schema.Long, schema.Timestamp:
		return strconv.AppendInt(dst, v.Long(), 10)
	case schema.Float, schema.Double:
		f := v.Double()
		if kind == schema.Float {
			f = float64(float32(f))
		}
		bits := math.Float64bits(f)
		if math.IsNaN(f) {
			bits = 0x7ff8000000000000
		}
		for shift := 60; shift >= 0; shift -= 4 {
			dst = append(dst, hexDigits[bits>>shift&0xf])
		}
		return dst
	case schema.Map:
		type pair struct{ k, v string }
		var pairs []pair
		walkMap(v.Bytes(), func(k, e []byte) bool {
			if string(k) != skip || skip == "" {
				pairs = append(pairs, pair{string(k), string(e)})
			}
			return true
		})
		slices.SortFunc(pairs, func(a, b pair) int { return cmp.Compare(a.k, b.k) })
		for _, p := range pairs {
			dst = append(appendCounted(dst, p.k), '>')
			dst = appendCounted(dst, p.v)
		}
		return dst
	default:
		return appendCounted(dst, v.Bytes())
	}
}

func appendCounted[T string | []byte](dst []byte, s T) []byte {
	dst = append(strconv.AppendInt(dst, int64(len(s)), 10), ':')
	return append(dst, s...)
}
