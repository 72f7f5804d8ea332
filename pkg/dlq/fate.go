package dlq

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/pkg/stream"
)

// State is what has become of a letter. None of it is kept: it follows from the resolution records, from the letters
// after it, and from what the destination's group has committed.
type State uint8

// States of a letter. The first two are unresolved.
const (
	Open         State = iota
	Replaying          // published again; the destination has not acknowledged it
	Stored             // published again, and the destination has
	RefusedAgain       // published again and refused: another letter is open in its place
	GivenUp            // discarded
)

func (s State) String() string {
	return [...]string{"open", "replaying", Replayed, "refused again", Discarded}[s]
}

// what is known of a letter, as bits: in any order that the records come in, they add up to the same state.
const (
	factWaiting   = 1 << iota // a replay of it is not acknowledged
	factStored                // a replay of it is
	factRefused               // a newer letter names it
	factDiscarded             //
	factBits      = 4
)

func stateOf(facts uint64) State {
	switch {
	case facts&factDiscarded != 0:
		return GivenUp
	case facts&factRefused != 0 && facts&(factWaiting|factStored) != 0: // any record can claim to be of a letter: it must have been replayed
		return RefusedAgain
	case facts&factStored != 0:
		return Stored
	case facts&factWaiting != 0:
		return Replaying
	}
	return Open
}

// facts are those of many letters: a few bits each, where there are any.
type facts map[place]map[int64]uint64

const perWord = 64 / factBits

func (m facts) of(p place, offset int64) uint64 {
	return m[p][offset/perWord] >> (offset % perWord * factBits) & (1<<factBits - 1)
}

func (m facts) add(p place, offset int64, fact uint64) {
	if offset < 0 || fact == 0 {
		return
	}
	if m[p] == nil {
		m[p] = map[int64]uint64{}
	}
	m[p][offset/perWord] |= fact << (offset % perWord * factBits)
}

// view is Kafka as it was when an operation began. What the destinations had committed is asked first, the dead letters'
// ends after it: a letter is written before its offset is committed, so that whatever a destination refused up to its
// commit lies before those ends.
type view struct {
	cluster   string
	topics    kadm.TopicDetails               // origin topics
	starts    kadm.ListedOffsets              // of their logs
	committed map[string]kadm.OffsetResponses // by group
	unknown   map[string]error                // why a group's commits are not
	unlisted  error                           // why groups may be missing
	spans     map[place]span
}

// look takes the view that a filter needs.
func (b *Box) look(ctx context.Context, f *Filter) (*view, error) {
	topics, err := b.topics(*f)
	if err != nil {
		return nil, err
	}
	f.named = make(map[Address]bool, len(f.Letters))
	for _, a := range f.Letters {
		f.named[a] = true
	}
	cl, err := kgo.NewClient(b.Kafka...)
	if err != nil {
		return nil, fmt.Errorf("making a Kafka client: %w", err)
	}
	defer cl.Close()
	adm := kadm.NewClient(cl)
	v, err := acknowledged(ctx, adm, topics)
	if err != nil {
		return nil, err
	}
	v.spans, err = spansOf(ctx, adm, topics, f)
	return v, err
}

// acknowledged reads what the destinations have committed in the origin topics of dead-letter topics. That a group's
// commits cannot be read is no error here: the letters that hang on it say so.
func acknowledged(ctx context.Context, adm *kadm.Client, topics []string) (*view, error) {
	origins := make([]string, len(topics))
	for i, t := range topics {
		origins[i] = strings.TrimSuffix(t, suffix)
	}
	v := &view{committed: map[string]kadm.OffsetResponses{}, unknown: map[string]error{}}
	listed, err := adm.ListGroups(ctx)
	if err != nil && len(listed) == 0 {
		return nil, fmt.Errorf("listing the consumer groups: %w", err)
	}
	v.unlisted = err
	var groups []string
	for _, g := range listed.Groups() {
		if strings.HasPrefix(g, stream.Group("")) {
			groups = append(groups, g)
		}
	}
	for group, r := range adm.FetchManyOffsets(ctx, groups...) {
		if v.committed[group] = r.Fetched; r.Err != nil {
			v.unknown[group] = r.Err
		}
	}
	meta, err := adm.Metadata(ctx, origins...)
	if err != nil {
		return nil, fmt.Errorf("reading what the topics are: %w", err)
	}
	v.cluster, v.topics = meta.Cluster, meta.Topics
	v.starts, _ = adm.ListStartOffsets(ctx, origins...) // a start that is not known takes no replay for lost
	return v, nil
}

// fate is what has become of a replay, and what it waits for.
func (v *view) fate(destination string, r Replay) (fact uint64, waits string) {
	group := stream.Group(destination)
	commit, ok := v.committed[group].Lookup(r.Topic, r.Partition)
	start, known := v.starts.Lookup(r.Topic, r.Partition)
	at := fmt.Sprintf("%s/%d", r.Topic, r.Partition)
	switch {
	case r.Partition < 0 || r.Offset < 0:
		return factWaiting, "Kafka did not say where the replay lies, so it is not known whether it was stored"
	case v.topics[r.Topic].ID.String() != r.TopicID:
		return factWaiting, r.Topic + " is not the topic that it was replayed to: it was made anew or deleted, so it is not known whether it was stored"
	case v.unknown[group] != nil:
		return factWaiting, fmt.Sprintf("what %s has committed cannot be read: %v", group, v.unknown[group])
	case ok && commit.Err == nil && commit.At > r.Offset:
		return factStored, ""
	case known && start.Err == nil && start.Offset > r.Offset:
		return 0, fmt.Sprintf("its replay at %s/%d was deleted by retention before %s read it", at, r.Offset, destination)
	case ok && commit.Err == nil && commit.At >= 0:
		return factWaiting, fmt.Sprintf("%s has committed %s up to %d; the replay is at %d", group, at, commit.At, r.Offset)
	case v.unlisted != nil:
		return factWaiting, fmt.Sprintf("%s is not among the groups, and not all brokers answered: %v", group, v.unlisted)
	}
	return factWaiting, fmt.Sprintf("%s has no commit for %s: it never ran, or stood still for so long that Kafka forgot it", group, at)
}

// spansOf are the parts of the logs that an operation reads. A dead-letter topic that was never made has no letters.
func spansOf(ctx context.Context, adm *kadm.Client, topics []string, f *Filter) (map[place]span, error) {
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
		from := max(start.Offset, f.first(place{end.Topic, end.Partition}))
		switch err := errors.Join(start.Err, end.Err); {
		case errors.Is(err, kerr.UnknownTopicOrPartition):
		case err != nil:
			errs = append(errs, fmt.Errorf("reading the offsets of %s: %w", end.Topic, err))
		case from < end.Offset:
			spans[place{end.Topic, end.Partition}] = span{from, end.Offset}
		}
	})
	return spans, errors.Join(errs...)
}

// first is the offset before which nothing is of interest: what becomes of a letter is written after it.
func (f *Filter) first(p place) int64 {
	if len(f.Letters) == 0 {
		return 0
	}
	first := int64(-1)
	for _, a := range f.Letters {
		if a.Topic == p.topic && a.Partition == p.partition && (first < 0 || a.Offset < first) {
			first = a.Offset
		}
	}
	if first < 0 {
		return 1<<63 - 1
	}
	return first
}

// facts reads what is known of all letters.
func (b *Box) facts(ctx context.Context, v *view) (facts, error) {
	known := facts{}
	err := b.scan(ctx, v.spans, func(r *kgo.Record) error {
		res, letter, ok := parseResolution(r)
		switch {
		case !ok:
			if a, ok := replayOf(r); ok {
				known.add(place{a.Topic, a.Partition}, a.Offset, factRefused)
			}
		case letter >= r.Offset: // of a letter that is not there yet
		case res.How == Discarded:
			known.add(place{r.Topic, r.Partition}, letter, factDiscarded)
		case res.Replay != nil:
			fact, _ := v.fate(res.destination, *res.Replay)
			known.add(place{r.Topic, r.Partition}, letter, fact)
		}
		return nil
	})
	return known, err
}

// letters gives the letters that a filter means, oldest first within a partition. What is found out of one after it was
// given goes to its owner: a resolution, or the letter that it became.
func (b *Box) letters(ctx context.Context, f *Filter, v *view, letter func(*Letter) error, later func(Address, func(*Letter))) error {
	known, err := b.facts(ctx, v)
	if err != nil {
		return err
	}
	return b.scan(ctx, v.spans, func(r *kgo.Record) error {
		if res, offset, ok := parseResolution(r); ok {
			if later != nil {
				later(Address{r.Topic, r.Partition, offset}, func(l *Letter) { l.resolved(res, v) })
			}
			return nil
		}
		l := parseLetter(r)
		if a, ok := replayOf(r); ok && later != nil {
			later(a, func(old *Letter) { old.Became = &l.Address })
		}
		l.State = stateOf(known.of(place{r.Topic, r.Partition}, r.Offset))
		if f.has(l) && (f.All || l.State <= Replaying) {
			return letter(l)
		}
		return nil
	})
}

// resolved gives a letter its resolution: the last one, as a replay may be repeated.
func (l *Letter) resolved(res Resolution, v *view) {
	l.Resolution, l.Waits = &res, ""
	if res.Replay != nil && l.State <= Replaying {
		_, l.Waits = v.fate(res.destination, *res.Replay)
	}
}

// Confirmation counts what became of replays.
type Confirmation struct {
	Stored  int // acknowledged by their destination
	Refused int // again
	Waiting int
}

const confirmEvery = 300 * time.Millisecond

// Confirm waits until the destinations have acknowledged replays, at most for as long as patience, and counts what
// became of them.
func (b *Box) Confirm(ctx context.Context, patience time.Duration, sent []Sent) (Confirmation, error) {
	var f Filter
	for _, s := range sent {
		f.Letters = append(f.Letters, s.Letter)
	}
	if err := b.await(ctx, patience, &f, sent); err != nil {
		return Confirmation{}, err
	}
	v, err := b.look(ctx, &f)
	if err != nil {
		return Confirmation{}, err
	}
	known, err := b.facts(ctx, v)
	if err != nil {
		return Confirmation{}, err
	}
	var c Confirmation
	for _, s := range sent {
		switch stateOf(known.of(place{s.Letter.Topic, s.Letter.Partition}, s.Letter.Offset)) {
		case Stored:
			c.Stored++
		case RefusedAgain:
			c.Refused++
		default:
			c.Waiting++
		}
	}
	return c, nil
}

// await looks at the commits until they are past all replays. That they cannot be read for a while only takes longer.
func (b *Box) await(ctx context.Context, patience time.Duration, f *Filter, sent []Sent) error {
	topics, err := b.topics(*f)
	if err != nil {
		return err
	}
	cl, err := kgo.NewClient(b.Kafka...)
	if err != nil {
		return fmt.Errorf("making a Kafka client: %w", err)
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(confirmEvery)
	defer tick.Stop()
	for {
		v, err := acknowledged(ctx, kadm.NewClient(cl), topics)
		if err == nil && !slices.ContainsFunc(sent, func(s Sent) bool {
			fact, _ := v.fate(s.Destination, s.Replay)
			return fact == factWaiting
		}) {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}
