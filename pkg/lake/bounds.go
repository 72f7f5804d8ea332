package lake

import (
	"bytes"
	"encoding/binary"
	"math"
	"unicode/utf8"

	"github.com/millrace/millrace/pkg/schema"
)

// less compares two values in Iceberg's binary form.
func less(a, b []byte, kind schema.Kind) bool {
	switch kind {
	case schema.Bool:
		return a[0] < b[0]
	case schema.Int:
		return int32(binary.LittleEndian.Uint32(a)) < int32(binary.LittleEndian.Uint32(b)) //nolint:gosec // the bits as they are
	case schema.Long, schema.Timestamp:
		return int64(binary.LittleEndian.Uint64(a)) < int64(binary.LittleEndian.Uint64(b)) //nolint:gosec // the bits as they are
	case schema.Float:
		return math.Float32frombits(binary.LittleEndian.Uint32(a)) < math.Float32frombits(binary.LittleEndian.Uint32(b))
	case schema.Double:
		return math.Float64frombits(binary.LittleEndian.Uint64(a)) < math.Float64frombits(binary.LittleEndian.Uint64(b))
	default:
		return bytes.Compare(a, b) < 0
	}
}

// cut gives at most boundBytes of b, never half of a character.
func cut(b []byte, kind schema.Kind) []byte {
	n := boundBytes
	if kind == schema.String {
		for n > 0 && !utf8.RuneStart(b[n]) {
			n--
		}
	}
	return b[:n:n]
}

// truncateLower shortens a lower bound: a prefix is never greater than the whole.
func truncateLower(b []byte, kind schema.Kind) []byte {
	if len(b) <= boundBytes {
		return b
	}
	return cut(b, kind)
}

// truncateUpper shortens an upper bound to a prefix and raises its last character, so that it stays above the whole.
// Where no character can be raised there is no short upper bound, and nil says so.
func truncateUpper(b []byte, kind schema.Kind) []byte {
	if len(b) <= boundBytes {
		return b
	}
	b = cut(b, kind)
	if kind != schema.String {
		for i := len(b) - 1; i >= 0; i-- {
			if b[i] < math.MaxUint8 {
				b[i]++
				return b[:i+1]
			}
		}
		return nil
	}
	for len(b) > 0 {
		r, size := utf8.DecodeLastRune(b)
		b = b[:len(b)-size]
		if next, ok := following(r, size); ok {
			return utf8.AppendRune(b, next)
		}
	}
	return nil
}

// following gives the next valid character; not for bytes that are no character.
func following(r rune, size int) (rune, bool) {
	switch {
	case r == utf8.RuneError && size <= 1, r == utf8.MaxRune:
		return 0, false
	case r == 0xD7FF: // the last before the surrogates
		return 0xE000, true
	default:
		return r + 1, true
	}
}
