package dlq

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/pkg/stream"
)

// Headers. Those of a letter are written by pkg/stream after the record's own, so that the last of a name is the
// letter's; those of a replay are written here, before the record's own.
const (
	prefix = "millrace."

	headerOrigin       = prefix + "origin."
	headerLoops        = prefix + "replay.count"  // how often the record was replayed
	headerReplayLetter = prefix + "replay.letter" // the letter it was

	headerResolution = prefix + "resolution" // how a letter was resolved; only a resolution record has it
	headerLetter     = prefix + "resolution.letter"
	headerBy         = prefix + "resolution.by"
	headerWhy        = prefix + "resolution.why"
	headerTime       = prefix + "resolution.time"
)

// How letters are resolved.
const (
	Replayed  = "replayed"
	Discarded = "discarded"
)

// Origin is where a record was first.
type Origin struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	Offset    int64  `json:"offset"`
	Timestamp string `json:"timestamp,omitempty"`
}

// Letter is a record that a destination refused.
type Letter struct {
	Address

	At           time.Time // when it became a letter
	Origin       Origin    // of the record that was refused; a replayed one has its own place
	First        Origin    // of the record as it was first published; like Origin unless it was replayed
	Destination  string
	Class        string
	Reason       string
	Error        string
	FirstFailure string
	Attempts     int
	Loops        int         // how often it has been replayed
	Dropped      int         // bytes of the value, where the letter could not hold it
	Resolution   *Resolution // nil while it is open
	Record       *kgo.Record // as it lies in the dead-letter topic
}

// Resolution says what became of a letter.
type Resolution struct {
	How  string    `json:"how"`
	By   string    `json:"by"`
	Why  string    `json:"why,omitempty"`
	Time time.Time `json:"time"`
}

func parseLetter(r *kgo.Record) *Letter {
	l := &Letter{Address: Address{r.Topic, r.Partition, r.Offset}, At: r.Timestamp, Record: r}
	origins := 0
	for _, h := range r.Headers {
		name, ok := strings.CutPrefix(h.Key, prefix)
		if !ok {
			continue
		}
		value := string(h.Value)
		switch name {
		case "origin.topic":
			origins++
			l.Origin = Origin{Topic: value, Partition: -1, Offset: -1}
		case "origin.partition":
			l.Origin.Partition = int32(number(value, 32)) //nolint:gosec // it was parsed as 32 bits
		case "origin.offset":
			l.Origin.Offset = number(value, 64)
		case "origin.timestamp":
			l.Origin.Timestamp = value
		case "destination":
			l.Destination = value
		case "class":
			l.Class = value
		case "reason":
			l.Reason = value
		case "error":
			l.Error = value
		case "first_failure":
			l.FirstFailure = value
		case "attempts":
			l.Attempts = int(number(value, 32))
		case "value_dropped":
			l.Dropped = int(number(value, 32))
		case "replay.count":
			l.Loops = int(max(0, number(value, 32)))
		}
		if origins == 1 { // a replay's headers come before the letter's
			l.First = l.Origin
		}
	}
	return l
}

// number gives -1 for what is none.
func number(s string, bits int) int64 {
	n, err := strconv.ParseInt(s, 10, bits)
	if err != nil {
		return -1
	}
	return n
}

// parseResolution gives the offset of the letter that a record resolves. A letter has its origin among its headers, and
// so is none, whatever its producer put there.
func parseResolution(r *kgo.Record) (res Resolution, letter int64, ok bool) {
	letter = -1
	for _, h := range r.Headers {
		value := string(h.Value)
		switch h.Key {
		case headerResolution:
			res.How = value
		case headerLetter:
			letter = number(value, 64)
		case headerOrigin + "topic":
			return Resolution{}, -1, false
		case headerBy:
			res.By = value
		case headerWhy:
			res.Why = value
		case headerTime:
			res.Time, _ = time.Parse(time.RFC3339Nano, value)
		}
	}
	return res, letter, res.How != ""
}

// resolve makes the record that resolves a letter. It repeats what the letter is counted by, so that whoever counts
// need not remember the letters.
func (l *Letter) resolve(res Resolution) *kgo.Record {
	return &kgo.Record{Topic: l.Topic, Partition: l.Partition, Key: l.Record.Key, Headers: headers(
		headerResolution, res.How,
		headerLetter, strconv.FormatInt(l.Offset, 10),
		headerBy, res.By,
		headerWhy, res.Why,
		headerTime, res.Time.UTC().Format(time.RFC3339Nano),
		prefix+"destination", l.Destination,
		prefix+"class", l.Class,
		prefix+"reason", l.Reason,
	)}
}

// replay makes the original record again, for the destination that refused it, in the partition it was in.
func (l *Letter) replay() *kgo.Record {
	out := &kgo.Record{Topic: l.Origin.Topic, Partition: l.Origin.Partition, Key: l.Record.Key, Value: l.Record.Value}
	out.Headers = headers(
		stream.HeaderReplayFor, l.Destination, // the first: consumers look no further
		headerLoops, strconv.Itoa(l.Loops+1),
		headerReplayLetter, l.String(),
		headerOrigin+"topic", l.First.Topic,
		headerOrigin+"partition", strconv.Itoa(int(l.First.Partition)),
		headerOrigin+"offset", strconv.FormatInt(l.First.Offset, 10),
		headerOrigin+"timestamp", l.First.Timestamp,
	)
	for _, h := range l.Record.Headers {
		if !strings.HasPrefix(h.Key, prefix) {
			out.Headers = append(out.Headers, h)
		}
	}
	return out
}

// refusal says why a letter cannot be replayed; nil where it can.
func (l *Letter) refusal(maxLoops int, force bool) error {
	switch {
	case l.Origin.Topic+suffix != l.Topic || l.Origin.Partition < 0 || l.Destination == "":
		return fmt.Errorf("%s: its headers do not say where it is from: no consumer of Millrace wrote it", l)
	case l.Dropped > 0 && len(l.Record.Value) == 0:
		return fmt.Errorf("%s: its value (%d bytes) did not fit into the letter; it lies at %s/%d/%d while that is retained",
			l, l.Dropped, l.Origin.Topic, l.Origin.Partition, l.Origin.Offset)
	case l.Loops >= maxLoops && !force:
		return fmt.Errorf("%s: it was replayed %d times and refused each time: find out why, then use --force, or discard it", l, l.Loops)
	}
	return nil
}

func headers(pairs ...string) []kgo.RecordHeader {
	var out []kgo.RecordHeader
	for pair := range slices.Chunk(pairs, 2) {
		out = append(out, kgo.RecordHeader{Key: pair[0], Value: []byte(pair[1])})
	}
	return out
}
