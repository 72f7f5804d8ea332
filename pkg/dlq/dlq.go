// Package dlq reads the dead-letter topics, and resolves letters in them: by replay to the destination that refused
// them, or by discarding them with a reason.
//
// A letter is resolved by a resolution record that is appended after it, to the same partition of the same topic: a
// record with an empty value, whose headers name the letter's offset and say what was done, by whom, when and why.
// Nothing is ever changed or deleted; that is left to the topic's retention. A replay is the letter's original bytes,
// published to the topic they came from, with [stream.HeaderReplayFor] as the first header, so that only the destination
// that refused them takes them. Its resolution record says where it lies: the letter is done with once the destination
// has committed that place, or has made a new letter of it.
//
// Each operation reads from the log's start to the end as it is when the operation begins, twice: what became of the
// letters, then the letters. It keeps what it sums up, not what it reads.
package dlq

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/pkg/codec"
	"github.com/millrace/millrace/pkg/schema"
)

const suffix = ".dlq" // of a dead-letter topic, after the origin's name

// Decoder decodes one type's records.
type Decoder interface {
	Decode(ctx context.Context, r *kgo.Record) (codec.Record, error)
}

// Box is all dead-letter topics of the types.
type Box struct {
	Kafka   []kgo.Opt // from kafka.Config.Opts
	Types   []*schema.Type
	Decoder func(typeName string) Decoder
	Now     func() time.Time
	Log     *slog.Logger // what is done over HTTP
}

// Filter says which letters are meant. Empty parts mean all.
type Filter struct {
	Topic       string // the origin topic, or its dead-letter topic
	Destination string
	Reason      string
	Letters     []Address
	All         bool // resolved letters too; List counts both anyway

	named map[Address]bool // Letters
}

// Address is where a letter lies.
type Address struct {
	Topic     string // the dead-letter topic
	Partition int32
	Offset    int64
}

func (a Address) String() string { return fmt.Sprintf("%s/%d/%d", a.Topic, a.Partition, a.Offset) }

// ErrNotFound is an address at which there is no letter.
var ErrNotFound = errors.New("there is no such dead letter")

// ErrQuery is a mistake in what was asked.
var ErrQuery = errors.New("wrong question")

func mistake(format string, args ...any) error {
	return queryError{fmt.Sprintf(format, args...)}
}

type queryError struct{ msg string }

func (e queryError) Error() string        { return e.msg }
func (e queryError) Is(target error) bool { return target == ErrQuery }

// ParseAddress reads topic/partition/offset, as String writes it.
func ParseAddress(s string) (Address, error) {
	parts := strings.Split(s, "/")
	if len(parts) != 3 {
		return Address{}, mistake("%q is no dead letter's address: it is TOPIC/PARTITION/OFFSET", s)
	}
	partition, err1 := strconv.ParseInt(parts[1], 10, 32)
	offset, err2 := strconv.ParseInt(parts[2], 10, 64)
	if err1 != nil || err2 != nil || partition < 0 || offset < 0 {
		return Address{}, mistake("%q is no dead letter's address: it is TOPIC/PARTITION/OFFSET", s)
	}
	return Address{Topic: strings.TrimSuffix(parts[0], suffix) + suffix, Partition: int32(partition), Offset: offset}, nil
}

// topics are the dead-letter topics that a filter needs.
func (b *Box) topics(f Filter) ([]string, error) {
	var all, wanted []string
	for _, t := range b.Types {
		all = append(all, t.DLQName())
	}
	if f.Topic != "" {
		wanted = append(wanted, strings.TrimSuffix(f.Topic, suffix)+suffix)
	}
	for _, a := range f.Letters {
		wanted = append(wanted, a.Topic)
	}
	for _, name := range wanted {
		if !slices.Contains(all, name) {
			return nil, mistake("%s is no data type's topic; there are: %s", strings.TrimSuffix(name, suffix), b.origins())
		}
	}
	if len(wanted) == 0 {
		return all, nil
	}
	slices.Sort(wanted)
	return slices.Compact(wanted), nil
}

func (b *Box) origins() string {
	names := make([]string, len(b.Types))
	for i, t := range b.Types {
		names[i] = t.TopicName()
	}
	return strings.Join(names, ", ")
}

// has says whether a letter is meant, its state apart.
func (f *Filter) has(l *Letter) bool {
	return (f.Topic == "" || strings.TrimSuffix(f.Topic, suffix)+suffix == l.Topic) &&
		(f.Destination == "" || f.Destination == l.Destination) &&
		(f.Reason == "" || f.Reason == l.Reason) &&
		(len(f.Letters) == 0 || f.named[l.Address])
}
