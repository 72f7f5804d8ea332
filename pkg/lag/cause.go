package lag

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
)

// Why is one likely cause, of a closed set.
type Why string

// The causes, in the order in which they are looked for: the first that holds is named.
const (
	MonitorBlind    Why = "monitor_blind"
	BrokerDown      Why = "broker_down"
	TopicRecreated  Why = "topic_recreated"
	DataExpired     Why = "data_expired"
	GroupDead       Why = "group_dead"
	RebalanceLoop   Why = "rebalance_loop"
	Unassigned      Why = "unassigned"
	RegistryDown    Why = "registry_down"
	SinkDown        Why = "sink_down"
	SinkSlow        Why = "sink_slow"
	Poison          Why = "poison"
	CommitStalled   Why = "commit_stalled"
	StuckMember     Why = "stuck_member"
	TransactionOpen Why = "transaction_open"
	Skew            Why = "skew"
	ProducerBurst   Why = "producer_burst"
	FetchSlow       Why = "fetch_slow"
)

// Cause is why, what shows it, and what to do.
type Cause struct {
	Why      Why    `json:"cause,omitempty"`
	Evidence string `json:"evidence,omitempty"`
	Next     string `json:"next,omitempty"`
}

// next is what to do about each.
var next = map[Why]string{
	MonitorBlind:    "see that the monitor reaches the brokers and may describe groups and topics; until then nothing here is known",
	BrokerDown:      "bring the broker back, or let another replica lead; nothing is lost that was acknowledged",
	TopicRecreated:  "have the group's offsets reset to the new topic's start; Millrace's stores do it by themselves, its lake waits for an operator",
	DataExpired:     "raise the topic's retention, then find out what kept the group from reading in time; what is gone is counted",
	GroupDead:       "start the group's consumers; nothing reads for it",
	RebalanceLoop:   "see why members come and go: their logs, session time-outs, calls that take longer than the poll interval",
	Unassigned:      "see why no member has the partition: more partitions than the assignor gave out, or a static member that is gone",
	RegistryDown:    "bring the schema registry back; records of unknown schemas wait, none is dropped",
	SinkDown:        "bring the destination back; nothing is dropped, and it goes on by itself",
	SinkSlow:        "give the destination more room, or wait; more consumers make it worse",
	Poison:          "look at the record at the offset that is named; repair the consumer, or move its offset past it",
	CommitStalled:   "see the coordinator and the group's rights: what is applied is not committed, and would come again",
	StuckMember:     "see the member that is named: its stack, its logs; restart it, and another takes its partitions over",
	TransactionOpen: "find the producer that has left its transaction open and end it: kafka-transactions.sh find-hanging, abort",
	Skew:            "spread the keys: one partition gets far more than the others",
	ProducerBurst:   "wait: the group drains faster than before the burst, and catches up",
	FetchSlow:       "see the brokers' load, quotas and the network between: the consumer waits for records that are there",
}

func because(why Why, evidence string, args ...any) Cause {
	return Cause{Why: why, Evidence: fmt.Sprintf(evidence, args...), Next: next[why]}
}

func (c *groupContext) blindCause(log *logState) Cause {
	switch {
	case c.blind != "":
		return because(MonitorBlind, "%s", c.blind)
	case denied(c.g.Err):
		return because(MonitorBlind, "%v", c.g.Err)
	case denied(log.Err):
		return because(MonitorBlind, "asking for the partition's offsets: %v", log.Err)
	case c.g.Err != nil:
		return because(BrokerDown, "the broker that coordinates the group: %v", c.g.Err)
	case log.Leader < 0:
		return because(BrokerDown, "the partition has no leader: %v", log.Err)
	}
	return because(BrokerDown, "asking the partition's leader, broker %d: %v", log.Leader, log.Err)
}

// denied says whether it is the monitor's rights that are missing, and no broker.
func denied(err error) bool {
	return errors.Is(err, kerr.GroupAuthorizationFailed) || errors.Is(err, kerr.TopicAuthorizationFailed) || errors.Is(err, kerr.ClusterAuthorizationFailed)
}

// window is over how long a status is told.
func (c *groupContext) window() time.Duration {
	return max(c.w.window(), c.objective)
}

// troubled says whether there is anything to explain.
func (c *groupContext) troubled(r *Row) bool {
	if r.Exact != nil && *r.Exact == 0 {
		return false
	}
	return r.lag() > 0 && (r.Status != OK || r.Age.atMost() > c.patience())
}

// patience is how old an unread record may be, in seconds, without that anything is wrong.
func (c *groupContext) patience() float64 { return c.w.patience(c.objective) }

// diagnose names the first cause that holds.
func (c *groupContext) diagnose(r *Row, p Partition, one *pair, log *logState) Cause {
	switch {
	case c.now.Sub(one.recreated) < recent:
		return because(TopicRecreated, "the topic has another id since %s", one.recreated.UTC().Format(time.TimeOnly))
	case one.committed > log.End:
		return because(TopicRecreated, "the commit %d is beyond the log's end %d", one.committed, log.End)
	case r.Committed != nil && *r.Committed < log.Start:
		return because(DataExpired, "%d offsets were deleted before they were read: the commit is %d, the log begins at %d",
			log.Start-*r.Committed, *r.Committed, log.Start)
	case c.heldBack(r, log):
		return because(TransactionOpen, "a transaction has been open since %s at least, and holds %d offsets back from %d on",
			log.openFor.UTC().Format(time.TimeOnly), log.End-log.Stable, log.Stable)
	case !c.troubled(r):
		return Cause{}
	case len(c.g.Members) == 0 && c.g.Unseen == nil:
		return because(GroupDead, "%d records wait and the group has no members (%s)", r.lag(), strings.ToLower(c.g.State))
	}
	if loop, ok := c.rebalancing(); ok {
		return loop
	}
	if c.owners[p] == nil && c.g.State == "Stable" && c.g.Unseen == nil {
		return because(Unassigned, "%d members, and none has partition %d", len(c.g.Members), p.Number)
	}
	if said, ok := c.said(p, one); ok {
		return said
	}
	return c.guess(r, p, one, log)
}

func (c *groupContext) rebalancing() (Cause, bool) {
	changes, unrest := len(c.g.changes), len(c.g.unrest)
	if changes >= 3 || (c.g.looks >= windowLooks && float64(unrest) > 0.2*min(float64(c.g.looks), unrestWindow.Seconds()/c.w.opts.Interval.Seconds())) {
		return because(RebalanceLoop, "the members changed %d times in the last 10 minutes, %d looks met a rebalance", changes, unrest), true
	}
	return Cause{}, false
}

// said is what the consumer itself knows: Millrace's own do.
func (c *groupContext) said(p Partition, one *pair) (Cause, bool) {
	says, of := c.says[p], c.of[p]
	if says == nil || of.stale(c.now.Add(c.w.skew)) {
		return Cause{}, false
	}
	switch {
	case says.Waits == WaitsDecoding:
		return because(RegistryDown, "the decoder waits at offset %d: %s", says.Applied, says.Error), true
	case says.Waits == WaitsThrottled:
		return because(SinkSlow, "the destination turns work away: %s", says.Error), true
	case says.Waits == WaitsPanics:
		return because(Poison, "the consumer fails at offset %d: %s", says.Applied, says.Error), true
	case says.Waits == WaitsWriting:
		return because(SinkDown, "writes of offset %d on fail: %s", says.Applied, says.Error), true
	case says.State == StateWedged:
		return because(StuckMember, "a call of the consumer on %s does not come back, at offset %d", of.Host, says.Applied), true
	case says.State == StateRecreated || says.State == StateHalted:
		return because(TopicRecreated, "the consumer has stopped the partition: %s", says.State), true
	case says.Applied > one.committed && one.committed >= 0 && of.Blocked.Commit > 0.5 && c.now.Sub(one.track.still()) > commitPatience:
		return because(CommitStalled, "applied up to %d, committed up to %d since %s", says.Applied, one.committed, one.track.still().UTC().Format(time.TimeOnly)), true
	case of.Blocked.Sink > 0.5:
		return because(SinkSlow, "%.0f %% of the time goes to waiting for the destination", 100*of.Blocked.Sink), true
	case of.Blocked.Fetch > 0.5:
		return because(FetchSlow, "%.0f %% of the time goes to waiting for records", 100*of.Blocked.Fetch), true
	}
	return Cause{}, false
}

// commitPatience is how long what is applied may be without a commit.
const commitPatience = 20 * time.Second

// heldBack says whether all that the group could read lies behind an open transaction, for longer than its lag may last. For
// one that reads committed records only that is no lag, and new records do not reach it all the same.
func (c *groupContext) heldBack(r *Row, log *logState) bool {
	if log.Stable >= log.End || c.now.Sub(log.openFor).Seconds() <= c.patience() {
		return false
	}
	return r.from() >= log.Stable
}

// guess is what positions alone tell, of anybody's consumers.
func (c *groupContext) guess(r *Row, p Partition, one *pair, log *logState) Cause {
	still := c.now.Sub(one.track.still())
	if r.Status == Stall {
		if c.siblingsMove(p, one) {
			return because(Poison, "the commit has stood at %d for %.0f s, while the same member's other partitions move", one.committed, still.Seconds())
		}
		return because(StuckMember, "%s has not moved its commit from %d for %.0f s, nor any other that it has", r.Owner, one.committed, still.Seconds())
	}
	in, out := log.lately, one.track.outLately(c.window())
	if in == nil || out == nil {
		return Cause{}
	}
	if mean, others := c.means(p); mean > 0 && float64(r.lag()) > 3*mean && *in > 2*others {
		return because(Skew, "%d records wait here and %.0f on average on the others; %.0f/s come here, %.0f/s there", r.lag(), mean, *in, others)
	}
	if before, ok := log.before(c.now, c.window()); ok && *in > 2*before {
		return because(ProducerBurst, "%.0f/s come, %.0f/s did before; %.0f/s are read", *in, before, *out)
	}
	if *out < *in {
		return because(SinkSlow, "%.0f/s come and %.0f/s are read", *in, *out)
	}
	return Cause{}
}

// siblingsMove says whether other partitions of the same member have had their commits moved lately.
func (c *groupContext) siblingsMove(p Partition, one *pair) bool {
	owner := c.owners[p]
	since := one.track.still()
	for q, other := range c.g.pairs {
		if q != p && c.owners[q] == owner && other.track.still().After(since) && c.now.Sub(other.track.still()) < c.window() {
			return true
		}
	}
	return false
}

// means are the other partitions' of the topic: their lag and what comes to them, per second.
func (c *groupContext) means(p Partition) (lag, in float64) {
	n, rates := 0, 0
	for q, other := range c.g.pairs {
		if q.Topic != p.Topic || q == p || len(other.track.marks) == 0 {
			continue
		}
		n++
		lag += float64(max(0, other.track.last().lag))
		if r := c.w.logs[q].lately; r != nil {
			rates++
			in += *r
		}
	}
	if n == 0 {
		return 0, 0
	}
	return max(lag/float64(n), 1), in / float64(max(1, rates))
}

// flow finds out what comes per second.
func (s *logState) flow(now time.Time, window time.Duration) {
	s.in, s.lately = nil, slope(len(s.ends), s.ends.point, window)
	if in, ok := rate(len(s.ends), s.ends.point, now, rateWindow); ok {
		s.in = &in
	}
}

// before is what came per second in the time before the window, as far as it is remembered.
func (s *logState) before(now time.Time, window time.Duration) (float64, bool) {
	from := now.Add(-window).UnixMilli()
	i := len(s.ends) - 1
	for i > 0 && s.ends[i].ended > from {
		i--
	}
	if i < 1 || s.ends[i].ended-s.ends[0].ended < rateWindow.Milliseconds() {
		return 0, false
	}
	return float64(s.ends[i].end-s.ends[0].end) / float64(s.ends[i].ended-s.ends[0].ended) * 1000, true
}

// judge gives a flow the worst row's cause, and says how many workers it wants.
func (c *groupContext) judge(f *Flow) {
	for _, why := range causes {
		for i := range f.Rows {
			if f.Rows[i].Why == why {
				f.Cause = f.Rows[i].Cause
				break
			}
		}
		if f.Why != "" {
			break
		}
	}
	f.Workers = c.workers(f)
}

// causes is the order in which a flow's is chosen among its rows': what explains most first.
var causes = []Why{
	MonitorBlind, DataExpired, TopicRecreated, BrokerDown, GroupDead, RegistryDown, SinkDown, RebalanceLoop, Poison, StuckMember,
	Unassigned, CommitStalled, TransactionOpen, SinkSlow, FetchSlow, Skew, ProducerBurst,
}

// workers is how many members would keep up: as many as what comes takes, at what each reads now, and no more than there
// are partitions with lag. While the destination, a record or the group itself is the cause, more would not help.
func (c *groupContext) workers(f *Flow) int {
	have := len(c.g.Members)
	switch f.Why {
	case MonitorBlind, BrokerDown, SinkDown, SinkSlow, Poison, RebalanceLoop, RegistryDown, TopicRecreated, CommitStalled, StuckMember, TransactionOpen:
		return max(1, have)
	default:
	}
	behind := 0
	for i := range f.Rows {
		if r := &f.Rows[i]; r.lag() > 0 && r.Age.atMost() > max(1, f.Objective/2) {
			behind++
		}
	}
	if behind == 0 || have == 0 || or0(f.Out) <= 0 {
		return max(1, min(have, f.Partitions))
	}
	each := *f.Out / float64(have)
	want := int(1.7*or0(f.In)/each + 0.999)
	return max(1, min(max(want, have), max(have, behind), f.Partitions))
}
