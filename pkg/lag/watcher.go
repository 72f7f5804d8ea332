package lag

import (
	"cmp"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"
)

// Options says what a Watcher is to know that a cluster does not say.
type Options struct {
	Interval time.Duration // between looks
	// Expected groups are watched on these topics although they never ran: they are behind by all there is.
	Expected map[string][]string
	// Committed says whether a group reads committed records only. Nobody but its members knows.
	Committed func(group string) bool
	// Objective is the age that a group's lag may have; 0 is none.
	Objective func(group string) time.Duration
}

// Watcher takes one Look after the other and says what they mean. It does no I/O and is not for concurrent use.
type Watcher struct {
	opts    Options
	look    *Look
	logs    map[Partition]*logState
	byTopic map[string][]Partition // of the last look
	gone    map[string]time.Time   // topics that were watched, and when a look last found them deleted
	groups  map[string]*groupState
	reports map[string]map[string]*Report // by group and instance
	skew    time.Duration                 // by how much the brokers' clock is ahead of this one
	failure error                         // why there was no look since
}

// logState is what is remembered of a log.
type logState struct {
	*Log

	ends    ends
	in      *float64 // what is appended per second, over some minutes; nil while it is not known
	lately  *float64 // the same over the window of a status
	seen    time.Time
	openFor time.Time // since when an open transaction has held it back
	heldAt  int64     // the last stable offset then
}

// groupState is what is remembered of a group.
type groupState struct {
	*Group

	seen    time.Time
	changes []time.Time // when its members or its generation changed, of the last ten minutes
	unrest  []time.Time // when it was seen between two generations, of the last ten minutes
	looks   int         // since it was first seen
	members string
	pairs   map[Partition]*pair
}

// pair is a group on a partition.
type pair struct {
	topicID   [16]byte
	committed int64 // -1 where it never did
	track     track
	head      *head // of the first record that is not past the commit, as far as is known
	from      int64 // the first offset that is not past the commit
	exact     int64 // records from there to probed, as far as they were counted
	probed    int64 // 0 is that nothing was
	expired   int64 // offsets deleted before they were committed, since this watch began
	gone      int64 // up to where they were counted
	recreated time.Time
}

const unrestWindow = 10 * time.Minute

// NewWatcher makes one that has seen nothing.
func NewWatcher(opts Options) *Watcher {
	return &Watcher{opts: opts, logs: map[Partition]*logState{}, groups: map[string]*groupState{}, gone: map[string]time.Time{}, reports: map[string]map[string]*Report{}}
}

// Failed notes why there could be no look.
func (w *Watcher) Failed(err error) { w.failure = err }

// Report takes what a consumer says of itself; nil is that it has stopped in order.
func (w *Watcher) Report(group, instance string, r *Report) {
	if r == nil {
		delete(w.reports[group], instance)
		return
	}
	if w.reports[group] == nil {
		w.reports[group] = map[string]*Report{}
	}
	w.reports[group][instance] = r
}

// Skew notes by how much the brokers' clock is ahead of this machine's.
func (w *Watcher) Skew(by time.Duration) { w.skew = by }

// window is over how long a status is told, at least.
func (w *Watcher) window() time.Duration { return max(windowLooks*w.opts.Interval, minWindow) }

// patience is how old an unread record may be, in seconds, without that anything is wrong: as the objective says, and no
// less than some looks.
func (w *Watcher) patience(objective time.Duration) float64 {
	return max(objective, 3*w.opts.Interval).Seconds()
}

// here is a broker's stamp in this machine's time.
func (w *Watcher) here(ms int64) time.Time { return time.UnixMilli(ms).Add(-w.skew) }

// Observe takes the next look.
func (w *Watcher) Observe(l *Look) {
	w.look, w.failure = l, nil
	w.byTopic = map[string][]Partition{}
	for p := range l.Logs {
		w.byTopic[p.Topic] = append(w.byTopic[p.Topic], p)
	}
	for p, log := range l.Logs {
		w.observeLog(p, log, l)
	}
	maps.DeleteFunc(w.gone, func(_ string, at time.Time) bool { return l.Ended.Sub(at) > recent })
	for p, s := range w.logs {
		switch {
		case l.Gone[p.Topic]:
			w.gone[p.Topic] = l.Ended
			fallthrough
		case l.Ended.Sub(s.seen) > time.Hour:
			delete(w.logs, p)
			for _, g := range w.groups {
				delete(g.pairs, p)
			}
		case !s.seen.Equal(l.Ended):
			s.Log = s.void(errors.New("no broker says that it has the partition"), -1)
		}
	}
	for name, g := range l.Groups {
		w.observeGroup(name, g, l)
	}
	for name := range w.opts.Expected {
		if l.Groups[name] == nil && !l.Deaf { // else it may be there
			w.observeGroup(name, &Group{Name: name, State: "Dead", Commits: map[Partition]Commit{}}, l)
		}
	}
	for name, g := range w.groups {
		switch {
		case g.seen.Equal(l.Ended):
		case l.Deaf && l.Ended.Sub(g.seen) < unrestWindow: // its coordinator is among those that said nothing
			g.Err = errors.New("no broker says that it coordinates the group, and not all have answered")
		default:
			delete(w.groups, name)
		}
	}
	for group, instances := range w.reports {
		maps.DeleteFunc(instances, func(_ string, r *Report) bool { return l.Ended.Sub(w.here(r.At.UnixMilli())) > time.Hour })
		if len(instances) == 0 {
			delete(w.reports, group)
		}
	}
}

func (w *Watcher) observeLog(p Partition, log *Log, l *Look) {
	s := w.logs[p]
	if s == nil || (log.Err == nil && s.TopicID != log.TopicID) {
		s = &logState{}
		w.logs[p] = s
	}
	s.seen = l.Ended
	if log.Err != nil {
		if s.Log == nil {
			s.Log = log
		}
		s.Log = s.void(log.Err, log.Leader)
		return
	}
	held := s.Log != nil && log.Stable == s.heldAt
	s.Log, s.heldAt = log, log.Stable
	if n := len(s.ends); n > 0 && (log.End < s.ends[n-1].end || l.Ended.UnixMilli() < s.ends[n-1].ended) {
		// The log has lost its tail, or this machine's clock was set back: nothing that was seen holds.
		s.ends = nil
	}
	defer s.flow(l.Ended, w.window())
	s.ends = s.ends.add(sample{begun: l.From.UnixMilli(), ended: l.Ended.UnixMilli(), end: log.End})
	switch {
	case log.Stable >= log.End:
		s.openFor = time.Time{}
	case s.openFor.IsZero() || !held: // transactions come and go
		s.openFor = l.From
	}
}

// void is the log while nothing is known of it.
func (s *logState) void(err error, leader int32) *Log {
	return &Log{TopicID: s.TopicID, Leader: leader, Start: -1, Stable: -1, End: -1, Err: err}
}

func (w *Watcher) observeGroup(name string, g *Group, l *Look) {
	s := w.groups[name]
	if s == nil {
		s = &groupState{pairs: map[Partition]*pair{}}
		w.groups[name] = s
	}
	s.Group, s.seen = g, l.Ended
	s.unsettled(l.Ended)
	subjects := w.subjects(g)
	for p := range subjects {
		log := w.logs[p]
		if log == nil {
			continue
		}
		one := s.pairs[p]
		if one == nil {
			one = &pair{committed: -1, topicID: log.TopicID}
			if _, was := w.gone[p.Topic]; was {
				one.recreated = l.Ended
			}
			s.pairs[p] = one
		}
		if g.Err == nil && log.Err == nil {
			w.observePair(one, name, p, g.Commits, log, l)
		}
	}
	if g.Err == nil {
		maps.DeleteFunc(s.pairs, func(p Partition, _ *pair) bool { return !subjects[p] })
	}
}

// subjects are the partitions that a group has anything to do with.
func (w *Watcher) subjects(g *Group) map[Partition]bool {
	out := map[Partition]bool{}
	for p := range g.Commits {
		out[p] = true
	}
	for _, m := range g.Members {
		for _, p := range m.Partitions {
			out[p] = true
		}
	}
	topics := map[string]bool{} // that it reads as a whole: also where it never committed
	for _, t := range w.opts.Expected[g.Name] {
		topics[t] = true
	}
	if !g.Simple {
		for p := range out {
			topics[p.Topic] = true
		}
	}
	for t := range topics {
		for _, p := range w.byTopic[t] {
			out[p] = true
		}
	}
	return out
}

// unsettled notes whether the group changes, for what is said of a rebalance that never ends.
func (s *groupState) unsettled(now time.Time) {
	ids := make([]string, 0, len(s.Members))
	for _, m := range s.Members {
		ids = append(ids, cmp.Or(m.Instance, m.ID))
	}
	slices.Sort(ids)
	members := strings.Join(ids, "\x00")
	if s.looks > 0 && members != s.members {
		s.changes = append(s.changes, now)
	}
	s.members = members
	s.looks++
	if s.State != "Stable" && s.State != "Empty" && s.State != "Dead" {
		s.unrest = append(s.unrest, now)
	}
	old := func(t time.Time) bool { return now.Sub(t) > unrestWindow }
	s.changes, s.unrest = slices.DeleteFunc(s.changes, old), slices.DeleteFunc(s.unrest, old)
}

func (w *Watcher) observePair(one *pair, group string, p Partition, commits map[Partition]Commit, log *logState, l *Look) {
	at, metadata := int64(-1), ""
	if c, ok := commits[p]; ok {
		at, metadata = c.Offset, c.Metadata
	}
	if one.topicID != log.TopicID { // nothing that was known is of this log
		*one = pair{committed: -1, topicID: log.TopicID, recreated: l.Ended}
	}
	if at < 0 && one.committed >= 0 { // its commits are gone, which is no step back
		one.track = track{}
	}
	one.committed = at
	from := max(at, log.Start)
	if at >= 0 && log.Start > at {
		if read := max(at, one.nothing()); log.Start > read {
			one.expired += log.Start - max(read, min(one.gone, log.Start))
		}
		one.gone = log.Start
	}
	end := w.endFor(group, log)
	if one.from != from {
		one.from, one.exact, one.probed = from, 0, 0
	}
	// The head is the first record: what is known to be none is passed over.
	if first := max(from, one.nothing()); one.head == nil || one.head.offset != first {
		// The record at a later offset was appended no earlier than the one that was known; its stamp says so where the brokers
		// give it.
		low := longAgo
		if h := one.head; h != nil && h.offset < first && (h.method == ByHistory || h.method == ByAppendTime || w.look.Topics[p.Topic].AppendTime) {
			low = h.at.low
		}
		one.head = &head{offset: first, at: span{low, never}, method: Unknown}
	}
	if end > one.head.offset {
		w.locate(one, metadata, at, log)
	}
	one.track.add(mark{at: l.Ended.UnixMilli(), offset: max(at, 0), lag: end - from})
}

// nothing is up to where the offsets from the commit on are known to be no records.
func (one *pair) nothing() int64 {
	if one.exact > 0 {
		return 0
	}
	return one.probed
}

// endFor is what a group can read up to.
func (w *Watcher) endFor(group string, log *logState) int64 {
	if w.opts.Committed(group) {
		return log.Stable
	}
	return log.End
}

// locate finds out when the head was appended, from all that costs nothing.
func (w *Watcher) locate(one *pair, metadata string, at int64, log *logState) {
	h := one.head
	if by := log.ends.appended(h.offset); by.low != longAgo || by.high != never {
		h.learn(by, ByHistory)
	}
	if ms, ok := headOf(metadata); ok && at == h.offset {
		h.learn(exactly(w.here(ms)), ByCommit)
	}
}
