package codec

import (
	"fmt"
	"time"

	"github.com/twmb/avro"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/pkg/schema"
)

// structEncoder takes Go structs with avro tags. They are encoded by twmb/avro and read back by position, so that a
// struct goes through the same checks as everything else.
type structEncoder struct {
	schema  *avro.Schema // the type's, with an id that may be empty
	program *program
}

// zeroTime is time.Time{} in microseconds since 1970.
var zeroTime = time.Time{}.UnixMicro()

func newStructEncoder(typ *schema.Type) (*structEncoder, error) {
	root := typ.Avro.Root()
	id, at := &root.Fields[schema.ID], &root.Fields[schema.Time]
	id.Type = avro.SchemaNode{Type: "string"}
	id.Default, id.HasDefault = "", true
	at.Default, at.HasDefault = int64(0), true
	s, err := root.Schema()
	if err != nil {
		return nil, fmt.Errorf("making a schema for structs: %w", err)
	}
	p, err := compile(s, typ)
	if err != nil {
		return nil, fmt.Errorf("compiling a schema for structs: %w", err)
	}
	p.ops[schema.ID].code = opString // Encode checks it
	return &structEncoder{schema: s, program: p}, nil
}

// EncodeStruct is Encode for a struct (or a pointer to one) whose fields have avro tags with the names of the type's
// fields; nullable ones are pointers, and ",omitzero" takes the default for a zero value. An empty id and a zero time
// are missing ones.
func (e *Encoder) EncodeStruct(v any) (*kgo.Record, error) {
	b, err := e.structs.schema.Encode(v)
	if err != nil {
		return nil, &FieldError{Msg: fmt.Sprintf("%T does not fit the type %s: %v", v, e.typ.Name, err)}
	}
	values := make([]Value, len(e.typ.Fields))
	var check mapCheck
	if err := e.structs.program.run(b, values, &check); err != nil {
		return nil, &FieldError{Msg: err.Error()}
	}
	if len(values[schema.ID].buf) == 0 {
		values[schema.ID] = Value{}
	}
	if at := values[schema.Time].Long(); at == 0 || at == zeroTime {
		values[schema.Time] = Value{}
	}
	return e.Encode(values)
}
