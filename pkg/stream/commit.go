package stream

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace/millrace/pkg/failpoint"
	"github.com/millrace/millrace/pkg/stream/ledger"
)

// errStale stops a commit that was overtaken on its way to the broker.
var errStale = errors.New("the commit was overtaken by a rebalance")

func (c *Consumer) commitLoop(ctx context.Context) {
	tick := time.NewTicker(c.cfg.Commit)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		// A commit under way is not cancelled: its outcome would be unknown, and it could arrive after a later one.
		commit, cancel := context.WithTimeout(context.WithoutCancel(ctx), commitTimeout)
		err := c.commitNow(commit)
		cancel()
		if err != nil && !errors.Is(err, errStale) && c.quiet.allow("committing") {
			c.tel.Log.Warn("committing offsets; the next interval tries again", "err", err)
		}
	}
}

// commitNow commits whatever is durable and not committed.
//
// What makes a late commit harmless is the order of three things: the client writes the group's generation into the
// request, then calls back below, then sends. A partition that is given up is revoked in the ledger before the client
// can learn of a new generation. So a request whose claims are all good bears the generation they belong to, and the
// broker refuses it if that has passed.
func (c *Consumer) commitNow(ctx context.Context) error {
	select {
	case c.commit <- struct{}{}:
	case <-ctx.Done():
		return fmt.Errorf("waiting for another commit: %w", ctx.Err())
	}
	defer func() { <-c.commit }()
	positions := map[ledger.Key]stampedPosition{}
	offsets := map[string]map[int32]kgo.EpochOffset{}
	c.mu.Lock()
	for _, pos := range append(c.ledger.Uncommitted(), c.unstamped(time.Now())...) {
		k := pos.Claim.Key
		positions[k] = stampedPosition{Position: pos, head: c.headAt(pos)}
		if offsets[k.Topic] == nil {
			offsets[k.Topic] = map[int32]kgo.EpochOffset{}
		}
		offsets[k.Topic][k.Partition] = kgo.EpochOffset{Epoch: pos.Mark.LeaderEpoch, Offset: pos.Offset}
	}
	c.mu.Unlock()
	if len(positions) == 0 {
		return nil
	}
	failpoint.Hit("stream.before_commit")
	ctx = kgo.PreCommitFnContext(ctx, func(req *kmsg.OffsetCommitRequest) error { return c.check(req, positions) })
	var result error
	c.client.CommitOffsetsSync(ctx, offsets,
		func(_ *kgo.Client, _ *kmsg.OffsetCommitRequest, resp *kmsg.OffsetCommitResponse, err error) {
			if err != nil {
				result = err
				return
			}
			result = c.commitDone(resp, positions)
		})
	if result == nil {
		failpoint.Hit("stream.after_commit")
	} else if !errors.Is(result, errStale) {
		c.metrics.commitErrors.Inc()
	}
	return result
}

// check is the last look before a commit is sent. It also writes the commit's metadata.
func (c *Consumer) check(req *kmsg.OffsetCommitRequest, positions map[ledger.Key]stampedPosition) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range req.Topics {
		topic := &req.Topics[i]
		for j := range topic.Partitions {
			partition := &topic.Partitions[j]
			pos, ok := positions[ledger.Key{Topic: topic.Topic, Partition: partition.Partition}]
			if !ok || !c.ledger.Current(pos.Position) {
				return errStale
			}
			if meta := pos.metadata(); meta != "" { // else what was there is not known any more
				partition.Metadata = &meta
			}
		}
	}
	return nil
}

func (c *Consumer) commitDone(resp *kmsg.OffsetCommitResponse, positions map[ledger.Key]stampedPosition) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var errs []error
	for _, topic := range resp.Topics {
		for _, partition := range topic.Partitions {
			if err := kerr.ErrorForCode(partition.ErrorCode); err != nil {
				errs = append(errs, fmt.Errorf("partition %d of %s: %w", partition.Partition, topic.Topic, err))
				continue
			}
			pos := positions[ledger.Key{Topic: topic.Topic, Partition: partition.Partition}]
			c.ledger.Committed(pos.Position)
			if p := c.parts[pos.Claim.Key]; p != nil && p.claim == pos.Claim && pos.head != 0 {
				p.stamped = pos.Offset
			}
		}
	}
	return errors.Join(errs...)
}
