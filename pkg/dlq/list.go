package dlq

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
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
	Replaying   int64     `json:"replaying"` // published again, and not acknowledged by the destination
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

// List counts letters, most open first.
func (b *Box) List(ctx context.Context, f Filter) ([]Group, error) {
	f.All = true
	v, err := b.look(ctx, &f)
	if err != nil {
		return nil, err
	}
	sums := groups{}
	err = b.letters(ctx, &f, v, func(l *Letter) error {
		g := sums.of(l)
		switch l.State {
		case Open:
			g.Open++
		case Replaying:
			g.Replaying++
		default:
			g.Resolved++
		}
		g.seen(l.At)
		return nil
	}, nil)
	if err != nil {
		return nil, err
	}
	out := make([]Group, 0, len(sums))
	for _, g := range sums {
		out = append(out, *g)
	}
	slices.SortFunc(out, func(a, b Group) int {
		return cmp.Or(cmp.Compare(b.Open, a.Open), cmp.Compare(b.Replaying, a.Replaying), strings.Compare(a.Topic, b.Topic), strings.Compare(a.Destination, b.Destination),
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
	v, err := b.look(ctx, &f)
	if err != nil {
		return nil, err
	}
	var held []*Letter
	bytes := 0
	err = b.letters(ctx, &f, v, func(l *Letter) error {
		held = append(held, l)
		bytes += size(l)
		slices.SortStableFunc(held, func(a, b *Letter) int { return a.At.Compare(b.At) })
		for len(held) > n || bytes > maxHeld && len(held) > 1 {
			bytes -= size(held[0])
			held = slices.Delete(held, 0, 1)
		}
		return nil
	}, func(a Address, set func(*Letter)) {
		for _, l := range held {
			if l.Address == a {
				set(l)
			}
		}
	})
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

// Get gives one letter, whatever its state.
func (b *Box) Get(ctx context.Context, a Address) (*Letter, error) {
	found, err := b.Newest(ctx, Filter{Letters: []Address{a}, All: true}, 1)
	if err != nil {
		return nil, err
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("%s: %w", a, ErrNotFound)
	}
	return found[0], nil
}
