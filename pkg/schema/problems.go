package schema

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// problems collects every mistake of one schema, each with the place it is in, so that an author sees all at once.
type problems struct {
	name string // of the schema; empty until it is known
	errs []error
}

func (p *problems) add(where, format string, args ...any) {
	msg := fmt.Sprintf(format, args...)
	if where != "" {
		msg = where + ": " + msg
	}
	p.errs = append(p.errs, errors.New(msg))
}

// err joins what was found. Each line names the schema, so that a line is understood without the others.
func (p *problems) err() error {
	if len(p.errs) == 0 {
		return nil
	}
	prefix := "schema"
	if p.name != "" {
		prefix += " " + p.name
	}
	errs := make([]error, len(p.errs))
	for i, err := range p.errs {
		errs[i] = fmt.Errorf("%s: %w", prefix, err)
	}
	return errors.Join(errs...)
}

// object reads a JSON object without encoding/json's leniency: a key that stands twice is a mistake, not an override,
// and keys are compared exactly.
func (p *problems) object(where string, raw json.RawMessage) (map[string]json.RawMessage, bool) {
	dec := json.NewDecoder(bytes.NewReader(raw))
	if tok, err := dec.Token(); err != nil || tok != json.Delim('{') {
		p.add(where, "must be an object")
		return nil, false
	}
	vals := map[string]json.RawMessage{}
	for dec.More() {
		tok, err := dec.Token()
		if err != nil {
			p.add(where, "%v", err)
			return nil, false
		}
		key, _ := tok.(string)
		var val json.RawMessage
		if err := dec.Decode(&val); err != nil {
			p.add(where, "%v", err)
			return nil, false
		}
		if _, twice := vals[key]; twice {
			p.add(where, "%q stands twice", key)
			continue
		}
		vals[key] = val
	}
	return vals, true
}

// text reads a string that may be absent.
func (p *problems) text(where string, raw json.RawMessage) string {
	var s string
	if raw != nil && (json.Unmarshal(raw, &s) != nil || raw[0] != '"') {
		p.add(where, "must be a string, not %s", brief(raw))
	}
	return s
}

// texts reads an array of strings that may be absent.
func (p *problems) texts(where string, raw json.RawMessage) []string {
	if raw == nil {
		return nil
	}
	var list []*string
	if json.Unmarshal(raw, &list) != nil || list == nil || slices.Contains(list, nil) {
		p.add(where, "must be an array of strings, not %s", brief(raw))
		return nil
	}
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = *s
	}
	return out
}

// brief is raw for an error message.
func brief(raw json.RawMessage) string {
	const most = 60
	if raw == nil {
		return "nothing"
	}
	s := string(raw)
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}

// section is one object of attributes. Keys are taken out as they are asked for; what is left over is unknown.
type section struct {
	p     *problems
	where string
	vals  map[string]json.RawMessage
}

// section takes a nested object out of s; an absent one is empty, so that all its defaults apply.
func (s *section) section(key string) *section {
	sub := &section{p: s.p, where: s.where + "." + key}
	if raw := s.take(key); raw != nil {
		sub.vals, _ = s.p.object(sub.where, raw)
	}
	return sub
}

func (s *section) take(key string) json.RawMessage {
	raw := s.vals[key]
	delete(s.vals, key)
	return raw
}

func (s *section) at(key string) string { return s.where + "." + key }

// done reports the keys that nothing asked for: an attribute that is misspelt must not be ignored.
func (s *section) done() {
	left := make([]string, 0, len(s.vals))
	for key := range s.vals {
		left = append(left, key)
	}
	slices.Sort(left)
	for _, key := range left {
		s.p.add(s.at(key), "is not an attribute")
	}
}

func (s *section) integer(key string, def, high int) int {
	raw := s.take(key)
	if raw == nil {
		return def
	}
	n, err := strconv.Atoi(string(raw))
	if err != nil || n < 1 || n > high {
		s.p.add(s.at(key), "must be a whole number from 1 to %d, not %s", high, brief(raw))
		return def
	}
	return n
}

func (s *section) duration(key string, def, low, high time.Duration) time.Duration {
	raw := s.take(key)
	if raw == nil {
		return def
	}
	var text string
	if json.Unmarshal(raw, &text) != nil {
		s.p.add(s.at(key), `must be a duration as "7d", "1h" or "10m", not %s`, brief(raw))
		return def
	}
	d, err := ParseDuration(text)
	switch {
	case err != nil:
		s.p.add(s.at(key), `must be a duration as "7d", "1h" or "10m", not %s`, brief(raw))
	case d < low || d > high:
		s.p.add(s.at(key), "must be from %s to %s, not %s", formatDuration(low), formatDuration(high), text)
	case d%time.Second != 0:
		s.p.add(s.at(key), "must be whole seconds, not %s", text)
	default:
		return d
	}
	return def
}

func (s *section) oneOf(key, def string, allowed ...string) string {
	raw := s.take(key)
	if raw == nil {
		return def
	}
	var text string
	if json.Unmarshal(raw, &text) != nil || !slices.Contains(allowed, text) {
		s.p.add(s.at(key), "must be one of %s, not %s", strings.Join(allowed, ", "), brief(raw))
		return def
	}
	return text
}

// fields reads a list of field names into positions. refuse says why a field cannot be used there, or "".
func (s *section) fields(key string, t *Type, def []int, refuse func(Field) string) []int {
	raw := s.take(key)
	if raw == nil {
		return def
	}
	var list []int
	for _, name := range s.p.texts(s.at(key), raw) {
		i := t.Index(name)
		switch {
		case i < 0:
			s.p.add(s.at(key), "there is no field %q", name)
		case slices.Contains(list, i):
			s.p.add(s.at(key), "%q stands twice", name)
		case refuse(t.Fields[i]) != "":
			s.p.add(s.at(key), "field %q %s", name, refuse(t.Fields[i]))
		default:
			list = append(list, i)
		}
	}
	return list
}
