package main

import (
	"fmt"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

const day = 24 * time.Hour

// The burn rates of the SRE workbook: how many times faster than it may the budget of 30 days goes.
const (
	burnFast   = 14.4 // 2 % of the budget in an hour
	burnSteady = 6    // 5 % in six hours
	burnSlow   = 1    // 10 % in three days
)

// How often rules are evaluated. Those over long windows read a lot and change little.
const (
	often  = 15 * time.Second
	seldom = 2 * time.Minute
)

type ruleFile struct {
	Groups []ruleGroup `yaml:"groups"`
}

type ruleGroup struct {
	Name     string `yaml:"name"`
	Interval string `yaml:"interval"`
	Rules    []rule `yaml:"rules"`
}

type rule struct {
	Record      string            `yaml:"record,omitempty"`
	Alert       string            `yaml:"alert,omitempty"`
	Expr        string            `yaml:"expr"`
	For         string            `yaml:"for,omitempty"`
	Labels      map[string]string `yaml:"labels,omitempty"`
	Annotations map[string]string `yaml:"annotations,omitempty"`
}

// window is one over which the share of bad partition-seconds is recorded. Its series keeps its name at every scale.
type window struct {
	name string
	is   time.Duration
	long bool
}

var (
	over5m  = window{"5m", 5 * time.Minute, false}
	over30m = window{"30m", 30 * time.Minute, false}
	over1h  = window{"1h", time.Hour, false}
	over6h  = window{"6h", 6 * time.Hour, true}
	over3d  = window{"3d", 3 * day, true}
	windows = []window{over5m, over30m, over1h, over6h, over3d}
)

// flow is what tells one flow from another. One Prometheus may scrape the watchers of several clusters.
const flow = "cluster, group, topic"

// What is recorded of a flow besides.
const (
	causeAt = "cluster_group_topic:millrace_lag_cause:seconds"               // the one cause that it has, by when it had it
	short   = "cluster_group_topic:millrace_headroom_seconds:short"          // of those that have too little
	unread  = "cluster_group_topic:millrace_stream_expired_records:increase" // what our consumers say they did not get
)

// allowed is of the flows that have an objective. What becomes of others is nobody's business.
const allowed = "max by (" + flow + ") (millrace_lag_objective_seconds)"

// parts adds up what our consumers count.
const parts = "sum by (cluster, consumer, topic)"

func bad(w window) string { return "cluster_group_topic:millrace_lag_bad:ratio_rate" + w.name }

// rules makes rules.yaml.
func rules(o options) (string, error) {
	quick, slow := recordings(o)
	for _, a := range alerts(o) {
		quick = append(quick, a.rule(o))
	}
	all := ruleFile{Groups: []ruleGroup{
		{Name: "millrace-lag-long", Interval: o.time(seldom), Rules: slow},
		{Name: "millrace-lag", Interval: o.time(often), Rules: quick},
	}}
	return marshal(o, "The alerts on lag and the recording rules that they stand on.", all)
}

func recordings(o options) (quick, slow []rule) {
	for _, w := range windows {
		r := rule{Record: bad(w), Expr: fmt.Sprintf(
			"sum by (%s) (rate(millrace_lag_bad_partition_seconds_total[%s]))\n/\n%s",
			flow, o.time(w.is), watched(o))}
		if w.long {
			slow = append(slow, r)
		} else {
			quick = append(quick, r)
		}
	}
	return append(quick,
		rule{Record: causeAt, Expr: oneCause()},
		rule{Record: short, Expr: shortHeadroom(o)},
		rule{Record: unread, Expr: ours(happened(o, parts, "millrace_stream_expired_records_total"))}), slow
}

// oneCause is the one cause of a flow. Two watchers may name two, and the one that is taken may not depend on which of them
// came first. Its value is the time, by which of several within a window the last can be told.
func oneCause() string {
	each := make([]string, len(causesInOrder))
	for i, why := range causesInOrder {
		each[i] = fmt.Sprintf("max by (%s, cause) (millrace_lag_cause{cause=%q})", flow, why)
	}
	return "time() * (\n" + indent(strings.Join(each, "\nor on ("+flow+")\n")) + "\n)"
}

// watched is how many partitions a flow has: what it was watched for, per second. Over the window itself a flow that is new
// would be judged by its first seconds. deriv() has it from the second scrape, rate() also when the watcher has started anew.
func watched(o options) string {
	const total = "millrace_lag_partition_seconds_total"
	return fmt.Sprintf("(sum by (%[3]s) (\n  deriv(%[1]s[%[2]s]) > rate(%[1]s[%[2]s])\n  or\n  rate(%[1]s[%[2]s])\n) > 0)", total, o.time(5*time.Minute), flow)
}

// shortHeadroom holds when under four hours are left, or less than twice the time that catching up takes. Retention may be
// shorter than four hours, and a flow that is little behind in it is in no danger: since headroom and lag add up to what
// is kept, half of that must be unread. Where it catches up too slowly, a tenth must. What never catches up (+Inf) has the
// four hours: there are days until then, and the other alerts.
func shortHeadroom(o options) string {
	const (
		left    = "min by (" + flow + ") (millrace_lag_headroom_seconds)"
		late    = "max by (" + flow + `) (millrace_lag_seconds{stage="committed"})`
		catchUp = "max by (" + flow + ") (millrace_lag_catch_up_seconds)"
	)
	return fmt.Sprintf("(\n  (%[1]s < %[5]s and %[1]s < %[2]s)\n  or\n  (%[1]s < 2 * (%[3]s < +Inf) and %[1]s < 9 * %[2]s)\n)\nand\n%[2]s > %[4]s",
		left, late, catchUp, allowed, o.seconds(headroomLeast))
}

func indent(s string) string { return "  " + strings.ReplaceAll(s, "\n", "\n  ") }

// happened is by how much counters went up in the last hour, where they did. increase() knows nothing of what a counter
// had when it was first seen, so a series that was not there an hour ago counts by all it has.
func happened(o options, together, series string) string {
	return fmt.Sprintf("%[1]s (\n  increase(%[2]s[%[3]s]) > 0\n  or\n  (max_over_time(%[2]s[%[3]s]) unless max_over_time(%[2]s[%[3]s] offset %[3]s)) > 0\n)", together, series, o.time(time.Hour))
}

func marshal(o options, what string, v any) (string, error) {
	var b strings.Builder
	fmt.Fprintf(&b, "# %s\n# Written by `make alerts` (deploy/prometheus): a change made here is lost.\n", what)
	if o.scale != 1 {
		fmt.Fprintf(&b, "# All times are divided by %g.\n", o.scale)
	}
	e := yaml.NewEncoder(&b)
	e.SetIndent(2)
	if err := e.Encode(v); err != nil {
		return "", err
	}
	return b.String(), e.Close()
}
