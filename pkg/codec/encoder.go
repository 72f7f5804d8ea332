package codec

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strconv"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/pkg/event"
	"github.com/millrace/millrace/pkg/schema"
)

// FieldError says what is wrong with a record that was to be encoded, and in which field.
type FieldError struct {
	Field string // empty where the record as a whole is wrong
	Msg   string
}

func (e *FieldError) Error() string {
	if e.Field == "" {
		return e.Msg
	}
	return fmt.Sprintf("field %q %s", e.Field, e.Msg)
}

// Encoder encodes records of one version of a type. It is safe for concurrent use.
type Encoder struct {
	typ      *schema.Type
	id       int
	topic    string
	fields   []encField
	defaults []Value
	structs  sync.Map // of *structEncoder by reflect.Type

	codec *Codec // nil in an encoder that cannot refresh
	entry *entry
	state sync.Pool // of *jsonState
}

// encField is how a field is written.
type encField struct {
	kind     schema.Kind
	nullable bool
	null     byte // the union branch that is null, as it is on the wire
	value    byte // the other one
}

// newEncoder makes an encoder for a schema that the registry knows by id.
func newEncoder(typ *schema.Type, id int) (*Encoder, error) {
	defaults, err := defaultValues(typ)
	if err != nil {
		return nil, err
	}
	e := &Encoder{typ: typ, id: id, topic: typ.TopicName(), defaults: defaults}
	root := typ.Avro.Root()
	for i, f := range typ.Fields {
		ef := encField{kind: f.Kind, nullable: f.Nullable}
		if n := &root.Fields[i].Type; n.Type == "union" {
			if len(n.Branches) != 2 {
				return nil, fmt.Errorf("field %s: union of %d types", f.Name, len(n.Branches))
			}
			if n.Branches[0].Type == "null" {
				ef.value = 2 // zig-zag of 1
			} else {
				ef.null = 2
			}
		}
		e.fields = append(e.fields, ef)
	}
	return e, nil
}

// Type gives the version that the encoder writes: Values are by its positions.
func (e *Encoder) Type() *schema.Type { return e.typ }

// SchemaID gives the registry's id of the version.
func (e *Encoder) SchemaID() int { return e.id }

// Defaults gives a new record's values: each field's default, null where it has none. Fill in and Encode.
func (e *Encoder) Defaults() []Value { return append([]Value(nil), e.defaults...) }

// Encode makes a record for Kafka: topic, key and value in the wire format. Values are by the positions of e.Type();
// they are checked, copied and not changed. A *FieldError names the field that is wrong.
//
// Identity is fixed here, once: without id and time the event is now; a time without an id gets an id made with it; an
// id without a time takes the time inside of it, and is refused if it is not a UUIDv7. The event time is not held
// against the clock: a consumer will.
func (e *Encoder) Encode(values []Value) (*kgo.Record, error) {
	if len(values) != len(e.fields) {
		return nil, &FieldError{Msg: fmt.Sprintf("has %d values, the type %s has %d fields", len(values), e.typ.Name, len(e.fields))}
	}
	identity, err := identify(values[schema.ID], values[schema.Time], time.Now)
	if err != nil {
		return nil, err
	}
	size := headerLen
	for i := range values {
		size += len(values[i].Bytes()) + binary.MaxVarintLen64 + 1
	}
	out := make([]byte, headerLen, size+64)
	binary.BigEndian.PutUint32(out[1:], uint32(e.id)) //nolint:gosec // ids are below 2^31
	var check mapCheck
	for i, f := range e.fields {
		v := values[i]
		if i <= schema.Time {
			v = identity[i]
		}
		if out, err = f.append(out, v, &check); err != nil {
			return nil, &FieldError{Field: e.typ.Fields[i].Name, Msg: err.Error()}
		}
	}
	valueLen := len(out)
	out = e.appendKey(out, values, identity)
	return &kgo.Record{Topic: e.topic, Value: out[:valueLen:valueLen], Key: out[valueLen:]}, nil
}

// identify applies the rule of id and time.
func identify(id, at Value, now func() time.Time) ([2]Value, error) {
	if at.IsNull() {
		if id.IsNull() {
			t := now()
			return [2]Value{StringValue(event.NewID(t)), LongValue(t.UnixMicro())}, nil
		}
		t, err := event.TimeOf(id.Bytes())
		if err != nil {
			return [2]Value{}, &FieldError{Field: "id", Msg: "comes without a time and is " + err.Error() + ", which would carry one"}
		}
		return [2]Value{id, LongValue(t.UnixMicro())}, nil
	}
	if id.IsNull() {
		return [2]Value{StringValue(event.NewID(time.UnixMicro(at.Long()))), at}, nil
	}
	return [2]Value{id, at}, nil
}

var (
	errNull       = errors.New("must not be null")
	errRangeInt   = errors.New("is more than 32 bits hold")
	errRangeFloat = errors.New("is more than a float holds")
	errNotUTF8    = errors.New("is not UTF-8")
	errNotUUID    = errors.New("is not a UUID in its 36-character form")
)

func (f *encField) append(out []byte, v Value, check *mapCheck) ([]byte, error) {
	if f.nullable {
		if v.IsNull() {
			return append(out, f.null), nil
		}
		out = append(out, f.value)
	} else if v.IsNull() {
		return nil, errNull
	}
	switch f.kind {
	case schema.Bool:
		return append(out, byte(v.bits()&1)), nil
	case schema.Int:
		if v.Long() != int64(int32(v.Long())) { //nolint:gosec // the range is what is tested
			return nil, errRangeInt
		}
		return appendLong(out, v.Long()), nil
	case schema.Long, schema.Timestamp:
		return appendLong(out, v.Long()), nil
	case schema.Float:
		d := v.Double()
		if math.IsInf(float64(float32(d)), 0) && !math.IsInf(d, 0) {
			return nil, errRangeFloat
		}
		return binary.LittleEndian.AppendUint32(out, math.Float32bits(float32(d))), nil
	case schema.Double:
		return binary.LittleEndian.AppendUint64(out, v.bits()), nil
	case schema.String:
		if !utf8.Valid(v.Bytes()) {
			return nil, errNotUTF8
		}
		return appendBytes(out, v.Bytes()), nil
	case schema.UUID:
		return appendUUID(out, v.Bytes())
	case schema.Map:
		end, err := check.end(v.Bytes(), 0)
		if err == nil && end != len(v.Bytes()) {
			err = errTrailing
		}
		if err != nil {
			return nil, fmt.Errorf("is not a map: %w", err)
		}
		return append(out, v.Bytes()...), nil
	default:
		return appendBytes(out, v.Bytes()), nil
	}
}

func appendUUID(out, id []byte) ([]byte, error) {
	switch event.Check(id) {
	case event.Lower:
		return appendBytes(out, id), nil
	case event.Upper:
		var lower [event.Len]byte
		event.Canonical(&lower, id)
		return appendBytes(out, lower[:]), nil
	default:
		return nil, errNotUUID
	}
}

// appendKey joins the key's fields by '|'. A null is nothing, a number its digits. The key only says which partition.
func (e *Encoder) appendKey(out []byte, values []Value, identity [2]Value) []byte {
	for n, i := range e.typ.Topic.Key {
		if n > 0 {
			out = append(out, '|')
		}
		v := values[i]
		if i <= schema.Time {
			v = identity[i]
		}
		if v.IsNull() {
			continue
		}
		switch e.fields[i].kind {
		case schema.Bool:
			out = strconv.AppendBool(out, v.Bool())
		case schema.Int, schema.Long, schema.Timestamp:
			out = strconv.AppendInt(out, v.Long(), 10)
		case schema.Float, schema.Double:
			out = strconv.AppendFloat(out, v.Double(), 'g', -1, 64)
		default:
			out = append(out, v.Bytes()...)
		}
	}
	return out
}
