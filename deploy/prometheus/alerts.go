package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/millrace/millrace/pkg/lag"
)

// The alerts. Each has a runbook of its name in docs/runbooks.
const (
	lagBurnsFast     = "MillraceLagBurnsFast"
	lagBurnsSteadily = "MillraceLagBurnsSteadily"
	lagBurnsSlowly   = "MillraceLagBurnsSlowly"
	destinationDown  = "MillraceDestinationDown"
	destinationBack  = "MillraceDestinationBack"
	needsAHand       = "MillraceLagNeedsAHand"
	headroomShort    = "MillraceHeadroomShort"
	recordsMissing   = "MillraceRecordsMissing"
	recordsExpired   = "MillraceRecordsExpired"
	commitRewound    = "MillraceCommitRewound"
	monitorBlind     = "MillraceMonitorBlind"
)

// Who is told, and how loudly.
const (
	page   = "page"   // somebody gets up
	ticket = "ticket" // somebody looks in the morning
	nobody = "none"   // it only keeps others quiet
)

// handNeeded are the causes that do not go away by waiting. sink_down has an alert of its own; data_expired and
// monitor_blind do too. The others slow a flow down, and the burn rates say when that matters.
var handNeeded = []lag.Why{
	lag.Poison, lag.GroupDead, lag.StuckMember, lag.RebalanceLoop, lag.Unassigned, lag.CommitStalled, lag.TransactionOpen,
	lag.RegistryDown, lag.TopicRecreated, lag.BrokerDown,
}

const (
	headroomLeast = 4 * time.Hour
	blindGrace    = 30 * time.Second
)

// alert is one rule that alerts.
type alert struct {
	name        string
	severity    string
	expr        string
	lasts       time.Duration
	summary     string
	description string
}

func (a alert) rule(o options) rule {
	r := rule{
		Alert: a.name, Expr: a.expr,
		Labels: map[string]string{"severity": a.severity},
		Annotations: map[string]string{
			"summary":     a.summary,
			"description": a.description,
			"runbook_url": o.runbooks + "/" + a.name + ".md",
		},
	}
	if strings.Contains(a.expr, "cause") {
		r.Annotations["cause_url"] = "{{ if $labels.cause }}" + o.runbooks + "/causes.md#{{ $labels.cause }}{{ end }}"
	}
	if a.lasts > 0 {
		r.For = o.time(a.lasts)
	}
	return r
}

func alerts(o options) []alert {
	all := []alert{
		burns(o, lagBurnsFast, page, burnFast, "1h", "5m"),
		burns(o, lagBurnsSteadily, page, burnSteady, "6h", "30m"),
		burns(o, lagBurnsSlowly, ticket, burnSlow, "3d", "6h"),
	}
	all = append(all, causes(o)...)
	all = append(all, headroom(o))
	all = append(all, events(o)...)
	return append(all, blind(o))
}

func anyOf(causes []lag.Why) string {
	names := make([]string, len(causes))
	for i, c := range causes {
		names[i] = string(c)
	}
	return strings.Join(names, "|")
}

const becauseOf = "{{ if $labels.cause }}, cause {{ $labels.cause }}{{ else }}, and no cause is known{{ end }}"

// burns alerts when both windows burn: the long one that it matters, the short one that it still goes on. It waits for
// nothing more: the cause is among its labels, and a `for` would begin again whenever the cause changed.
func burns(o options, name, severity string, rate float64, long, short string) alert {
	limit := fmt.Sprintf("%.6g", rate*(1-o.slo))
	return alert{
		name: name, severity: severity,
		expr: withCause(fmt.Sprintf("%s > %s\nand\n%s > %s", bad(long), limit, bad(short), limit)),
		summary: fmt.Sprintf("{{ $labels.group }} is late on {{ $labels.topic }}: its error budget goes %s it may%s",
			times(rate), becauseOf),
		description: fmt.Sprintf("{{ $value | humanizePercentage }} of the partition-seconds of the last %s were past the objective, or their lag was not known; %s may be.",
			long, percent(1-o.slo)),
	}
}

func times(rate float64) string {
	if rate == 1 {
		return "faster than"
	}
	return fmt.Sprintf("%g times as fast as", rate)
}

func percent(share float64) string { return fmt.Sprintf("%.4g %%", 100*share) }

// causes alerts once for a group, however many topics it is late on: what has to be done is done once.
func causes(o options) []alert {
	return []alert{
		{
			// It may not take longer than the wait of alertmanager.yaml before a burn rate is told: it keeps that quiet.
			name: destinationDown, severity: page, lasts: time.Minute,
			expr:        fmt.Sprintf("max by (group, cause) (millrace_lag_cause{cause=%q})", lag.SinkDown),
			summary:     "the destination of {{ $labels.group }} is down",
			description: "Its writes fail. Nothing is dropped: records wait in Kafka, and it goes on by itself once the destination is back.",
		},
		{
			// Late records are still late when the destination is back, and the windows remember. It catches up: give it the
			// longest of the short windows.
			name: destinationBack, severity: nobody,
			expr: fmt.Sprintf("max by (group, cause) (max_over_time(ALERTS{alertname=%q, alertstate=\"firing\"}[%s]))",
				destinationDown, o.time(30*time.Minute)),
			summary:     "the destination of {{ $labels.group }} is or was down, and the group catches up",
			description: "It has been so within half an hour. Alerts on the group being late are kept quiet, unless another cause is named that needs a hand.",
		},
		{
			name: needsAHand, severity: ticket, lasts: 5 * time.Minute,
			expr:        fmt.Sprintf("max by (group, cause) (millrace_lag_cause{cause=~%q})", anyOf(handNeeded)),
			summary:     "{{ $labels.group }} is behind, cause {{ $labels.cause }}, which does not pass by itself",
			description: "The cause has been named for at least one topic of the group for five minutes. The runbook has a section for it.",
		},
	}
}

// headroom alerts before unread records are deleted, for flows whose headroom has been short for five minutes. That is asked
// of the past and not of a `for`, which would begin again whenever the cause changed.
func headroom(o options) alert {
	return alert{
		name: headroomShort, severity: page,
		expr:        withCause(fmt.Sprintf("%[1]s and %[1]s offset %[2]s", short, o.time(5*time.Minute))),
		summary:     "unread records of {{ $labels.topic }} can be deleted in {{ $value | humanizeDuration }}, before {{ $labels.group }} has read them" + becauseOf,
		description: "It is past its objective, and either catches up too slowly to be done in half the time that is left, or under four hours are left.",
	}
}

// events alerts on what must never happen, at once and for an hour. A group that nobody set an objective for may be
// somebody's forgotten one, and its records expire for as long as it exists: nobody gets up for that.
func events(o options) []alert {
	const objective = "max by (group, topic) (millrace_lag_objective_seconds)"
	gap := happened(o, "consumer, topic", `millrace_stream_gap_records_total{kind="unexplained"}`)
	unread := ours(happened(o, "consumer, topic", "millrace_stream_expired_records_total"))
	uncommitted := happened(o, "group, topic", "millrace_lag_expired_records_total")
	rewinds := happened(o, "group, topic", "millrace_lag_rewinds_total")
	expired := alert{
		name:        recordsExpired,
		summary:     "{{ $value | humanize }} records of {{ $labels.topic }} were deleted before {{ $labels.group }} read them",
		description: "The topic's retention deleted them; this group never gets them from Kafka. Others may have them.",
	}
	rewound := alert{
		name:        commitRewound,
		summary:     "the commit of {{ $labels.group }} on {{ $labels.topic }} went back",
		description: "What lies between is read again. Somebody reset it, or the group lost its commits, or two writers fight over them.",
	}
	return []alert{
		{
			name: recordsMissing, severity: page, expr: ours(gap),
			summary:     "{{ $labels.group }} did not get {{ $value | humanize }} offsets of {{ $labels.topic }}, and nothing explains it",
			description: "Between two records that it read lie offsets that were neither deleted nor are a transaction's markers. They may be lost to the destination.",
		},
		expired.with(page, unread+"\nor on (group, topic)\n"+uncommitted+"\nand on (group, topic)\n"+objective),
		expired.with(ticket, uncommitted+"\nunless on (group, topic)\n"+objective+"\nunless on (group, topic)\n"+unread),
		rewound.with(page, rewinds+"\nand on (group, topic)\n"+objective),
		rewound.with(ticket, rewinds+"\nunless on (group, topic)\n"+objective),
	}
}

func (a alert) with(severity, expr string) alert {
	a.severity, a.expr = severity, expr
	return a
}

// ours gives what our consumers count the label of their group, so that what is said of one flow is one alert.
func ours(expr string) string {
	return "sum by (group, topic) (label_replace(\n" + indent(expr) + `,
  "group", "millrace-$1", "consumer", "(.*)"
))`
}

func blind(o options) alert {
	const late = "millrace_lag_look_age_seconds - 3 * millrace_lag_interval_seconds"
	return alert{
		name: monitorBlind, severity: page, lasts: 2 * time.Minute,
		// With more than one watcher, one that sees is enough. Otherwise one that is blind would keep the other's alerts quiet.
		expr:        fmt.Sprintf("min(%s) > %s\nor\nabsent(%s)", late, o.seconds(blindGrace), late),
		summary:     "nobody watches lag: the last complete look is too long ago, or the watcher does not answer",
		description: "Until it looks again no alert on lag can be trusted, and none is told.",
	}
}
