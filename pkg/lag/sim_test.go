package lag

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"
)

// The shapes: logs and groups as a script makes them, second by second, and a watcher that looks every ten. The script
// knows every record's append time, so at each look the truth is known: records must be right, seconds must be inside of
// what is shown, and what is not known must not be a number. How the watcher asks a real cluster, and what only that does
// (transactions, compaction, the new protocol), is in the server tests.

const (
	every  = 10 * time.Second
	settle = 60 // seconds within which a status and a cause have to be right
)

var begin = time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)

// simLog is a partition's: the append time of each offset, in milliseconds of the brokers' clock.
type simLog struct {
	Log

	at []int64
}

type sim struct {
	t       *testing.T
	now     time.Time
	w       *Watcher
	opts    Options
	logs    map[Partition]*simLog
	groups  map[string]*Group
	topics  map[string]Topic
	broker  error         // why no broker answers
	skew    time.Duration // of the brokers' clock
	shown   map[Why]bool
	grouped int // rows that were compared with the truth
}

func newSim(t *testing.T, shown map[Why]bool) *sim {
	s := &sim{
		t: t, shown: shown, now: begin, logs: map[Partition]*simLog{}, groups: map[string]*Group{},
		topics: map[string]Topic{"t": {AppendTime: true, Retention: 24 * time.Hour}},
	}
	s.opts = Options{
		Interval:  every,
		Committed: func(g string) bool { return g == "ours" },
		Objective: func(g string) time.Duration {
			if g == "ours" {
				return 30 * time.Second
			}
			return 0
		},
	}
	s.w = NewWatcher(s.opts)
	for p := range int32(3) {
		s.logs[Partition{"t", p}] = &simLog{Log: Log{TopicID: [16]byte{1}, Leader: 1}}
	}
	return s
}

func at(p int32) Partition { return Partition{"t", p} }

// produce appends n records to a partition.
func (s *sim) produce(p int32, n int) {
	l := s.logs[at(p)]
	held := l.Stable < l.End
	for range n {
		l.at = append(l.at, s.now.Add(s.skew).UnixMilli())
	}
	l.End += int64(n)
	if !held {
		l.Stable = l.End
	}
}

// group makes one with members, and gives the first all partitions.
func (s *sim) group(name string, members int) *Group {
	g := &Group{Name: name, State: "Stable", Commits: map[Partition]Commit{}}
	for i := range members {
		g.Members = append(g.Members, Member{ID: fmt.Sprintf("%s-%d", name, i), Host: "/10.0.0.1"})
	}
	for p := range slices.Values(slices.SortedFunc(maps.Keys(s.logs), func(a, b Partition) int { return int(a.Number - b.Number) })) {
		if members > 0 {
			m := &g.Members[int(p.Number)%members]
			m.Partitions = append(m.Partitions, p)
		}
	}
	if members == 0 {
		g.State = "Empty"
	}
	s.groups[name] = g
	return g
}

// commit moves a group by at most n on a partition, as far as it may read.
func (s *sim) commit(name string, p int32, n int64) {
	g, l := s.groups[name], s.logs[at(p)]
	end := l.End
	if s.opts.Committed(name) {
		end = l.Stable
	}
	c := g.Commits[at(p)]
	c.Offset = min(max(c.Offset, l.Start)+n, end)
	g.Commits[at(p)] = c
}

// look is what the cluster says.
func (s *sim) look() (*Look, error) {
	if s.broker != nil {
		return nil, s.broker
	}
	l := &Look{Begun: s.now, From: s.now, Ended: s.now, Groups: map[string]*Group{}, Logs: map[Partition]*Log{}, Topics: s.topics, Sizes: map[Partition]int64{}}
	for name, g := range s.groups {
		one := *g
		one.Commits = maps.Clone(g.Commits)
		l.Groups[name] = &one
	}
	for p, log := range s.logs {
		one := log.Log
		l.Logs[p] = &one
	}
	return l, nil
}

// run plays a script for some seconds. A look comes after every tenth.
func (s *sim) run(seconds int, script func(second int)) {
	s.t.Helper()
	for i := range seconds {
		s.now = s.now.Add(time.Second)
		if script != nil {
			script(i)
		}
		if s.now.Sub(begin)%every == 0 {
			s.observe()
		}
	}
}

func (s *sim) observe() {
	s.t.Helper()
	l, err := s.look()
	if err != nil {
		s.w.Failed(err)
	} else {
		s.w.Observe(l)
	}
	if v := s.w.View(s.now); err == nil || v.Blind != "" { // else it is as it was at the last look, and says so
		s.check(v)
	}
}

// check holds every row of a view against the truth.
func (s *sim) check(v *View) {
	s.t.Helper()
	for _, f := range v.Flows {
		for _, r := range f.Rows {
			s.checkRow(v, &r)
		}
	}
}

func (s *sim) checkRow(v *View, r *Row) {
	s.t.Helper()
	l := s.logs[Partition{r.Topic, r.Partition}]
	where := fmt.Sprintf("%s: %s on partition %d", s.now.Format(time.TimeOnly), r.Group, r.Partition)
	if r.Records == nil {
		if r.Age.Method != Unknown || r.Age.Low != nil || r.Age.High != nil || r.Why == "" {
			s.t.Errorf("%s: of an unknown lag the age is %s", where, show(r.Age))
		}
		return
	}
	if v.Blind != "" || l == nil || l.Err != nil || s.groups[r.Group] == nil {
		s.t.Errorf("%s: there is a number where nothing is known", where)
		return
	}
	s.grouped++
	end := l.End
	if s.opts.Committed(r.Group) {
		end = l.Stable
	}
	from := l.Start
	if c, ok := s.groups[r.Group].Commits[Partition{r.Topic, r.Partition}]; ok {
		from = max(from, c.Offset)
	}
	if *r.Records != end-from {
		s.t.Errorf("%s: lag %d, want %d", where, *r.Records, end-from)
	}
	if end < from {
		if r.Age.Method != Unknown {
			s.t.Errorf("%s: ahead of the log its age is %s", where, show(r.Age))
		}
		return
	}
	if end == from {
		if r.Age.Low == nil || r.Age.High == nil || *r.Age.Low != 0 || *r.Age.High != 0 {
			s.t.Errorf("%s: without lag its age is %s", where, show(r.Age))
		}
		return
	}
	if r.Exact != nil && *r.Exact == 0 { // offsets that are no records have no age
		return
	}
	truth := s.now.Add(s.skew).Sub(time.UnixMilli(l.at[from])).Seconds()
	if r.Age.Method == Unknown || r.Age.Method == ByNothing {
		if r.Age.Low != nil || r.Age.High != nil || r.Age.Method == ByNothing {
			s.t.Errorf("%s: the age is %s, by nothing", where, show(r.Age))
		}
		return
	}
	if (r.Age.Low != nil && *r.Age.Low > truth+1) || (r.Age.High != nil && *r.Age.High < truth-1) {
		s.t.Errorf("%s: the age is %s, and in truth %g", where, show(r.Age), truth)
	}
}

func show(a Seconds) string {
	text := func(f *float64) string {
		if f == nil {
			return "?"
		}
		return fmt.Sprintf("%g", *f)
	}
	return fmt.Sprintf("%s to %s by %q", text(a.Low), text(a.High), a.Method)
}

// row gives what is shown now.
func (s *sim) row(group string, p int32) Row {
	s.t.Helper()
	for _, f := range s.w.View(s.now).Flows {
		for _, r := range f.Rows {
			if f.Group == group && r.Partition == p {
				return r
			}
		}
	}
	s.t.Fatalf("%s has no partition %d", group, p)
	return Row{}
}

// want holds a row against a status and a cause.
func (s *sim) want(group string, p int32, status Status, why Why) {
	s.t.Helper()
	s.shown[why] = true
	if r := s.row(group, p); r.Status != status || r.Why != why {
		s.t.Errorf("%s on partition %d: %s, %q (%s), lag %v, age %s; want %s, %q", group, p, r.Status, r.Why, r.Evidence, or0(r.Records), show(r.Age), status, why)
	} else if why != "" && (r.Evidence == "" || r.Next == "") {
		s.t.Errorf("%s: neither what shows it nor what to do is said: %+v", why, r.Cause)
	}
}

// each does something on each partition.
func each(do func(p int32)) {
	for p := range int32(3) {
		do(p)
	}
}

// stuck is our consumer that keeps up, and then does not move while it says why.
func (s *sim) stuck(blocked Blocked, says func(*PartitionReport)) {
	s.t.Helper()
	s.group("ours", 1)
	s.run(120, s.steady("ours"))
	s.run(settle, func(int) {
		each(func(p int32) { s.produce(p, 10) })
		s.report(blocked, says)
	})
}

// report says something of our consumer, from now on.
func (s *sim) report(blocked Blocked, change func(*PartitionReport)) {
	const group = "ours"
	r := &Report{Group: group, Instance: "one", Host: "node-1", Every: 5, Blocked: blocked, At: s.now.Add(s.skew)}
	each(func(p int32) {
		l := s.logs[at(p)]
		committed := int64(-1)
		if c, ok := s.groups[group].Commits[at(p)]; ok {
			committed = c.Offset
		}
		pr := PartitionReport{Topic: "t", Partition: p, Fetched: l.Stable, Applied: max(committed, 0), Committed: committed, State: "running"}
		if pr.Applied < l.Stable {
			pr.Head = l.at[pr.Applied]
		}
		if change != nil {
			change(&pr)
		}
		r.Partitions = append(r.Partitions, pr)
	})
	s.w.Report(group, "one", r)
}

// steady is a producer of 10 records a second on each partition and a group that commits each second what there was.
func (s *sim) steady(group string) func(int) {
	return func(int) {
		each(func(p int32) {
			s.commit(group, p, 1<<40)
			s.produce(p, 10)
		})
	}
}
