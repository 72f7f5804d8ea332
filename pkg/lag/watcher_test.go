package lag

import (
	"errors"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// TestWatcherHoldsWhateverItSees: looks that make no sense, as they come when brokers answer at different times, fall back
// or lie, and reports that are as bad. What is shown must follow from the look alone, and nothing may panic.
func TestWatcherHoldsWhateverItSees(t *testing.T) {
	for seed := range uint64(60) {
		rng := rand.New(rand.NewPCG(seed, 1))
		w := NewWatcher(Options{
			Interval: every, Expected: map[string][]string{"e": {"t", "none"}},
			Committed: func(g string) bool { return g == "c" },
			Objective: func(string) time.Duration { return time.Duration(rng.IntN(60)) * time.Second },
		})
		now := begin
		for range 120 {
			now = now.Add(time.Duration(rng.IntN(20_000)-100) * time.Millisecond) // a clock that is set back now and then
			switch rng.IntN(10) {
			case 0:
				w.Failed(errors.New("no broker"))
			case 1:
				w.Skew(time.Duration(rng.IntN(7200)-3600) * time.Second)
			case 2:
				w.Report("c", "i", randomReport(rng, now))
			case 3:
				w.Report("c", "i", nil)
			default:
				w.Observe(randomLook(rng, now))
			}
			holds(t, seed, w.View(now))
			w.questions(now)
		}
		if t.Failed() {
			return
		}
	}
}

func randomLook(rng *rand.Rand, now time.Time) *Look {
	l := &Look{
		Begun: now.Add(-time.Second), From: now.Add(-time.Second / 2), Ended: now, Groups: map[string]*Group{}, Logs: map[Partition]*Log{},
		Topics: map[string]Topic{"t": {AppendTime: rng.IntN(2) == 0, Retention: time.Duration(rng.IntN(3)) * time.Hour, RetentionBytes: int64(rng.IntN(2)) << 20}},
		Sizes:  map[Partition]int64{at(0): rng.Int64N(1 << 21)}, Deaf: rng.IntN(5) == 0,
	}
	for p := range int32(3) {
		if rng.IntN(8) == 0 {
			continue
		}
		log := &Log{TopicID: [16]byte{byte(rng.IntN(8) / 7)}, Leader: int32(rng.IntN(4)) - 1, Start: rng.Int64N(50)}
		log.Stable = log.Start + rng.Int64N(100)
		log.End = log.Stable + rng.Int64N(5)
		if rng.IntN(6) == 0 {
			*log = Log{Leader: -1, Start: -1, Stable: -1, End: -1, Err: errors.New("no leader")}
		}
		l.Logs[at(p)] = log
	}
	for _, name := range []string{"a", "c", "e"} {
		if rng.IntN(5) == 0 {
			continue
		}
		g := &Group{Name: name, State: []string{"Stable", "Empty", "Dead", "PreparingRebalance", ""}[rng.IntN(5)], Commits: map[Partition]Commit{}}
		if rng.IntN(6) == 0 {
			g.Err = errors.New("coordinator moved")
		}
		for p := range int32(4) {
			if rng.IntN(3) > 0 {
				g.Commits[at(p)] = Commit{rng.Int64N(160), []string{"", "h=", "h=x", "t=1;h=1769860800000", "h=-9223372036854775808", "h=9223372036854775807"}[rng.IntN(6)]}
			}
		}
		for range rng.IntN(3) {
			g.Members = append(g.Members, Member{ID: string(rune('a' + rng.IntN(4))), Partitions: []Partition{at(int32(rng.IntN(4)))}})
		}
		l.Groups[name] = g
	}
	return l
}

func randomReport(rng *rand.Rand, now time.Time) *Report {
	r := &Report{Group: "c", Instance: "i", Every: rng.Float64() * 10, At: now.Add(time.Duration(rng.IntN(100)-50) * time.Second)}
	for p := range int32(5) {
		r.Partitions = append(r.Partitions, PartitionReport{
			Topic: "t", Partition: p, Fetched: rng.Int64N(200) - 1, Applied: rng.Int64N(200) - 1, Committed: rng.Int64N(200) - 1,
			Head: rng.Int64N(2) * now.UnixMilli(), State: []string{"running", "wedged", "waiting: writing", "?"}[rng.IntN(4)],
		})
	}
	return r
}

func holds(t *testing.T, seed uint64, v *View) {
	t.Helper()
	for _, f := range v.Flows {
		if len(f.Rows) != f.Partitions || (f.Records == nil) != (f.Unknown == f.Partitions && known(f.Rows) == 0) {
			t.Errorf("seed %d: %d rows of %d partitions, %d unknown, records %v", seed, len(f.Rows), f.Partitions, f.Unknown, f.Records)
		}
		for _, r := range f.Rows {
			if r.Age.Low != nil && r.Age.High != nil && *r.Age.Low > *r.Age.High {
				t.Errorf("seed %d: an age from %g to %g", seed, *r.Age.Low, *r.Age.High)
			}
			if r.Age.Method == Unknown && (r.Age.Low != nil || r.Age.High != nil) {
				t.Errorf("seed %d: an unknown age is %s", seed, show(r.Age))
			}
			if r.Records == nil {
				if r.Age.Method != Unknown || r.CatchUp != nil || r.Headroom != nil || r.Past {
					t.Errorf("seed %d: of nothing known there is %+v", seed, r)
				}
				continue
			}
			from, end := r.Start, r.End
			if r.Committed != nil {
				from = max(from, *r.Committed)
			}
			if r.Reads == "committed" {
				end = r.Stable
			}
			if *r.Records != end-from {
				t.Errorf("seed %d: lag %d of %d to %d", seed, *r.Records, from, end)
			}
			if *r.Records > 0 && r.Exact == nil && r.Age.Method == ByNothing {
				t.Errorf("seed %d: lag, and its age by nothing", seed)
			}
			if r.Headroom != nil && *r.Headroom < 0 {
				t.Errorf("seed %d: headroom %g", seed, *r.Headroom)
			}
		}
	}
}

func known(rows []Row) (n int) {
	for _, r := range rows {
		if r.Records != nil {
			n++
		}
	}
	return n
}

// TestHeadroom is a lower bound: by time, by size, or neither.
func TestHeadroom(t *testing.T) {
	s := newSim(t, map[Why]bool{})
	s.group("g", 1)
	s.topics["t"] = Topic{AppendTime: true, Retention: time.Hour}
	s.run(10, nil) // before the first look nothing was seen
	s.run(600, func(int) { s.produce(0, 10) })
	if r := s.row("g", 0); r.Headroom == nil || *r.Headroom < 3600-600 || *r.Headroom > 3600-580 {
		t.Errorf("by time: %v, want an hour less ten minutes", r.Headroom)
	}
	if r := s.row("g", 1); r.Headroom != nil {
		t.Errorf("where nothing is unread: %v", *r.Headroom)
	}
	// 6000 records of 100 bytes; at 900,000 bytes the oldest goes: 300,000 more, at 1000 bytes a second.
	s.topics["t"] = Topic{AppendTime: true, RetentionBytes: 900_000}
	l, err := s.look()
	if err != nil {
		t.Fatal(err)
	}
	l.Sizes[at(0)] = 600_000
	s.w.Observe(l)
	if r := s.row("g", 0); r.Headroom == nil || *r.Headroom < 299 || *r.Headroom > 301 {
		t.Errorf("by size: %v, want 300", r.Headroom)
	}
	s.topics["t"] = Topic{}
	s.observe()
	if r := s.row("g", 0); r.Headroom != nil {
		t.Errorf("where nothing is deleted: %v", *r.Headroom)
	}
}

// TestHeadroomThatCannotBeTold is said of partitions that have unread records, or may have, on topics that delete.
func TestHeadroomThatCannotBeTold(t *testing.T) {
	s := newSim(t, map[Why]bool{})
	s.group("g", 1)
	s.topics["t"] = Topic{Retention: time.Hour}
	s.produce(0, 10) // before the first look: nobody knows when
	s.run(60, nil)
	tell := func(what string, topic *Topic, want ...bool) {
		t.Helper()
		delete(s.topics, "t")
		if topic != nil {
			s.topics["t"] = *topic
		}
		s.observe()
		n := 0
		for p, unknown := range want {
			if r := s.row("g", int32(p)); r.NoHeadroom != unknown {
				t.Errorf("%s: partition %d, whose age is %s, says %v", what, p, show(r.Age), r.NoHeadroom)
			}
			if unknown {
				n++
			}
		}
		if f := s.w.View(s.now).Flows[0]; f.NoHeadroom != n {
			t.Errorf("%s: of the flow %d partitions", what, f.NoHeadroom)
		}
	}
	tell("an unknown age", &Topic{Retention: time.Hour}, true, false, false)
	tell("nothing is deleted", &Topic{}, false, false, false)
	refused := topicOf(kmsg.DescribeConfigsResponseResource{ResourceName: "t", ErrorCode: kerr.TopicAuthorizationFailed.Code})
	tell("the configuration is refused", &refused, true, false, false)
	tell("the configuration was never read", nil, true, false, false)
	tell("a size that is not known", &Topic{RetentionBytes: 900_000}, true, false, false)
	s.run(60, func(int) { s.commit("g", 0, 10) })
	s.run(60, func(int) { s.produce(0, 1) }) // these were seen to come
	tell("a known age", &Topic{Retention: time.Hour}, false, false, false)
	s.logs[at(1)].Err = kerr.LeaderNotAvailable // whether it has unread records is not known either
	tell("no leader", &Topic{Retention: time.Hour}, false, true, false)
}

// TestRateOfWhatStoodStill: a producer that stopped minutes ago produces nothing.
func TestRateOfWhatStoodStill(t *testing.T) {
	s := newSim(t, map[Why]bool{})
	s.group("g", 1)
	s.run(600, s.steady("g"))
	s.run(280, func(int) { each(func(p int32) { s.commit("g", p, 100) }) })
	if r := s.row("g", 0); *r.In > 0.1 || *r.Out > 0.1 {
		t.Errorf("in %g, out %g", *r.In, *r.Out)
	}
}

// TestTheHeadIsARecord: behind a marker that was counted as none, a record that comes later is as old as it is.
func TestTheHeadIsARecord(t *testing.T) {
	s := newSim(t, map[Why]bool{})
	s.group("ours", 1)
	s.produce(0, 11)
	s.run(20, nil)
	s.groups["ours"].Commits[at(0)] = Commit{Offset: 10}
	s.run(20, nil)
	one := s.w.groups["ours"].pairs[at(0)]
	one.exact, one.probed = 0, 11 // as a Finder that has read it
	s.run(3600, nil)
	if r := s.row("ours", 0); *r.Records != 1 || *r.Age.High != 0 {
		t.Errorf("behind by a marker: %s", show(r.Age))
	}
	s.produce(0, 1)
	s.now = s.now.Add(every)
	l, err := s.look()
	if err != nil {
		t.Fatal(err)
	}
	s.w.Observe(l)
	if r := s.row("ours", 0); *r.Records != 2 || r.Past || *r.Age.High > 20 {
		t.Errorf("a record behind it: %s", show(r.Age))
	}
}

// TestHalfALook: what some brokers did not say is unknown, and nothing is made of it.
func TestHalfALook(t *testing.T) {
	s := newSim(t, map[Why]bool{})
	s.opts.Expected = map[string][]string{"ours": {"t"}}
	s.w = NewWatcher(s.opts)
	s.group("ours", 1)
	s.group("g", 1)
	s.run(120, func(int) { s.steady("ours")(0); each(func(p int32) { s.commit("g", p, 100) }) })
	half := func(change func(*Look)) {
		t.Helper()
		s.now = s.now.Add(every)
		l, err := s.look()
		if err != nil {
			t.Fatal(err)
		}
		change(l)
		s.w.Observe(l)
	}
	for range 10 {
		half(func(l *Look) { l.Deaf = true; delete(l.Groups, "ours") })
	}
	if r := s.row("ours", 0); r.Records != nil || r.Rewinds != 0 || r.Why != BrokerDown {
		t.Errorf("a group whose coordinator said nothing: %+v", r)
	}
	for range 10 {
		half(func(l *Look) {
			for _, g := range l.Groups {
				g.Members, g.Unseen = nil, errUndescribed
			}
			l.Logs[at(0)].End += 100
			l.Logs[at(0)].Stable += 100
		})
	}
	if r := s.row("g", 0); r.Why == GroupDead || r.Status == Stop {
		t.Errorf("a group that was not described: %s, %s", r.Status, r.Why)
	}
	half(func(l *Look) { delete(l.Logs, at(0)) })
	if r := s.row("g", 0); r.Records != nil || r.End != -1 {
		t.Errorf("a partition that nobody has told of: %+v", r)
	}
	half(func(l *Look) { clear(l.Logs); l.Gone = map[string]bool{"t": true} })
	for _, f := range s.w.View(s.now).Flows {
		t.Errorf("of a topic that is gone: %+v", f)
	}
	half(func(l *Look) { delete(l.Groups, "ours") })
	if r := s.row("g", 0); r.Why != TopicRecreated {
		t.Errorf("when it is there again: %s", r.Why)
	}
}

// TestBrackets: what is known of a record's time is what two looks say, whatever is forgotten in between.
func TestBrackets(t *testing.T) {
	var e ends
	for i := range int64(5000) {
		e = e.add(sample{begun: i * 10_000, ended: i*10_000 + 100, end: i * 100})
	}
	if len(e) > maxSamples {
		t.Errorf("%d samples", len(e))
	}
	for offset := int64(0); offset < 499_900; offset += 777 {
		s := e.appended(offset)
		truth := time.UnixMilli((offset/100 + 1) * 10_000) // seen by the look after
		if s.low.After(truth) || s.high.Before(truth.Add(-10*time.Second)) {
			t.Errorf("offset %d: %s to %s, in truth about %s", offset, s.low, s.high, truth)
		}
	}
	if s := e.appended(499_899); s.width() > 20*time.Second {
		t.Errorf("the newest is known to %s", s.width())
	}
	if s := e.appended(499_900); s.high != never {
		t.Errorf("what is not there yet came before %s", s.high)
	}
}

// TestWorkers: the signal to scale by stays quiet while more would not help.
func TestWorkers(t *testing.T) {
	s := newSim(t, map[Why]bool{})
	s.group("g", 1)
	s.run(300, func(int) { each(func(p int32) { s.produce(p, 20); s.commit("g", p, 10) }) })
	flow := func() Flow {
		for _, f := range s.w.View(s.now).Flows {
			return f
		}
		t.Fatal("no flow")
		return Flow{}
	}
	if f := flow(); f.Why != SinkSlow || f.Workers != 1 {
		t.Errorf("while the destination is slow: %d, %s", f.Workers, f.Why)
	}
	s = newSim(t, map[Why]bool{})
	s.group("g", 1)
	s.run(700, s.steady("g"))
	s.run(120, func(int) { each(func(p int32) { s.produce(p, 200); s.commit("g", p, 60) }) })
	if f := flow(); f.Why != ProducerBurst || f.Workers < 2 || f.Workers > 3 {
		t.Errorf("in a burst of three times what one reads: %d, %s", f.Workers, f.Why)
	}
}
