// Package schematest gives tests the built-in types and one that is not built in.
package schematest

import (
	"embed"
	"testing"

	"github.com/millrace/millrace/pkg/schema"
)

// Files holds network_flow.avsc.
//
//go:embed network_flow.avsc
var Files embed.FS

// NetworkFlow is a type with a field of every kind, with and without null.
func NetworkFlow(tb testing.TB) *schema.Type {
	tb.Helper()
	types, err := schema.Load(Files)
	if err != nil {
		tb.Fatal(err)
	}
	return types[0]
}

// Type is the built-in type of that name.
func Type(tb testing.TB, name string) *schema.Type {
	tb.Helper()
	types, err := schema.Builtin()
	if err != nil {
		tb.Fatal(err)
	}
	for _, t := range types {
		if t.Name == name {
			return t
		}
	}
	tb.Fatalf("there is no built-in type %s", name)
	return nil
}
