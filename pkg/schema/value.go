package schema

import (
	"bytes"
	"encoding/json"
	"math"
	"strconv"
	"strings"
)

// String gives the kind's name as it is written in errors.
func (k Kind) String() string {
	switch k {
	case Bool:
		return "boolean"
	case Int:
		return "int"
	case Long:
		return "long"
	case Float:
		return "float"
	case Double:
		return "double"
	case String:
		return "string"
	case Bytes:
		return "bytes"
	case UUID:
		return "uuid"
	case Timestamp:
		return "timestamp"
	case Map:
		return "map"
	}
	return "kind " + strconv.Itoa(int(k))
}

// value reads a field's default and checks that it is of the field's kind.
func (p *problems) value(where string, f Field, raw json.RawMessage) any {
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber() // a float64 would not hold every long
	var v any
	if err := dec.Decode(&v); err != nil {
		p.add(where, "%v", err)
		return nil
	}
	if f.Nullable {
		// Avro takes a union's default from its first branch, which is null here.
		if v != nil {
			p.add(where, "must be null, the first branch of the union, not %s", brief(raw))
		}
		return nil
	}
	if !defaultFits(f.Kind, v) {
		p.add(where, "must be of type %s, not %s", f.Kind, brief(raw))
		return nil
	}
	return v
}

func defaultFits(k Kind, v any) bool {
	switch k {
	case Bool:
		_, ok := v.(bool)
		return ok
	case Int:
		return wholeNumber(v, 32)
	case Long, Timestamp:
		return wholeNumber(v, 64)
	case Float, Double:
		n, ok := v.(json.Number)
		if !ok {
			return false
		}
		x, err := n.Float64()
		return err == nil && (k == Double || math.Abs(x) <= math.MaxFloat32)
	case String:
		_, ok := v.(string)
		return ok
	case Bytes: // a code point per byte
		s, ok := v.(string)
		return ok && !strings.ContainsFunc(s, func(r rune) bool { return r > 0xff })
	case UUID:
		s, ok := v.(string)
		return ok && isUUID(s)
	case Map:
		m, ok := v.(map[string]any)
		for _, val := range m {
			if _, isText := val.(string); !isText {
				return false
			}
		}
		return ok
	}
	return false
}

func wholeNumber(v any, bits int) bool {
	n, ok := v.(json.Number)
	if !ok {
		return false
	}
	_, err := strconv.ParseInt(n.String(), 10, bits)
	return err == nil
}

// isUUID tells the text form: 36 characters, lower case.
func isUUID(s string) bool {
	if len(s) != 36 {
		return false
	}
	for i := range len(s) {
		c := s[i]
		switch i {
		case 8, 13, 18, 23:
			if c != '-' {
				return false
			}
		default:
			if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
				return false
			}
		}
	}
	return true
}

// toJSON is for values made here of maps, slices and strings, which always marshal.
func toJSON(v any) []byte {
	data, err := json.Marshal(v)
	if err != nil {
		return nil
	}
	return data
}
