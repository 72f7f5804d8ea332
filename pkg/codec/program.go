package codec

import (
	"fmt"

	"github.com/twmb/avro"

	"github.com/millrace/millrace/pkg/event"
	"github.com/millrace/millrace/pkg/schema"
)

// opcode is how a value is read from the wire, and what becomes of it.
type opcode uint8

const (
	opSkip   opcode = iota // the reader does not want it
	opNull                 // a union's null branch
	opBool                 //
	opInt                  // int, kept as int or promoted to long
	opLong                 // also timestamps
	opIntF                 // int promoted to float
	opIntD                 // int promoted to double
	opLongF                // long promoted to float
	opLongD                // long promoted to double
	opFloat                // float, or float promoted to double
	opDouble               //
	opString               // also bytes promoted to string
	opBytes                // also string promoted to bytes
	opUUID                 //
	opMap                  //
	opUnion                // a union that is more than one type or null
	opNullAB               // opcode `then`, or null as branch 0
	opNullBA               // opcode `then`, or null as branch 1
)

// op reads one field of the writer's.
type op struct {
	code     opcode
	then     opcode // of the branch that is not null, for opNullAB and opNullBA
	dst      int32  // position of the reader's field
	skip     *skipper
	branches []opcode // for opUnion
	name     string
}

// program turns records written with one schema into values of one type. It is compiled once and never changes.
type program struct {
	typ      *schema.Type
	ops      []op
	defaults []fill // of fields that the writer does not have
}

type fill struct {
	dst   int
	value Value
}

// compile resolves the writer's schema against the reader's type, by Avro's rules: fields are matched by name, then by
// the reader's aliases; types are promoted; what only the reader has is filled from its default.
func compile(writer *avro.Schema, typ *schema.Type) (*program, error) {
	if err := avro.CheckCompatibility(writer, typ.Avro); err != nil {
		return nil, err
	}
	return compileFields(writer.Root(), typ)
}

func compileFields(root *avro.SchemaNode, typ *schema.Type) (*program, error) {
	if root.Type != "record" {
		return nil, fmt.Errorf("the writer's schema is a %s, not a record", root.Type)
	}
	p := &program{typ: typ}
	skips := skippers{named: map[string]*skipper{}}
	skips.define(root, &skipper{kind: skipRecord, width: 1})
	byName := fieldsByName(typ)
	have := make([]bool, len(typ.Fields))
	for i := range root.Fields {
		f := &root.Fields[i]
		o := op{name: f.Name}
		// Every field is compiled for skipping, since a later one may refer to a type that this one defines.
		skip, err := skips.compile(&f.Type, 0)
		if err != nil {
			return nil, fmt.Errorf("field %s of the writer's schema: %w", f.Name, err)
		}
		if dst, ok := byName[f.Name]; ok {
			have[dst], o.dst = true, int32(dst) //nolint:gosec // a position
			err = o.resolve(&f.Type, typ.Fields[dst].Kind)
		} else {
			o.skip = skip
		}
		if err != nil {
			return nil, fmt.Errorf("field %s: %w", f.Name, err)
		}
		p.ops = append(p.ops, o)
	}
	defaults, err := defaultValues(typ)
	if err != nil {
		return nil, err
	}
	for dst, ok := range have {
		if !ok {
			p.defaults = append(p.defaults, fill{dst: dst, value: defaults[dst]})
		}
	}
	return p, nil
}

// fieldsByName maps the names under which a writer may know the reader's fields. A name goes before another's alias.
func fieldsByName(typ *schema.Type) map[string]int {
	byName := make(map[string]int, len(typ.Fields))
	for i, f := range typ.Fields {
		for _, a := range f.Aliases {
			if _, taken := byName[a]; !taken {
				byName[a] = i
			}
		}
	}
	for i, f := range typ.Fields {
		byName[f.Name] = i
	}
	return byName
}

// resolve decides how the writer's type w becomes the reader's kind.
func (o *op) resolve(w *avro.SchemaNode, kind schema.Kind) error {
	if w.Type != "union" {
		code, err := opFor(w, kind)
		o.code = code
		return err
	}
	codes := make([]opcode, len(w.Branches))
	for i := range w.Branches {
		var err error
		if codes[i], err = opFor(&w.Branches[i], kind); err != nil {
			return err
		}
	}
	switch {
	case len(codes) == 2 && codes[0] == opNull:
		o.code, o.then = opNullAB, codes[1]
	case len(codes) == 2 && codes[1] == opNull:
		o.code, o.then = opNullBA, codes[0]
	default:
		o.code, o.branches = opUnion, codes
	}
	return nil
}

// opFor gives the opcode for one type of the writer's, not a union.
func opFor(w *avro.SchemaNode, kind schema.Kind) (opcode, error) {
	if w.Type == "null" {
		return opNull, nil
	}
	if kind == schema.Timestamp && w.LogicalType != "" && w.LogicalType != "timestamp-micros" {
		// Reading milliseconds as microseconds would be a silent error of three orders.
		return 0, fmt.Errorf("the writer's %s cannot be read as timestamp-micros", w.LogicalType)
	}
	code, ok := readAs[wireKind{w.Type, kind}]
	if !ok {
		return 0, fmt.Errorf("the writer's %s cannot be read as the reader's type", w.Type)
	}
	return code, nil
}

type wireKind struct {
	wire string
	kind schema.Kind
}

// readAs is Avro's table of promotions, in our kinds.
var readAs = map[wireKind]opcode{
	{"boolean", schema.Bool}: opBool,

	{"int", schema.Int}:       opInt,
	{"int", schema.Long}:      opInt,
	{"int", schema.Timestamp}: opInt,
	{"int", schema.Float}:     opIntF,
	{"int", schema.Double}:    opIntD,

	{"long", schema.Long}:      opLong,
	{"long", schema.Timestamp}: opLong,
	{"long", schema.Float}:     opLongF,
	{"long", schema.Double}:    opLongD,

	{"float", schema.Float}:   opFloat,
	{"float", schema.Double}:  opFloat,
	{"double", schema.Double}: opDouble,

	{"string", schema.String}: opString,
	{"string", schema.Bytes}:  opBytes,
	{"string", schema.UUID}:   opUUID,
	{"bytes", schema.Bytes}:   opBytes,
	{"bytes", schema.String}:  opString,
	{"bytes", schema.UUID}:    opUUID,

	{"map", schema.Map}: opMap,
}

// run fills values, which are null when it is called, from a record's bytes.
func (p *program) run(b []byte, values []Value, check *mapCheck) error {
	pos := 0
	for i := range p.ops {
		o := &p.ops[i]
		code := o.code
		if code >= opUnion {
			var err error
			if code, pos, err = o.branch(b, pos); err != nil {
				return o.fault(err)
			}
			if code == opNull {
				continue
			}
		}
		var err error
		if code == opSkip {
			pos, err = o.skip.skip(b, pos, 0)
		} else {
			pos, err = read(code, b, pos, &values[o.dst], check)
		}
		if err != nil {
			return o.fault(err)
		}
	}
	if pos != len(b) {
		return errTrailing
	}
	for i := range p.defaults {
		values[p.defaults[i].dst] = p.defaults[i].value
	}
	return nil
}

func (o *op) fault(err error) error { return fmt.Errorf("field %s: %w", o.name, err) }

// branch reads which branch of a union follows.
func (o *op) branch(b []byte, pos int) (opcode, int, error) {
	n, pos := long(b, pos)
	if pos < 0 {
		return 0, 0, failed(pos)
	}
	switch {
	case o.code == opUnion:
		if n >= 0 && n < int64(len(o.branches)) {
			return o.branches[n], pos, nil
		}
		return 0, 0, errBranch
	case n != 0 && n != 1:
		return 0, 0, errBranch
	case (n == 0) == (o.code == opNullAB):
		return opNull, pos, nil
	default:
		return o.then, pos, nil
	}
}

// read reads one value and gives the position after it.
func read(code opcode, b []byte, pos int, v *Value, check *mapCheck) (int, error) {
	switch code {
	case opString:
		start, end, err := text(b, pos)
		if err != nil {
			return 0, err
		}
		*v = BytesValue(b[start:end:end])
		return end, nil
	case opLong, opInt, opLongD, opIntD, opLongF, opIntF:
		return readNumber(code, b, pos, v)
	case opDouble, opFloat:
		var f float64
		var err error
		if code == opDouble {
			f, pos, err = double(b, pos)
		} else {
			f, pos, err = float(b, pos)
		}
		if err != nil {
			return 0, err
		}
		*v = DoubleValue(f)
		return pos, nil
	case opUUID:
		return readUUID(b, pos, v)
	case opMap:
		end, err := check.end(b, pos)
		if err != nil {
			return 0, err
		}
		*v = BytesValue(b[pos:end:end])
		return end, nil
	case opBytes:
		start, end, err := span(b, pos)
		if err != nil {
			return 0, err
		}
		*v = BytesValue(b[start:end:end])
		return end, nil
	case opBool:
		is, pos, err := boolean(b, pos)
		if err != nil {
			return 0, err
		}
		*v = BoolValue(is)
		return pos, nil
	default:
		return 0, fmt.Errorf("opcode %d", code) // not compiled
	}
}

func readNumber(code opcode, b []byte, pos int, v *Value) (int, error) {
	n, pos := long(b, pos)
	if pos < 0 {
		return 0, failed(pos)
	}
	if (code == opInt || code == opIntD || code == opIntF) && n != int64(int32(n)) { //nolint:gosec // the range is what is tested
		return 0, errInt
	}
	switch code {
	case opLongD, opIntD:
		*v = DoubleValue(float64(n))
	case opLongF, opIntF:
		*v = DoubleValue(float64(float32(n)))
	default:
		*v = LongValue(n)
	}
	return pos, nil
}

func readUUID(b []byte, pos int, v *Value) (int, error) {
	start, end, err := span(b, pos)
	if err != nil {
		return 0, err
	}
	switch event.Check(b[start:end]) {
	case event.Lower:
		*v = BytesValue(b[start:end:end])
	case event.Upper:
		var lower [event.Len]byte
		event.Canonical(&lower, b[start:end])
		*v = BytesValue(lower[:])
	default:
		return 0, errUUID
	}
	return end, nil
}

// defaultValues gives each field's default, null where it has none or where it is null.
func defaultValues(typ *schema.Type) ([]Value, error) {
	root := typ.Avro.Root()
	values := make([]Value, len(typ.Fields))
	for i := range root.Fields {
		f := &root.Fields[i]
		if !f.HasDefault || f.Default == nil {
			continue
		}
		v, err := defaultValue(f.Default)
		if err != nil {
			return nil, fmt.Errorf("field %s: %w", f.Name, err)
		}
		values[i] = v
	}
	return values, nil
}

func defaultValue(d any) (Value, error) {
	switch d := d.(type) {
	case bool:
		return BoolValue(d), nil
	case int32:
		return LongValue(int64(d)), nil
	case int64:
		return LongValue(d), nil
	case float32:
		return DoubleValue(float64(d)), nil
	case float64:
		return DoubleValue(d), nil
	case string:
		return StringValue(d), nil
	case []byte:
		return BytesValue(d), nil
	case map[string]any:
		m := make(map[string]string, len(d))
		for k, v := range d {
			s, ok := v.(string)
			if !ok {
				return Value{}, fmt.Errorf("default of map key %q is a %T", k, v)
			}
			m[k] = s
		}
		return MapValue(m), nil
	}
	return Value{}, fmt.Errorf("default is a %T", d)
}
