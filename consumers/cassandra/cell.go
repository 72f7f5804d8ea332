package cassandra

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math"

	"github.com/gocql/gocql"

	"github.com/millrace/millrace/pkg/codec"
	"github.com/millrace/millrace/pkg/schema"
)

// A cell takes one value from gocql without a detour through Go's own types: no map, no string, no time. The column's
// type comes from the prepared statement, so a table that differs from the schema is an error here and not a changed
// value.
type cell struct {
	value codec.Value
	kind  schema.Kind
}

var _ gocql.Unmarshaler = (*cell)(nil)

// appendCell adds a value that is not null in the wire form of its column.
func appendCell(dst []byte, kind schema.Kind, v *codec.Value) ([]byte, error) {
	switch kind {
	case schema.Bool:
		if v.Bool() {
			return append(dst, 1), nil
		}
		return append(dst, 0), nil
	case schema.Int:
		return binary.BigEndian.AppendUint32(dst, uint32(v.Long())), nil //nolint:gosec // the kind says that it fits
	case schema.Long, schema.Timestamp:
		return binary.BigEndian.AppendUint64(dst, uint64(v.Long())), nil //nolint:gosec // the bits are kept as they are
	case schema.Float:
		return binary.BigEndian.AppendUint32(dst, math.Float32bits(float32(v.Double()))), nil
	case schema.Double:
		return binary.BigEndian.AppendUint64(dst, math.Float64bits(v.Double())), nil
	case schema.UUID:
		return appendUUID(dst, v.Bytes())
	case schema.Map:
		return appendMap(dst, v), nil
	default: // String, Bytes
		return append(dst, v.Bytes()...), nil
	}
}

// UnmarshalCQL sets the value from the wire. It copies: the frame's buffer is used again.
func (c *cell) UnmarshalCQL(info gocql.TypeInfo, data []byte) error {
	if want, ok := wireTypes[c.kind]; !ok || want != info.Type() {
		return fmt.Errorf("the column is %s, which does not hold the field's type", info)
	}
	return c.decode(info, data)
}

func (c *cell) decode(info gocql.TypeInfo, data []byte) error {
	if data == nil {
		c.value = codec.Value{}
		return nil
	}
	if n := wireSizes[c.kind]; n != 0 && n != len(data) {
		return fmt.Errorf("a value of %d bytes in a column of type %s", len(data), info)
	}
	switch c.kind {
	case schema.Bool:
		c.value = codec.BoolValue(data[0] != 0)
	case schema.Int:
		c.value = codec.LongValue(int64(int32(binary.BigEndian.Uint32(data)))) //nolint:gosec // the bits are kept as they are
	case schema.Long, schema.Timestamp:
		c.value = codec.LongValue(int64(binary.BigEndian.Uint64(data))) //nolint:gosec // the bits are kept as they are
	case schema.Float:
		c.value = codec.DoubleValue(float64(math.Float32frombits(binary.BigEndian.Uint32(data))))
	case schema.Double:
		c.value = codec.DoubleValue(math.Float64frombits(binary.BigEndian.Uint64(data)))
	case schema.UUID:
		c.value = codec.StringValue(gocql.UUID(data).String())
	case schema.Map:
		m, err := avroMap(data)
		if err != nil {
			return err
		}
		c.value = codec.BytesValue(m)
	default:
		c.value = codec.BytesValue(append([]byte{}, data...))
	}
	return nil
}

// wireTypes is the type of column that a field's kind is kept in, as schema.Type.CQL makes it.
var wireTypes = map[schema.Kind]gocql.Type{
	schema.Bool:      gocql.TypeBoolean,
	schema.Int:       gocql.TypeInt,
	schema.Long:      gocql.TypeBigInt,
	schema.Timestamp: gocql.TypeBigInt,
	schema.Float:     gocql.TypeFloat,
	schema.Double:    gocql.TypeDouble,
	schema.String:    gocql.TypeVarchar,
	schema.Bytes:     gocql.TypeBlob,
	schema.UUID:      gocql.TypeUUID,
	schema.Map:       gocql.TypeMap,
}

var wireSizes = map[schema.Kind]int{
	schema.Bool: 1, schema.Int: 4, schema.Long: 8, schema.Timestamp: 8, schema.Float: 4, schema.Double: 8, schema.UUID: 16,
}

// appendUUID reads the 36-character form.
func appendUUID(dst, text []byte) ([]byte, error) {
	if len(text) != 36 || text[8] != '-' || text[13] != '-' || text[18] != '-' || text[23] != '-' {
		return nil, errUUID
	}
	for _, part := range [...][2]int{{0, 8}, {9, 13}, {14, 18}, {19, 23}, {24, 36}} {
		var err error
		if dst, err = hex.AppendDecode(dst, text[part[0]:part[1]]); err != nil {
			return nil, errUUID
		}
	}
	return dst, nil
}

var errUUID = errors.New("not a UUID in its 36-character form")

// appendMap gives a map of texts as protocol 4 has it: a count, then keys and values with their lengths in four bytes.
// No key comes twice: codec sees to it.
func appendMap(dst []byte, v *codec.Value) []byte {
	at := len(dst)
	dst = append(dst, 0, 0, 0, 0)
	n := uint32(0)
	for key, val := range v.Pairs() {
		dst = binary.BigEndian.AppendUint32(dst, uint32(len(key))) //nolint:gosec // bounded by the record's size
		dst = append(dst, key...)
		dst = binary.BigEndian.AppendUint32(dst, uint32(len(val))) //nolint:gosec // bounded by the record's size
		dst = append(dst, val...)
		n++
	}
	binary.BigEndian.PutUint32(dst[at:], n)
	return dst
}

var errMap = errors.New("a map that does not end where it says")

// avroMap turns a map from Cassandra's form into Avro's, which is what a codec.Value keeps.
func avroMap(data []byte) ([]byte, error) {
	take := func() ([]byte, bool) {
		if len(data) < 4 {
			return nil, false
		}
		n := int(int32(binary.BigEndian.Uint32(data))) //nolint:gosec // as the protocol has it
		if n < 0 || len(data)-4 < n {
			return nil, false
		}
		b := data[4 : 4+n]
		data = data[4+n:]
		return b, true
	}
	if len(data) < 4 {
		return nil, errMap
	}
	n := int(int32(binary.BigEndian.Uint32(data))) //nolint:gosec // as the protocol has it
	data = data[4:]
	if n < 0 {
		return nil, errMap
	}
	out := make([]byte, 0, len(data)+4)
	if n > 0 {
		out = binary.AppendVarint(out, int64(n))
	}
	for range 2 * n {
		b, ok := take()
		if !ok {
			return nil, errMap
		}
		out = binary.AppendVarint(out, int64(len(b)))
		out = append(out, b...)
	}
	return append(out, 0), nil
}
