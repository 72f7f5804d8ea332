package stream

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// PartitionStatus is how far a partition is. Offsets that are not known yet are -1.
type PartitionStatus struct {
	Topic     string
	Partition int32
	Start     int64     // of the log
	End       int64     // of what may be read, as of the last fetch: while a partition is paused it stands still
	Fetched   int64     // one past the last offset taken in
	Applied   int64     // everything below is durable in the destination, or a dead letter
	Committed int64     //
	Head      time.Time // append time of the oldest record held that is not applied; zero if none is held
	State     string    // starting, running, paused, draining, seeking, wedged, recreated, halted; or what it waits for
	Waits     string    // for what it waits, where that is an outage: writing, throttled, decoding, sink panics
	Failures  int       // of the first batch that is not applied, up to now; or of decoding the first record
	Error     string    // of the last of them
}

// Lag is how many offsets are read by nobody or not durable yet, as of the last fetch.
func (s PartitionStatus) Lag() int64 {
	if s.End < 0 || s.Applied < 0 {
		return 0
	}
	return max(0, s.End-max(s.Applied, s.Start))
}

// Status gives the partitions that are assigned, by topic and number.
func (c *Consumer) Status() []PartitionStatus {
	c.mu.Lock()
	out := make([]PartitionStatus, 0, len(c.parts))
	parts := make([]*part, 0, len(c.parts))
	for _, p := range c.parts {
		out = append(out, p.status())
		parts = append(parts, p)
	}
	c.mu.Unlock()
	for i, p := range parts { // the budget calls into the client, which can wait for callbacks that wait for mu
		if out[i].State == stateRunning && c.budget.isPaused(p) {
			out[i].State = "paused"
		}
	}
	slices.SortFunc(out, func(a, b PartitionStatus) int {
		return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition))
	})
	return out
}

func (p *part) status() PartitionStatus {
	s := PartitionStatus{
		Topic: p.key.Topic, Partition: p.key.Partition, Start: p.start, End: p.end,
		Fetched: p.polled, Applied: -1, Committed: -1, State: p.state,
	}
	if durable, _, ok := p.c.ledger.Durable(p.claim); ok {
		s.Applied = durable
		s.Committed, _ = p.c.ledger.Commit(p.claim)
	}
	switch {
	case len(p.heads) > 0:
		s.Head = p.heads[0].time
	case !p.opened.IsZero():
		s.Head = p.opened
	default:
		if r := p.first(s.Applied); r != nil {
			s.Head = r.Timestamp
		}
	}
	s.Waits, s.Failures, s.Error = p.waits(), p.trouble.failures, p.trouble.err
	if s.State == stateRunning && s.Waits != "" {
		s.State = "waiting: " + s.Waits
	}
	if p.broken != "" {
		s.Error = bounded(p.broken, maxReportedError)
	}
	for cl := range p.c.calls {
		if cl.part == p && !cl.named.IsZero() {
			s.State, s.Waits = stateWedged, ""
		}
	}
	return s
}

// first is the first record held that is in no batch yet, if it is not below an offset.
func (p *part) first(from int64) *kgo.Record {
	if r := p.current.Load(); p.inHand && r != nil && r.Offset >= from {
		return r
	}
	if !p.inHand && len(p.queue) > 0 {
		return p.queue[0]
	}
	return nil
}

// Ready says whether every partition makes progress: the error names those that wait, have waited for longer than the
// configured stall, and why.
func (c *Consumer) Ready() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.joined {
		if c.started.IsZero() {
			return errors.New("not started")
		}
		if waited := time.Since(c.started); waited > c.cfg.Stall {
			return fmt.Errorf("no partition was assigned since the start %v ago", waited.Round(time.Second))
		}
		return errors.New("waiting for partitions")
	}
	var errs []error
	for _, p := range c.parts {
		s := p.status()
		idle := time.Since(p.progress)
		switch {
		case s.State == stateRecreated, s.State == stateHalted:
			errs = append(errs, fmt.Errorf("partition %d of %s is stopped: %s", s.Partition, s.Topic, s.State))
		case p.broken != "":
			errs = append(errs, fmt.Errorf("partition %d of %s waits at offset %d: %s", s.Partition, s.Topic, s.Applied, p.broken))
		case s.State != stateStarting && s.Lag() == 0, idle <= c.cfg.Stall:
		default:
			errs = append(errs, fmt.Errorf("partition %d of %s (%s) waits at offset %d and made no progress for %v",
				s.Partition, s.Topic, s.State, s.Applied, idle.Round(time.Second)))
		}
	}
	for topic := range c.deleted {
		errs = append(errs, fmt.Errorf("topic %s was deleted; reading begins anew once it is there", topic))
	}
	for cl := range c.calls {
		if !cl.named.IsZero() {
			errs = append(errs, fmt.Errorf("%s, begun %v ago, does not come back", cl, time.Since(cl.begun).Round(time.Second)))
		}
	}
	slices.SortFunc(errs, func(a, b error) int { return cmp.Compare(a.Error(), b.Error()) })
	return errors.Join(errs...)
}
