package main

import (
	"context"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	watcher "github.com/millrace/millrace/consumers/lag"
	"github.com/millrace/millrace/pkg/lag"
	"github.com/millrace/millrace/pkg/servertest"
	"github.com/millrace/millrace/pkg/telemetry"
)

// From end to end: the watcher on the real Kafka, a group that stops reading since its destination does not answer, as its
// consumer says, and goes on later.
func TestLiveWatcher(t *testing.T) {
	t.Parallel()
	servers, ok := servertest.Require(t)
	if !ok {
		return
	}
	c := &consumer{topic: servers.Prefix(t) + "-live"}
	c.group = "millrace-" + c.topic
	adm, err := kgo.NewClient(kgo.SeedBrokers(servers.Kafka...))
	if err != nil {
		t.Fatal(err)
	}
	defer adm.Close()
	appended := "LogAppendTime"
	if _, err := kadm.NewClient(adm).CreateTopic(t.Context(), 1, 1, map[string]*string{"message.timestamp.type": &appended}, c.topic); err != nil {
		t.Fatal(err)
	}
	cfg := watcher.Default()
	cfg.Interval, cfg.Groups = time.Second, nil
	reg := prometheus.NewRegistry()
	tel := telemetry.Discard()
	tel.Metrics = reg
	m, err := watcher.New(cfg, watcher.Deps{
		Kafka: []kgo.Opt{kgo.SeedBrokers(servers.Kafka...)}, Own: map[string][]string{c.group: {c.topic}},
		Objectives: map[string]time.Duration{c.group: 2 * time.Second}, Follow: c.says, Telemetry: tel, Now: time.Now,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer func() {
		cancel()
		wg.Wait()
	}()
	wg.Go(func() { c.run(ctx, t, servers.Kafka) })
	wg.Go(func() {
		if err := m.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	metrics := httptest.NewServer(promhttp.HandlerFor(reg, promhttp.HandlerOpts{}))
	defer metrics.Close()
	liveTest(t, strings.TrimPrefix(metrics.URL, "http://"), c.group, func() { c.down.Store(true) }, func() { c.down.Store(false) })
}

// consumer is one of Millrace's as the watcher sees it.
type consumer struct {
	group, topic string
	down         atomic.Bool // its destination
	applied      atomic.Int64
}

// run produces all the time, and reads and commits while the destination answers.
func (c *consumer) run(ctx context.Context, t *testing.T, brokers []string) {
	cl, err := kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.ConsumerGroup(c.group), kgo.ConsumeTopics(c.topic), kgo.DisableAutoCommit(),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxWait(100*time.Millisecond))
	if err != nil {
		t.Error(err)
		return
	}
	defer cl.Close()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := cl.ProduceSync(ctx, &kgo.Record{Topic: c.topic, Value: []byte("v")}).FirstErr(); err != nil && ctx.Err() == nil {
			t.Error(err)
		}
		if c.down.Load() {
			continue
		}
		polling, cancel := context.WithTimeout(ctx, 150*time.Millisecond)
		cl.PollFetches(polling).EachRecord(func(r *kgo.Record) { c.applied.Store(r.Offset + 1) })
		cancel()
		if err := cl.CommitUncommittedOffsets(ctx); err != nil && ctx.Err() == nil {
			t.Error(err)
		}
	}
}

// says is what the consumer reports of itself.
func (c *consumer) says(ctx context.Context, fn func(group, instance string, r *lag.Report)) error {
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for {
		p := lag.PartitionReport{Topic: c.topic, Fetched: -1, Applied: c.applied.Load(), Committed: c.applied.Load(), State: "running"}
		if c.down.Load() {
			p.State, p.Waits, p.Failures, p.Error = "waiting: writing", "writing", 3, "connection refused"
		}
		fn(c.group, "one", &lag.Report{Group: c.group, Instance: "one", Host: "node-1", Every: 0.5, At: time.Now(), Partitions: []lag.PartitionReport{p}})
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}
