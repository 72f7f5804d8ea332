package stream

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/failsafe-go/failsafe-go"
	"github.com/failsafe-go/failsafe-go/circuitbreaker"
	"github.com/failsafe-go/failsafe-go/retrypolicy"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/pkg/codec"
	"github.com/millrace/millrace/pkg/failpoint"
	"github.com/millrace/millrace/pkg/lag"
	"github.com/millrace/millrace/pkg/schema"
)

type breaker = circuitbreaker.CircuitBreaker[any]

// newBreaker makes the breaker of one topic's writes: while it is open, the retries of all its partitions wait, and
// one at a time probes. That is the budget of retries: a destination that is down sees single calls, not the backlog.
// One that turns work away is up: what it can take is the sink's Limiter's to find.
func (c *Consumer) newBreaker(topic string) breaker {
	return circuitbreaker.NewBuilder[any]().
		HandleIf(func(_ any, err error) bool { return c.again(err) && Classify(err) != ClassThrottle }).
		WithFailureThreshold(uint(c.cfg.Retry.Breaker)).
		WithSuccessThreshold(1).
		WithDelay(min(c.cfg.Retry.Max, 5*time.Second)).
		OnStateChanged(func(e circuitbreaker.StateChangedEvent) {
			if e.NewState == circuitbreaker.OpenState && e.OldState == circuitbreaker.ClosedState {
				c.tel.Log.Warn("writes keep failing; single probes until one succeeds", "topic", topic)
			}
			if e.NewState == circuitbreaker.ClosedState {
				c.tel.Log.Info("writes succeed again", "topic", topic)
			}
		}).
		Build()
}

// backoff gives a random time under a bound that doubles with each failure.
func (c *Consumer) backoff(failures int) time.Duration {
	bound := c.cfg.Retry.Max
	if failures < 20 {
		bound = min(bound, c.cfg.Retry.Min<<max(0, failures-1))
	}
	return time.Millisecond + rand.N(bound) //nolint:gosec // jitter needs no secrecy
}

// forever makes a policy that tries again whatever again says, until ctx ends.
func (c *Consumer) forever(ctx context.Context, again func(error) bool, scheduled func(failsafe.ExecutionScheduledEvent[any])) retrypolicy.RetryPolicy[any] {
	return retrypolicy.NewBuilder[any]().
		HandleIf(func(_ any, err error) bool { return again(err) }).
		AbortIf(func(any, error) bool { return ctx.Err() != nil }).
		WithMaxRetries(-1).
		WithDelayFunc(func(e failsafe.ExecutionAttempt[any]) time.Duration { return c.backoff(e.Attempts()) }).
		OnRetryScheduled(scheduled).
		Build()
}

// persist tries until f succeeds or ctx ends, which is its only error.
func (c *Consumer) persist(ctx context.Context, what string, f func(context.Context) error) error {
	retry := c.forever(ctx, func(err error) bool { return err != nil }, func(e failsafe.ExecutionScheduledEvent[any]) {
		c.metrics.retries.WithLabelValues(what, string(Classify(e.LastError()))).Inc()
		if c.quiet.allow(what) {
			c.tel.Log.Warn("waiting and trying again", "what", what, "failures", e.Attempts(), "err", e.LastError())
		}
	})
	succeeded := false
	err := failsafe.With(retry).WithContext(ctx).Run(func() error {
		attempt, cancel := context.WithTimeout(ctx, c.cfg.Retry.Attempt)
		defer cancel()
		err := f(attempt)
		succeeded = err == nil
		return err
	})
	if succeeded { // also where ctx has ended meanwhile
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err // not reached
}

// pause sleeps, and says whether ctx goes on.
func pause(ctx context.Context, d time.Duration) bool { return sleep(ctx, d) == nil }

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// write hands batches over in order: the next one's first try comes when this one was accepted.
func (p *part) write(ctx context.Context) {
	for b := range p.out {
		if p.c.keeper == nil { // a Keeper's dones come only with its commit
			select {
			case p.slots <- struct{}{}:
			case <-ctx.Done():
				continue // only until out is closed
			}
		}
		accepted := make(chan struct{})
		p.work(func() {
			d := delivery{part: p, batch: b, accepted: accepted}
			d.run(ctx)
			d.accept()
			if p.c.keeper == nil {
				<-p.slots
			}
		})
		select {
		case <-accepted:
		case <-ctx.Done():
		}
	}
}

// delivery is one batch on its way to being durable.
type delivery struct {
	*part
	batch     *batch
	accepted  chan struct{}
	once      atomic.Bool
	attempts  int
	failed    time.Time // the first time
	histories []history // of its records, while it is written in parts
	split     bool      // it is written in parts
	times     []int64   // event times of what a Keeper has, in microseconds
}

func (d *delivery) accept() {
	if d.once.CompareAndSwap(false, true) {
		close(d.accepted)
	}
}

func (d *delivery) run(ctx context.Context) {
	b := d.batch
	if d.c.bury(ctx, b.dead) != nil {
		return
	}
	b.dead = nil
	if len(b.Records) == 0 && d.c.keeper == nil {
		d.resolve(nil)
		return
	}
	d.c.mu.Lock()
	size := d.size
	d.c.mu.Unlock()
	var err error
	if size == 0 || d.c.keeper != nil {
		err = d.send(ctx, b.Batch)
	}
	var partial *PartialError
	for d.c.keeper != nil && errors.As(err, &partial) { // before it has them: its commit is past their offsets
		if d.c.bury(ctx, d.refused(partial)) != nil {
			return
		}
		d.leaveOut(partial)
		err = d.send(ctx, b.Batch)
	}
	if class, _ := failed(err); d.c.keeper == nil && (size > 0 || class == ClassBug) {
		if size == 0 {
			size = len(b.Records) / 2
		}
		d.split = true
		err = d.bisect(ctx, size)
	}
	d.setWaiting("")
	if d.c.keeper != nil && err == nil {
		return // done comes later
	}
	d.conclude(ctx, err)
}

// leaveOut takes records that are dead letters out of the batch.
func (d *delivery) leaveOut(partial *PartialError) {
	b := d.batch
	kept := make([]codec.Record, 0, len(b.Records))
	for i := range b.Records {
		r := &b.Records[i]
		if partial.Failed[i] == nil {
			kept = append(kept, *r)
			continue
		}
		b.Dead++
		b.Bytes -= len(r.Source.Key) + len(r.Source.Value)
	}
	b.Records = kept
}

// send writes b, which is the batch or a part of it, until the destination is no longer out.
func (d *delivery) send(ctx context.Context, b Batch) error {
	retry := d.c.forever(ctx, d.c.again, d.retrying)
	err := failsafe.With(retry, d.c.breakers[d.key.Topic]).WithContext(ctx).Run(func() error { return d.attempt(ctx, b) })
	if class, bad := failed(err); d.c.keeper == nil && (!bad || class == ClassRecord) {
		d.unbroken()
	}
	return err
}

// conclude acts on how the batch ended.
func (d *delivery) conclude(ctx context.Context, err error) {
	var partial *PartialError
	switch {
	case err == nil:
		d.resolve(nil)
	case errors.As(err, &partial) && d.c.keeper == nil:
		if d.c.bury(ctx, d.refused(partial)) == nil {
			d.resolve(partial)
		}
	case ctx.Err() != nil:
	case errors.Is(err, ErrReseek), d.c.keeper != nil:
		d.c.restart(d.part, err)
	default: // not reached: any other error is tried again
		d.c.tel.Log.Error("writing a batch", "topic", d.key.Topic, "partition", d.key.Partition, "first", d.batch.First, "err", err)
	}
}

func (d *delivery) retrying(e failsafe.ExecutionScheduledEvent[any]) {
	if errors.Is(e.LastError(), circuitbreaker.ErrOpen) {
		return
	}
	if d.setWaiting(lag.WaitsWriting); Classify(e.LastError()) == ClassThrottle {
		d.setWaiting(lag.WaitsThrottled)
	}
	if d.c.quiet.allow("writing " + d.key.Topic) {
		d.c.tel.Log.Warn("writing a batch failed; it is tried again", "topic", d.key.Topic, "partition", d.key.Partition,
			"first", d.batch.First, "records", len(d.batch.Records), "attempt", d.attempts, "err", e.LastError())
	}
}

// attempt is one try: Write, and unless the sink is a Keeper its done.
func (d *delivery) attempt(ctx context.Context, b Batch) error {
	select {
	case d.writing <- struct{}{}:
	case <-ctx.Done():
		return errGone
	}
	d.attempts++
	attempt, cancel := context.WithTimeout(ctx, d.c.cfg.Retry.Attempt)
	defer cancel()
	defer d.c.enter(d.part, "writing a batch")()
	result := make(chan error, 1)
	var called atomic.Bool
	b.source = d
	begun, next := time.Now(), b.Next
	if d.c.keeper != nil {
		d.times = timesOf(b.Records)
	}
	// The acknowledgement outlives a Keeper's batch, and must not keep it.
	err := d.call(attempt, b, func(err error) {
		if !called.CompareAndSwap(false, true) {
			d.c.tel.Log.Error("the sink called done twice", "topic", d.key.Topic, "partition", d.key.Partition)
			return
		}
		if err == nil {
			failpoint.Hit(d.c.acked)
			d.late(next)
		}
		if d.c.keeper != nil {
			d.kept(ctx, err)
			return
		}
		result <- err
	})
	<-d.writing
	if err == nil {
		if !d.split { // first tries come in order: the next batch waits for the last part of this one
			d.accept()
		}
		if d.c.keeper != nil {
			d.handedOver()
			return nil
		}
		select { // a cancelled attempt ends in done, too: that is the sink's duty
		case err = <-result:
		case <-ctx.Done():
			return errGone
		}
	}
	d.c.metrics.writeSeconds.Observe(time.Since(begun).Seconds())
	d.count(err)
	return err
}

// count notes how an attempt failed, if it did.
func (d *delivery) count(err error) {
	class, bad := failed(err)
	if !bad {
		return
	}
	if d.failed.IsZero() {
		d.failed = time.Now()
	}
	if isPanic(err) {
		d.c.metrics.panics.Inc()
	}
	if class != ClassRecord {
		d.c.metrics.retries.WithLabelValues("writing", string(class)).Inc()
		d.fails(d.batch.First, err)
	}
}

// throttled is told by a Scatter when the destination turned one of its requests away.
func (d *delivery) throttled(err error) {
	d.c.metrics.retries.WithLabelValues("request", string(ClassThrottle)).Inc()
	d.setWaiting(lag.WaitsThrottled)
	if d.c.quiet.allow("throttled " + d.key.Topic) {
		d.c.tel.Log.Warn("the destination turns work away; it is tried again, with fewer requests at once",
			"topic", d.key.Topic, "partition", d.key.Partition, "err", err)
	}
}

// late counts an acknowledgement that comes when its partition has been given up: it is void, unless that it counts all
// the same is a defect that was built in.
func (d *delivery) late(next int64) {
	d.c.mu.Lock()
	valid := d.c.ledger.Valid(d.batch.claim)
	d.c.mu.Unlock()
	if valid {
		return
	}
	d.c.metrics.late.Inc()
	if failpoint.Broken == failpoint.LateMark {
		d.c.client.CommitOffsets(context.Background(), map[string]map[int32]kgo.EpochOffset{
			d.key.Topic: {d.key.Partition: {Epoch: -1, Offset: next}},
		}, nil)
	}
}

// call keeps a panic of the sink from taking the process, and the other partitions, with it.
func (d *delivery) call(ctx context.Context, b Batch, done func(error)) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = newPanicError("sink", r)
		}
	}()
	failpoint.Hit("sink.write")
	return d.c.sink.Write(ctx, b, done)
}

// timesOf gives the records' event times. One that was decoded to fewer values than its type has is for the sink to refuse.
func timesOf(records []codec.Record) []int64 {
	times := make([]int64, len(records))
	for i := range records {
		if len(records[i].Values) > schema.Time {
			times[i] = records[i].TimeMicros()
		}
	}
	return times
}

// handedOver gives a Keeper's batch out of the runtime's budget: its bytes are the Keeper's from here, and its records are
// not kept from being freed until the commit.
func (d *delivery) handedOver() {
	d.batch.Records = nil
	d.c.budget.release(d.part, d.batch.held)
	d.c.mu.Lock()
	d.progress = time.Now()
	d.c.mu.Unlock()
}

// kept is a Keeper's done, which may come from any of its goroutines, under its locks.
func (d *delivery) kept(ctx context.Context, err error) {
	if err == nil {
		d.resolve(nil)
		return
	}
	d.work(func() { d.conclude(ctx, err) })
}

// resolve enters the batch into the ledger: it is durable, but for what is among the dead letters.
func (d *delivery) resolve(partial *PartialError) {
	b := d.batch
	c := d.c
	c.mu.Lock()
	valid := c.ledger.Valid(b.claim)
	if valid && c.ledger.Done(b.claim, b.First, b.Next, b.mark) {
		durable, _, _ := c.ledger.Durable(b.claim)
		d.progress = time.Now()
		for len(d.heads) > 0 && d.heads[0].next <= durable {
			d.heads = d.heads[1:]
		}
		d.passes(durable)
	}
	c.mu.Unlock()
	if !valid {
		return
	}
	if c.keeper == nil {
		c.budget.release(d.part, b.held)
	}
	now := time.Now().UnixMicro()
	applied := c.metrics.applied.WithLabelValues(b.Topic)
	latency := c.metrics.latency.WithLabelValues(b.Topic)
	times := d.times
	if c.keeper == nil {
		times = timesOf(b.Records)
	}
	for i, at := range times {
		if partial != nil && partial.Failed[i] != nil {
			continue
		}
		applied.Inc()
		latency.Observe(float64(max(0, now-at)) / 1e6)
	}
}

// repeated counts records that the destination had already.
func (d *delivery) repeated(n int) {
	d.c.metrics.redelivered.WithLabelValues(d.key.Topic).Add(float64(n))
}
