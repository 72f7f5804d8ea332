package codec

import (
	"fmt"
	"reflect"
	"strings"
	"time"

	"github.com/twmb/avro"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/pkg/schema"
)

// structEncoder takes one Go struct type. Its values are encoded by twmb/avro with a schema of only the fields that
// the struct has, and read back by position as any record is: that fills defaults, so that a type can get a field
// without its senders being compiled again, and puts a struct through the same checks as everything else.
type structEncoder struct {
	schema  *avro.Schema
	program *program
	err     error
}

// zeroTime is time.Time{} in microseconds since 1970.
var zeroTime = time.Time{}.UnixMicro()

// EncodeStruct is Encode for a struct (or a pointer to one) whose fields have avro tags with the names of the type's
// fields; nullable ones are pointers. Fields that the struct does not have take their defaults. An empty id and a zero
// time are missing ones.
func (e *Encoder) EncodeStruct(v any) (*kgo.Record, error) {
	s := e.structFor(reflect.TypeOf(v))
	if s.err != nil {
		return nil, &FieldError{Msg: fmt.Sprintf("%T does not fit the type %s: %v", v, e.typ.Name, s.err)}
	}
	if rv := reflect.ValueOf(v); rv.Kind() == reflect.Pointer && rv.IsNil() {
		return nil, &FieldError{Msg: fmt.Sprintf("%T is nil", v)}
	}
	b, err := s.schema.Encode(v)
	if err != nil {
		return nil, &FieldError{Msg: fmt.Sprintf("%T does not fit the type %s: %v", v, e.typ.Name, err)}
	}
	values := make([]Value, len(e.typ.Fields))
	var check mapCheck
	if err := s.program.run(b, values, &check); err != nil {
		return nil, &FieldError{Msg: err.Error()}
	}
	if len(values[schema.ID].Bytes()) == 0 {
		values[schema.ID] = Value{}
	}
	if at := values[schema.Time].Long(); at == 0 || at == zeroTime {
		values[schema.Time] = Value{}
	}
	return e.Encode(values)
}

// CheckStruct says whether EncodeStruct can take values of that type.
func (e *Encoder) CheckStruct(t reflect.Type) error { return e.structFor(t).err }

func (e *Encoder) structFor(t reflect.Type) *structEncoder {
	if s, ok := e.structs.Load(t); ok {
		return s.(*structEncoder) // nothing else is stored
	}
	s, err := newStructEncoder(e.typ, t)
	if err != nil {
		s = &structEncoder{err: err}
	}
	e.structs.Store(t, s)
	return s
}

func newStructEncoder(typ *schema.Type, t reflect.Type) (*structEncoder, error) {
	for t != nil && t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t == nil || t.Kind() != reflect.Struct {
		return nil, fmt.Errorf("%v is not a struct", t)
	}
	names := map[string]bool{}
	if err := avroNames(t, names); err != nil {
		return nil, err
	}
	root := typ.Avro.Root()
	root.Fields[schema.ID].Type = avro.SchemaNode{Type: "string"} // may be empty
	all := root.Fields
	root.Fields = nil
	for i := range all {
		if names[all[i].Name] {
			root.Fields = append(root.Fields, all[i])
			delete(names, all[i].Name)
		}
	}
	for name := range names {
		return nil, fmt.Errorf("its field %q is not one of the type's", name)
	}
	s, err := root.Schema()
	if err != nil {
		return nil, fmt.Errorf("making a schema for the struct: %w", err)
	}
	p, err := compileFields(s.Root(), typ)
	if err != nil {
		return nil, err
	}
	for i := range p.ops {
		if p.ops[i].dst == schema.ID {
			p.ops[i].code = opString // it may be empty, and Encode checks it
		}
	}
	for _, d := range p.defaults {
		if f := &typ.Fields[d.dst]; d.dst > schema.Time && !f.HasDefault {
			return nil, fmt.Errorf("it has no field %q, which the type demands", f.Name)
		}
	}
	return &structEncoder{schema: s, program: p}, nil
}

// avroNames collects the names by which twmb/avro knows a struct's fields.
func avroNames(t reflect.Type, names map[string]bool) error {
	for f := range t.Fields() {
		name, opts, _ := strings.Cut(f.Tag.Get("avro"), ",")
		inner := f.Type
		if inner.Kind() == reflect.Pointer {
			inner = inner.Elem()
		}
		inline := f.Anonymous && name == "" || strings.HasPrefix(opts, "inline")
		switch {
		case name == "-":
		case inline && inner.Kind() == reflect.Struct:
			if err := avroNames(inner, names); err != nil {
				return err
			}
		case !f.IsExported():
		default:
			if name == "" {
				name = f.Name
			}
			if names[name] {
				return fmt.Errorf("its field %q is there twice", name)
			}
			names[name] = true
		}
	}
	return nil
}
