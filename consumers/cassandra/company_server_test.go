package cassandra

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace/pkg/codec"
	"github.com/millrace/millrace/pkg/schema"
	"github.com/millrace/millrace/pkg/schema/schematest"
	"github.com/millrace/millrace/pkg/servertest"
	"github.com/millrace/millrace/pkg/servertest/cqlproxy"
	"github.com/millrace/millrace/pkg/stream"
)

// Batches that wait for room share requests. What goes wrong with one of those is laid to no batch: each goes again alone,
// every row is there once, and a record that cannot be stored is named by its own batch, whatever the others met.
func TestBatchesThatShareRequests(t *testing.T) {
	t.Parallel()
	servers, ok := servertest.Require(t)
	if !ok {
		return
	}
	typ := schematest.Type(t, "log")
	direct, s, p := behindProxy(t, servers, typ, 11)
	s.limit = stream.NewLimiter(2) // so that the others have to wait
	m := maker(typ)
	if err := store(t, s, m.Batch(0, 0, 1)); err != nil { // the table is known
		t.Fatal(err)
	}
	const partitions, each = 8, 100
	body := typ.Index("body")
	for round := range int64(2) {
		p.Set(cqlproxy.Faults{TimeOut: 0.05, Unavailable: 0.02})
		var wg sync.WaitGroup
		errs := make([]error, partitions)
		for k := range partitions {
			b := m.Batch(int32(k), round*each+1, (round+1)*each+1)
			b.Records[7].Values = slices.Clone(b.Records[7].Values)
			b.Records[7].Values[schema.ID] = codec.StringValue("no id") // has no wire form
			b.Records[9].Values = slices.Clone(b.Records[9].Values)
			b.Records[9].Values[body] = codec.BytesValue([]byte("\xff")) // Cassandra refuses it
			wg.Go(func() { errs[k] = untilSettled(t, s, b) })
		}
		wg.Wait()
		for k, err := range errs {
			var partial *stream.PartialError
			if !errors.As(err, &partial) || !slices.Equal(slices.Sorted(maps.Keys(partial.Failed)), []int{7, 9}) {
				t.Errorf("round %d, partition %d: done got %v, want records 7 and 9 refused", round, k, err)
			}
		}
	}
	if c := p.Counts(); c.Unavailable == 0 || c.TimedOut == 0 {
		t.Errorf("nothing failed: %+v", c)
	}
	seen := map[string]int{}
	for _, v := range rows(t, direct, typ) {
		seen[v[schema.ID].String()]++
	}
	if want := 1 + 2*partitions*(each-2); len(seen) != want {
		t.Errorf("%d rows, want %d", len(seen), want)
	}
}

// untilSettled writes a batch as the runtime does: again, while the destination is out.
func untilSettled(t *testing.T, s *Store, b stream.Batch) error {
	var partial *stream.PartialError
	for end := time.Now().Add(time.Minute); time.Now().Before(end); {
		result := make(chan error, 1)
		err := s.Write(t.Context(), b, func(err error) { result <- err })
		if err == nil {
			err = <-result
		}
		if err == nil || errors.As(err, &partial) {
			return err
		}
	}
	return fmt.Errorf("%s/%d was not stored within a minute", b.Topic, b.Partition)
}
