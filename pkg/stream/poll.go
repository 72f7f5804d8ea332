package stream

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/pkg/stream/ledger"
)

const (
	maxPoll        = 5000        // records of one poll, which is by how much the memory bound can be passed
	maxPollBackoff = time.Second // also what a failing topic delays the others by
)

// pollLoop hands fetched records over until ctx ends. It never waits for a partition: between a poll and
// AllowRebalance a rebalance is held up.
func (c *Consumer) pollLoop(ctx context.Context) error {
	failures := 0
	for {
		fetches := c.poll(ctx)
		if fetches.IsClientClosed() {
			return fmt.Errorf("polling: %w", kgo.ErrClientClosed)
		}
		failed := c.takeErrors(ctx, fetches)
		records := 0
		fetches.EachPartition(func(f kgo.FetchTopicPartition) {
			records += len(f.Records)
			c.mu.Lock()
			p := c.parts[ledger.Key{Topic: f.Topic, Partition: f.Partition}]
			c.mu.Unlock()
			if p == nil {
				return
			}
			if f.Err == nil || len(f.Records) > 0 { // the records of a poll with errors are good
				p.accept(&f.FetchPartition)
			}
			if tooLarge, ok := errors.AsType[*kgo.ErrDecompressTooLarge](f.Err); ok {
				c.oversized(p, tooLarge)
			}
		})
		c.applySeeks()
		c.client.AllowRebalance()
		select {
		case <-ctx.Done():
			return nil
		default:
		}
		// Some errors come back at once, hundreds of thousands of times a minute.
		if !failed || records > 0 {
			failures = 0
			continue
		}
		failures++
		wait := min(maxPollBackoff, 50*time.Millisecond<<min(failures, 10))
		if !pause(ctx, wait) {
			return nil
		}
	}
}

// poll polls until records come, an error, the end of ctx, or a kick.
func (c *Consumer) poll(ctx context.Context) kgo.Fetches {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c.mu.Lock()
	c.wake = cancel
	if c.woken {
		cancel()
		c.woken = false
	}
	c.mu.Unlock()
	return c.client.PollRecords(ctx, maxPoll)
}

// kick wakes the poll loop to look at the seeks.
func (c *Consumer) kick() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.woken = true
	if c.wake != nil {
		c.wake()
	}
}

// takeErrors acts on the errors of a poll, and says whether there were any.
func (c *Consumer) takeErrors(ctx context.Context, fetches kgo.Fetches) bool {
	failed := false
	fetches.EachError(func(topic string, partition int32, err error) {
		if errors.Is(err, context.Canceled) && topic == "" {
			return // a kick, or the end
		}
		failed = true
		c.metrics.pollErrors.WithLabelValues(topic).Inc()
		k := ledger.Key{Topic: topic, Partition: partition}
		c.mu.Lock()
		p := c.parts[k]
		c.mu.Unlock()
		var loss *kgo.ErrDataLoss
		switch {
		case p == nil:
		case errors.Is(err, kerr.OffsetOutOfRange):
			c.outOfRange(p)
			return
		case errors.As(err, &loss):
			c.truncated(p, loss)
			return
		case errors.Is(err, kerr.UnknownTopicID), errors.Is(err, kerr.InconsistentTopicID):
			c.anew(topic)
			return
		case errors.Is(err, kgo.ErrMaxDecompress): // see oversized, after the records before it
			return
		}
		if ctx.Err() == nil && c.quiet.allow("polling "+topic) {
			c.tel.Log.Warn("polling", "topic", topic, "partition", partition, "err", err)
		}
	})
	return failed
}

// seek is a partition that is to be read from another offset. The poll loop does it, where no rebalance can be under
// way.
type seek struct {
	part      *part
	pos       position
	anew      bool  // under a new claim: whatever was in flight is void
	committed int64 // by the group, when it began, for a Keeper's
}

// outOfRange finds out why the offset to read is not in the log. Retention is the usual reason: what is in flight is
// kept, what was deleted is counted.
func (c *Consumer) outOfRange(p *part) {
	c.mu.Lock()
	if p.state != stateRunning || c.parts[p.key] != p {
		c.mu.Unlock()
		return
	}
	p.state = stateSeeking
	at := p.polled
	c.mu.Unlock()
	c.pause(p)
	c.spawn(func(ctx context.Context) {
		var pos position
		err := c.persist(ctx, "finding the log's start", func(ctx context.Context) error {
			starts, ends, err := c.bounds(ctx, p.key.Topic)
			if err != nil {
				return err
			}
			start, _ := starts.Lookup(p.key.Topic, p.key.Partition)
			end, _ := ends.Lookup(p.key.Topic, p.key.Partition)
			if err := errors.Join(start.Err, end.Err); err != nil {
				return err
			}
			pos = c.place(p.key, start.Offset, end.Offset, func(int32) (int64, bool) { return at, true })
			return nil
		})
		if err == nil {
			c.later(seek{part: p, pos: pos})
		}
	})
}

// oversized passes over a batch that decompresses past the bound, as a bomb does: the client reads no further by itself.
// It is a dead letter as a whole, since nobody knows what is in it.
func (c *Consumer) oversized(p *part, e *kgo.ErrDecompressTooLarge) {
	if !p.pass(passed{first: e.Offset, next: e.NextOffset, epoch: e.Epoch}) {
		return
	}
	c.tel.Log.Error("a batch decompresses past the bound; it becomes a dead letter without its content, and reading goes on after it",
		"topic", e.Topic, "partition", e.Partition, "first", e.Offset, "next", e.NextOffset)
	c.client.SetOffsets(map[string]map[int32]kgo.EpochOffset{e.Topic: {e.Partition: {Epoch: -1, Offset: e.NextOffset}}})
}

// truncated starts again where the log diverged from what was read: an unclean election lost records.
func (c *Consumer) truncated(p *part, loss *kgo.ErrDataLoss) {
	c.metrics.truncated.WithLabelValues(loss.Topic).Add(float64(max(0, loss.ConsumedTo-loss.ResetTo)))
	c.tel.Log.Error("the log lost records that were read already; reading goes on where it diverged",
		"topic", loss.Topic, "partition", loss.Partition, "consumed_to", loss.ConsumedTo, "reset_to", loss.ResetTo)
	c.mu.Lock()
	start, end := p.start, p.end
	c.mu.Unlock()
	// The records of this very poll are from there on already, and no rebalance can come between.
	c.begin(p.key, position{next: loss.ResetTo, from: loss.ResetTo, start: start, end: end}, loss.ResetTo)
}

// restart drops what is in flight of a partition and starts it again: from where its Keeper says, or where there is
// none from what is durable.
func (c *Consumer) restart(p *part, cause error) {
	c.mu.Lock()
	if p.state != stateRunning || c.parts[p.key] != p {
		c.mu.Unlock()
		return
	}
	p.state = stateSeeking
	durable, _, _ := c.ledger.Durable(p.claim)
	committed, _ := c.ledger.Commit(p.claim)
	if c.keeper != nil {
		c.ledger.Revoke(p.claim)
	}
	c.mu.Unlock()
	c.metrics.reseeks.WithLabelValues(p.key.Topic).Inc()
	c.tel.Log.Warn("a partition starts again", "topic", p.key.Topic, "partition", p.key.Partition, "err", cause)
	c.pause(p)
	c.spawn(func(ctx context.Context) {
		p.halt()
		if !p.wait(ctx) { // a write that is still on its way would be accepted after the Keeper forgot the partition
			return
		}
		if c.keeper != nil {
			c.keeper.Lost(p.key.Topic, []int32{p.key.Partition})
		}
		if sleep(ctx, c.backoff(1)) != nil { // two writers that push each other out take turns at least
			return
		}
		s := seek{part: p, anew: true, committed: committed}
		if c.keeper != nil {
			found, err := c.locate(ctx, p.key.Topic, []ledger.Key{p.key}, func(int32) (int64, bool) { return durable, true })
			if err != nil {
				return
			}
			s.pos = found[p.key]
		}
		c.later(s)
	})
}

func (c *Consumer) later(s seek) {
	c.mu.Lock()
	c.seeks = append(c.seeks, s)
	c.mu.Unlock()
	c.kick()
}

// applySeeks is called by the poll loop after a poll that returned something, or was kicked: rebalances are held up
// then, so the partitions are still this member's.
func (c *Consumer) applySeeks() {
	c.mu.Lock()
	seeks := c.seeks
	c.seeks = nil
	c.mu.Unlock()
	for _, s := range seeks {
		k := s.part.key
		c.mu.Lock()
		current := c.parts[k] == s.part && s.part.state == stateSeeking
		c.mu.Unlock()
		switch {
		case !current:
			continue
		case s.pos.problem != "":
			c.reconsider(k.Topic, []stopped{c.stop(k, s.pos, s.committed)})
			continue
		case s.anew && c.keeper != nil:
			c.begin(k, s.pos, s.committed)
		case s.anew:
			c.mu.Lock()
			claim, at, _ := c.ledger.Renew(s.part.claim) // acknowledgements may have come until now
			s.pos = position{next: at, from: at, start: s.part.start, end: s.part.end, grouped: s.part.grouped}
			c.mu.Unlock()
			c.enlist(claim, s.pos)
		default:
			c.mu.Lock()
			s.part.state, s.part.lost, s.part.polled, s.part.gaps.next = stateRunning, s.pos.lost(), s.pos.from, s.pos.from
			c.mu.Unlock()
			s.part.wake()
		}
		c.client.SetOffsets(map[string]map[int32]kgo.EpochOffset{k.Topic: {k.Partition: {Epoch: -1, Offset: s.pos.from}}})
		if !s.anew && !c.budget.isPaused(s.part) {
			c.resume(s.part)
		}
	}
}
