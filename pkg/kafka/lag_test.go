package kafka_test

import (
	"context"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/pkg/kafka"
	"github.com/millrace/millrace/pkg/kafka/kafkatest"
)

// TestLag has a group that is behind, one that keeps up, one that never committed, one that lost records to retention
// and one that is ahead.
func TestLag(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	c := kafkatest.New(t)
	c.Create(t, "t", 1)
	c.Create(t, "empty", 1)
	cl := c.Client(t)
	at := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	for i := range 10 {
		c.Produce(t, &kgo.Record{Topic: "t", Value: []byte("v"), Timestamp: at.Add(time.Duration(i) * time.Second)})
	}
	adm := kadm.NewClient(cl)
	for group, next := range map[string]int64{"behind": 7, "there": 10, "late": 1, "ahead": 12} {
		if err := adm.CommitAllOffsets(ctx, group, kadm.OffsetsFromRecords(kgo.Record{Topic: "t", Offset: next - 1})); err != nil {
			t.Fatal(err)
		}
	}
	var drop kadm.Offsets
	drop.AddOffset("t", 0, 3, -1)
	if _, err := adm.DeleteRecords(ctx, drop); err != nil {
		t.Fatal(err)
	}
	now := func() time.Time { return at.Add(time.Minute) }
	rows, err := kafka.Lag(ctx, cl, []string{"ahead", "behind", "late", "never", "there"}, []string{"t", "empty"}, 10*time.Second, now)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]kafka.LagRow{}
	for _, r := range rows {
		if r.Topic == "empty" && (r.Records != 0 || r.Age != 0 || r.Method != "") {
			t.Errorf("an empty topic has lag: %+v", r)
		}
		if r.Topic == "t" {
			got[r.Group] = r
		}
	}
	row := func(group string, committed, records, expired int64, age time.Duration, method string) kafka.LagRow {
		return kafka.LagRow{Group: group, Topic: "t", Start: 3, Committed: committed, End: 10, Records: records, Expired: expired, Age: age, Method: method}
	}
	want := map[string]kafka.LagRow{
		"behind": row("behind", 7, 3, 0, 53*time.Second, kafka.ByCreateTime),
		"there":  row("there", 10, 0, 0, 0, ""),
		"late":   row("late", 1, 7, 2, 57*time.Second, kafka.ByCreateTime),
		"never":  row("never", -1, 7, 0, 57*time.Second, kafka.ByCreateTime),
		"ahead":  row("ahead", 12, -2, 0, 0, ""),
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if rows[0].Age != 57*time.Second || rows[len(rows)-1].Age != 0 {
		t.Errorf("not worst first: %+v", rows)
	}
}
