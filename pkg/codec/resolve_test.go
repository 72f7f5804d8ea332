package codec

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/twmb/avro"
	"pgregory.net/rapid"

	"github.com/millrace/millrace/pkg/schema"
)

// object is a JSON object of a schema.
type object = map[string]any

// kinds are the reader's types and the writer's types that Avro promotes to them.
var kinds = []struct {
	reader  any
	writers []any
}{
	{"boolean", []any{"boolean"}},
	{"int", []any{"int"}},
	{"long", []any{"long", "int"}},
	{"float", []any{"float", "int", "long"}},
	{"double", []any{"double", "float", "int", "long"}},
	{"string", []any{"string"}}, // bytes that are not UTF-8 are read by twmb and refused by us
	{"bytes", []any{"bytes", "string"}},
	{object{"type": "string", "logicalType": "uuid"}, []any{object{"type": "string", "logicalType": "uuid"}, "string"}},
	{object{"type": "long", "logicalType": "timestamp-micros"}, []any{object{"type": "long", "logicalType": "timestamp-micros"}, "long", "int"}},
	{object{"type": "map", "values": "string"}, []any{object{"type": "map", "values": "string"}}},
}

// strangers are types that only a writer has.
var strangers = []any{
	"null", "boolean", "int", "long", "float", "double", "string", "bytes",
	object{"type": "array", "items": "int"},
	object{"type": "array", "items": "null"},
	object{"type": "array", "items": object{"type": "map", "values": "double"}},
	object{"type": "map", "values": object{"type": "array", "items": "string"}},
	[]any{"null", "string", "long"},
}

// typed gives a Go value of an Avro type, as twmb/avro takes it.
func typed(t *rapid.T, typ any) any {
	switch typ := typ.(type) {
	case []any:
		return typed(t, rapid.SampledFrom(typ).Draw(t, "branch"))
	case object:
		switch typ["type"] {
		case "array":
			out := []any{}
			for range rapid.IntRange(0, 3).Draw(t, "items") {
				out = append(out, typed(t, typ["items"]))
			}
			return out
		case "map":
			out := object{}
			for range rapid.IntRange(0, 20).Draw(t, "entries") {
				out[rapid.String().Draw(t, "key")] = typed(t, typ["values"])
			}
			return out
		case "record":
			out := object{}
			for _, f := range typ["fields"].([]any) {
				out[f.(object)["name"].(string)] = typed(t, f.(object)["type"])
			}
			return out
		}
		if typ["logicalType"] == "uuid" {
			return rapid.StringMatching(`[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}`).Draw(t, "uuid")
		}
		return typed(t, typ["type"])
	}
	switch typ {
	case "null":
		return nil
	case "boolean":
		return rapid.Bool().Draw(t, "bool")
	case "int":
		return rapid.Int32().Draw(t, "int")
	case "long":
		return rapid.Int64().Draw(t, "long")
	case "float":
		return rapid.Float32().Draw(t, "float")
	case "double":
		return rapid.Float64().Draw(t, "double")
	case "string":
		return rapid.String().Draw(t, "string")
	default:
		return rapid.SliceOf(rapid.Byte()).Draw(t, "bytes")
	}
}

// pair draws a type and a writer's schema that resolves to it.
func pair(t *rapid.T) (*schema.Type, *avro.Schema, object) {
	var reader, writer []any
	value := object{}
	add := func(name string, rt, wt any, alias string, def any) {
		f := object{"name": name, "type": rt}
		if def != nil {
			f["default"] = def
		}
		w := object{"name": name, "type": wt}
		if alias != "" {
			f["aliases"] = []any{alias}
			w["name"] = alias
		}
		reader = append(reader, f)
		if wt == nil {
			return
		}
		writer = append(writer, w)
		value[w["name"].(string)] = typed(t, wt)
	}
	uuid, micros := kinds[7].reader, kinds[8].reader
	add("id", uuid, uuid, "", nil)
	add("time", micros, micros, "", nil)
	for _, name := range []string{"service", "host", "datacenter", "tenant"} {
		add(name, "string", "string", "", "")
	}
	for i := range rapid.IntRange(0, 8).Draw(t, "fields") {
		k := rapid.SampledFrom(kinds).Draw(t, "kind")
		wt := rapid.SampledFrom(k.writers).Draw(t, "writer")
		if u, isUUID := k.reader.(object); isUUID && u["logicalType"] == "uuid" {
			wt = k.reader // a plain string is drawn without the form of a UUID
		}
		rt := k.reader
		var def any
		if rapid.Bool().Draw(t, "nullable") {
			rt = []any{"null", k.reader}
			def = json.RawMessage("null")
			switch rapid.IntRange(0, 3).Draw(t, "union") {
			case 0:
				wt = []any{"null", wt}
			case 1:
				wt = []any{wt, "null"}
			case 2:
				wt = nil // the writer does not have it
			}
		}
		alias := ""
		if wt != nil && rapid.Bool().Draw(t, "renamed") {
			alias = fmt.Sprintf("old%d", i)
		}
		add(fmt.Sprintf("f%d", i), rt, wt, alias, def)
	}
	for i := range rapid.IntRange(0, 3).Draw(t, "strangers") {
		typ := rapid.SampledFrom(strangers).Draw(t, "stranger")
		if rapid.Bool().Draw(t, "nested") {
			typ = object{"type": "record", "name": fmt.Sprintf("r%d", i), "fields": []any{object{"name": "x", "type": typ}}}
		}
		name := fmt.Sprintf("only%d", i)
		writer = append(writer, object{"name": name, "type": typ})
		value[name] = typed(t, typ)
	}
	writer = rapid.Permutation(writer).Draw(t, "order")
	typ, err := schema.Parse(record(t, reader))
	if err != nil {
		t.Fatal(err)
	}
	w, err := avro.Parse(string(record(t, writer)))
	if err != nil {
		t.Fatal(err)
	}
	return typ, w, value
}

func record(t *rapid.T, fields []any) []byte {
	b, err := json.Marshal(object{"type": "record", "name": "thing", "namespace": "millrace", "millrace": object{}, "fields": fields})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// same compares a value of ours with twmb/avro's.
func same(k schema.Kind, v Value, want any) bool {
	if want == nil || v.IsNull() {
		return want == nil && v.IsNull()
	}
	switch want := want.(type) {
	case bool:
		return k == schema.Bool && v.Bool() == want
	case int32:
		return k == schema.Int && v.Long() == int64(want)
	case int64:
		return k == schema.Long && v.Long() == want
	case float32:
		return k == schema.Float && math.Float64bits(v.Double()) == math.Float64bits(float64(want))
	case float64:
		return k == schema.Double && math.Float64bits(v.Double()) == math.Float64bits(want)
	case string:
		return (k == schema.String || k == schema.UUID) && v.String() == want
	case []byte:
		return k == schema.Bytes && bytes.Equal(v.Bytes(), want)
	case time.Time:
		return k == schema.Timestamp && v.Long() == want.UnixMicro()
	case map[string]any:
		n := 0
		for key, e := range v.Pairs() {
			if want[string(key)] != string(e) {
				return false
			}
			n++
		}
		return k == schema.Map && n == len(want)
	}
	return false
}

func TestDecodesAsTwmbAvroDoes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		typ, writer, value := pair(t)
		b, err := writer.Encode(value)
		if err != nil {
			t.Fatal(err)
		}
		resolved, err := avro.Resolve(writer, typ.Avro)
		if err != nil {
			t.Fatal(err)
		}
		var decoded any
		if _, err := resolved.Decode(b, &decoded); err != nil {
			t.Fatal(err)
		}
		want, _ := decoded.(map[string]any)
		p, err := compile(writer, typ)
		if err != nil {
			t.Fatal(err)
		}
		values := make([]Value, len(typ.Fields))
		var check mapCheck
		if err := p.run(b, values, &check); err != nil {
			t.Fatal(err)
		}
		for i, f := range typ.Fields {
			if !same(f.Kind, values[i], want[f.Name]) {
				t.Fatalf("field %s: got %v %q, want %v", f.Name, values[i].Long(), values[i].Bytes(), want[f.Name])
			}
		}
		// Whatever is cut off or added is malformed, never read past.
		cut := rapid.IntRange(0, len(b)-1).Draw(t, "cut")
		if err := p.run(b[:cut], make([]Value, len(typ.Fields)), &check); err == nil {
			t.Fatalf("cut to %d of %d bytes and decoded", cut, len(b))
		}
		if err := p.run(append(bytes.Clone(b), 0), make([]Value, len(typ.Fields)), &check); err == nil {
			t.Fatal("a trailing byte was accepted")
		}

		// What is decoded encodes again to the same values.
		e, err := newEncoder(typ, 1)
		if err != nil {
			t.Fatal(err)
		}
		r, err := e.Encode(values)
		if err != nil {
			t.Fatal(err)
		}
		own, err := compile(typ.Avro, typ)
		if err != nil {
			t.Fatal(err)
		}
		again := make([]Value, len(typ.Fields))
		if err := own.run(r.Value[headerLen:], again, &check); err != nil {
			t.Fatal(err)
		}
		if a, b := Fingerprint(typ, values, ""), Fingerprint(typ, again, ""); a != b {
			t.Fatal("a record changed by encoding it")
		}
		var back any
		if rest, err := typ.Avro.Decode(r.Value[headerLen:], &back); err != nil || len(rest) > 0 {
			t.Fatalf("twmb/avro reads what we wrote: %v, %d bytes left", err, len(rest))
		}
	})
}

func FuzzDecode(f *testing.F) {
	typ, writer, err := fuzzTypes()
	if err != nil {
		f.Fatal(err)
	}
	p, err := compile(writer, typ)
	if err != nil {
		f.Fatal(err)
	}
	resolved, err := avro.Resolve(writer, typ.Avro)
	if err != nil {
		f.Fatal(err)
	}
	good, err := writer.Encode(object{
		"id": "0190163d-8694-739b-aea5-966c26f8ad91", "time": int64(1), "service": "", "host": "", "datacenter": "", "tenant": "",
		"long": int64(5), "text": "t", "list": []any{object{"k": int64(1)}}, "attributes": object{"k": "v", "l": "w"},
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(bytes.Repeat([]byte{0x01}, 60))
	f.Add(append(bytes.Clone(good[:len(good)-1]), 0x03, 0x0c, 0x02, 'm', 0x02, 'x', 0x00))
	f.Fuzz(func(t *testing.T, b []byte) {
		values := make([]Value, len(typ.Fields))
		var check mapCheck
		if err := p.run(b, values, &check); err != nil {
			return
		}
		r := Record{Type: typ, Values: values}
		if out := AppendJSON(nil, &r); !json.Valid(out) {
			t.Fatalf("not JSON: %s", out)
		}
		// Whatever we accept twmb/avro accepts, and reads the same.
		var decoded any
		if rest, err := resolved.Decode(b, &decoded); err != nil || len(rest) > 0 {
			t.Fatalf("twmb/avro refuses: %v", err)
		}
		want, _ := decoded.(map[string]any)
		for i, f := range typ.Fields {
			if w, isText := want[f.Name].(string); isText && f.Kind == schema.UUID {
				want[f.Name] = string(bytes.ToLower([]byte(w)))
			}
			if fl, isFloat := want[f.Name].(float64); isFloat && math.IsNaN(fl) && math.IsNaN(values[i].Double()) {
				continue
			}
			if !same(f.Kind, values[i], want[f.Name]) {
				t.Fatalf("field %s: got %v %q, want %v", f.Name, values[i].Long(), values[i].Bytes(), want[f.Name])
			}
		}
	})
}

func fuzzTypes() (*schema.Type, *avro.Schema, error) {
	const common = `{"type":"record","name":"thing","namespace":"millrace","millrace":{},"fields":[
{"name":"id","type":{"type":"string","logicalType":"uuid"}},{"name":"time","type":{"type":"long","logicalType":"timestamp-micros"}},
{"name":"service","type":"string","default":""},{"name":"host","type":"string","default":""},
{"name":"datacenter","type":"string","default":""},{"name":"tenant","type":"string","default":""},`
	typ, err := schema.Parse([]byte(common + `{"name":"long","type":["null","double"],"default":null},
{"name":"text","type":["null","string"],"default":null},{"name":"attributes","type":{"type":"map","values":"string"},"default":{}}]}`))
	if err != nil {
		return nil, nil, err
	}
	w, err := avro.Parse(common + `{"name":"long","type":"long"},{"name":"text","type":["string","null"]},
{"name":"list","type":{"type":"array","items":{"type":"map","values":["null","long"]}}},
{"name":"attributes","type":{"type":"map","values":"string"}}]}`)
	return typ, w, err
}
