package main

import (
	"fmt"
	"strings"
)

// variant is a defect that is built in on purpose: see pkg/failpoint. At least one of its scenarios must find it, and
// the sound build must pass that scenario with the same seed.
type variant struct {
	name      string
	what      string
	scenarios []int
}

func variants() []variant {
	return []variant{
		{"early_commit", "offsets are committed once fetched, before they are written", []int{6}},
		{"bulk_200", "an HTTP 200 is taken as the success of all items of a bulk request", []int{10}},
		{"late_mark", "an acknowledgement that comes after its partition was given up is committed", []int{8}},
		{"silent_reset", "an offset that the log no longer has is replaced by the log's end", []int{21}},
	}
}

func (v variant) build() build_ { return build_{name: v.name, tags: sound.tags + ",broken_" + v.name} }

// chooseVariants gives those of these names, all, or none.
func chooseVariants(names string) ([]variant, error) {
	switch names {
	case "all":
		return variants(), nil
	case "none":
		return nil, nil
	}
	var out []variant
next:
	for name := range strings.SplitSeq(names, ",") {
		for _, v := range variants() {
			if v.name == strings.TrimSpace(name) {
				out = append(out, v)
				continue next
			}
		}
		return nil, fmt.Errorf("-broken %s: there is no defect %q", names, name)
	}
	return out, nil
}

// caught plays the variant's scenarios until one finds it.
func (v variant) caught(play func(scenario) result) (line string, ok bool) {
	var missed []string
	for _, n := range v.scenarios {
		for _, s := range scenarios() {
			if s.number != n {
				continue
			}
			r := play(s)
			if len(r.Violations) > 0 {
				return fmt.Sprintf("%-6s    broken %-13s seed %d, caught by %d %s: %s, %.0f s",
					passed, v.name, r.Seed, r.Number, r.Name, r.Violations[0].String(), r.total()), true
			}
			missed = append(missed, r.line())
		}
	}
	return fmt.Sprintf("%-6s    broken %-13s (%s) was not caught: %s", failed, v.name, v.what, strings.Join(missed, "; ")), false
}
