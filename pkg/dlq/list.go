package dlq

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	maxGroups = 1000     // more are summed up in one: reasons are few, unless others write to the topic
	maxHeld   = 64 << 20 // bytes of letters that are shown at a time
	otherName = "(other)"
)

// Group counts letters that have topic, destination and reason in common.
type Group struct {
	Topic       string    `json:"topic"`
	Destination string    `json:"destination"`
	Class       string    `json:"class"`
	Reason      string    `json:"reason"`
	Open        int64     `json:"open"`
	Resolved    int64     `json:"resolved"`
	First       time.Time `json:"first_seen"`
	Last        time.Time `json:"last_seen"`
}

type groupKey struct{ topic, destination, class, reason string }

type groups map[groupKey]*Group

func (g groups) of(l *Letter) *Group {
	k := groupKey{l.Topic, l.Destination, l.Class, l.Reason}
	if g[k] == nil && len(g) >= maxGroups {
		k = groupKey{l.Topic, otherName, otherName, otherName}
	}
	if g[k] == nil {
		g[k] = &Group{Topic: k.topic, Destination: k.destination, Class: k.class, Reason: k.reason}
	}
	return g[k]
}

// List counts letters, most open first. It reads each topic once and remembers a bit for each resolved letter.
func (b *Box) List(ctx context.Context, f Filter) ([]Group, error) {
	topics, err := b.topics(f)
	if err != nil {
		return nil, err
	}
	spans, err := b.spans(ctx, topics)
	if err != nil {
		return nil, err
	}
	sums, done := groups{}, marks{}
	err = b.scan(ctx, spans, func(r *kgo.Record) error {
		_, offset, resolution := parseResolution(r)
		l := parseLetter(r) // a resolution bears its letter's names
		if len(f.Letters) > 0 || !f.has(l) {
			return nil
		}
		p := place{r.Topic, r.Partition}
		switch {
		case !resolution:
			g := sums.of(l)
			g.Open++
			g.seen(r.Timestamp)
		case offset >= spans[p].start && offset < r.Offset && done.add(p, offset): // else a repeat, or its letter is gone
			g := sums.of(l)
			g.Open--
			g.Resolved++
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	out := make([]Group, 0, len(sums))
	for _, g := range sums {
		out = append(out, *g)
	}
	slices.SortFunc(out, func(a, b Group) int {
		return cmp.Or(cmp.Compare(b.Open, a.Open), strings.Compare(a.Topic, b.Topic), strings.Compare(a.Destination, b.Destination),
			strings.Compare(a.Reason, b.Reason), strings.Compare(a.Class, b.Class))
	})
	return out, nil
}

func (g *Group) seen(at time.Time) {
	if g.First.IsZero() || at.Before(g.First) {
		g.First = at.UTC()
	}
	if at.After(g.Last) {
		g.Last = at.UTC()
	}
}

// Newest gives the newest n letters that a filter means, newest first: fewer where they would be too large together.
func (b *Box) Newest(ctx context.Context, f Filter, n int) ([]*Letter, error) {
	topics, err := b.topics(f)
	if err != nil {
		return nil, err
	}
	spans, err := b.spans(ctx, topics)
	if err != nil {
		return nil, err
	}
	var held []*Letter
	bytes := 0
	err = b.letters(ctx, f, spans, func(l *Letter) error {
		held = append(held, l)
		bytes += size(l)
		slices.SortStableFunc(held, func(a, b *Letter) int { return a.At.Compare(b.At) })
		for len(held) > n || bytes > maxHeld && len(held) > 1 {
			bytes -= size(held[0])
			held = slices.Delete(held, 0, 1)
		}
		return nil
	}, func(a Address, res Resolution) { attach(held, a, res) })
	slices.Reverse(held)
	return held, err
}

func size(l *Letter) int {
	n := len(l.Record.Key) + len(l.Record.Value)
	for _, h := range l.Record.Headers {
		n += len(h.Key) + len(h.Value)
	}
	return n
}

// attach gives a letter its resolution: the first one counts.
func attach(letters []*Letter, a Address, res Resolution) {
	for _, l := range letters {
		if l.Address == a && l.Resolution == nil {
			l.Resolution = &res
		}
	}
}

// Get gives one letter, open or not.
func (b *Box) Get(ctx context.Context, a Address) (*Letter, error) {
	topics, err := b.topics(Filter{Letters: []Address{a}})
	if err != nil {
		return nil, err
	}
	spans, err := b.spans(ctx, topics)
	if err != nil {
		return nil, err
	}
	p := place{a.Topic, a.Partition}
	s := spans[p]
	if a.Offset < s.start || a.Offset >= s.end {
		return nil, fmt.Errorf("%s: %w", a, ErrNotFound)
	}
	var found *Letter
	err = b.scan(ctx, map[place]span{p: {a.Offset, s.end}}, func(r *kgo.Record) error {
		res, letter, resolution := parseResolution(r)
		switch {
		case r.Offset == a.Offset && !resolution:
			found = parseLetter(r)
		case found == nil:
			return errEnough
		case resolution && letter == a.Offset:
			found.Resolution = &res
			return errEnough
		}
		return nil
	})
	if err == nil && found == nil {
		err = fmt.Errorf("%s: %w", a, ErrNotFound)
	}
	return found, err
}
