package kafka_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/millrace/millrace/pkg/kafka"
	"github.com/millrace/millrace/pkg/kafka/kafkatest"
	"github.com/millrace/millrace/pkg/schema"
)

func spec(partitions int, retention string) schema.TopicSpec {
	return schema.TopicSpec{Name: "t", Partitions: partitions, Configs: map[string]string{
		"message.timestamp.type": "LogAppendTime", "retention.ms": retention,
	}}
}

func TestPlanTopics(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	adm := kadm.NewClient(kafkatest.New(t).Client(t))
	// plan gives the details and, unless it is only a look, makes the changes.
	plan := func(s schema.TopicSpec, replication int, apply bool) (string, error) {
		t.Helper()
		changes, err := kafka.NewPlanner(adm, []schema.TopicSpec{s}, replication, 1).Plan(ctx)
		var out []string
		for _, c := range changes {
			out = append(out, c.Object+": "+c.Detail)
			if !apply {
				continue
			}
			if err := c.Apply(ctx); err != nil {
				t.Fatal(err)
			}
		}
		return strings.Join(out, "\n"), err
	}
	want := func(s schema.TopicSpec, apply bool, want string) {
		t.Helper()
		got, err := plan(s, 1, apply)
		if err != nil || got != want {
			t.Errorf("got %q, %v, want %q", got, err, want)
		}
	}
	if _, err := plan(spec(3, "1000"), 4, false); err == nil || !strings.Contains(err.Error(), "needs 4 replicas") {
		t.Errorf("more replicas than brokers: %v", err)
	}
	create := "topic t: create with 3 partitions, 1 replicas\nmessage.timestamp.type=LogAppendTime\nmin.insync.replicas=1\nretention.ms=1000"
	want(spec(3, "1000"), false, create)
	want(spec(3, "1000"), true, create)
	want(spec(3, "1000"), true, "")
	want(spec(5, "2000"), true, "topic t: partitions: 3 -> 5 (records of a key go to another partition from then on)\ntopic t: retention.ms: 1000 -> 2000")
	want(spec(5, "2000"), true, "")
	if _, err := plan(spec(4, "2000"), 1, true); err == nil || !strings.Contains(err.Error(), "cannot take partitions away") {
		t.Errorf("fewer partitions: %v", err)
	}
}
