package stream

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/pkg/servertest"
)

func (k *onKafka) gaps(t *testing.T, c *Consumer, kind string) float64 {
	t.Helper()
	var m dto.Metric
	if err := c.metrics.gaps.WithLabelValues(k.typ.TopicName(), kind).Write(&m); err != nil {
		t.Fatal(err)
	}
	return m.GetCounter().GetValue()
}

// Transactions that commit and abort, across each other and while they are read, leave gaps on the real Kafka that are all
// explained; what is deleted is counted as expired.
func TestTransactionsLeaveNoUnexplainedGapOnRealKafka(t *testing.T) {
	servers, ok := servertest.Require(t)
	if !ok {
		return
	}
	k := newOnKafka(t, servers, 1)
	name := k.typ.TopicName()
	var writers []*kgo.Client
	for i := range 3 {
		cl, err := kgo.NewClient(append(slices.Clip(k.opts), kgo.TransactionalID(fmt.Sprintf("%s-%d", name, i)))...)
		if err != nil {
			t.Fatal(err)
		}
		defer cl.Close()
		writers = append(writers, cl)
	}
	put := func(cl *kgo.Client, id int) {
		t.Helper()
		if err := cl.ProduceSync(t.Context(), &kgo.Record{Topic: name, Value: fmt.Appendf(nil, "0/%d", id)}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	id := 0
	// round leaves the transactions of all writers across each other, and gives how many of its records count.
	round := func(n int) (stored int) {
		t.Helper()
		for _, cl := range writers {
			if err := cl.BeginTransaction(); err != nil {
				t.Fatal(err)
			}
		}
		for i := range 4 {
			for j, cl := range writers {
				if id++; i%(j+1) == 0 {
					put(cl, id)
					if (n+j)%2 == 0 {
						stored++
					}
				}
			}
			id++
			put(k.cl, id)
			stored++
		}
		for j, cl := range writers {
			if err := cl.EndTransaction(t.Context(), kgo.TransactionEndTry((n+j)%2 == 0)); err != nil {
				t.Fatal(err)
			}
			id++
			put(k.cl, id)
			stored++
		}
		return stored
	}
	sink := newMemSink()
	stored := 0
	for n := range 4 {
		stored += round(n)
	}
	k.opts = append(k.opts, kgo.FetchMaxPartitionBytes(200), kgo.FetchMaxBytes(200)) // a batch or two
	c, stop := k.join(t, Default(), sink)
	for n := range 8 {
		stored += round(n)
	}
	soon(t, fmt.Sprintf("all %d are stored", stored), func() bool { return sink.len() == stored })
	soon(t, "no gap is open", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, p := range c.parts {
			return len(p.gaps.open) == 0
		}
		return false
	})
	time.Sleep(2 * time.Second)
	if e, u := k.gaps(t, c, gapExpired), k.gaps(t, c, gapUnexplained); e != 0 || u != 0 {
		t.Errorf("%v expired and %v unexplained, want none", e, u)
	}
	for topic, want := range map[string]bool{name: false, "__consumer_offsets": true} {
		if compacted, err := c.compacted(t.Context(), topic); compacted != want || err != nil {
			t.Errorf("%s is compacted: %v, %v", topic, compacted, err)
		}
	}
	stop()

	offsets, err := k.adm.FetchOffsets(t.Context(), Group(k.name))
	if err != nil {
		t.Fatal(err)
	}
	at, _ := offsets.Lookup(name, 0)
	stored += round(0)
	var deleted kadm.Offsets
	deleted.AddOffset(name, 0, at.At+5, -1)
	if _, err := k.adm.DeleteRecords(context.WithoutCancel(t.Context()), deleted); err != nil {
		t.Fatal(err)
	}
	c, stop = k.join(t, Default(), sink)
	defer stop()
	soon(t, "the loss is counted", func() bool { return k.gaps(t, c, gapExpired) == 5 })
	last := fmt.Sprintf("0/%d", id)
	soon(t, "the last is stored", func() bool { return sink.times(last) > 0 })
	if u := k.gaps(t, c, gapUnexplained); u != 0 {
		t.Errorf("%v unexplained, want none", u)
	}
}
