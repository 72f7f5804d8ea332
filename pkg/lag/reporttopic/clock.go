package reporttopic

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/pkg/lag"
)

// ErrCreateTime is that the brokers do not put their own time on the topic's records.
var ErrCreateTime = errors.New("the timestamps of " + lag.StatusTopic + " are its producers', not its brokers': " +
	"the clocks cannot be compared; set message.timestamp.type=LogAppendTime on it, as `millrace topics apply` does")

// Clock compares this machine's clock with that of the broker that leads the topic.
type Clock struct {
	cl  *kgo.Client
	key []byte
	now func() time.Time
}

// NewClock makes one for an instance, with a client of its own until Close.
func NewClock(opts []kgo.Opt, instance string, now func() time.Time) (*Clock, error) {
	cl, err := kgo.NewClient(append(append([]kgo.Opt{}, opts...),
		kgo.DisableIdempotentWrite(), kgo.RequiredAcks(kgo.LeaderAck()), kgo.ProducerLinger(0), kgo.UnknownTopicRetries(1),
		kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ConsumeResetOffset(kgo.NoResetOffset()),
	)...)
	if err != nil {
		return nil, fmt.Errorf("making the Kafka client that compares clocks: %w", err)
	}
	return &Clock{cl: cl, key: []byte(clockPrefix + instanceName(instance)), now: now}, nil
}

// Close ends its client.
func (c *Clock) Close() { c.cl.Close() }

const clockTries = 3

// Skew says by how much the broker's clock is ahead of this one, and within what that is right: half the shortest of a few
// round trips, and the millisecond that stamps are cut to. Its records are tombstones, so that nothing stays of them.
func (c *Clock) Skew(ctx context.Context) (by, within time.Duration, err error) {
	var best *kgo.Record
	var begun time.Time
	var took time.Duration
	for range clockTries {
		r := &kgo.Record{Topic: lag.StatusTopic, Key: c.key}
		before := c.now()
		if err := c.cl.ProduceSync(ctx, r).FirstErr(); err != nil {
			return 0, 0, fmt.Errorf("writing a record to %s, to compare clocks: %w", lag.StatusTopic, err)
		}
		if t := c.now().Sub(before); best == nil || t < took {
			best, begun, took = r, before, t
		}
	}
	stamp, err := c.stamp(ctx, best.Offset)
	if err != nil {
		return 0, 0, err
	}
	return stamp.Sub(begun.Add(took / 2)), took/2 + time.Millisecond, nil
}

// stamp reads the broker's time of one record.
func (c *Clock) stamp(ctx context.Context, offset int64) (time.Time, error) {
	c.cl.AddConsumePartitions(map[string]map[int32]kgo.Offset{lag.StatusTopic: {0: kgo.NewOffset().At(offset)}})
	defer c.cl.RemoveConsumePartitions(map[string][]int32{lag.StatusTopic: {0}})
	for {
		fetches := c.cl.PollFetches(ctx)
		for _, r := range fetches.Records() {
			switch {
			case r.Offset < offset: // of a fetch that was under way
			case r.Offset > offset:
				return time.Time{}, fmt.Errorf("reading offset %d of %s, to compare clocks: it is not there any more", offset, lag.StatusTopic)
			case r.Attrs.TimestampType() != 1:
				return time.Time{}, ErrCreateTime
			default:
				return r.Timestamp, nil
			}
		}
		if err := errors.Join(ctx.Err(), fetches.Err()); err != nil {
			return time.Time{}, fmt.Errorf("reading offset %d of %s, to compare clocks: %w", offset, lag.StatusTopic, err)
		}
	}
}
