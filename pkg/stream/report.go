package stream

import (
	"time"

	"github.com/millrace/millrace/pkg/lag"
)

// What a partition waits for, as blockedOn says it.
const (
	onNothing = ""
	onSink    = "sink"   // batches were handed over and are not acknowledged
	onFetch   = "fetch"  // the log has more, and nothing of it is held
	onDecode  = "decode" // records are held and not in a batch yet
	onCommit  = "commit" // all is applied, and not committed for longer than the commit interval
)

// blocking is what partitions waited for, sampled about once a second: a change between two samples is seen a second late
// at most, and nothing is paid for it on the way of records.
type blocking struct {
	last time.Time                // of the last sample
	time map[string]time.Duration // by what was waited for, since the last Report
}

// maxSample bounds what one sample may stand for, as after a machine was suspended.
const maxSample = 5 * time.Second

// sampleBlocked lays the time since the last sample to what each partition waits for now.
func (c *Consumer) sampleBlocked(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	since := min(now.Sub(c.blocking.last), maxSample)
	first := c.blocking.last.IsZero()
	c.blocking.last = now
	for _, p := range c.parts {
		on := p.blockedOn(now)
		if on == onNothing || first || since <= 0 {
			continue
		}
		c.blocking.time[on] += since
		c.metrics.blocked.WithLabelValues(on).Add(since.Seconds())
	}
}

// blockedOn says what a partition waits for. Where stages wait for each other it names the last of them, since the others
// wait for it.
func (p *part) blockedOn(now time.Time) string {
	durable, _, ok := p.c.ledger.Durable(p.claim)
	if !ok || p.state != stateRunning {
		return onNothing
	}
	committed, _ := p.c.ledger.Commit(p.claim)
	switch {
	case durable == committed:
		p.uncommitted = time.Time{}
	case committed != p.committed || p.uncommitted.IsZero():
		p.committed, p.uncommitted = committed, now
	}
	switch {
	case p.waiting != "", p.handing:
		return onSink
	case p.noSchema:
		return onDecode
	case p.inHand, len(p.queue) > 0, len(p.passed) > 0:
		return onDecode
	case len(p.heads) > 0 && p.c.keeper == nil:
		return onSink
	case p.polled < p.end:
		return onFetch
	case len(p.heads) > 0: // a Keeper's, which it may keep back until its next commit: it still takes more
		return onSink
	case durable > committed && now.Sub(p.uncommitted) > p.c.cfg.Commit:
		return onCommit
	}
	return onNothing // also where a batch waits to become full
}

// Report says how the consumer does, for whoever watches it from outside. Blocked is since the last Report, as shares of
// the time of those partitions that were not idle: one that waits among many that have nothing to do is seen as such.
// Whoever publishes it adds where it is from.
func (c *Consumer) Report(now time.Time) *lag.Report {
	r := &lag.Report{Group: Group(c.name), At: now, Blocked: c.takeBlocked(), Partitions: []lag.PartitionReport{}}
	for _, s := range c.Status() {
		p := lag.PartitionReport{
			Topic: s.Topic, Partition: s.Partition, Fetched: s.Fetched, Applied: s.Applied, Committed: s.Committed,
			State: s.State, Waits: s.Waits, Failures: s.Failures, Error: s.Error,
		}
		if !s.Head.IsZero() {
			p.Head = s.Head.UnixMilli()
		}
		r.Partitions = append(r.Partitions, p)
	}
	return r
}

func (c *Consumer) takeBlocked() lag.Blocked {
	c.mu.Lock()
	defer c.mu.Unlock()
	was := c.blocking.time
	c.blocking.time = map[string]time.Duration{}
	sum := time.Duration(0)
	for _, d := range was {
		sum += d
	}
	if sum == 0 {
		return lag.Blocked{}
	}
	share := func(on string) float64 { return float64(was[on]) / float64(sum) }
	return lag.Blocked{Sink: share(onSink), Fetch: share(onFetch), Decode: share(onDecode), Commit: share(onCommit)}
}

// trouble is how the first batch that fails has failed until now, or the first record that cannot be decoded.
type trouble struct {
	first    int64 // its offset
	failures int
	err      string
}

const maxReportedError = 500

// fails notes a failure at an offset. What lies behind one that fails already is not what holds the partition up.
func (p *part) fails(first int64, err error) {
	p.c.mu.Lock()
	defer p.c.mu.Unlock()
	if p.trouble.failures > 0 && p.trouble.first < first {
		return
	}
	if p.trouble.first != first {
		p.trouble = trouble{first: first}
	}
	p.trouble.failures++
	p.trouble.err = bounded(err.Error(), maxReportedError)
}

// passes ends what failed below an offset.
func (p *part) passes(next int64) {
	if p.trouble.first < next {
		p.trouble = trouble{}
	}
}
