package reporttopic_test

import (
	"context"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/pkg/kafka"
	"github.com/millrace/millrace/pkg/lag"
	"github.com/millrace/millrace/pkg/lag/reporttopic"
	"github.com/millrace/millrace/pkg/schema"
	"github.com/millrace/millrace/pkg/servertest"
	"github.com/millrace/millrace/pkg/telemetry"
)

// On the real Kafka: the topic is made, reports bear the broker's time, clocks compare, a deleted topic comes again, and
// what is made is what the plan wants.
func TestOnRealKafka(t *testing.T) {
	servers, ok := servertest.Require(t)
	if !ok {
		return
	}
	c := conf()
	c.Brokers = servers.Kafka
	opts, err := c.Opts(telemetry.Discard())
	if err != nil {
		t.Fatal(err)
	}
	cl, err := kgo.NewClient(opts...)
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	adm := kadm.NewClient(cl)
	group := servertest.Name(t)
	var got seen
	p := reporttopic.NewPublisher(opts, c, time.Second, telemetry.Discard(), says(group, 7))
	start(t, func(ctx context.Context) error { return reporttopic.Follow(ctx, opts, got.take) })
	stop := start(t, p.Run)
	fresh := func() bool {
		r, ok := got.of(group, p.Instance())
		return ok && r != nil && time.Since(r.At) < 3*time.Second
	}
	until(t, "it arrives", 2*time.Minute, fresh)

	clock, err := reporttopic.NewClock(opts, p.Instance(), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	defer clock.Close()
	for range 3 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		by, within, err := clock.Skew(ctx)
		cancel()
		if err != nil {
			t.Fatal(err)
		}
		if t.Logf("skew %v within %v", by, within); by.Abs() > within+time.Millisecond || within > 5*time.Second {
			t.Errorf("the broker, which has this machine's clock, is said to be %v ahead, within %v", by, within)
		}
	}

	if _, err := adm.DeleteTopic(t.Context(), lag.StatusTopic); err != nil {
		t.Fatal(err)
	}
	deleted := time.Now()
	until(t, "it arrives on a topic made anew", 2*time.Minute, func() bool {
		r, ok := got.of(group, p.Instance())
		return ok && r != nil && r.At.After(deleted.Add(5*time.Second))
	})
	changes, err := kafka.NewPlanner(adm, []schema.TopicSpec{reporttopic.Spec()}, c.Replication, c.MinISR).Plan(t.Context())
	if err != nil || len(changes) != 0 {
		t.Errorf("the topic that was made is not what is wanted: %+v, %v", changes, err)
	}
	stop()
	until(t, "it has stopped in order", time.Minute, func() bool { r, ok := got.of(group, p.Instance()); return ok && r == nil })
}
