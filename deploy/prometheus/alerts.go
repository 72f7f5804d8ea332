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
	headroomUnknown  = "MillraceHeadroomUnknown"
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

// causesInOrder are those of pkg/lag as they are looked for there, but for the watcher's own blindness: of two watchers the
// other sees.
var causesInOrder = []lag.Why{
	lag.BrokerDown, lag.TopicRecreated, lag.DataExpired, lag.GroupDead, lag.RebalanceLoop, lag.Unassigned, lag.RegistryDown,
	lag.SinkDown, lag.SinkSlow, lag.Poison, lag.CommitStalled, lag.StuckMember, lag.TransactionOpen, lag.Skew,
	lag.ProducerBurst, lag.FetchSlow, lag.MonitorBlind,
}

// handNeeded are the causes that do not go away by waiting. sink_down has an alert of its own; data_expired and
// monitor_blind do too. The others slow a flow down, and the burn rates say when that matters.
var handNeeded = []lag.Why{
	lag.Poison, lag.GroupDead, lag.StuckMember, lag.RebalanceLoop, lag.Unassigned, lag.CommitStalled, lag.TransactionOpen,
	lag.RegistryDown, lag.TopicRecreated, lag.BrokerDown,
}

const (
	headroomLeast = 4 * time.Hour
	headroomWait  = 30 * time.Minute // before it is told that it is not known
	remembered    = 30 * time.Minute // an outage is, in the short windows of pages
	blindGrace    = 30 * time.Second
	missed        = day // a cluster is that was watched, and is not
)

// alert is one rule that alerts. Its labels are what it is: with another label it is another alert to Alertmanager, and the
// one before is over. So what may change while it fires, as the cause does, is asked for in the annotations.
type alert struct {
	name        string
	severity    string
	expr        string
	lasts       time.Duration
	summary     string
	description string
	causeURL    string
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
	if a.causeURL != "" {
		r.Annotations["cause_url"] = a.causeURL
	}
	if a.lasts > 0 {
		r.For = o.time(a.lasts)
	}
	return r
}

func alerts(o options) []alert {
	all := []alert{
		burns(o, lagBurnsFast, page, burnFast, over1h, over5m),
		burns(o, lagBurnsSteadily, page, burnSteady, over6h, over30m).unlessTold(o, lagBurnsFast, burnFast, over5m),
		burns(o, lagBurnsSlowly, ticket, burnSlow, over3d, over6h),
	}
	all = append(all, causes(o)...)
	all = append(all, headroom(o)...)
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

// lastCause asks, in a template, for the cause that a flow has, or else had last within the window: alerts outlive causes.
func lastCause(window string) string {
	return fmt.Sprintf("printf `topk(1, max_over_time(%s{cluster=%%q, group=%%q, topic=%%q}[%s]))` $labels.cluster $labels.group $labels.topic | query",
		causeAt, window)
}

// becauseOf is the end of a summary.
func becauseOf(cause string) string {
	return "{{ with " + cause + ` }}, cause {{ . | first | label "cause" }}{{ else }}, and no cause is known{{ end }}`
}

// causeURL is that of the first cause that a query gives, empty where there is none.
func (o options) causeURL(cause string) string {
	return "{{ with " + cause + " }}" + o.runbooks + `/causes.md#{{ . | first | label "cause" }}{{ end }}`
}

// limit is the share of bad partition-seconds at which the budget goes so many times as fast as it may.
func (o options) limit(rate float64) string { return fmt.Sprintf("%.6g", rate*(1-o.slo)) }

// burns alerts when both windows burn: the long one that it matters, the short one that it still goes on.
func burns(o options, name, severity string, rate float64, long, short window) alert {
	cause := lastCause(o.time(short.is))
	return alert{
		name: name, severity: severity, causeURL: o.causeURL(cause),
		expr: fmt.Sprintf("%[1]s > %[3]s\nand\n%[2]s > %[3]s", bad(long), bad(short), o.limit(rate)),
		summary: fmt.Sprintf("{{ $labels.group }} is late on {{ $labels.topic }}: its error budget goes %s it may%s",
			times(rate), becauseOf(cause)),
		description: fmt.Sprintf("{{ $value | humanizePercentage }} of the partition-seconds of the last %s were past the objective, or their lag was not known; %s may be.",
			long.name, percent(1-o.slo)),
	}
}

// unlessTold keeps a burn rate quiet on an outage that a faster one has told of and that is over: the longer windows
// remember it when the faster one's do not. Over is what the faster one's short window says, so that there is no moment
// between the two. A flow that stays late by less than that is told of when the outage is forgotten.
func (a alert) unlessTold(o options, faster string, rate float64, short window) alert {
	a.expr += fmt.Sprintf("\nunless on (%[1]s) (\n  %[2]s <= %[3]s\n  and on (%[1]s)\n  max_over_time(ALERTS{alertname=%[4]q, alertstate=\"firing\"}[%[5]s])\n)",
		flow, bad(short), o.limit(rate), faster, o.time(remembered))
	return a
}

func times(rate float64) string {
	if rate == 1 {
		return "faster than"
	}
	return fmt.Sprintf("%g times as fast as", rate)
}

func percent(share float64) string { return fmt.Sprintf("%.4g %%", 100*share) }

// causes alerts once for a group, however many topics it is late on and for however many causes: what has to be done is done
// once.
func causes(o options) []alert {
	hand := anyOf(handNeeded)
	named := fmt.Sprintf("printf `max by (cause) (millrace_lag_cause{cluster=%%q, group=%%q, cause=~%q})` $labels.cluster $labels.group | query | sortByLabel `cause`", hand)
	return []alert{
		{
			// It may not take longer than the wait of alertmanager.yaml before a burn rate is told: it keeps that quiet.
			name: destinationDown, severity: page, lasts: time.Minute, causeURL: o.runbooks + "/causes.md#" + string(lag.SinkDown),
			expr:        fmt.Sprintf("max by (cluster, group, cause) (millrace_lag_cause{cause=%q})", lag.SinkDown),
			summary:     "the destination of {{ $labels.group }} is down",
			description: "Its writes fail. Nothing is dropped: records wait in Kafka, and it goes on by itself once the destination is back.",
		},
		{
			// Late records are still late when the destination is back, and the windows remember. It catches up, but on a topic
			// with a cause that needs a hand it does not.
			name: destinationBack, severity: nobody,
			expr: fmt.Sprintf("%s\nand on (cluster, group)\nmax_over_time(ALERTS{alertname=%q, alertstate=\"firing\"}[%s])\nunless on (%s)\n%s{cause=~%q}",
				allowed, destinationDown, o.time(remembered), flow, causeAt, hand),
			summary:     "the destination of {{ $labels.group }} is or was down, and it catches up on {{ $labels.topic }}",
			description: "It has been so within half an hour. Alerts on the group being late are kept quiet, unless another cause is named that needs a hand.",
		},
		{
			name: needsAHand, severity: ticket, lasts: 5 * time.Minute, causeURL: o.causeURL(named),
			expr: fmt.Sprintf("max by (cluster, group) (\n  max by (%s) (millrace_lag_cause{cause=~%q})\n  and\n  %s\n)", flow, hand, allowed),
			summary: "{{ $labels.group }} is behind, cause {{ range $i, $one := " + named +
				" }}{{ if $i }} and {{ end }}{{ $one.Labels.cause }}{{ end }}, which does not pass by itself",
			description: "A cause of this kind has been named for at least one topic of the group for five minutes. The runbook has a section for each.",
		},
	}
}

// headroom alerts before unread records are deleted, for flows whose headroom has been short for five minutes. That is asked
// of the past and not of a `for`, which would begin again with every look that cannot tell. Where none can for long, somebody
// should know that there is no warning.
func headroom(o options) []alert {
	cause := lastCause(o.time(over5m.is))
	return []alert{
		{
			name: headroomShort, severity: page, causeURL: o.causeURL(cause),
			expr:        fmt.Sprintf("%[1]s and %[1]s offset %[2]s", short, o.time(5*time.Minute)),
			summary:     "unread records of {{ $labels.topic }} can be deleted in {{ $value | humanizeDuration }}, before {{ $labels.group }} has read them" + becauseOf(cause),
			description: "It is past its objective, and either catches up too slowly to be done in half the time that is left, or under four hours are left.",
		},
		{
			name: headroomUnknown, severity: ticket, lasts: headroomWait,
			// Of two watchers one that knows is enough.
			expr:        fmt.Sprintf("min by (%s) (millrace_lag_headroom_unknown_partitions) > 0\nand\n%s", flow, allowed),
			summary:     "when records of {{ $labels.topic }} can be deleted that {{ $labels.group }} has not read is not known, on {{ $value }} partitions",
			description: "For half an hour it could not be told: how old they are, how the topic is kept, or whether there are any, is not known. " + headroomShort + " cannot warn.",
		},
	}
}

// events alerts on what must never happen, at once and for an hour. A group that nobody set an objective for may be
// somebody's forgotten one, and its records expire for as long as it exists: nobody is told. Each consumer counts its own
// part, and each watcher the whole.
func events(o options) []alert {
	const whole = "max by (" + flow + ")"
	uncommitted := happened(o, whole, "millrace_lag_expired_records_total")
	return []alert{
		{
			name: recordsMissing, severity: page, expr: ours(happened(o, parts, `millrace_stream_gap_records_total{kind="unexplained"}`)),
			summary:     "{{ $labels.group }} did not get {{ $value | humanize }} offsets of {{ $labels.topic }}, and nothing explains it",
			description: "Between two records that it read lie offsets that were neither deleted nor are a transaction's markers. They may be lost to the destination.",
		},
		{
			// A consumer's own number is told where there is one. It has no cluster where its target was not given the label.
			name: recordsExpired, severity: page,
			expr: fmt.Sprintf("%[1]s\nor on (%[2]s) (\n%[3]s\n  and\n  %[4]s\n  unless on (group, topic)\n  %[1]s{cluster=\"\"}\n)",
				unread, flow, indent(uncommitted), allowed),
			summary:     "{{ $value | humanize }} records of {{ $labels.topic }} were deleted before {{ $labels.group }} read them",
			description: "The topic's retention deleted them; this group never gets them from Kafka. Others may have them.",
		},
		{
			name: commitRewound, severity: page, expr: happened(o, whole, "millrace_lag_rewinds_total") + "\nand\n" + allowed,
			summary:     "the commit of {{ $labels.group }} on {{ $labels.topic }} went back",
			description: "What lies between is read again. Somebody reset it, or the group lost its commits, or two writers fight over them.",
		},
	}
}

// ours gives what our consumers count the label of their group, so that what is said of one flow is one alert.
func ours(expr string) string {
	return "sum by (" + flow + ") (label_replace(\n" + indent(expr) + `,
  "group", "millrace-$1", "consumer", "(.*)"
))`
}

// blind alerts once for a cluster that nobody sees. With more than one watcher, one that sees is enough: otherwise one that
// is blind would keep the other's alerts quiet. A watcher that was given no name for its cluster has none before its first
// look, and says nothing for or against any: a cluster is missed for as long as Prometheus knows that it was watched, and
// where none ever was, that is said.
func blind(o options) alert {
	const (
		age  = `millrace_lag_look_age_seconds{cluster!=""}`
		late = "min by (cluster) (" + age + " - 3 * millrace_lag_interval_seconds)"
	)
	known := fmt.Sprintf("last_over_time(%s[%s])", age, o.time(missed))
	return alert{
		name: monitorBlind, severity: page, lasts: 2 * time.Minute,
		expr: fmt.Sprintf("%[1]s > %[2]s\nor\n(group by (cluster) (%[3]s) unless %[1]s)\nor\nabsent(%[3]s)", late, o.seconds(blindGrace), known),
		summary: "nobody watches lag{{ with $labels.cluster }} in the cluster {{ . }}{{ end }}: " +
			"the last complete look is too long ago, or the watcher does not answer",
		description: "Until it looks again no alert on lag can be trusted, and none is told.",
	}
}
