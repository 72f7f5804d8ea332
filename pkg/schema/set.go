package schema

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/millrace/millrace/schemas"
)

// Builtin gives the types that Millrace comes with, by name.
func Builtin() ([]*Type, error) { return Load(schemas.Files) }

// Load reads every *.avsc file at the top of fsys, by name. A file is named as its type. All files' mistakes are
// reported together.
func Load(fsys fs.FS) ([]*Type, error) {
	paths, err := fs.Glob(fsys, "*.avsc")
	if err != nil {
		return nil, fmt.Errorf("listing schemas: %w", err)
	}
	slices.Sort(paths)
	var types []*Type
	var errs []error
	for _, path := range paths {
		data, err := fs.ReadFile(fsys, path)
		if err != nil {
			errs = append(errs, fmt.Errorf("reading schema: %w", err))
			continue
		}
		t, err := Parse(data)
		if err == nil && t.Name != strings.TrimSuffix(path, ".avsc") {
			err = fmt.Errorf("it holds type %s: name the file %s.avsc", t.Name, t.Name)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", path, err))
			continue
		}
		types = append(types, t)
	}
	return types, errors.Join(errs...)
}

// Set is some types, found by name. It is immutable.
type Set struct {
	types  []*Type // by name
	byName map[string]*Type
}

// NewSet refuses two types of one name.
func NewSet(types ...*Type) (*Set, error) {
	s := &Set{types: slices.Clone(types), byName: make(map[string]*Type, len(types))}
	for _, t := range types {
		if s.byName[t.Name] != nil {
			return nil, fmt.Errorf("there are two types named %s", t.Name)
		}
		s.byName[t.Name] = t
	}
	slices.SortFunc(s.types, func(a, b *Type) int { return strings.Compare(a.Name, b.Name) })
	return s, nil
}

// Get gives the type of that name, or nil.
func (s *Set) Get(name string) *Type { return s.byName[name] }

// All gives the types by name.
func (s *Set) All() []*Type { return slices.Clone(s.types) }
