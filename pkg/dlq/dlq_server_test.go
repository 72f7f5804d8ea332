package dlq

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/pkg/schema"
	"github.com/millrace/millrace/pkg/servertest"
)

// What only the real broker does: a log that begins after 0, an aborted transaction, a marker as the last record, and
// append times.
func TestOnKafka(t *testing.T) {
	t.Parallel()
	servers, ok := servertest.Require(t)
	if !ok {
		return
	}
	ctx := t.Context()
	typ := &schema.Type{Name: servertest.Name(t)}
	opts := []kgo.Opt{kgo.SeedBrokers(servers.Kafka...)}
	cl, err := kgo.NewClient(append(opts, kgo.TransactionalID(typ.Name))...)
	if err != nil {
		t.Fatal(err)
	}
	adm := kadm.NewClient(cl)
	appended := "LogAppendTime"
	config := map[string]*string{"message.timestamp.type": &appended}
	if _, err := adm.CreateTopics(ctx, 1, 1, config, typ.TopicName(), typ.DLQName()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		made := []string{typ.TopicName(), typ.DLQName()}
		if _, err := adm.DeleteTopics(context.Background(), made...); err != nil {
			t.Errorf("deleting %v: %v", made, err)
		}
		cl.Close()
	})
	began := time.Now().Add(-time.Minute)
	produce := func(end kgo.TransactionEndTry, from, n int) {
		t.Helper()
		if err := cl.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		for i := range n {
			l := letter(fmt.Sprintf("letter %d", from+i), "lake", "refused", from+i)
			l.Topic = typ.DLQName()
			l.Headers = append(l.Headers, headers("millrace.origin.topic", typ.TopicName(), "millrace.origin.partition", "0")...)
			if err := cl.ProduceSync(ctx, l).FirstErr(); err != nil {
				t.Fatal(err)
			}
		}
		if err := cl.EndTransaction(ctx, end); err != nil {
			t.Fatal(err)
		}
	}
	produce(kgo.TryCommit, 0, 5) // offsets 0 to 4, a marker at 5
	produce(kgo.TryAbort, 5, 3)
	produce(kgo.TryCommit, 8, 2) // a marker is the last
	expired := kadm.Offsets{}
	expired.AddOffset(typ.DLQName(), 0, 2, -1)
	if _, err := adm.DeleteRecords(ctx, expired); err != nil {
		t.Fatal(err)
	}

	w := &world{T: t, Box: &Box{
		Kafka: opts, Types: []*schema.Type{typ}, Decoder: func(string) Decoder { return decoder{typ} }, Now: time.Now,
	}}
	w.wantCounts("lake refused 5/0/0")
	list, err := w.List(ctx, Filter{})
	if err != nil || len(list) != 1 || list[0].First.Before(began) || list[0].Topic != typ.DLQName() {
		t.Errorf("%+v, %v", list, err)
	}
	if report, said := w.replay(Order{Limit: 3}); report.Done != 3 || !report.More {
		t.Errorf("%+v %v", report, said)
	}
	w.wantCounts("lake refused 2/3/0") // nobody consumes the topic as the lake
	if report := w.discard(Order{Why: "a test's", Filter: Filter{Topic: typ.TopicName()}}); report.Done != 2 {
		t.Errorf("%+v", report)
	}
	w.wantCounts("lake refused 0/3/2")
	all, err := w.Newest(ctx, Filter{All: true}, 10)
	if err != nil || values(all) != "letter 9 letter 8 letter 4 letter 3 letter 2" {
		t.Errorf("%s, %v", values(all), err)
	}
	for i, want := range []string{Discarded, Discarded, Replayed, Replayed, Replayed} {
		if all[i].Resolution == nil || all[i].Resolution.How != want {
			t.Errorf("%s: %+v, want %s", all[i], all[i].Resolution, want)
		}
	}
}
