package dlq

import (
	"context"
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kgo"
)

// What a reader holds at a time.
const (
	fetchBytes          = 16 << 20
	fetchPartitionBytes = 4 << 20
)

type span struct{ start, end int64 }

type place struct {
	topic     string
	partition int32
}

// errEnough ends a scan early.
var errEnough = errors.New("enough")

// scan gives every record of the spans, in order within a partition. It ends with all of them or an error, never with a
// part that looks like all; fn may end it with errEnough.
func (b *Box) scan(ctx context.Context, spans map[place]span, fn func(*kgo.Record) error) error {
	if len(spans) == 0 {
		return nil
	}
	at := map[string]map[int32]kgo.Offset{}
	left := map[place]int64{}
	for p, s := range spans {
		if at[p.topic] == nil {
			at[p.topic] = map[int32]kgo.Offset{}
		}
		at[p.topic][p.partition] = kgo.NewOffset().At(s.start)
		left[p] = s.end
	}
	opts := append([]kgo.Opt{}, b.Kafka...)
	cl, err := kgo.NewClient(append(opts, kgo.ConsumePartitions(at), kgo.ConsumeResetOffset(kgo.NoResetOffset()),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.KeepControlRecords(), // else the end could not be reached past a transaction's marker
		kgo.FetchMaxBytes(fetchBytes), kgo.FetchMaxPartitionBytes(fetchPartitionBytes))...)
	if err != nil {
		return fmt.Errorf("making a client to read the dead letters: %w", err)
	}
	defer cl.Close()
	for read := 0; len(left) > 0; {
		fetches := cl.PollFetches(ctx)
		if ctx.Err() != nil {
			return fmt.Errorf("reading dead letters (%d records were read, %d partitions are not at their end): %w", read, len(left), ctx.Err())
		}
		if err := fetches.Err(); err != nil {
			return fmt.Errorf("reading dead letters: %w", err)
		}
		read += fetches.NumRecords()
		for it := fetches.RecordIter(); !it.Done(); {
			if err := visit(it.Next(), left, fn); errors.Is(err, errEnough) {
				return nil
			} else if err != nil {
				return err
			}
		}
	}
	return nil
}

func visit(r *kgo.Record, left map[place]int64, fn func(*kgo.Record) error) error {
	p := place{r.Topic, r.Partition}
	end, ok := left[p]
	if !ok {
		return nil // beyond the end
	}
	if r.Offset+1 >= end {
		delete(left, p)
	}
	if r.Offset >= end || r.Attrs.IsControl() {
		return nil
	}
	return fn(r)
}
