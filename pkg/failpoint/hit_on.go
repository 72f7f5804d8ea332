//go:build failpoints

package failpoint

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

type order struct {
	left, every int
	action      string
}

const stall = 4 * time.Second

var (
	mu     sync.Mutex
	orders = must(parse(os.Getenv("MILLRACE_FAILPOINT")))
	clock  = must(parseClock(os.Getenv("MILLRACE_CLOCK")))
)

// Now is the time, as wrong as it was ordered to be.
func Now() time.Time { return time.Now().Add(clock) }

func parseClock(text string) (time.Duration, error) {
	if text == "" {
		return 0, nil
	}
	return time.ParseDuration(text)
}

// Hit acts on the order that was given for this place, if any.
func Hit(name string) {
	mu.Lock()
	o := orders[name]
	due := false
	if o != nil {
		o.left--
		due = o.left == 0
		if due && o.action == "stall" {
			o.left = o.every
		}
	}
	mu.Unlock()
	if !due {
		return
	}
	fmt.Fprintf(os.Stderr, "failpoint %s: %s\n", name, o.action)
	switch o.action {
	case "kill":
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {} // until the signal is delivered
	case "wedge":
		select {}
	case "stall":
		time.Sleep(stall)
	case "panic":
		panic("failpoint " + name) //nolint:forbidigo // what was ordered
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		fmt.Fprintln(os.Stderr, "MILLRACE_FAILPOINT, MILLRACE_CLOCK:", err)
		os.Exit(2) //nolint:forbidigo // a scenario with a misspelt fault would pass
	}
	return v
}

func parse(text string) (map[string]*order, error) {
	orders := map[string]*order{}
	for one := range strings.SplitSeq(text, ",") {
		if one == "" {
			continue
		}
		name, what, _ := strings.Cut(one, "=")
		count, action, found := strings.Cut(what, ":")
		if !found {
			action = "kill"
		}
		n, err := strconv.Atoi(count)
		if err != nil || n < 1 {
			return nil, fmt.Errorf("%q: write it as NAME=N:ACTION with N from 1", one)
		}
		if !slices.Contains([]string{"kill", "wedge", "panic", "stall"}, action) {
			return nil, fmt.Errorf("%q: the action is kill, wedge, panic or stall", one)
		}
		orders[name] = &order{left: n, every: n, action: action}
	}
	return orders, nil
}
