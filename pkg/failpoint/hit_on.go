//go:build failpoints

package failpoint

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

type order struct {
	left   int
	action string
}

var (
	mu     sync.Mutex
	orders = mustParse(os.Getenv("MILLRACE_FAILPOINT"))
)

// Hit acts on the order that was given for this place, if any.
func Hit(name string) {
	mu.Lock()
	o := orders[name]
	due := false
	if o != nil {
		o.left--
		due = o.left == 0
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
	case "panic":
		panic("failpoint " + name) //nolint:forbidigo // what was ordered
	}
}

func mustParse(text string) map[string]*order {
	orders, err := parse(text)
	if err != nil {
		fmt.Fprintln(os.Stderr, "MILLRACE_FAILPOINT:", err)
		os.Exit(2) //nolint:forbidigo // a scenario with a misspelt fault would pass
	}
	return orders
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
		if action != "kill" && action != "wedge" && action != "panic" {
			return nil, fmt.Errorf("%q: the action is kill, wedge or panic", one)
		}
		orders[name] = &order{left: n, action: action}
	}
	return orders, nil
}
