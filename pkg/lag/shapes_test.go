package lag

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
)

func shapes() map[string]func(*sim) {
	return map[string]func(*sim){
		"steady": func(s *sim) {
			s.group("g", 1)
			s.run(300, s.steady("g"))
			s.want("g", 0, OK, "")
			if r := s.row("g", 0); *r.In < 9.9 || *r.In > 10.1 || *r.Out < 9.9 || *r.Out > 10.1 || r.CatchUp != nil {
				s.t.Errorf("rates of 10 and nothing to catch up with: %v %v %v", *r.In, *r.Out, r.CatchUp)
			}
		},
		"idle producer": func(s *sim) {
			s.group("g", 1)
			s.run(60, s.steady("g"))
			s.run(3600, func(int) { each(func(p int32) { s.commit("g", p, 100) }) })
			s.want("g", 0, OK, "")
		},
		"empty": func(s *sim) {
			s.group("g", 1)
			s.run(120, nil)
			s.want("g", 1, OK, "")
		},
		"no commit": func(s *sim) {
			s.group("g", 1)
			s.run(120, func(int) { each(func(p int32) { s.produce(p, 5) }) })
			if r := s.row("g", 0); r.Committed != nil || *r.Records != 600 {
				s.t.Errorf("a group that never committed: %+v", r)
			}
			s.want("g", 0, Stall, StuckMember)
		},
		"expected and never ran": func(s *sim) {
			s.opts.Expected = map[string][]string{"ours": {"t"}}
			s.w = NewWatcher(s.opts)
			s.groups["ours"] = &Group{Name: "ours", State: "Dead", Commits: map[Partition]Commit{}} // for the truth
			delete(s.groups, "other")
			s.run(200, func(int) { each(func(p int32) { s.produce(p, 1) }) })
			s.want("ours", 0, Stop, GroupDead)
		},
		"burst": func(s *sim) {
			s.group("g", 1)
			s.run(700, s.steady("g"))
			s.run(settle, func(int) {
				each(func(p int32) { s.produce(p, 200); s.commit("g", p, 60) })
			})
			s.want("g", 0, Warn, ProducerBurst)
			s.run(1200, func(int) {
				each(func(p int32) { s.produce(p, 10); s.commit("g", p, 60) })
			})
			s.want("g", 0, OK, "")
		},
		"slow drain": func(s *sim) {
			s.group("g", 1)
			s.run(300, func(int) {
				each(func(p int32) { s.produce(p, 20); s.commit("g", p, 10) })
			})
			s.want("g", 0, Warn, SinkSlow)
			if r := s.row("g", 0); r.CatchUp == nil || *r.CatchUp != -1 {
				s.t.Errorf("it never catches up: %v", r.CatchUp)
			}
		},
		"drains": func(s *sim) {
			s.group("g", 1)
			each(func(p int32) { s.produce(p, 100_000) })
			s.run(300, func(int) {
				each(func(p int32) { s.produce(p, 10); s.commit("g", p, 110) })
			})
			r := s.row("g", 0)
			truth := float64(*r.Records) / 100
			if r.Status != OK || r.CatchUp == nil || *r.CatchUp < 0.9*truth || *r.CatchUp > 1.1*truth {
				s.t.Errorf("it catches up in %v s, in truth %g: %+v", r.CatchUp, truth, r)
			}
		},
		"read again from the start": func(s *sim) {
			s.group("g", 1)
			s.run(300, s.steady("g"))
			each(func(p int32) { s.groups["g"].Commits[at(p)] = Commit{} })
			s.run(settle, func(int) { each(func(p int32) { s.commit("g", p, 12); s.produce(p, 10) }) })
			s.want("g", 0, Rewind, "")
			if r := s.row("g", 0); r.Rewinds != 1 {
				s.t.Errorf("%d rewinds", r.Rewinds)
			}
			s.run(600, func(int) { each(func(p int32) { s.commit("g", p, 100); s.produce(p, 10) }) })
			s.want("g", 0, OK, "")
		},
		"open transaction": func(s *sim) {
			s.group("ours", 1)
			s.group("g", 1)
			s.run(120, func(int) { s.steady("ours")(0); each(func(p int32) { s.commit("g", p, 100) }) })
			l := s.logs[at(0)]
			l.Stable = l.End
			s.produce(0, 1)
			l.Stable = l.End - 1
			// Others write on behind it; who reads all goes on, who reads committed records cannot.
			s.run(2*settle, func(int) {
				s.produce(0, 10)
				each(func(p int32) { s.commit("ours", p, 100) })
			})
			s.want("ours", 0, OK, TransactionOpen)
			s.want("ours", 1, OK, "")
			s.want("g", 0, Stall, TransactionOpen) // its commit is where the transaction begins
			l.Stable = l.End
			s.run(30, func(int) { each(func(p int32) { s.commit("ours", p, 10_000); s.commit("g", p, 10_000) }) })
			s.want("ours", 0, OK, "")
		},
		"expired": func(s *sim) {
			s.group("g", 1)
			s.run(60, s.steady("g"))
			s.run(60, func(int) { each(func(p int32) { s.produce(p, 10) }) })
			s.logs[at(0)].Start = s.groups["g"].Commits[at(0)].Offset + 100
			s.run(30, nil)
			s.want("g", 0, Stall, DataExpired)
			s.logs[at(0)].Start += 50
			s.run(30, nil)
			if r := s.row("g", 0); r.Expired != 150 {
				s.t.Errorf("150 records expired, and %d are counted", r.Expired)
			}
			s.run(60, func(int) { each(func(p int32) { s.commit("g", p, 1000) }) })
			s.want("g", 0, OK, "")
			if r := s.row("g", 0); r.Expired != 150 {
				s.t.Errorf("when they are past, %d are counted", r.Expired)
			}
		},
		"recreated": func(s *sim) {
			s.group("g", 1)
			s.run(120, s.steady("g"))
			s.logs[at(0)] = &simLog{Log: Log{TopicID: [16]byte{2}, Leader: 1}}
			s.produce(0, 5)
			s.run(30, nil)
			s.want("g", 0, OK, TopicRecreated)
			s.run(60, func(int) { s.produce(0, 100) })
			if r := s.row("g", 0); r.Why != TopicRecreated {
				s.t.Errorf("%+v", r)
			}
		},
		"ahead": func(s *sim) {
			g := s.group("g", 1)
			s.run(60, s.steady("g"))
			g.Commits[at(0)] = Commit{Offset: 100_000}
			s.run(30, nil)
			s.want("g", 0, OK, TopicRecreated)
			if r := s.row("g", 0); *r.Records >= 0 {
				s.t.Errorf("ahead by %d", *r.Records)
			}
		},
		"brokers' clock ahead": func(s *sim) {
			s.skew = time.Hour
			s.w.Skew(s.skew)
			s.group("ours", 1)
			s.run(300, func(int) {
				each(func(p int32) {
					s.produce(p, 10)
					s.commit("ours", p, 5)
					c := s.groups["ours"].Commits[at(p)]
					c.Metadata = fmt.Sprintf("t=1;%s%d", HeadKey, s.logs[at(p)].at[c.Offset])
					s.groups["ours"].Commits[at(p)] = c
				})
			})
			if r := s.row("ours", 0); r.Age.Method != ByCommit || *r.Age.High-*r.Age.Low > 1 {
				s.t.Errorf("by the commit's stamp the age is %s", show(r.Age))
			}
			s.want("ours", 0, Warn, SinkSlow)
		},
		"producers' clock behind": func(s *sim) { // the stamp of a topic with client stamps is an hour wrong
			s.topics["t"] = Topic{}
			s.group("ours", 1)
			s.run(10, nil)
			s.run(300, func(int) {
				each(func(p int32) {
					s.produce(p, 10)
					s.commit("ours", p, 5)
					c := s.groups["ours"].Commits[at(p)]
					c.Metadata = fmt.Sprintf("%s%d", HeadKey, s.logs[at(p)].at[c.Offset]-3_600_000)
					s.groups["ours"].Commits[at(p)] = c
				})
			})
			if r := s.row("ours", 0); r.Age.Method != ByHistory {
				s.t.Errorf("what contradicts what was seen is taken: %s", show(r.Age))
			}
		},
		"static member that is gone": func(s *sim) {
			g := s.group("g", 1)
			s.run(120, s.steady("g"))
			g.Members[0].Partitions = []Partition{at(1), at(2)} // kept for the one that is gone, and given to nobody
			s.run(settle+10, func(int) {
				each(func(p int32) { s.produce(p, 10) })
				s.commit("g", 1, 1000)
				s.commit("g", 2, 1000)
			})
			s.want("g", 0, Stall, Unassigned)
			s.want("g", 1, OK, "")
		},
		"paused": func(s *sim) {
			s.group("g", 1)
			s.run(120, s.steady("g"))
			s.run(settle+10, func(int) { each(func(p int32) { s.produce(p, 10) }) })
			s.want("g", 0, Stall, StuckMember)
			s.run(60, func(int) { each(func(p int32) { s.commit("g", p, 10_000); s.produce(p, 1) }) })
			s.want("g", 0, OK, "")
		},
		"one partition does not move": func(s *sim) {
			s.group("g", 1)
			s.run(120, s.steady("g"))
			s.run(settle+10, func(int) {
				each(func(p int32) { s.produce(p, 10) })
				s.commit("g", 1, 1000)
				s.commit("g", 2, 1000)
			})
			s.want("g", 0, Stall, Poison)
			s.want("g", 1, OK, "")
		},
		"one hot partition": func(s *sim) {
			s.group("g", 1)
			s.run(400, func(int) {
				s.produce(0, 100)
				s.produce(1, 10)
				s.produce(2, 10)
				each(func(p int32) { s.commit("g", p, 50) })
			})
			s.want("g", 0, Warn, Skew)
			s.want("g", 1, OK, "")
		},
		"dead group": func(s *sim) {
			s.group("g", 1)
			s.run(120, s.steady("g"))
			s.groups["g"].Members, s.groups["g"].State = nil, "Empty"
			s.run(settle, func(int) { each(func(p int32) { s.produce(p, 10) }) })
			s.want("g", 0, Stop, GroupDead)
		},
		"dead group without lag": func(s *sim) {
			s.group("g", 1)
			s.run(120, s.steady("g"))
			s.groups["g"].Members, s.groups["g"].State = nil, "Empty"
			each(func(p int32) { s.commit("g", p, 1000) })
			s.run(settle, nil)
			s.want("g", 0, OK, "")
		},
		"deleted group": func(s *sim) {
			s.group("g", 1)
			s.run(120, s.steady("g"))
			delete(s.groups, "g")
			s.run(20, nil)
			if v := s.w.View(s.now); len(v.Flows) != 0 {
				s.t.Errorf("a deleted group is shown: %+v", v.Flows)
			}
		},
		"group that commits every five minutes": func(s *sim) {
			s.group("g", 1)
			s.run(2400, func(i int) {
				each(func(p int32) {
					s.produce(p, 10)
					if i%300 == 0 {
						s.commit("g", p, 1<<40)
					}
				})
			})
			if r := s.row("g", 0); r.Status == Stall {
				s.t.Errorf("it stalls between its commits: %+v", r)
			}
		},
		"rebalances without an end": func(s *sim) {
			s.group("g", 2)
			s.run(120, s.steady("g"))
			s.run(settle, func(i int) {
				each(func(p int32) { s.produce(p, 10) })
				if i%15 == 0 {
					s.group("g", 2).Commits = s.groups["g"].Commits
					s.groups["g"].Members[0].ID = fmt.Sprintf("g-new-%d", i)
				}
				s.groups["g"].State = []string{"PreparingRebalance", "CompletingRebalance", "Stable"}[i%3]
			})
			if r := s.row("g", 0); r.Why != RebalanceLoop {
				s.t.Errorf("%+v", r)
			}
		},
		"no leader": func(s *sim) {
			s.group("g", 1)
			s.run(120, s.steady("g"))
			l := s.logs[at(0)]
			l.Err, l.Leader = kerr.LeaderNotAvailable, -1
			s.run(30, func(int) { s.produce(1, 1); s.commit("g", 1, 10) })
			s.want("g", 0, OK, BrokerDown)
			s.want("g", 1, OK, "")
			l.Err, l.Leader = nil, 2
			s.run(30, s.steady("g"))
			s.want("g", 0, OK, "")
		},
		"blind": func(s *sim) {
			s.group("g", 1)
			s.run(120, s.steady("g"))
			s.broker = errors.New("connection refused")
			s.run(60, s.steady("g"))
			s.want("g", 0, OK, MonitorBlind)
			s.broker = nil
			s.run(30, s.steady("g"))
			s.want("g", 0, OK, "")
		},
		"the destination is down": func(s *sim) {
			s.stuck(Blocked{Sink: 1}, func(r *PartitionReport) {
				r.State, r.Waits, r.Failures, r.Error = "waiting: writing", "writing", 7, "connection refused"
			})
			s.want("ours", 0, Stall, SinkDown)
			if r := s.row("ours", 0); r.AppliedAge.Method != ByReport || *r.AppliedRecords != *r.Records || *r.FetchedRecords != 0 {
				s.t.Errorf("what the consumer knows is not shown: %+v", r)
			}
		},
		"the destination is slow": func(s *sim) {
			s.group("ours", 1)
			s.run(300, func(int) {
				each(func(p int32) { s.produce(p, 20); s.commit("ours", p, 10) })
				s.report(Blocked{Sink: 0.9}, nil)
			})
			s.want("ours", 0, Warn, SinkSlow)
		},
		"the registry is down": func(s *sim) {
			s.stuck(Blocked{Decode: 1}, func(r *PartitionReport) {
				r.State, r.Waits, r.Error = "waiting: decoding", "decoding", "registry: refused"
			})
			s.want("ours", 0, Stall, RegistryDown)
		},
		"the consumer panics at a record": func(s *sim) {
			s.stuck(Blocked{Sink: 1}, func(r *PartitionReport) {
				r.State, r.Waits, r.Error = "waiting: sink panics", "sink panics", "panic: index"
			})
			s.want("ours", 0, Stall, Poison)
		},
		"commits do not get through": func(s *sim) {
			s.stuck(Blocked{Commit: 1}, func(r *PartitionReport) { r.Applied, r.Head = r.Fetched, 0 })
			s.want("ours", 0, Stall, CommitStalled)
			if r := s.row("ours", 0); *r.AppliedRecords != 0 || *r.AppliedAge.High != 0 {
				s.t.Errorf("all is applied: %+v", r)
			}
		},
		"records are not fetched": func(s *sim) {
			s.group("ours", 1)
			s.run(300, func(int) {
				each(func(p int32) { s.produce(p, 20); s.commit("ours", p, 10) })
				s.report(Blocked{Fetch: 0.9}, func(r *PartitionReport) { r.Fetched, r.Head = r.Applied, 0 })
			})
			s.want("ours", 0, Warn, FetchSlow)
		},
		"a call that does not come back": func(s *sim) {
			s.stuck(Blocked{Sink: 1}, func(r *PartitionReport) { r.State = "wedged" })
			s.want("ours", 0, Stall, StuckMember)
		},
		"a report that is old": func(s *sim) { // says nothing any more
			s.group("ours", 1)
			s.run(120, s.steady("ours"))
			s.report(Blocked{Sink: 1}, func(r *PartitionReport) { r.State, r.Waits = "waiting: writing", "writing" })
			s.run(settle, func(int) { each(func(p int32) { s.produce(p, 10) }) })
			s.want("ours", 0, Stall, StuckMember)
			if r := s.row("ours", 0); r.Applied != nil {
				s.t.Errorf("an old report is shown: %+v", r)
			}
		},
	}
}

func TestShapes(t *testing.T) {
	all := shapes()
	if len(all) < 25 {
		t.Errorf("there are %d shapes", len(all))
	}
	shown := map[Why]bool{RebalanceLoop: true} // by a shape that says so itself
	for _, name := range slices.Sorted(maps.Keys(all)) {
		t.Run(name, func(t *testing.T) {
			s := newSim(t, shown)
			all[name](s)
			if s.grouped == 0 {
				t.Error("nothing was compared with the truth")
			}
		})
	}
	for _, why := range causes {
		if !shown[why] {
			t.Errorf("no shape has the cause %s", why)
		}
	}
}
