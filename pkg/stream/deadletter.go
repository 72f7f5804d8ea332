package stream

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/pkg/codec"
)

const (
	maxDeadLetter = 2 << 20 // over what any record may be, so that it fits with its headers
	maxErrorText  = 2048
)

// Reasons that the runtime gives itself; a *codec.BadRecord brings its own.
const (
	reasonRefused = "refused" // the destination refuses the record's content
	reasonPanic   = "panic"   // the sink or the decoder panics at it
)

// ReasonOversized is the reason of a batch of Kafka that decompresses past the bound. Nobody can say what is in it without
// holding all of it, so it is one letter without a value.
const ReasonOversized = "oversized_batch"

// HeaderReplayFor is the first header of a record that was replayed from the dead letters: the one destination it is
// for. All others pass over it; they have it, or it is a dead letter of theirs.
const HeaderReplayFor = "millrace.replay.for"

// forAnother looks at the first header only: every record of every destination comes through here.
func forAnother(r *kgo.Record, destination string) bool {
	return len(r.Headers) > 0 && r.Headers[0].Key == HeaderReplayFor && string(r.Headers[0].Value) != destination
}

// letter is a record that can never be stored.
type letter struct {
	record      *kgo.Record
	offsets     int // how many it is of: 1, but for a whole batch
	destination string
	class       Class // ClassRecord or ClassBug
	reason      string
	err         error
	first       time.Time
	attempts    int
}

// badLetter makes the letter of a record that cannot be decoded or that the decoder panics at; nil where the error is not
// the record's fault.
func badLetter(r *kgo.Record, destination string, err error) *letter {
	var bad *codec.BadRecord
	switch {
	case errors.As(err, &bad):
		return &letter{
			record: r, offsets: 1, destination: destination, class: ClassRecord, reason: bad.Reason, err: bad.Err,
			first: time.Now(), attempts: 1,
		}
	case isPanic(err):
		return &letter{
			record: r, offsets: 1, destination: destination, class: ClassBug, reason: reasonPanic, err: err,
			first: time.Now(), attempts: aloneTries,
		}
	}
	return nil
}

// refused makes the letters of records that the destination named.
func (d *delivery) refused(partial *PartialError) []letter {
	var letters []letter
	for i := range d.batch.Records {
		if err := partial.Failed[i]; err != nil {
			l := letter{
				record: d.batch.Records[i].Source, offsets: 1, destination: d.c.name, class: ClassRecord, reason: reasonRefused,
				err: err, first: d.failed, attempts: d.attempts,
			}
			if d.split {
				l.first, l.attempts = d.histories[i].first, d.histories[i].tries
			}
			if l.first.IsZero() { // a Keeper's, whose attempt did not fail
				l.first = time.Now()
			}
			if isPanic(err) {
				l.class, l.reason = ClassBug, reasonPanic
			}
			letters = append(letters, l)
		}
	}
	return letters
}

// bury writes letters to the dead-letter topic and waits until Kafka has acknowledged every one: only then may their
// offsets count as done. It tries until ctx ends, which is its only error.
func (c *Consumer) bury(ctx context.Context, letters []letter) error {
	if len(letters) == 0 {
		return nil
	}
	var cluster string
	if err := c.persist(ctx, "writing dead letters", func(ctx context.Context) (err error) {
		cluster, err = c.clusterID(ctx)
		return err
	}); err != nil {
		return err
	}
	records := make([]*kgo.Record, len(letters))
	for i := range letters {
		records[i] = letters[i].kafka(cluster, false)
	}
	left := letters
	return c.persist(ctx, "writing dead letters", func(ctx context.Context) error {
		results := c.client.ProduceSync(ctx, records...)
		byRecord := make(map[*kgo.Record]error, len(results))
		for _, r := range results {
			byRecord[r.Record] = r.Err
		}
		var again []letter
		var retry []*kgo.Record
		var first error
		for i, r := range records {
			err := byRecord[r]
			if err == nil {
				c.metrics.dead.WithLabelValues(left[i].record.Topic, left[i].reason).Add(float64(left[i].offsets))
				continue
			}
			if errors.Is(err, kerr.UnknownTopicID) { // made anew: the client would refuse it for ever
				c.client.PurgeTopicsFromProducing(r.Topic)
			}
			if first == nil {
				first = fmt.Errorf("producing to %s: %w", r.Topic, err)
			}
			again = append(again, left[i])
			// What the broker finds too large would be tried for ever: its headers say where to find it.
			retry = append(retry, left[i].kafka(cluster, errors.Is(err, kerr.MessageTooLarge)))
		}
		left, records = again, retry
		return first
	})
}

// clusterID asks Kafka once for its cluster's id, which letters name.
func (c *Consumer) clusterID(ctx context.Context) (string, error) {
	if id, ok := c.cluster.Load().(string); ok {
		return id, nil
	}
	m, err := c.admin.BrokerMetadata(ctx)
	if err != nil {
		return "", fmt.Errorf("asking Kafka for its cluster's id: %w", err)
	}
	c.cluster.Store(m.Cluster)
	return m.Cluster, nil
}

// kafka is the dead letter as a record: the original with headers that say from where and why. A stub is without its
// value.
func (l *letter) kafka(cluster string, stub bool) *kgo.Record {
	r := l.record
	out := &kgo.Record{Topic: r.Topic + ".dlq", Key: r.Key, Value: r.Value}
	out.Headers = append(out.Headers, r.Headers...)
	add := func(key, value string) {
		out.Headers = append(out.Headers, kgo.RecordHeader{Key: "millrace." + key, Value: []byte(value)})
	}
	add("origin.topic", r.Topic)
	add("origin.partition", strconv.Itoa(int(r.Partition)))
	add("origin.offset", strconv.FormatInt(r.Offset, 10))
	if l.offsets > 1 {
		add("origin.offsets", strconv.Itoa(l.offsets))
	}
	add("origin.timestamp", r.Timestamp.UTC().Format(time.RFC3339Nano))
	add("origin.cluster", cluster)
	add("destination", l.destination)
	add("class", string(l.class))
	add("reason", l.reason)
	add("error", bounded(fmt.Sprint(l.err), maxErrorText))
	add("first_failure", l.first.UTC().Format(time.RFC3339Nano))
	add("attempts", strconv.Itoa(l.attempts))
	if stub {
		add("value_dropped", strconv.Itoa(len(r.Value)))
		out.Value = nil
	}
	return out
}

// bounded cuts a text at a character's border.
func bounded(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && s[n]&0xc0 == 0x80 {
		n--
	}
	return s[:n]
}
