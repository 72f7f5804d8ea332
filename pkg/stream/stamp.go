package stream

import (
	"strconv"
	"time"

	"github.com/millrace/millrace/pkg/lag"
	"github.com/millrace/millrace/pkg/stream/ledger"
)

// stampedPosition is a position to commit with what is known of the record there.
type stampedPosition struct {
	ledger.Position

	head int64 // when the first record that is not committed was appended, in milliseconds; 0 is not known
}

// metadata goes with a commit: t= is when the last committed record was appended, h= when the first that is not was. From
// h= a lag monitor has the age of what waits without reading anything, also when nobody is left to ask.
func (s stampedPosition) metadata() string {
	meta := ""
	if s.Mark.Time != 0 {
		meta = "t=" + strconv.FormatInt(s.Mark.Time, 10)
	}
	if s.head != 0 {
		if meta != "" {
			meta += ";"
		}
		meta += lag.HeadKey + strconv.FormatInt(s.head, 10)
	}
	return meta
}

// headAt gives the append time of the first record from a position on, if it is held.
func (c *Consumer) headAt(pos ledger.Position) int64 {
	p := c.parts[pos.Claim.Key]
	if p == nil || p.claim != pos.Claim {
		return 0
	}
	for _, h := range p.heads {
		if h.first == pos.Offset && !h.time.IsZero() { // else there are only markers
			return h.time.UnixMilli()
		}
	}
	if _, fetched, ok := c.ledger.Durable(p.claim); !ok || fetched != pos.Offset {
		return 0
	}
	if !p.opened.IsZero() {
		return p.opened.UnixMilli()
	}
	if r := p.first(pos.Offset); r != nil && len(p.passed) == 0 {
		return r.Timestamp.UnixMilli()
	}
	return 0
}

// bare is a commit whose record is held and that does not say when it was appended.
type bare struct {
	offset int64
	since  time.Time
}

// unstamped gives the positions to commit again, each once: those that were committed before the next record was there,
// where that one has waited for more than two commits since.
func (c *Consumer) unstamped(now time.Time) []ledger.Position {
	var out []ledger.Position
	for _, p := range c.parts {
		pos, ok := c.ledger.Standing(p.claim)
		switch {
		case !ok, p.state != stateRunning, p.stamped == pos.Offset:
			continue
		case pos.Mark.Time == 0 && !p.grouped: // that the group has a commit there is not known
			continue
		case c.headAt(pos) == 0:
			continue
		case p.bare.offset != pos.Offset || p.bare.since.IsZero():
			p.bare = bare{pos.Offset, now}
		case now.Sub(p.bare.since) > 2*c.cfg.Commit:
			out = append(out, pos)
		}
	}
	return out
}
