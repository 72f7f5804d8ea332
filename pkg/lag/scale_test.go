package lag

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
)

// TestScale: 500 groups, 10,000 partitions, 50,000 commits. The requests to brokers do not grow with them; memory is bounded;
// times are printed.
func TestScale(t *testing.T) {
	if testing.Short() {
		t.Log("in its long form it has 10,000 partitions; here 1,000")
	}
	topics, each := 100, 100
	if testing.Short() || raceDetector {
		topics, each = 20, 50
	}
	groups := topics * 5
	const brokers = 3
	cluster, err := kfake.NewCluster(kfake.NumBrokers(brokers))
	if err != nil {
		t.Fatal(err)
	}
	defer cluster.Close()
	for i := range topics {
		if err := cluster.CreateTopic(fmt.Sprintf("topic-%03d", i), int32(each), nil); err != nil {
			t.Fatal(err)
		}
	}
	calls := &Calls{}
	cl, err := kgo.NewClient(append(Opts(calls), kgo.SeedBrokers(cluster.ListenAddrs()...), kgo.RecordPartitioner(kgo.ManualPartitioner()))...)
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	for i := range topics {
		var rs []*kgo.Record
		for p := range each {
			rs = append(rs, &kgo.Record{Topic: fmt.Sprintf("topic-%03d", i), Partition: int32(p), Value: []byte("v")}, &kgo.Record{Topic: fmt.Sprintf("topic-%03d", i), Partition: int32(p), Value: []byte("v")})
		}
		if err := cl.ProduceSync(t.Context(), rs...).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	adm := kadm.NewClient(cl)
	for g := range groups {
		offsets := kadm.Offsets{}
		for p := range each {
			offsets.Add(kadm.Offset{Topic: fmt.Sprintf("topic-%03d", g%topics), Partition: int32(p), At: int64(g % 3), LeaderEpoch: -1})
		}
		if err := adm.CommitAllOffsets(t.Context(), fmt.Sprintf("group-%03d", g), offsets); err != nil {
			t.Fatal(err)
		}
	}
	r := NewReader(cl, calls, nil, func(string) bool { return true }, time.Now)
	f := NewFinder(cl)
	w := NewWatcher(Options{
		Interval: 10 * time.Second, Committed: func(string) bool { return false }, Objective: func(string) time.Duration { return 0 },
	})
	before := live()
	var v *View
	for i := range 4 {
		begun := time.Now()
		look, err := r.Look(t.Context())
		if err != nil || len(look.Errors) > 0 {
			t.Fatal(err, look.Errors)
		}
		asked := time.Now()
		w.Observe(look)
		observed := time.Now()
		from := calls.n.Load()
		if err := f.Find(t.Context(), w, time.Now); err != nil {
			t.Error(err)
		}
		found := time.Now()
		v = w.View(time.Now())
		t.Logf("look %d: %d requests in %s; observing %s, finding %s with %d more, viewing %s", i+1, look.Calls,
			asked.Sub(begun).Round(time.Millisecond), observed.Sub(asked).Round(time.Millisecond), found.Sub(observed).Round(time.Millisecond),
			calls.n.Load()-from, time.Since(found).Round(time.Millisecond))
		// Groups and who is in them, commits, and offsets: some to each broker; topics: one; how they are kept: the first time.
		if most := 12 * brokers; look.Calls > most {
			t.Errorf("%d requests for %d groups, want %d at most", look.Calls, groups, most)
		}
		if most := int64((findRounds + fetchLayers) * brokers); calls.n.Load()-from > most {
			t.Errorf("%d requests to find heads, want %d at most", calls.n.Load()-from, most)
		}
	}
	if grown := live() - before; grown > 256<<20 {
		t.Errorf("%d MiB are held", grown>>20)
	} else {
		t.Logf("%d MiB are held", grown>>20)
	}
	if len(v.Flows) != groups || v.Flows[0].Partitions != each {
		t.Errorf("%d flows", len(v.Flows))
	}
	for _, f := range v.Flows {
		if f.Records == nil || *f.Records%int64(each) != 0 {
			t.Errorf("%s: lag %v", f.Group, f.Records)
		}
	}
	runtime.KeepAlive(w)
}

// live is what the heap holds.
func live() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// TestMemoryIsBounded at a tenth of the scale, for hours in which every log grows and every group moves.
func TestMemoryIsBounded(t *testing.T) {
	const topics, partitions, groupsOfTopic = 10, 100, 5
	w := NewWatcher(Options{Interval: every, Committed: func(string) bool { return false }, Objective: func(string) time.Duration { return 0 }})
	before := live()
	for i := range int64(400) {
		now := begin.Add(time.Duration(i) * every)
		l := &Look{Begun: now, From: now, Ended: now, Groups: map[string]*Group{}, Logs: map[Partition]*Log{}, Topics: map[string]Topic{}}
		for topic := range topics {
			name := fmt.Sprintf("topic-%d", topic)
			for p := range int32(partitions) {
				l.Logs[Partition{name, p}] = &Log{Leader: 1, Stable: 100 * i, End: 100 * i}
			}
			for g := range groupsOfTopic {
				group := &Group{Name: fmt.Sprintf("%s-%d", name, g), State: "Stable", Commits: map[Partition]Commit{}}
				for p := range int32(partitions) {
					group.Commits[Partition{name, p}] = Commit{Offset: max(0, 100*i-int64(g))}
				}
				l.Groups[group.Name] = group
			}
		}
		w.Observe(l)
	}
	v := w.View(begin.Add(400 * every))
	grown := live() - before
	t.Logf("%.1f MiB are held of %d commits", float64(grown)/(1<<20), topics*partitions*groupsOfTopic)
	if grown > 256<<20/10 {
		t.Errorf("%d MiB are held", grown>>20)
	}
	runtime.KeepAlive(w)
	runtime.KeepAlive(v)
}
