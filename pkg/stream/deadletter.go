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

// Classes of dead letters.
const (
	classDecode      = "decode"      // it is not what its schema says
	classDestination = "destination" // the destination refuses its content
	classBug         = "bug"         // the sink panics at it
)

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
	destination string
	class       string
	reason      string
	err         error
	first       time.Time
	attempts    int
}

// badLetter makes the letter of a record that cannot be decoded; nil where the error is not the record's fault.
func badLetter(r *kgo.Record, destination string, err error) *letter {
	var bad *codec.BadRecord
	if !errors.As(err, &bad) {
		return nil
	}
	return &letter{
		record: r, destination: destination, class: classDecode, reason: bad.Reason, err: bad.Err,
		first: time.Now(), attempts: 1,
	}
}

// refused makes the letters of records that the destination named.
func (d *delivery) refused(partial *PartialError) []letter {
	first := d.failed
	if first.IsZero() {
		first = time.Now()
	}
	var letters []letter
	for i := range d.batch.Records {
		if err := partial.Failed[i]; err != nil {
			l := letter{
				record: d.batch.Records[i].Source, destination: d.c.name, class: classDestination, reason: "refused",
				err: err, first: first, attempts: d.attempts,
			}
			if alone, ok := errors.AsType[*aloneError](err); ok {
				l.attempts = alone.attempts
			}
			if isPanic(err) {
				l.class, l.reason = classBug, "panic"
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
	records := make([]*kgo.Record, len(letters))
	for i := range letters {
		records[i] = letters[i].kafka(false)
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
				c.metrics.dead.WithLabelValues(left[i].record.Topic, left[i].reason).Inc()
				continue
			}
			if first == nil {
				first = fmt.Errorf("producing to %s: %w", r.Topic, err)
			}
			again = append(again, left[i])
			// What the broker finds too large would be tried for ever: its headers say where to find it.
			retry = append(retry, left[i].kafka(errors.Is(err, kerr.MessageTooLarge)))
		}
		left, records = again, retry
		return first
	})
}

// kafka is the dead letter as a record: the original with headers that say from where and why. A stub is without its
// value.
func (l *letter) kafka(stub bool) *kgo.Record {
	r := l.record
	out := &kgo.Record{Topic: r.Topic + ".dlq", Key: r.Key, Value: r.Value}
	out.Headers = append(out.Headers, r.Headers...)
	add := func(key, value string) {
		out.Headers = append(out.Headers, kgo.RecordHeader{Key: "millrace." + key, Value: []byte(value)})
	}
	add("origin.topic", r.Topic)
	add("origin.partition", strconv.Itoa(int(r.Partition)))
	add("origin.offset", strconv.FormatInt(r.Offset, 10))
	add("origin.timestamp", r.Timestamp.UTC().Format(time.RFC3339Nano))
	add("destination", l.destination)
	add("class", l.class)
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
