package codec

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/pkg/schema"
)

// jsonState is what reading one JSON object needs, kept between records.
type jsonState struct {
	scan   scanner
	values []Value
	seen   []bool
}

// errUnknownField is wrapped where a newer version may know the field.
var errUnknownField = errors.New("is not a field of the type")

// EncodeJSON is Encode for one JSON object, checked strictly against the schema. A *FieldError names the field.
//
// Fields are named by their names or aliases, each at most once. Numbers for int and long are whole, written in any
// way (1e3 is 1000), and never rounded; a double's are. Times are RFC 3339, of which nanoseconds are cut, or whole
// microseconds since 1970. Bytes are base64. A map's values are strings. The event time is held against the clock: the
// record would be a dead letter else.
//
// A field that the type does not have makes it ask the registry for a newer version, at most once a second, before it
// refuses.
func (e *Encoder) EncodeJSON(obj []byte) (*kgo.Record, error) { return e.EncodeJSONFor(obj, "") }

// EncodeJSONFor is EncodeJSON for a record that was sent in a tenant's name: it gets that tenant, and is refused if it
// names another one. The tenant "" leaves a record its own.
func (e *Encoder) EncodeJSONFor(obj []byte, tenant string) (*kgo.Record, error) {
	r, err := e.encodeJSON(obj, tenant)
	var fe *unknownFieldError
	if !errors.As(err, &fe) {
		return r, err
	}
	if newer := e.newer(fe.name); newer != nil {
		r, err = newer.encodeJSON(obj, tenant)
		if !errors.As(err, &fe) {
			return r, err
		}
	}
	return nil, &FieldError{Field: fe.name, Msg: errUnknownField.Error()}
}

// unknownFieldError is a FieldError in the making.
type unknownFieldError struct{ name string }

func (e *unknownFieldError) Error() string { return "unknown field " + e.name }

// newer gives the encoder of a newer version that has the field, or nil.
func (e *Encoder) newer(field string) *Encoder {
	if e.codec == nil {
		return nil
	}
	if v := e.entry.current.Load(); v.encoder != nil && v.typ.Index(field) >= 0 {
		return v.encoder
	}
	if !e.entry.asked.Allow() {
		return nil
	}
	// EncodeJSON has no context: it seldom waits, and here at most for the registry's time-out.
	if err := e.codec.refresh(context.Background(), e.entry); err != nil {
		return nil
	}
	if v := e.entry.current.Load(); v.encoder != nil && v.typ.Index(field) >= 0 {
		return v.encoder
	}
	return nil
}

func (e *Encoder) encodeJSON(obj []byte, tenant string) (*kgo.Record, error) {
	s, _ := e.state.Get().(*jsonState)
	if s == nil {
		s = &jsonState{values: make([]Value, len(e.fields)), seen: make([]bool, len(e.fields))}
	}
	defer func() {
		clear(s.values) // they hold on to obj
		s.scan.b = nil
		e.state.Put(s)
	}()
	clear(s.seen)
	s.scan = scanner{b: obj, arena: s.scan.arena[:0]}
	if err := e.readObject(s); err != nil {
		return nil, err
	}
	for i, seen := range s.seen {
		if seen {
			continue
		}
		if i > schema.Time && !e.typ.Fields[i].HasDefault {
			return nil, &FieldError{Field: e.typ.Fields[i].Name, Msg: "is missing"}
		}
		s.values[i] = e.defaults[i]
	}
	if tenant != "" {
		if own := s.values[schema.Tenant].Bytes(); s.seen[schema.Tenant] && len(own) > 0 && string(own) != tenant {
			return nil, &FieldError{Field: "tenant", Msg: fmt.Sprintf("is %.40q, but the request is in the name of %q: leave it out or send it in its own name", own, tenant)}
		}
		s.values[schema.Tenant] = StringValue(tenant)
	}
	now := time.Now()
	identity, err := identify(s.values[schema.ID], s.values[schema.Time], func() time.Time { return now })
	if err != nil {
		return nil, err
	}
	if err := checkTime(e.typ, identity[schema.Time].Long(), now, "now"); err != nil {
		return nil, &FieldError{Field: "time", Msg: "is out of range: " + err.Error()}
	}
	s.values[schema.ID], s.values[schema.Time] = identity[schema.ID], identity[schema.Time]
	return e.Encode(s.values)
}

// readObject fills s.values and s.seen.
func (e *Encoder) readObject(s *jsonState) error {
	if s.scan.peek() != '{' {
		return &FieldError{Msg: "record is not a JSON object"}
	}
	err := s.scan.object(func(name []byte) error {
		i := e.typ.Index(string(name))
		if i < 0 {
			return &unknownFieldError{name: string(name)}
		}
		f := &e.typ.Fields[i]
		if s.seen[i] {
			return &FieldError{Field: f.Name, Msg: "is there twice"}
		}
		s.seen[i] = true
		v, err := s.scan.value(f)
		if err != nil {
			if _, named := errors.AsType[*FieldError](err); named {
				return err
			}
			return &FieldError{Field: f.Name, Msg: err.Error()}
		}
		s.values[i] = v
		return nil
	})
	var fe *FieldError
	var unknown *unknownFieldError
	switch {
	case err == nil && s.scan.peek() != 0:
		return &FieldError{Msg: fmt.Sprintf("record has more after the object, at byte %d", s.scan.pos)}
	case err == nil || errors.As(err, &fe) || errors.As(err, &unknown):
		return err
	default:
		return &FieldError{Msg: "record " + err.Error()}
	}
}

// value reads one field's value.
func (s *scanner) value(f *schema.Field) (Value, error) {
	c := s.peek()
	if c == 'n' {
		if err := s.literal("null"); err != nil {
			return Value{}, err
		}
		if !f.Nullable {
			return Value{}, errNull
		}
		return Value{}, nil
	}
	switch f.Kind {
	case schema.Bool:
		return s.boolean(c)
	case schema.Int, schema.Long:
		if !isNumber(c) {
			return Value{}, s.mustBe("a whole number")
		}
		n, err := s.integer()
		if err == nil && f.Kind == schema.Int && n != int64(int32(n)) { //nolint:gosec // the range is what is tested
			err = errRangeInt
		}
		return LongValue(n), err
	case schema.Float, schema.Double:
		if !isNumber(c) {
			return Value{}, s.mustBe("a number")
		}
		bits := 64
		if f.Kind == schema.Float {
			bits = 32
		}
		d, err := s.double(bits)
		return DoubleValue(d), err
	case schema.Timestamp:
		return s.timestamp(c)
	case schema.Map:
		if c != '{' {
			return Value{}, s.mustBe("an object of strings")
		}
		return s.stringMap(f.Name)
	default:
		if c != '"' {
			return Value{}, s.mustBe("a string")
		}
		b, err := s.str()
		if err != nil || f.Kind != schema.Bytes {
			return BytesValue(b), err
		}
		return s.base64(b)
	}
}

func (s *scanner) boolean(c byte) (Value, error) {
	switch c {
	case 't':
		return BoolValue(true), s.literal("true")
	case 'f':
		return BoolValue(false), s.literal("false")
	}
	return Value{}, s.mustBe("true or false")
}

func (s *scanner) timestamp(c byte) (Value, error) {
	if isNumber(c) {
		n, err := s.integer()
		return LongValue(n), err
	}
	if c != '"' {
		return Value{}, s.mustBe("an RFC 3339 time or microseconds since 1970")
	}
	b, err := s.str()
	if err != nil {
		return Value{}, err
	}
	var t time.Time
	if err := t.UnmarshalText(b); err != nil {
		return Value{}, errors.New("is not an RFC 3339 time such as 2026-01-31T13:05:09.123456Z")
	}
	return LongValue(t.UnixMicro()), nil // rounds down, also before 1970
}

func (s *scanner) base64(b []byte) (Value, error) {
	start := len(s.arena)
	out, err := base64.StdEncoding.Strict().AppendDecode(s.arena, b)
	if err != nil {
		return Value{}, errors.New("is not base64")
	}
	s.arena = out
	return BytesValue(out[start:]), nil
}

// stringMap reads an object into Avro's encoding: its entries first, since their number comes before them.
func (s *scanner) stringMap(field string) (Value, error) {
	var entries []byte
	n := 0
	err := s.object(func(key []byte) error {
		if c := s.peek(); c != '"' {
			err := s.mustBe("a string")
			if c == 'n' && s.literal("null") == nil {
				err = errNull
			}
			return &FieldError{Field: field + "." + string(key), Msg: err.Error()}
		}
		entries = appendBytes(entries, key)
		v, err := s.str()
		if err != nil {
			return &FieldError{Field: field + "." + string(key), Msg: err.Error()}
		}
		entries = appendBytes(entries, v)
		n++
		return nil
	})
	if err != nil || n == 0 {
		return BytesValue(emptyMap[:]), err
	}
	out := make([]byte, 0, len(entries)+12)
	out = append(append(appendLong(out, int64(n)), entries...), 0)
	return BytesValue(out), nil
}

// errRange is for numbers that fit no double.
var errRange = fmt.Errorf("is out of range: a double ends at %g", math.MaxFloat64)
