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
	headerFrom       = prefix + "resolution.from"
	headerTime       = prefix + "resolution.time"
	headerReplay     = prefix + "resolution.replay" // where the replay lies
	headerTopicID    = prefix + "resolution.topic_id"
)

// How letters are resolved.
const (
	Replayed  = "replayed"
	Discarded = "discarded"
)

// Origin is where a record was first.
type Origin struct {
	Cluster   string `json:"cluster,omitempty"`
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
	Loops        int // how often it has been replayed
	Dropped      int // bytes of the value, where the letter could not hold it
	State        State
	Resolution   *Resolution // nil while nothing was done about it
	Waits        string      // for what, or why it is open in spite of a replay
	Became       *Address    // the letter that its replay became
	Record       *kgo.Record // as it lies in the dead-letter topic
}

// Resolution says what became of a letter.
type Resolution struct {
	How    string    `json:"how"`
	By     string    `json:"by"`
	From   string    `json:"from,omitempty"` // the address that asked, over HTTP
	Why    string    `json:"why,omitempty"`
	Time   time.Time `json:"time"`
	Replay *Replay   `json:"replay,omitempty"`

	destination string // of the letter
}

// Replay is where a letter was published again.
type Replay struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	Offset    int64  `json:"offset"`
	TopicID   string `json:"topic_id"` // a topic that was made anew is another one
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
		case "origin.cluster":
			l.Origin.Cluster = value
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
	replay := Replay{Partition: -1, Offset: -1}
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
		case headerFrom:
			res.From = value
		case headerTime:
			res.Time, _ = time.Parse(time.RFC3339Nano, value)
		case headerReplay:
			topic, partition, offset := splitPlace(value)
			replay.Topic, replay.Partition, replay.Offset = topic, partition, offset
		case headerTopicID:
			replay.TopicID = value
		case prefix + "destination":
			res.destination = value
		}
	}
	if res.How == Replayed {
		res.Replay = &replay
	}
	return res, letter, res.How != ""
}

// replayOf gives the letter that a letter was before it was replayed and refused again.
func replayOf(r *kgo.Record) (Address, bool) {
	for _, h := range r.Headers {
		if h.Key == headerReplayLetter {
			a, err := ParseAddress(string(h.Value))
			return a, err == nil && a.Topic == r.Topic && (a.Partition != r.Partition || a.Offset < r.Offset)
		}
	}
	return Address{}, false
}

// splitPlace reads topic/partition/offset; what is none is -1.
func splitPlace(s string) (topic string, partition int32, offset int64) {
	parts := strings.Split(s, "/")
	if len(parts) != 3 {
		return s, -1, -1
	}
	return parts[0], int32(number(parts[1], 32)), number(parts[2], 64) //nolint:gosec // it was parsed as 32 bits
}

// resolve makes the record that resolves a letter. It says what the letter was, for whoever reads the topic without it.
func (l *Letter) resolve(res Resolution) *kgo.Record {
	out := &kgo.Record{Topic: l.Topic, Partition: l.Partition, Key: l.Record.Key, Headers: headers(
		headerResolution, res.How,
		headerLetter, strconv.FormatInt(l.Offset, 10),
		headerBy, res.By,
		headerWhy, res.Why,
		headerTime, res.Time.UTC().Format(time.RFC3339Nano),
		prefix+"destination", l.Destination,
		prefix+"class", l.Class,
		prefix+"reason", l.Reason,
	)}
	if res.From != "" {
		out.Headers = append(out.Headers, headers(headerFrom, res.From)...)
	}
	if r := res.Replay; r != nil {
		out.Headers = append(out.Headers, headers(headerReplay, fmt.Sprintf("%s/%d/%d", r.Topic, r.Partition, r.Offset), headerTopicID, r.TopicID)...)
	}
	return out
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
		headerOrigin+"cluster", l.First.Cluster,
	)
	for _, h := range l.Record.Headers {
		if !strings.HasPrefix(h.Key, prefix) {
			out.Headers = append(out.Headers, h)
		}
	}
	return out
}

// refusal says why a letter cannot be replayed; nil where it can.
func (l *Letter) refusal(cluster string, maxLoops int, force bool) error {
	switch {
	case l.Origin.Topic+suffix != l.Topic || l.Origin.Partition < 0 || l.Destination == "":
		return fmt.Errorf("%s: its headers do not say where it is from: no consumer of Millrace wrote it", l)
	case l.Reason == stream.ReasonOversized:
		return fmt.Errorf("%s: it is a batch that is larger than a consumer takes, and its records are not in the letter: "+
			"have its producer publish them again in smaller batches, and discard it", l)
	case l.Origin.Cluster != "" && l.Origin.Cluster != cluster && !force:
		return fmt.Errorf("%s: it is from the Kafka cluster %s, and this is %s: replay it there, or use --force", l, l.Origin.Cluster, cluster)
	case l.State == Replaying && !force:
		return fmt.Errorf("%s: it is being replayed: %s; --force publishes it once more", l, l.Waits)
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
