package schema

import "testing"

func TestBuiltin(t *testing.T) {
	types, err := Builtin()
	if err != nil {
		t.Fatal(err)
	}
	set, err := NewSet(types...)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"log", "metric", "performance", "usage"} {
		if set.Get(name) == nil {
			t.Errorf("no type %s", name)
		}
	}
	if all := set.All(); len(all) != len(types) || all[0].Name != "log" {
		t.Errorf("%d types, the first %s, want %d by name", len(all), all[0].Name, len(types))
	}
	if set.Get("none") != nil {
		t.Error("a type that does not exist was found")
	}
	if _, err := NewSet(types[0], types[0]); err == nil {
		t.Error("two types of one name were accepted")
	}
}
