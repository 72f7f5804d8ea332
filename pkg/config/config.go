package config

import (
	"bytes"
	"encoding"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// Validator is a configuration that can say what is wrong with it, each mistake beginning with the key it is about:
// "cassandra.hosts is empty: name at least one host:port".
type Validator interface{ Validate() error }

// maxFile bounds a configuration file, and a file named by ${file:}.
const maxFile = 1 << 20

// Load reads a file with Parse.
func Load(path string, into any) error {
	data, err := readBounded(path)
	if err != nil {
		return fmt.Errorf("reading the configuration: %w", err)
	}
	return Parse(path, data, into)
}

// Parse decodes YAML over the defaults that into, a pointer to a struct, already holds, then validates the result if
// it is a Validator. Every mistake is reported at once, each with name, line and key. ${NAME} in a value is replaced
// by an environment variable and ${file:PATH} by a file's content without its last newline; both after the YAML was
// parsed, so that no secret can change its structure. $$ is a dollar sign.
func Parse(name string, data []byte, into any) error {
	var doc yaml.Node
	dec := yaml.NewDecoder(bytes.NewReader(data))
	switch err := dec.Decode(&doc); {
	case errors.Is(err, io.EOF): // an empty file is all defaults
	case err != nil:
		return fmt.Errorf("%s: %w", name, err)
	default:
		// A second document would be ignored in silence.
		if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
			return fmt.Errorf("%s: holds more than one YAML document: keep one", name)
		}
	}
	r := reader{name: name, lines: map[string]int{}}
	if len(doc.Content) > 0 {
		r.value(doc.Content[0], "", reflect.ValueOf(into).Elem())
	}
	if v, ok := into.(Validator); ok { // what could not be read has kept its default
		r.validation(v.Validate())
	}
	return errors.Join(r.errs...)
}

// reader walks a YAML tree beside the struct that it fills.
type reader struct {
	name  string
	lines map[string]int // of every key that was set
	errs  []error
}

func (r *reader) fail(line int, key, format string, args ...any) {
	where := fmt.Sprintf("%s:%d: ", r.name, line)
	if key != "" {
		where += key + ": "
	}
	r.errs = append(r.errs, errors.New(where+fmt.Sprintf(format, args...)))
}

// value fills v from n. Structs are walked here, so that an unknown key is named; the rest is yaml's.
func (r *reader) value(n *yaml.Node, key string, v reflect.Value) {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if n.Kind == yaml.ScalarNode && n.Tag == "!!null" {
		return // an empty section keeps its defaults
	}
	if v.Kind() == reflect.Struct && !decodesItself(v) {
		r.mapping(n, key, v)
		return
	}
	if v.Kind() == reflect.Slice && v.Type().Elem().Kind() == reflect.Struct && n.Kind == yaml.SequenceNode {
		out := reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content))
		for i, c := range n.Content {
			r.value(c, fmt.Sprintf("%s[%d]", key, i), out.Index(i))
		}
		v.Set(out)
		return
	}
	if !r.expand(n, key) {
		return
	}
	fresh := reflect.New(v.Type()) // so that a map or list replaces its default instead of merging into it
	if err := n.Decode(fresh.Interface()); err != nil {
		r.fail(n.Line, key, "%s", plain(n, v.Type(), err))
		return
	}
	v.Set(fresh.Elem())
}

func (r *reader) mapping(n *yaml.Node, key string, v reflect.Value) {
	if n.Kind != yaml.MappingNode {
		r.fail(n.Line, key, "must be a section with keys, not %q", n.Value)
		return
	}
	fields := fieldsOf(v)
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, c := n.Content[i], n.Content[i+1]
		path := join(key, k.Value)
		f, ok := fields[k.Value]
		switch {
		case !ok:
			r.fail(k.Line, path, "unknown key; known here: %s", strings.Join(sortedKeys(fields), ", "))
		case seen[k.Value]:
			r.fail(k.Line, path, "is set twice")
		default:
			r.lines[path] = k.Line
			r.value(c, path, f)
		}
		seen[k.Value] = true
	}
}

// validation adds file and line to each mistake that Validate named.
func (r *reader) validation(err error) {
	if err == nil {
		return
	}
	if many, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range many.Unwrap() {
			r.validation(e)
		}
		return
	}
	key, _, _ := strings.Cut(err.Error(), " ")
	key = strings.TrimSuffix(key, ":")
	for k := key; k != ""; k = parent(k) {
		if line, ok := r.lines[k]; ok {
			r.errs = append(r.errs, fmt.Errorf("%s:%d: %w", r.name, line, err))
			return
		}
	}
	r.errs = append(r.errs, fmt.Errorf("%s: %w", r.name, err))
}

// Print writes a configuration as YAML with its secrets masked.
func Print(w io.Writer, tree any) error {
	enc := yaml.NewEncoder(w)
	enc.SetIndent(2)
	if err := enc.Encode(tree); err != nil {
		return fmt.Errorf("printing the configuration: %w", err)
	}
	if err := enc.Close(); err != nil {
		return fmt.Errorf("printing the configuration: %w", err)
	}
	return nil
}

func decodesItself(v reflect.Value) bool {
	_, ok := reflect.TypeAssert[yaml.Unmarshaler](v.Addr())
	return ok
}

func fieldsOf(v reflect.Value) map[string]reflect.Value {
	out := map[string]reflect.Value{}
	for f, fv := range v.Fields() {
		if !f.IsExported() {
			continue
		}
		name, opts, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		switch {
		case name == "-":
		case opts == "inline":
			maps.Copy(out, fieldsOf(fv))
		case name == "":
			out[strings.ToLower(f.Name)] = fv
		default:
			out[name] = fv
		}
	}
	return out
}

func sortedKeys(m map[string]reflect.Value) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

func join(key, name string) string {
	if key == "" {
		return name
	}
	return key + "." + name
}

func parent(key string) string {
	i := strings.LastIndexAny(key, ".[")
	if i < 0 {
		return ""
	}
	return key[:i]
}

// plain says in the operator's words what yaml says in Go's.
func plain(n *yaml.Node, t reflect.Type, err error) string {
	if n.Kind == yaml.ScalarNode {
		switch {
		case t == reflect.TypeFor[time.Duration]():
			return fmt.Sprintf("%q is not a duration: write it like 500ms, 5s, 10m or 24h", n.Value)
		case t.Kind() == reflect.Bool:
			return fmt.Sprintf("%q is not true or false", n.Value)
		case t.Kind() >= reflect.Int && t.Kind() <= reflect.Uint64 && !implementsText(t):
			return fmt.Sprintf("%q is not a whole number", n.Value)
		case t.Kind() == reflect.Float32, t.Kind() == reflect.Float64:
			return fmt.Sprintf("%q is not a number", n.Value)
		case t.Kind() == reflect.Slice, t.Kind() == reflect.Map:
			return fmt.Sprintf("%q is one value where a list or a section must stand: write [%s]", n.Value, n.Value)
		}
	}
	msg := strings.TrimPrefix(err.Error(), "yaml: ")
	msg = strings.TrimPrefix(msg, "unmarshal errors:\n  ")
	if _, rest, ok := strings.Cut(msg, ": "); ok && strings.HasPrefix(msg, "line ") {
		return rest
	}
	return msg
}

// implementsText says whether a type reads its own text, and so explains its own errors.
func implementsText(t reflect.Type) bool {
	return reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]())
}

func readBounded(path string) ([]byte, error) {
	f, err := os.Open(path) //nolint:gosec // the operator names the file
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxFile {
		return nil, fmt.Errorf("%s is larger than %d bytes", path, maxFile)
	}
	return data, nil
}
