package schema

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/twmb/avro"
)

const (
	maxTypeName  = 48  // Cassandra's limit for a table's name
	maxFieldName = 64  //
	maxFields    = 500 // Elasticsearch stops at 1,000 fields of an index
)

var nameForm = regexp.MustCompile(`^[a-z][a-z0-9_]*$`)

// reserved are the columns that a destination has beside a type's own fields. Those that begin with an underscore
// (the lake's _topic, Elasticsearch's _id) are refused by the form of a name.
var reserved = map[string]string{
	"bucket": "it is a column of the Cassandra table",
	"shard":  "it is a column of the Cassandra table",
}

// Parse reads an annotated Avro schema. Its error holds every mistake, one line each, with the field or attribute it is
// in. Attributes that are left out get defaults, but "millrace" itself must stand there, if only as {}: a schema whose
// attributes were lost on the way must not quietly get other keys and tables than the one that was written.
func Parse(data []byte) (*Type, error) { return parse(data, nil) }

// ParseWith is Parse for a schema that comes back from a registry. Some registries drop attributes they do not know:
// where "millrace" is missing, fallback's attributes hold. A nil fallback makes it Parse.
func ParseWith(data []byte, fallback *Type) (*Type, error) {
	if fallback == nil {
		return parse(data, nil)
	}
	return parse(data, fallback.attributes)
}

func parse(data []byte, fallback []byte) (*Type, error) {
	var compact bytes.Buffer
	if err := json.Compact(&compact, data); err != nil {
		return nil, fmt.Errorf("parsing schema: %w", err)
	}
	if !utf8.Valid(data) {
		return nil, errors.New("parsing schema: it is not UTF-8")
	}
	p := &problems{}
	t := &Type{JSON: compact.Bytes(), index: map[string]int{}}
	top, ok := p.object("", t.JSON)
	if !ok {
		return nil, p.err()
	}
	p.record(t, top)
	switch raw := top["millrace"]; {
	case raw != nil:
		t.attributes = raw
	case fallback != nil:
		t.attributes = fallback
	default:
		p.add("millrace", "is missing: write \"millrace\": {} to take the defaults")
	}
	if t.attributes != nil {
		p.annotate(t)
	}
	if err := p.err(); err != nil {
		return nil, err
	}
	// What Avro itself demands comes last: our own rules are narrower and their messages name the place.
	parsed, err := avro.Parse(string(t.JSON))
	if err != nil {
		return nil, fmt.Errorf("parsing schema %s: %w", t.Name, err)
	}
	t.Avro = parsed
	return t, nil
}

// record reads the Avro part: name, doc and fields.
func (p *problems) record(t *Type, top map[string]json.RawMessage) {
	t.Name = p.text("name", top["name"])
	if nameForm.MatchString(t.Name) && len(t.Name) <= maxTypeName {
		p.name = t.Name
	} else {
		p.add("name", "%q is not a type's name: at most %d of a-z, 0-9 and _, a letter first", t.Name, maxTypeName)
	}
	if kind := p.text("type", top["type"]); kind != "record" {
		p.add("type", "must be \"record\", not %q", kind)
	}
	if top["aliases"] != nil {
		p.add("aliases", "a type cannot be renamed: topic, tables and indices are named by it")
	}
	t.Doc = p.text("doc", top["doc"])
	var raws []json.RawMessage
	if json.Unmarshal(top["fields"], &raws) != nil || raws == nil {
		p.add("fields", "must be an array of fields")
		return
	}
	if len(raws) > maxFields {
		p.add("fields", "%d fields are too many: at most %d", len(raws), maxFields)
		return
	}
	for i, raw := range raws {
		t.Fields = append(t.Fields, p.field(i, raw))
	}
	p.names(t)
	p.common(t)
}

// names fills the index and finds names that mean two fields.
func (p *problems) names(t *Type) {
	for i, f := range t.Fields {
		if f.Name == "" {
			continue
		}
		if _, taken := t.index[f.Name]; taken {
			p.add(at(f), "there is another field of this name")
			continue
		}
		t.index[f.Name] = i
	}
	for i, f := range t.Fields {
		for _, alias := range f.Aliases {
			if other, taken := t.index[alias]; taken {
				p.add(at(f), "alias %q is field %q or an alias of it", alias, t.Fields[other].Name)
				continue
			}
			t.index[alias] = i
		}
	}
}

// common checks the fields that every type starts with.
func (p *problems) common(t *Type) {
	for i, want := range commonFields() {
		if i >= len(t.Fields) {
			p.add("fields", "field %d must be %q: every type starts with %s", i+1, want.Name, commonNames())
			continue
		}
		f := t.Fields[i]
		switch {
		case f.Name != want.Name:
			p.add("fields", "field %d is %q and must be %q: every type starts with %s", i+1, f.Name, want.Name, commonNames())
		case f.Kind == 0: // was reported
		case f.Kind != want.Kind || f.Nullable:
			p.add(at(f), "must be of type %s", want.Kind)
		case f.HasDefault != want.HasDefault || f.Default != want.Default:
			if want.HasDefault {
				p.add(at(f), `must have "default": ""`)
			} else {
				p.add(at(f), "must have no default: an event without it is not an event")
			}
		case len(f.Aliases) > 0:
			p.add(at(f), "cannot have aliases")
		}
	}
}

func commonFields() []Field {
	text := func(name string) Field { return Field{Name: name, Kind: String, HasDefault: true, Default: ""} }
	return []Field{
		{Name: "id", Kind: UUID},
		{Name: "time", Kind: Timestamp},
		text("service"), text("host"), text("datacenter"), text("tenant"),
	}
}

func commonNames() string {
	var names []string
	for _, f := range commonFields() {
		names = append(names, f.Name)
	}
	return strings.Join(names, ", ")
}

func at(f Field) string { return fmt.Sprintf("field %q", f.Name) }

// field reads one field. What could not be read stays zero, so that later checks can tell.
func (p *problems) field(i int, raw json.RawMessage) Field {
	where := fmt.Sprintf("fields[%d]", i)
	vals, ok := p.object(where, raw)
	if !ok {
		return Field{}
	}
	f := Field{Name: p.text(where+".name", vals["name"])}
	if f.Name != "" {
		where = at(f)
		p.fieldName(where, f.Name)
	} else if vals["name"] == nil || string(vals["name"]) == `""` {
		p.add(where, "has no name")
	}
	f.Doc = p.text(where+" doc", vals["doc"])
	f.Aliases = p.texts(where+" aliases", vals["aliases"])
	for _, alias := range f.Aliases {
		p.fieldName(where+" aliases", alias)
	}
	if vals["type"] == nil {
		p.add(where, "has no type")
	} else {
		f.Kind, f.Nullable = p.kind(where, vals["type"])
	}
	if def := vals["default"]; def != nil && f.Kind != 0 {
		f.HasDefault = true
		f.Default = p.value(where+" default", f, def)
	}
	return f
}

func (p *problems) fieldName(where, name string) {
	if why, taken := reserved[name]; taken {
		p.add(where, "%q cannot be used: %s", name, why)
		return
	}
	if !nameForm.MatchString(name) || len(name) > maxFieldName {
		p.add(where, "%q is not a field's name: at most %d of a-z, 0-9 and _, a letter first", name, maxFieldName)
	}
}

// kind reads a field's Avro type.
func (p *problems) kind(where string, raw json.RawMessage) (k Kind, nullable bool) {
	if raw[0] != '[' {
		return p.plainKind(where, raw), false
	}
	var branches []json.RawMessage
	if json.Unmarshal(raw, &branches) != nil || len(branches) != 2 || string(branches[0]) != `"null"` {
		p.add(where, `the only union is ["null", X], with "null" first, not %s`, brief(raw))
		return 0, false
	}
	return p.plainKind(where, branches[1]), true
}

// kinds are the Avro types with their logical types that a field can have.
var kinds = map[[2]string]Kind{
	{"boolean", ""}:              Bool,
	{"int", ""}:                  Int,
	{"long", ""}:                 Long,
	{"float", ""}:                Float,
	{"double", ""}:               Double,
	{"string", ""}:               String,
	{"bytes", ""}:                Bytes,
	{"string", "uuid"}:           UUID,
	{"long", "timestamp-micros"}: Timestamp,
	{"map", ""}:                  Map,
}

const supported = "boolean, int, long, float, double, string, bytes, map of strings, uuid and timestamp-micros"

func (p *problems) plainKind(where string, raw json.RawMessage) Kind {
	var avroType, logical string
	switch raw[0] {
	case '"':
		avroType = p.text(where, raw)
		if avroType == "map" {
			p.add(where, `a map is written {"type": "map", "values": "string"}`)
			return 0
		}
	case '{':
		vals, ok := p.object(where, raw)
		if !ok {
			return 0
		}
		if inner := vals["type"]; inner == nil || inner[0] != '"' {
			p.add(where, "type %s is not supported: a field is one of %s", brief(raw), supported)
			return 0
		}
		avroType = p.text(where+" type", vals["type"])
		logical = p.text(where+" logicalType", vals["logicalType"])
		if avroType == "map" && !p.stringMap(where, vals["values"]) {
			return 0
		}
	default:
		p.add(where, "%s is not a type", brief(raw))
		return 0
	}
	k, ok := kinds[[2]string{avroType, logical}]
	if !ok {
		if logical != "" {
			avroType += " with logical type " + logical
		}
		p.add(where, "type %s is not supported: a field is one of %s", avroType, supported)
	}
	return k
}

func (p *problems) stringMap(where string, values json.RawMessage) bool {
	var name string
	if json.Unmarshal(values, &name) != nil || name != "string" {
		p.add(where, `a map holds strings: "values" must be "string", not %s`, brief(values))
		return false
	}
	return true
}

// scalar refuses what cannot be part of a key.
func scalar(f Field) string {
	switch {
	case f.Kind == 0: // was reported
		return ""
	case f.Nullable:
		return "can be null and so cannot be part of a key"
	case slices.Contains([]Kind{Map, Float, Double, Bytes}, f.Kind):
		return fmt.Sprintf("is of type %s and so cannot be part of a key", f.Kind)
	}
	return ""
}
