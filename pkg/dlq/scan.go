package dlq

import (
	"context"
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
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

// spans are the parts of the logs that an operation reads, fixed when it begins. A dead-letter topic that was never
// made has no letters.
func (b *Box) spans(ctx context.Context, topics []string) (map[place]span, error) {
	cl, err := kgo.NewClient(b.Kafka...)
	if err != nil {
		return nil, fmt.Errorf("making a Kafka client: %w", err)
	}
	defer cl.Close()
	adm := kadm.NewClient(cl)
	starts, err := adm.ListStartOffsets(ctx, topics...)
	if err != nil {
		return nil, fmt.Errorf("reading the dead-letter topics' starts: %w", err)
	}
	ends, err := adm.ListCommittedOffsets(ctx, topics...)
	if err != nil {
		return nil, fmt.Errorf("reading the dead-letter topics' ends: %w", err)
	}
	spans := map[place]span{}
	var errs []error
	ends.Each(func(end kadm.ListedOffset) {
		start, _ := starts.Lookup(end.Topic, end.Partition)
		switch err := errors.Join(start.Err, end.Err); {
		case errors.Is(err, kerr.UnknownTopicOrPartition):
		case err != nil:
			errs = append(errs, fmt.Errorf("reading the offsets of %s: %w", end.Topic, err))
		case start.Offset < end.Offset:
			spans[place{end.Topic, end.Partition}] = span{start.Offset, end.Offset}
		}
	})
	return spans, errors.Join(errs...)
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

// marks is a set of offsets: a bit each, where there are any.
type marks map[place]map[int64]uint64

func (m marks) has(p place, offset int64) bool { return m[p][offset>>6]&(1<<(offset&63)) != 0 }

// add says whether it was not there.
func (m marks) add(p place, offset int64) bool {
	if offset < 0 || m.has(p, offset) {
		return false
	}
	if m[p] == nil {
		m[p] = map[int64]uint64{}
	}
	m[p][offset>>6] |= 1 << (offset & 63)
	return true
}

// resolved reads which letters of the spans are resolved.
func (b *Box) resolved(ctx context.Context, spans map[place]span) (marks, error) {
	done := marks{}
	err := b.scan(ctx, spans, func(r *kgo.Record) error {
		if _, letter, ok := parseResolution(r); ok && letter < r.Offset {
			done.add(place{r.Topic, r.Partition}, letter)
		}
		return nil
	})
	return done, err
}

// letters gives the letters that a filter means, oldest first within a partition, and after them, where the scan comes
// to them, their resolutions.
func (b *Box) letters(ctx context.Context, f Filter, spans map[place]span, letter func(*Letter) error, resolution func(Address, Resolution)) error {
	var done marks
	if !f.All {
		var err error
		if done, err = b.resolved(ctx, spans); err != nil {
			return err
		}
	}
	return b.scan(ctx, spans, func(r *kgo.Record) error {
		if res, offset, ok := parseResolution(r); ok {
			resolution(Address{r.Topic, r.Partition, offset}, res)
			return nil
		}
		if done.has(place{r.Topic, r.Partition}, r.Offset) {
			return nil
		}
		if l := parseLetter(r); f.has(l) {
			return letter(l)
		}
		return nil
	})
}
