//go:build failpoints

package failpoint

import (
	"testing"
)

func TestAnOrderActsAtItsHitOnly(t *testing.T) {
	var err error
	if orders, err = parse("a=3:panic,b=1:panic"); err != nil {
		t.Fatal(err)
	}
	panicked := func(name string) (did bool) {
		defer func() { did = recover() != nil }()
		Hit(name)
		return false
	}
	for i, want := range []bool{false, false, true, false} {
		if got := panicked("a"); got != want {
			t.Errorf("hit %d: panicked is %v, want %v", i+1, got, want)
		}
	}
	if panicked("c") {
		t.Error("a place without an order acted")
	}
	for _, bad := range []string{"a", "a=0", "a=x:kill", "a=1:explode"} {
		if _, err := parse(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}
