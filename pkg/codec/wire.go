package codec

import (
	"encoding/binary"
	"errors"
	"math"
	"unicode/utf8"
)

// What a record's bytes can have wrong. They are wrapped with the field's name.
var (
	errTruncated = errors.New("the record ends inside of it")
	errVarint    = errors.New("number of more than 64 bits")
	errInt       = errors.New("int of more than 32 bits")
	errBool      = errors.New("boolean that is neither 0 nor 1")
	errLength    = errors.New("length is negative or past the record's end")
	errUTF8      = errors.New("string is not UTF-8")
	errUUID      = errors.New("not a UUID in its 36-character form")
	errBranch    = errors.New("union branch that the schema does not have")
	errMapCount  = errors.New("map or array says that it has more entries than fit in the record")
	errMapSize   = errors.New("block's size in bytes is not what its entries take")
	errMapKey    = errors.New("map has the same key twice")
	errDepth     = errors.New("nested too deeply")
	errTrailing  = errors.New("bytes after the record's last field")
)

// long reads a zig-zag varint at b[pos:]. It gives a negative position where there is none: failed says why.
func long(b []byte, pos int) (int64, int) {
	if pos < len(b) && b[pos] < 0x80 {
		u := int64(b[pos])
		return u>>1 ^ -(u & 1), pos + 1
	}
	return longSlow(b, pos)
}

// The negative positions.
const (
	posTruncated = -1
	posVarint    = -2
)

func longSlow(b []byte, pos int) (int64, int) {
	if pos >= len(b) {
		return 0, posTruncated
	}
	u, n := binary.Uvarint(b[pos:])
	switch {
	case n > 0:
		return int64(u>>1) ^ -int64(u&1), pos + n
	case n == 0:
		return 0, posTruncated
	default:
		return 0, posVarint
	}
}

func failed(pos int) error {
	if pos == posTruncated {
		return errTruncated
	}
	return errVarint
}

// span reads a length and gives where that many bytes start and end.
func span(b []byte, pos int) (start, end int, err error) {
	n, p := long(b, pos)
	if p < 0 {
		return 0, 0, failed(p)
	}
	if n < 0 || n > int64(len(b)-p) {
		return 0, 0, errLength
	}
	return p, p + int(n), nil
}

// text is span for a string: it is UTF-8.
func text(b []byte, pos int) (start, end int, err error) {
	start, end, err = span(b, pos)
	if err == nil && !utf8.Valid(b[start:end]) {
		err = errUTF8
	}
	return start, end, err
}

func float(b []byte, pos int) (float64, int, error) {
	if len(b)-pos < 4 {
		return 0, 0, errTruncated
	}
	return float64(math.Float32frombits(binary.LittleEndian.Uint32(b[pos:]))), pos + 4, nil
}

func double(b []byte, pos int) (float64, int, error) {
	if len(b)-pos < 8 {
		return 0, 0, errTruncated
	}
	return math.Float64frombits(binary.LittleEndian.Uint64(b[pos:])), pos + 8, nil
}

func appendLong(dst []byte, n int64) []byte {
	return binary.AppendUvarint(dst, uint64(n)<<1^uint64(n>>63)) //nolint:gosec // zig-zag
}

func appendBytes(dst, b []byte) []byte {
	return append(appendLong(dst, int64(len(b))), b...)
}
