package stream

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// Kinds of offsets that were passed over.
const (
	gapExpired     = "expired"     // they were deleted before they were read
	gapUnexplained = "unexplained" // they were there once, as far as anybody can tell, and were not given to us
)

// gap is a range of offsets that the client passed over, until it is known why.
//
// In a log that is not compacted every offset is a record's, and control records are kept, so there are two reasons: the
// record was deleted, which the log's start tells, or it is of a transaction that was aborted. Which it was no record
// around it tells, since the client drops such records without a word. But the transaction's marker, which is kept, lies
// behind it, and below the high watermark by then: until it is, the last stable offset is held back. So a gap is explained
// by any abort behind it, and unexplained once all was read up to the high watermark as it was asked for afterwards (that of
// the fetch itself may be older than its records) and no abort came.
//
// That is late by as much as there was to read, and takes what is lost among aborted records for aborted. It cries wolf only
// where the topic was compacted in the past and is not any more. What is open when a partition is given up is forgotten.
type gap struct {
	first, next int64
	offsets     int64 // of them, and of those that came when there were too many to tell apart
	until       int64 // where it is known
	asked       int   // by which question until is asked for; 0 is by none yet
	known       bool  // until is right, not only what the fetch said
}

// maxGaps bounds those that are open at a time.
const maxGaps = 64

// gaps are those of a partition that are open.
type gaps struct {
	open  []gap
	next  int64 // the offset that should come next
	asked int   // questions
	holed bool  // the topic is compacted, or may be
}

// found is what a look at records came to.
type found struct {
	expired     int64 // offsets that were deleted
	ask         int   // a question to ask, since all was read that the fetch said there was; 0 is none
	unexplained []gap
}

// scan looks for gaps in what was fetched.
func (p *gaps) scan(f *kgo.FetchPartition) (out found) {
	for _, r := range f.Records {
		if r.Offset > p.next {
			from := min(r.Offset, max(p.next, f.LogStartOffset))
			out.expired += from - p.next
			p.passedOver(from, r.Offset, f.HighWatermark)
		}
		if isAbort(r) {
			p.open = p.open[:0] // all of them lie before it
		}
		p.next = max(p.next, r.Offset+1)
	}
	for i := range p.open {
		if g := &p.open[i]; p.next >= g.until && g.asked == 0 {
			out.ask = p.asked + 1
			g.asked = out.ask
		}
	}
	p.asked = max(p.asked, out.ask)
	out.unexplained = p.conclude()
	return out
}

// answer takes what came of a question: until where an explanation may come, or that there is none to look for.
func (p *gaps) answer(asked int, until int64, holed bool) (unexplained []gap) {
	if holed {
		p.holed, p.open = true, nil
	}
	for i := range p.open {
		if g := &p.open[i]; g.asked == asked {
			g.until, g.known = until, true
		}
	}
	return p.conclude()
}

// conclude takes out the gaps that nothing can explain any more.
func (p *gaps) conclude() (unexplained []gap) {
	p.open = slices.DeleteFunc(p.open, func(g gap) bool {
		over := g.known && p.next >= g.until
		if over {
			unexplained = append(unexplained, g)
		}
		return over
	})
	return unexplained
}

func (p *gaps) passedOver(first, next, until int64) {
	if next <= first || p.holed {
		return
	}
	if n := len(p.open); n == maxGaps { // it is asked for anew, and for both
		last := &p.open[n-1]
		*last = gap{first: last.first, next: next, offsets: last.offsets + next - first, until: max(last.until, until)}
		return
	}
	p.open = append(p.open, gap{first: first, next: next, offsets: next - first, until: until})
}

// isAbort knows the marker at the end of a transaction that was aborted: its key is a version and a type, of 16 bits each.
func isAbort(r *kgo.Record) bool {
	return r.Attrs.IsControl() && len(r.Key) >= 4 && r.Key[2] == 0 && r.Key[3] == 0
}

// foundGaps acts on what a look at records came to.
func (c *Consumer) foundGaps(p *part, f found) {
	if f.expired > 0 {
		c.metrics.gaps.WithLabelValues(p.key.Topic, gapExpired).Add(float64(f.expired))
	}
	for _, g := range f.unexplained {
		c.metrics.gaps.WithLabelValues(p.key.Topic, gapUnexplained).Add(float64(g.offsets))
		c.tel.Log.Error("offsets were passed over, and neither retention nor a transaction explains it: records may be lost in Kafka",
			"topic", p.key.Topic, "partition", p.key.Partition, "first", g.first, "next", g.next, "offsets", g.offsets)
	}
	if f.ask > 0 {
		c.spawn(func(ctx context.Context) { c.ask(ctx, p, f.ask) })
	}
}

// ask finds out until where a transaction's marker may come that explains gaps. On a compacted topic any offset may be
// missing, so none is looked for there; nor where nobody says whether it is one.
func (c *Consumer) ask(ctx context.Context, p *part, asked int) {
	holed, until := false, int64(0)
	err := c.persist(ctx, "finding out why offsets are missing", func(ctx context.Context) error {
		var err error
		holed, err = c.compacted(ctx, p.key.Topic)
		if errors.Is(err, kerr.TopicAuthorizationFailed) || errors.Is(err, kerr.UnknownTopicOrPartition) {
			c.tel.Log.Warn("offsets are missing, and whether the topic is compacted cannot be found out; they are not counted",
				"topic", p.key.Topic, "partition", p.key.Partition, "err", err)
			holed, err = true, nil
		}
		if err != nil || holed {
			return err
		}
		ends, err := c.admin.ListEndOffsets(ctx, p.key.Topic)
		if err != nil {
			return fmt.Errorf("listing end offsets: %w", err)
		}
		end, ok := ends.Lookup(p.key.Topic, p.key.Partition)
		if !ok {
			return fmt.Errorf("partition %d of topic %s has no end", p.key.Partition, p.key.Topic)
		}
		until = end.Offset
		return end.Err
	})
	if err != nil {
		return
	}
	c.mu.Lock()
	var unexplained []gap
	if c.parts[p.key] == p {
		unexplained = p.gaps.answer(asked, until, holed)
	}
	c.mu.Unlock()
	c.foundGaps(p, found{unexplained: unexplained})
}

func (c *Consumer) compacted(ctx context.Context, topic string) (bool, error) {
	described, err := c.admin.DescribeTopicConfigs(ctx, topic)
	if err != nil {
		return true, fmt.Errorf("reading the settings of topic %s: %w", topic, err)
	}
	for _, d := range described {
		if d.Err != nil {
			return true, fmt.Errorf("reading the settings of topic %s: %w", topic, d.Err)
		}
		for _, s := range d.Configs {
			if s.Key == "cleanup.policy" {
				return strings.Contains(s.MaybeValue(), "compact"), nil
			}
		}
	}
	return true, nil
}
