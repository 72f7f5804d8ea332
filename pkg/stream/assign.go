package stream

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/pkg/failpoint"
	"github.com/millrace/millrace/pkg/stream/ledger"
)

// assigned takes new partitions on. Where they start is found out in adjust, which follows.
func (c *Consumer) assigned(m map[string][]int32) {
	<-c.ready
	if len(m) > 0 {
		c.metrics.rebalances.Inc()
		c.tel.Log.Info("partitions assigned", "partitions", m)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.joined = true
	for _, k := range keysOf(m) {
		if c.parts[k] == nil {
			c.parts[k] = newPart(c, k)
		}
	}
}

// adjust replaces every start that the group gives by an explicit one, so that no position is a guess of the client.
// Its context ends when the group wants the partitions back; it is asked again if they stay.
func (c *Consumer) adjust(ctx context.Context, offsets map[string]map[int32]kgo.Offset) (map[string]map[int32]kgo.Offset, error) {
	<-c.ready
	starts := make(map[string]map[int32]kgo.Offset, len(offsets))
	for topic, partitions := range offsets {
		starts[topic] = make(map[int32]kgo.Offset, len(partitions))
		want := make([]ledger.Key, 0, len(partitions))
		for p := range partitions {
			want = append(want, ledger.Key{Topic: topic, Partition: p})
		}
		found, err := c.locate(ctx, topic, want, func(p int32) (int64, bool) {
			at := partitions[p].EpochOffset().Offset
			return at, at >= 0
		})
		if err != nil {
			return nil, err
		}
		var halted []stopped
		for _, k := range want {
			pos := found[k]
			committed := pos.next
			if c.keeper != nil {
				committed = partitions[k.Partition].EpochOffset().Offset // below 0 is none
			}
			if pos.problem == "" {
				c.begin(k, pos, committed)
			} else if halted = append(halted, c.stop(k, pos, committed)); c.keeper == nil {
				continue // without an offset the client does not read it
			}
			starts[topic][k.Partition] = kgo.NewOffset().At(pos.from).WithEpoch(-1)
		}
		c.reconsider(topic, halted)
	}
	return starts, nil
}

// position is where a partition starts.
type position struct {
	next       int64  // the first offset that is not done
	from       int64  // where to read: next, or the log's start where that is later
	start, end int64  // of the log
	grouped    bool   // next is what the group has committed
	problem    string // why it must not be read,
	err        error  // and what that is about
}

// lost is where reading begins after records that were deleted before they were read; 0 where there are none.
func (p position) lost() int64 {
	if p.from > p.next {
		return p.from
	}
	return 0
}

// locate finds where partitions of a topic start, and waits while Kafka or the Keeper do not answer. reached is how far
// it is known that they are done with: for a Keeper's that does not count, but tells what comes again.
func (c *Consumer) locate(ctx context.Context, topic string, keys []ledger.Key, reached func(int32) (int64, bool)) (map[ledger.Key]position, error) {
	var found map[ledger.Key]position
	halted := &StoppedError{}
	committed := reached
	err := c.persist(ctx, "finding where to start", func(ctx context.Context) error {
		if c.keeper != nil {
			partitions := make([]int32, len(keys))
			for i, k := range keys {
				partitions[i] = k.Partition
			}
			halted = &StoppedError{}
			leave := c.enter(nil, "asking the destination for the offsets of "+topic)
			kept, err := c.keeper.Assigned(ctx, topic, partitions)
			leave()
			if err != nil && !errors.As(err, &halted) {
				return fmt.Errorf("asking the destination for its offsets: %w", err)
			}
			committed = func(p int32) (int64, bool) { at, ok := kept[p]; return at, ok }
		}
		starts, ends, err := c.bounds(ctx, topic)
		if err != nil {
			return err
		}
		found = make(map[ledger.Key]position, len(keys))
		for _, k := range keys {
			if err := halted.Partitions[k.Partition]; err != nil {
				found[k] = position{problem: stateHalted, err: fmt.Errorf("the destination must not go on without an operator's decision: %w", err)}
				continue
			}
			start, ok1 := starts.Lookup(topic, k.Partition)
			end, ok2 := ends.Lookup(topic, k.Partition)
			if !ok1 || !ok2 {
				return fmt.Errorf("partition %d of topic %s has no offsets", k.Partition, topic)
			}
			if start.Err != nil {
				return start.Err
			}
			if end.Err != nil {
				return end.Err
			}
			found[k] = c.place(k, start.Offset, end.Offset, committed)
		}
		return nil
	})
	if err == nil && c.keeper != nil {
		c.known(found, reached)
	}
	return found, err
}

// known counts the offsets that a Keeper has already and that the group would give it again: what was committed to the
// destination before a stop, or by another, and not to Kafka.
func (c *Consumer) known(found map[ledger.Key]position, reached func(int32) (int64, bool)) {
	for k, pos := range found {
		from := pos.start
		if at, ok := reached(k.Partition); ok {
			from = max(from, at)
		}
		if pos.problem == "" && pos.next > from {
			c.metrics.redelivered.WithLabelValues(k.Topic).Add(float64(pos.next - from))
		}
	}
}

func (c *Consumer) bounds(ctx context.Context, topic string) (starts, ends kadm.ListedOffsets, err error) {
	if starts, err = c.admin.ListStartOffsets(ctx, topic); err != nil {
		return nil, nil, fmt.Errorf("listing start offsets: %w", err)
	}
	if ends, err = c.admin.ListEndOffsets(ctx, topic); err != nil {
		return nil, nil, fmt.Errorf("listing end offsets: %w", err)
	}
	return starts, ends, nil
}

// place decides where one partition starts. Records that retention took before they were read are gone, so waiting
// would not help: they are counted and named, and reading goes on at the log's start. A position beyond the log's end
// means that this is not the log it was: reading on would skip or repeat, so the partition stops.
func (c *Consumer) place(k ledger.Key, start, end int64, committed func(int32) (int64, bool)) position {
	pos := position{next: start, from: start, start: start, end: end}
	at, ok := committed(k.Partition)
	pos.grouped = ok && c.keeper == nil
	switch {
	case !ok:
	case failpoint.Broken == failpoint.SilentReset && (at < start || at > end):
		pos.next, pos.from = end, end
	case at > end:
		pos.problem = stateRecreated
		pos.err = fmt.Errorf("the committed offset %d is beyond the log's end, %d: the topic was made anew or lost records", at, end)
	case at < start:
		c.expired(k, at, start)
		pos.next = at
	default:
		pos.next, pos.from = at, at
	}
	return pos
}

// expired counts records that were deleted before they were read.
func (c *Consumer) expired(k ledger.Key, position, start int64) {
	c.metrics.expired.WithLabelValues(k.Topic).Add(float64(start - position))
	c.metrics.gaps.WithLabelValues(k.Topic, gapExpired).Add(float64(start - position))
	c.tel.Log.Error("records expired before they were read; reading goes on at the log's start",
		"topic", k.Topic, "partition", k.Partition, "position", position, "log_start", start, "lost", start-position)
}

// begin starts the stages of a partition under a new claim. committed is the group's offset.
func (c *Consumer) begin(k ledger.Key, pos position, committed int64) {
	c.mu.Lock()
	claim := c.ledger.Assign(k, pos.next, committed)
	c.mu.Unlock()
	c.enlist(claim, pos)
}

func (c *Consumer) enlist(claim ledger.Claim, pos position) {
	k := claim.Key
	p := newPart(c, k)
	p.claim = claim
	c.budget.join(p)
	c.mu.Lock()
	old := c.parts[k]
	p.state = stateRunning
	p.polled, p.gaps.next, p.start, p.end, p.lost, p.grouped = pos.from, pos.from, pos.start, pos.end, pos.lost(), pos.grouped
	c.parts[k] = p
	c.mu.Unlock()
	if old != nil {
		old.halt()
	}
	c.resume(p) // a pause outlives the assignment that it was for
	p.launch()
}

// stop keeps a partition assigned and unread, for a person to look at.
func (c *Consumer) stop(k ledger.Key, pos position, committed int64) stopped {
	c.tel.Log.Error("a partition stops", "topic", k.Topic, "partition", k.Partition, "state", pos.problem, "err", pos.err)
	c.metrics.stopped.WithLabelValues(k.Topic, pos.problem).Inc()
	c.mu.Lock()
	p := c.parts[k]
	if p == nil {
		p = newPart(c, k)
		c.parts[k] = p
	}
	p.state = pos.problem
	c.mu.Unlock()
	c.pause(p)
	return stopped{part: p, state: pos.problem, committed: committed}
}

// stopped is a partition that waits for a person.
type stopped struct {
	part      *part
	state     string
	committed int64 // by the group
}

// waits says that the partition is still this member's, and as it was stopped.
func (c *Consumer) waits(s stopped) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.parts[s.part.key] == s.part && s.part.state == s.state
}

// reconsiderEvery is how often a Keeper is asked again about partitions that it has stopped.
const reconsiderEvery = 10 * time.Second

// reconsider asks a Keeper about its stopped partitions until it has them go on.
func (c *Consumer) reconsider(topic string, waiting []stopped) {
	if c.keeper == nil || len(waiting) == 0 {
		return
	}
	c.spawn(func(ctx context.Context) {
		for pause(ctx, reconsiderEvery) {
			waiting = slices.DeleteFunc(waiting, func(s stopped) bool { return !c.waits(s) })
			if len(waiting) == 0 {
				return
			}
			keys, committed := make([]ledger.Key, len(waiting)), map[int32]int64{}
			for i, s := range waiting {
				keys[i], committed[s.part.key.Partition] = s.part.key, s.committed
			}
			found, err := c.locate(ctx, topic, keys, func(p int32) (int64, bool) { return committed[p], committed[p] >= 0 })
			if err != nil {
				return
			}
			waiting = slices.DeleteFunc(waiting, func(s stopped) bool {
				pos := found[s.part.key]
				if pos.problem == "" {
					c.goOn(s, pos)
				}
				return pos.problem == ""
			})
		}
	})
}

// goOn has a stopped partition read.
func (c *Consumer) goOn(s stopped, pos position) {
	k := s.part.key
	c.mu.Lock()
	if c.parts[k] == s.part && s.part.state == s.state {
		s.part.state = stateSeeking
	}
	c.mu.Unlock()
	c.tel.Log.Info("a partition that was stopped goes on", "topic", k.Topic, "partition", k.Partition, "from", pos.from)
	c.later(seek{part: s.part, pos: pos, anew: true, committed: s.committed})
}

// revoked drains partitions, commits what came of it and lets them go, all within a bounded time.
func (c *Consumer) revoked(base context.Context, m map[string][]int32) {
	<-c.ready
	keys := keysOf(m)
	if len(keys) == 0 {
		return
	}
	c.metrics.rebalances.Inc()
	c.tel.Log.Info("partitions revoked", "partitions", m)
	ctx, cancel := context.WithTimeout(base, c.cfg.Drain)
	defer cancel()
	c.drain(ctx, keys)
	commit, cancelCommit := context.WithTimeout(base, leaveTimeout)
	defer cancelCommit()
	if err := c.commitNow(commit); err != nil {
		c.tel.Log.Warn("committing before partitions are given up; they will be read again", "err", err)
	}
	c.release(keys)
}

// lost lets partitions go that may be another member's by now: nothing of them may be committed.
func (c *Consumer) lost(m map[string][]int32) {
	<-c.ready
	keys := keysOf(m)
	if len(keys) > 0 {
		c.metrics.rebalances.Inc()
		c.tel.Log.Warn("partitions were lost; what was in flight is read again by their next owner", "partitions", len(keys))
	}
	c.release(keys)
}

// drain lets what the sink has finish; what was not yet handed over is dropped and read again by the next owner.
func (c *Consumer) drain(ctx context.Context, keys []ledger.Key) {
	var parts []*part
	c.mu.Lock()
	for _, k := range keys {
		if p := c.parts[k]; p != nil && p.state == stateRunning {
			p.state = stateDraining
			parts = append(parts, p)
		}
	}
	c.mu.Unlock()
	for _, p := range parts {
		p.close()
	}
	if c.keeper == nil {
		for _, p := range parts {
			p.wait(ctx)
		}
		return
	}
	// A Keeper's batches are done only with its commit: first it must have all that is on the way to it. A write that
	// hangs must not take the time of that commit.
	handing, cancel := context.WithTimeout(ctx, c.cfg.Drain/2)
	defer cancel()
	topics := map[string][]int32{}
	for _, p := range parts {
		if p.wait(handing) {
			topics[p.key.Topic] = append(topics[p.key.Topic], p.key.Partition)
		}
	}
	for topic, partitions := range topics {
		leave := c.enter(nil, "committing what is held of "+topic)
		err := c.keeper.Revoked(ctx, topic, partitions)
		leave()
		if err != nil {
			c.tel.Log.Warn("making held batches durable before partitions are given up", "topic", topic, "err", err)
		}
	}
	for _, p := range parts {
		p.wait(ctx)
	}
}

// release forgets partitions. Acknowledgements that come later are void.
func (c *Consumer) release(keys []ledger.Key) {
	var parts []*part
	c.mu.Lock()
	for _, k := range keys {
		if p := c.parts[k]; p != nil {
			delete(c.parts, k)
			c.ledger.Revoke(p.claim)
			p.state = stateGone
			parts = append(parts, p)
		}
	}
	c.mu.Unlock()
	for _, p := range parts {
		p.halt()
	}
	if c.keeper == nil {
		return
	}
	// A write that is still on its way would be accepted after the Keeper forgot the partition.
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	for _, p := range parts {
		p.wait(ctx)
		c.keeper.Lost(p.key.Topic, []int32{p.key.Partition})
	}
}

func (c *Consumer) owned() []ledger.Key {
	c.mu.Lock()
	defer c.mu.Unlock()
	keys := make([]ledger.Key, 0, len(c.parts))
	for k := range c.parts {
		keys = append(keys, k)
	}
	return keys
}

func (c *Consumer) pause(p *part) {
	c.client.PauseFetchPartitions(map[string][]int32{p.key.Topic: {p.key.Partition}})
}

// resume reads a partition again, unless it was stopped.
func (c *Consumer) resume(p *part) {
	c.mu.Lock()
	running := p.state == stateRunning
	c.mu.Unlock()
	if !running {
		return
	}
	c.client.ResumeFetchPartitions(map[string][]int32{p.key.Topic: {p.key.Partition}})
}

func keysOf(m map[string][]int32) []ledger.Key {
	var keys []ledger.Key
	for topic, partitions := range m {
		for _, p := range partitions {
			keys = append(keys, ledger.Key{Topic: topic, Partition: p})
		}
	}
	return keys
}
