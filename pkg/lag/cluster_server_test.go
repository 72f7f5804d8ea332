package lag

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/pkg/servertest"
)

// cluster is the real Kafka, and a watcher of it whose clock the test moves on.
type cluster struct {
	t       *testing.T
	servers servertest.Servers
	prefix  string
	adm     *kadm.Client
	ahead   time.Duration // of the watcher's clock: time that went by without waiting
	reader  *Reader
	finder  *Finder
	calls   *Calls
	w       *Watcher
}

const ours = "ours" // how the names of groups end that read committed records only

func newCluster(t *testing.T) *cluster {
	servers, ok := servertest.Require(t)
	if !ok {
		return nil
	}
	c := &cluster{t: t, servers: servers, prefix: servers.Prefix(t), calls: &Calls{}}
	c.adm = kadm.NewClient(c.client())
	cl := c.client(Opts(c.calls)...)
	name := c.prefix
	c.reader = NewReader(cl, c.calls, nil, func(g string) bool { return len(g) > len(name) && g[:len(name)] == name }, c.now)
	c.finder = NewFinder(cl)
	c.watch()
	return c
}

// watch begins to watch anew, without a memory.
func (c *cluster) watch() {
	c.w = NewWatcher(Options{
		Interval:  time.Second,
		Committed: func(g string) bool { return g[len(g)-len(ours):] == ours },
		Objective: func(string) time.Duration { return 5 * time.Second },
	})
}

func (c *cluster) now() time.Time { return time.Now().Add(c.ahead) }

func (c *cluster) client(opts ...kgo.Opt) *kgo.Client {
	c.t.Helper()
	cl, err := kgo.NewClient(append([]kgo.Opt{
		kgo.SeedBrokers(c.servers.Kafka...), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.FetchMaxWait(200 * time.Millisecond),
	}, opts...)...)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(cl.CloseAllowingRebalance)
	return cl
}

// topic makes one with a partition, unless configs say otherwise.
func (c *cluster) topic(name string, partitions int32, configs map[string]string) string {
	c.t.Helper()
	values := map[string]*string{}
	for k, v := range configs {
		values[k] = &v
	}
	name = c.prefix + "-" + name
	if _, err := c.adm.CreateTopic(c.t.Context(), partitions, 1, values, name); err != nil {
		c.t.Fatal(err)
	}
	return name
}

func (c *cluster) group(name string) string { return c.prefix + "-" + name }

// produce writes n records to partition 0, with a stamp; the zero time is now.
func (c *cluster) produce(cl *kgo.Client, topic string, n int, stamp time.Time) {
	c.t.Helper()
	for i := range n {
		r := &kgo.Record{Topic: topic, Key: []byte(strconv.Itoa(i % 2)), Value: []byte("v"), Timestamp: stamp}
		if err := cl.ProduceSync(c.t.Context(), r).FirstErr(); err != nil { // one by one: a batch each
			c.t.Fatal(err)
		}
	}
}

func (c *cluster) commit(group, topic string, at int64) {
	c.t.Helper()
	offsets := kadm.Offsets{}
	offsets.Add(kadm.Offset{Topic: topic, At: at, LeaderEpoch: -1})
	if err := c.adm.CommitAllOffsets(c.t.Context(), group, offsets); err != nil {
		c.t.Fatal(err)
	}
}

// look takes a look, later than the last one by a time that nobody waits for.
func (c *cluster) look(later time.Duration) *View {
	c.t.Helper()
	c.ahead += later
	l, err := c.reader.Look(c.t.Context())
	if err != nil {
		c.t.Fatal(err)
	}
	c.w.Observe(l)
	if err := c.finder.Find(c.t.Context(), c.w, c.now); err != nil {
		c.t.Error(err)
	}
	return c.w.View(c.now())
}

func rowOf(v *View, group, topic string, p int32) *Row {
	for _, f := range v.Flows {
		for i, r := range f.Rows {
			if r.Group == group && r.Topic == topic && r.Partition == p {
				return &f.Rows[i]
			}
		}
	}
	return nil
}

// row gives what the last look shows of partition 0.
func (c *cluster) row(group, topic string) *Row {
	c.t.Helper()
	r := rowOf(c.w.View(c.now()), group, topic, 0)
	if r == nil {
		c.t.Fatalf("%s on %s is not watched", group, topic)
	}
	return r
}

// eventually waits for something that the brokers do in their own time.
func eventually(t *testing.T, what string, within time.Duration, done func() error) {
	t.Helper()
	begun := time.Now()
	for {
		err := done()
		if err == nil {
			return
		}
		if time.Since(begun) > within {
			t.Fatalf("%s: not within %s: %v", what, within, err)
		}
		select {
		case <-time.After(200 * time.Millisecond):
		case <-t.Context().Done():
			t.Fatal(t.Context().Err())
		}
	}
}

// TestTransactionsOnServers: markers and aborted records are offsets, and no records.
func TestTransactionsOnServers(t *testing.T) {
	c := newCluster(t)
	if c == nil {
		return
	}
	topic := c.topic("txn", 1, nil)
	txn := c.client(kgo.TransactionalID(c.prefix))
	transaction := func(n int, end kgo.TransactionEndTry) {
		t.Helper()
		if err := txn.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		c.produce(txn, topic, n, time.Time{})
		if err := txn.EndTransaction(t.Context(), end); err != nil {
			t.Fatal(err)
		}
	}
	transaction(10, kgo.TryCommit)
	committed, all := c.group(ours), c.group("all")
	c.commit(committed, topic, 10)
	c.commit(all, topic, 10)
	c.look(0)
	c.look(time.Minute)
	for _, g := range []string{committed, all} {
		if r := c.row(g, topic); *r.Records != 1 || r.Exact == nil || *r.Exact != 0 || *r.Age.High != 0 || r.Why != "" || r.Past {
			t.Errorf("%s: behind by a marker: %+v", g, r)
		}
	}
	before := c.calls.n.Load()
	l := c.look(time.Minute)
	if asked := int(c.calls.n.Load()-before) - l.Calls; asked != 0 {
		t.Errorf("what is known to be a marker was asked for again, by %d requests", asked)
	}

	transaction(5, kgo.TryAbort)
	c.look(time.Minute)
	c.look(time.Minute)
	if r := c.row(committed, topic); *r.Records != 7 || r.Exact == nil || *r.Exact != 0 || *r.Age.High != 0 || r.Why != "" {
		t.Errorf("behind by what was aborted: %+v", r)
	}
	if r := c.row(all, topic); *r.Records != 7 || r.Exact == nil || *r.Exact != 5 || *r.Age.Low < 60 {
		t.Errorf("who reads everything is behind by five records: %+v", r)
	}

	if err := txn.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	c.produce(txn, topic, 3, time.Time{})
	c.commit(committed, topic, 17)
	c.commit(all, topic, 17)
	c.look(0)
	c.look(time.Minute)
	if r := c.row(committed, topic); *r.Records != 0 || r.Stable != 17 || r.End != 20 || r.Why != TransactionOpen {
		t.Errorf("before an open transaction: %+v", r)
	}
	if r := c.row(all, topic); *r.Records != 3 || r.Why != TransactionOpen && r.Why != GroupDead {
		t.Errorf("before an open transaction, who reads everything: %+v", r)
	}
	if err := txn.EndTransaction(t.Context(), kgo.TryCommit); err != nil {
		t.Fatal(err)
	}
	c.look(time.Second)
	if r := c.row(committed, topic); *r.Records != 4 || r.Why == TransactionOpen {
		t.Errorf("after it: %+v", r)
	}
}

// TestHolesOnServers: what compaction took is offsets without records.
func TestHolesOnServers(t *testing.T) {
	c := newCluster(t)
	if c == nil {
		return
	}
	topic := c.topic("compacted", 1, map[string]string{
		"cleanup.policy": "compact", "segment.ms": "100", "min.cleanable.dirty.ratio": "0.001", "max.compaction.lag.ms": "100", "delete.retention.ms": "0",
	})
	cl := c.client()
	c.produce(cl, topic, 40, time.Time{}) // two keys
	g := c.group(ours)
	c.commit(g, topic, 0)
	n := 40
	eventually(t, "compaction", 2*time.Minute, func() error {
		c.produce(cl, topic, 1, time.Time{}) // a new segment
		n++
		c.watch()
		for range 2 + n/countRounds { // each segment takes a fetch
			c.look(time.Minute)
		}
		r := c.row(g, topic)
		if *r.Records != int64(n) {
			t.Fatalf("%d offsets: %+v", n, r)
		}
		if r.Exact == nil || *r.Exact >= 20 {
			return fmt.Errorf("%d records are counted, of all: %t", or0(r.Exact), r.Exact != nil)
		}
		t.Logf("%d offsets are %d records", n, *r.Exact)
		return nil
	})
}

// TestLogsOnServers: retention that overtakes, a topic made anew, a group that is deleted, partitions that are empty.
func TestLogsOnServers(t *testing.T) {
	c := newCluster(t)
	if c == nil {
		return
	}
	topic := c.topic("logs", 2, map[string]string{"message.timestamp.type": "LogAppendTime"})
	cl := c.client()
	c.produce(cl, topic, 10, time.Time{})
	g, never := c.group(ours), c.group("none-"+ours)
	c.commit(g, topic, 3)
	c.look(0)
	offsets := kadm.Offsets{}
	offsets.Add(kadm.Offset{Topic: topic, At: 7})
	if _, err := c.adm.DeleteRecords(t.Context(), offsets); err != nil {
		t.Fatal(err)
	}
	c.look(time.Minute)
	if r := c.row(g, topic); *r.Records != 3 || r.Expired != 4 || r.Why != DataExpired {
		t.Errorf("behind the start: %+v", r)
	}
	c.look(time.Minute)
	if r := c.row(g, topic); r.Expired != 4 {
		t.Errorf("counted again: %d", r.Expired)
	}
	// A member that has not committed: behind by all there is, on both partitions.
	reader := c.client(kgo.ConsumerGroup(never), kgo.ConsumeTopics(topic), kgo.DisableAutoCommit())
	eventually(t, "a member", time.Minute, func() error {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		reader.PollFetches(ctx)
		v := c.look(time.Second)
		if r := rowOf(v, never, topic, 1); r == nil || r.Owner == "" {
			return errors.New("it has no partitions")
		}
		return nil
	})
	if r := c.row(never, topic); r.Committed != nil || *r.Records != 3 {
		t.Errorf("a group that never committed: %+v", r)
	}
	if r := rowOf(c.w.View(c.now()), never, topic, 1); *r.Records != 0 || r.Why != "" {
		t.Errorf("an empty partition: %+v", r)
	}

	c.commit(g, topic, 10)
	c.look(time.Second)
	if _, err := c.adm.DeleteTopic(t.Context(), topic); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the topic made anew", time.Minute, func() error {
		_, err := c.adm.CreateTopic(t.Context(), 2, 1, nil, topic)
		return err
	})
	eventually(t, "a commit on it", time.Minute, func() error {
		offsets := kadm.Offsets{}
		offsets.Add(kadm.Offset{Topic: topic, LeaderEpoch: -1})
		return c.adm.CommitAllOffsets(t.Context(), g, offsets)
	})
	c.look(time.Second)
	if r := c.row(g, topic); r.Why != TopicRecreated || *r.Records != 0 {
		t.Errorf("a topic made anew: %+v", r)
	}
	if _, err := c.adm.DeleteGroup(t.Context(), g); err != nil {
		t.Fatal(err)
	}
	if v := c.look(time.Second); rowOf(v, g, topic, 0) != nil {
		t.Error("a group that was deleted is shown")
	}
}

// TestGroupsOnServers: of the protocol of KIP-848, with a static member, and without any.
func TestGroupsOnServers(t *testing.T) {
	c := newCluster(t)
	if c == nil {
		return
	}
	topic := c.topic("groups", 1, map[string]string{"message.timestamp.type": "LogAppendTime"})
	cl := c.client()
	modern, static := c.group("modern"), c.group("static")
	join := func(group string, opts ...kgo.Opt) *kgo.Client {
		t.Helper()
		member := c.client(append(opts, kgo.ConsumerGroup(group), kgo.ConsumeTopics(topic), kgo.DisableAutoCommit())...)
		eventually(t, group+" reads", time.Minute, func() error {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			c.produce(cl, topic, 1, time.Time{})
			if member.PollFetches(ctx).NumRecords() == 0 {
				return errors.New("nothing yet")
			}
			return member.CommitUncommittedOffsets(t.Context())
		})
		return member
	}
	//nolint:staticcheck // it is how the client has it
	one := join(modern, kgo.WithContext(context.WithValue(context.Background(), "opt_in_kafka_next_gen_balancer_beta", true)))
	two := join(static, kgo.InstanceID("node-7"), kgo.SessionTimeout(6*time.Second))
	c.look(0)
	if g := c.w.groups[modern]; g == nil || !g.New || len(g.Members) != 1 || g.State != "Stable" {
		t.Errorf("a group of the new protocol: %+v", g)
	}
	if r := c.row(modern, topic); r.Owner == "" || r.Committed == nil {
		t.Errorf("a group of the new protocol: %+v", r)
	}
	if r := c.row(static, topic); r.Owner == "" || r.Owner[:6] != "node-7" {
		t.Errorf("a static member: %+v", r)
	}
	one.Close()
	two.Close() // a static member does not say good-bye: its partitions stay its own until the session is over
	c.produce(cl, topic, 4, time.Time{})
	c.look(time.Second)
	c.look(time.Minute)
	if r := c.row(modern, topic); *r.Records < 4 || r.Status != Stop || r.Why != GroupDead {
		t.Errorf("the new protocol's group without members: %+v", r)
	}
	if r := c.row(static, topic); r.Owner != "" && (r.Status != Stall || r.Why != StuckMember) {
		t.Errorf("a static member that is away: %+v", r)
	}
	eventually(t, "the static member's session is over", time.Minute, func() error {
		c.look(time.Second)
		if r := c.row(static, topic); r.Why != GroupDead {
			return fmt.Errorf("%s: %s", r.Why, r.Evidence)
		}
		return nil
	})
}

// TestAgesOnServers: by the brokers' stamps within a second, without having seen anything before; by a client's stamp only
// where nothing contradicts it.
func TestAgesOnServers(t *testing.T) {
	c := newCluster(t)
	if c == nil {
		return
	}
	appended := c.topic("appended", 1, map[string]string{"message.timestamp.type": "LogAppendTime"})
	created := c.topic("created", 1, map[string]string{"message.timestamp.type": "CreateTime"})
	cl := c.client()
	for range 12 { // over some seconds, so that there is something to search
		c.produce(cl, appended, 1, time.Unix(1, 0))
		<-time.After(400 * time.Millisecond)
	}
	stamps := c.stamps(appended, 12)
	g := c.group(ours)
	for _, hours := range []int{0, 1, 30} {
		c.ahead = time.Duration(hours) * time.Hour // as if the records were that old
		for offset, at := range stamps {
			c.watch()
			c.commit(g, appended, int64(offset))
			for range 3 { // of so many rounds each, in a log that does not stand still, or the head would be read
				c.produce(cl, appended, 1, time.Time{})
				c.look(0)
			}
			r := c.row(g, appended)
			truth := c.w.look.Ended.Sub(at).Seconds()
			if r.Age.Method != ByAppendTime || r.Age.Low == nil || r.Age.High == nil || *r.Age.High-*r.Age.Low > 1.001 ||
				*r.Age.Low > truth+0.01 || *r.Age.High < truth-0.01 {
				t.Errorf("offset %d: %s, in truth %g", offset, show(r.Age), truth)
			}
		}
	}
	// A stamp of the client, an hour old.
	c.ahead = 0
	c.watch()
	c.commit(g, created, 0)
	c.look(0)
	c.produce(cl, created, 3, time.Now().Add(-time.Hour))
	c.look(time.Second)
	c.look(10 * time.Second)
	c.look(10 * time.Second)
	if r := c.row(g, created); r.Age.Method != ByHistory || *r.Age.Low < 20 || *r.Age.High > 40 {
		t.Errorf("what was seen contradicts the stamp: %s", show(r.Age))
	}
	c.watch()
	c.look(0)
	if r := c.row(g, created); r.Age.Method != ByRecord || math.Abs(*r.Age.High-3600-21) > 15 {
		t.Errorf("nothing was seen, so the stamp is all there is: %s", show(r.Age))
	}
}

// stamps reads the brokers' stamps of a topic's first n records.
func (c *cluster) stamps(topic string, n int) []time.Time {
	c.t.Helper()
	cl := c.client(kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: {0: kgo.NewOffset().AtStart()}}))
	var out []time.Time
	for len(out) < n {
		fetches := cl.PollFetches(c.t.Context())
		if err := fetches.Err(); err != nil {
			c.t.Fatal(err)
		}
		fetches.EachRecord(func(r *kgo.Record) { out = append(out, r.Timestamp) })
	}
	return out
}

// TestTruthUnderLoadOnServers compares what is shown with the log itself, while a producer and a group run at changing speeds.
func TestTruthUnderLoadOnServers(t *testing.T) {
	c := newCluster(t)
	if c == nil {
		return
	}
	seconds := 60
	if testing.Short() {
		seconds = 10
	}
	topic := c.topic("truth", 1, map[string]string{"message.timestamp.type": "LogAppendTime"})
	g := c.group(ours)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var mu sync.Mutex
	var stamps []time.Time // by offset
	producer := c.client()
	wg.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			rs := make([]*kgo.Record, 20+i%7*30)
			for j := range rs {
				rs[j] = &kgo.Record{Topic: topic, Value: []byte("v")}
			}
			mu.Lock() // a look waits for what is under way, so that its offsets all have stamps
			if err := producer.ProduceSync(context.WithoutCancel(ctx), rs...).FirstErr(); err != nil {
				t.Error(err)
			}
			for _, r := range rs {
				stamps = append(stamps, r.Timestamp)
			}
			mu.Unlock()
			wait(ctx, 100*time.Millisecond)
		}
	})
	consumer := c.client(kgo.ConsumerGroup(g), kgo.ConsumeTopics(topic), kgo.DisableAutoCommit())
	wg.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			consumer.PollRecords(ctx, 100)
			if ctx.Err() == nil {
				if err := consumer.CommitUncommittedOffsets(ctx); err != nil && ctx.Err() == nil {
					t.Error(err)
				}
			}
			wait(ctx, time.Duration(20+i%9*40)*time.Millisecond) // slower than the producer, and faster
		}
	})
	defer func() {
		cancel()
		wg.Wait()
	}()
	direct := func() (committed, end int64) {
		offsets, err := c.adm.FetchOffsets(t.Context(), g)
		if err != nil {
			t.Fatal(err)
		}
		o, _ := offsets.Lookup(topic, 0)
		ends, err := c.adm.ListCommittedOffsets(t.Context(), topic)
		if err != nil {
			t.Fatal(err)
		}
		e, _ := ends.Lookup(topic, 0)
		return max(0, o.At), e.Offset
	}
	eventually(t, "the group has committed", time.Minute, func() error {
		if committed, _ := direct(); committed == 0 {
			return errors.New("nothing")
		}
		return nil
	})
	var worstRecords, inflow int64
	var worstSeconds float64
	last := int64(-1)
	for range seconds {
		wait(t.Context(), time.Second)
		c0, e0 := direct()
		v := c.look(0)
		c1, e1 := direct()
		r := rowOf(v, g, topic, 0)
		if r == nil || r.Records == nil {
			t.Fatalf("it is not known: %+v", v)
		}
		if last >= 0 {
			inflow = max(inflow, e1-last)
		}
		last = e1
		// In truth the lag was, while the watcher looked, between these.
		worstRecords = max(worstRecords, *r.Records-(e1-c0), (e0-c1)-*r.Records)
		if *r.Records == 0 {
			continue
		}
		mu.Lock()
		at := stamps[*r.Committed]
		mu.Unlock()
		truth := v.AsOf.Sub(at).Seconds()
		if r.Age.Low == nil || r.Age.High == nil {
			t.Errorf("the age of %d records is not known", *r.Records)
			continue
		}
		worstSeconds = max(worstSeconds, *r.Age.Low-truth, truth-*r.Age.High)
	}
	t.Logf("over %d s: at most %d records and %.3f s off what the log says; up to %d records came between two looks", seconds, worstRecords, worstSeconds, inflow)
	if worstRecords > inflow {
		t.Errorf("%d records off, and %d came between two looks", worstRecords, inflow)
	}
	if worstSeconds > 1 {
		t.Errorf("%g s off", worstSeconds)
	}
}

func wait(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}
