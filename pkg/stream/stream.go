// Package stream is the runtime that drives every destination: it reads topics as one consumer group, decodes,
// batches and hands batches to a [Sink], and commits only what the sink has made durable.
//
// The promise: at least once to the destination, effectively once in it, and no offset is committed whose record the
// destination, or the dead-letter topic, has not acknowledged.
//
// Per partition there are stages, each a goroutine behind a bound: the poll loop puts records into the partition's
// queue and never waits; one goroutine decodes and cuts batches; one hands them to the sink, one after the other; and
// each batch that the sink has accepted is waited for on its own. What is held in all of them together is bounded in
// bytes, and at the bound partitions are paused. All state is under one lock, which is never held over I/O.
package stream

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/pkg/kafka"
	"github.com/millrace/millrace/pkg/schema"
	"github.com/millrace/millrace/pkg/stream/ledger"
	"github.com/millrace/millrace/pkg/telemetry"
)

// Deps is what a Consumer needs from others.
type Deps struct {
	Kafka     []kgo.Opt                     // from kafka.Config.Opts, of this consumer's own
	Decoder   func(typeName string) Decoder // one is made per partition
	Types     []*schema.Type                // whose topics are read
	Budget    *Budget                       // shared by the consumers of a process; nil is one of its own
	Telemetry telemetry.Set
}

// Consumer reads topics into one Sink.
type Consumer struct {
	cfg     Config
	name    string
	acked   string // a place at which the fault suite may stop it
	sink    Sink
	keeper  Keeper // the sink, where it is one
	deps    Deps
	types   map[string]*schema.Type // by topic
	tel     telemetry.Set
	metrics *metrics
	budget  *Budget
	quiet   quiet

	client  *kgo.Client
	admin   *kadm.Client
	spawn   func(func(context.Context)) // runs a task that ends with the consumer
	life    func() (context.Context, context.CancelFunc)
	cluster atomic.Value  // string: Kafka's id of it, once a letter needed it
	ready   chan struct{} // closed once client is set: the client calls back before NewClient returns
	commit  chan struct{} // holds one token: whoever has it may commit

	mu       sync.Mutex
	ledger   *ledger.Ledger
	parts    map[ledger.Key]*part
	seeks    []seek
	started  time.Time
	joined   bool // partitions were assigned at least once, or it is known that there are none
	wake     context.CancelFunc
	woken    bool
	breakers map[string]breaker
	calls    map[*call]struct{}
	decoding map[*part]struct{} // whose decoders are at work
	blocking blocking
	deleted  map[string]bool // topics that are waited for
}

// New checks and makes a Consumer of the group millrace-<name>.
func New(cfg Config, name string, sink Sink, deps Deps) (*Consumer, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if len(deps.Types) == 0 {
		return nil, errors.New("a consumer needs at least one type")
	}
	if sink == nil || deps.Decoder == nil {
		return nil, errors.New("a consumer needs a sink and a decoder")
	}
	c := &Consumer{
		cfg: cfg, name: name, acked: "stream.acked." + name, sink: sink, deps: deps, tel: deps.Telemetry.With(name),
		types: map[string]*schema.Type{}, ledger: ledger.New(), parts: map[ledger.Key]*part{},
		ready: make(chan struct{}), commit: make(chan struct{}, 1), breakers: map[string]breaker{},
		calls: map[*call]struct{}{}, decoding: map[*part]struct{}{}, deleted: map[string]bool{},
		blocking: blocking{time: map[string]time.Duration{}},
	}
	c.keeper, _ = sink.(Keeper)
	for _, t := range deps.Types {
		c.types[t.TopicName()] = t
		c.breakers[t.TopicName()] = c.newBreaker(t.TopicName())
	}
	if c.budget = deps.Budget; c.budget == nil {
		c.budget = NewBudget(cfg.Memory)
	}
	var err error
	if c.metrics, err = newMetrics(deps.Telemetry.Metrics, c); err != nil {
		return nil, err
	}
	for topic := range c.types { // at 0 from the start, so that an alert sees the first one
		c.metrics.gaps.WithLabelValues(topic, gapUnexplained)
	}
	return c, nil
}

// Group is the consumer group of a destination.
func Group(name string) string { return "millrace-" + name }

// Run reads until ctx ends, then drains, commits and leaves the group.
func (c *Consumer) Run(ctx context.Context) error {
	// The client and the partitions outlive ctx by the drain.
	base, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var tasks sync.WaitGroup
	var gate sync.Mutex
	c.spawn = func(task func(context.Context)) {
		gate.Lock() // no task begins once their end is waited for
		defer gate.Unlock()
		if base.Err() == nil {
			tasks.Go(func() { task(base) })
		}
	}
	c.life = func() (context.Context, context.CancelFunc) { return context.WithCancel(base) }
	client, err := kgo.NewClient(c.options(base)...)
	if err != nil {
		return fmt.Errorf("making the Kafka client of %s: %w", Group(c.name), err)
	}
	c.client, c.admin = client, kadm.NewClient(client)
	c.mu.Lock()
	c.started = time.Now()
	c.mu.Unlock()
	close(c.ready)

	ticking, stopTicking := context.WithCancel(base)
	defer stopTicking()
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	c.spawn(func(context.Context) { c.commitLoop(ticking) })
	c.spawn(func(context.Context) { c.watch(ticking, fail) })
	err = c.pollLoop(ctx)
	if cause := context.Cause(ctx); errors.Is(cause, errWedged) {
		err = cause
	}

	c.leave(base)
	stopTicking()
	gate.Lock()
	stop() // whatever is still at work ends
	gate.Unlock()
	tasks.Go(client.Close) // waits for callbacks, and so for a Keeper
	return errors.Join(err, c.await(&tasks))
}

// leave gives the partitions up, which drains and commits them, and leaves the group.
func (c *Consumer) leave(base context.Context) {
	ctx, cancel := context.WithTimeout(base, c.cfg.Drain+leaveTimeout)
	defer cancel()
	if err := c.client.LeaveGroupContext(ctx); err != nil {
		c.tel.Log.Warn("leaving the consumer group", "group", Group(c.name), "err", err)
	}
	c.release(c.owned())
}

// await waits for the goroutines of this run, but not for ever: a call that never comes back must not keep the process.
func (c *Consumer) await(tasks *sync.WaitGroup) error {
	done := make(chan struct{})
	go func() { tasks.Wait(); close(done) }()
	select {
	case <-done:
		return nil
	case <-time.After(leaveTimeout):
		return fmt.Errorf("consumer %s: a call of the sink or the decoder did not come back after its context ended", c.name)
	}
}

const (
	leaveTimeout  = 5 * time.Second // beyond the drain, to commit and to leave
	commitTimeout = 45 * time.Second
)

func (c *Consumer) options(base context.Context) []kgo.Opt {
	topics := make([]string, 0, len(c.types))
	for t := range c.types {
		topics = append(topics, t)
	}
	opts := kafka.Default().ProducerOpts() // for dead letters
	opts = append(opts, c.deps.Kafka...)
	return append(opts,
		kgo.WithContext(base),
		kgo.ClientID(Group(c.name)),
		kgo.ProducerBatchMaxBytes(maxDeadLetter),
		kgo.RecordPartitioner(kgo.StickyKeyPartitioner(nil)),
		kgo.ConsumerGroup(Group(c.name)),
		kgo.ConsumeTopics(topics...),
		kgo.Balancers(kgo.CooperativeStickyBalancer()),
		kgo.SessionTimeout(c.cfg.Session),
		kgo.HeartbeatInterval(min(3*time.Second, c.cfg.Session/3)),
		kgo.RebalanceTimeout(c.cfg.Drain+commitTimeout),
		kgo.DisableAutoCommit(),
		kgo.BlockRebalanceOnPoll(),                        // polls only hand over, so they block nothing
		kgo.ConsumeStartOffset(kgo.NewOffset().AtStart()), // never used as it is: see adjust
		kgo.ConsumeResetOffset(kgo.NoResetOffset()),       // no position is ever reset silently
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.KeepControlRecords(), // else the position cannot pass a marker at the end, and lag never returns to 0
		kgo.AdjustFetchOffsetsFn(c.adjust),
		kgo.OnPartitionsAssigned(func(_ context.Context, _ *kgo.Client, m map[string][]int32) { c.assigned(m) }),
		kgo.OnPartitionsRevoked(func(_ context.Context, _ *kgo.Client, m map[string][]int32) { c.revoked(base, m) }),
		kgo.OnPartitionsLost(func(_ context.Context, _ *kgo.Client, m map[string][]int32) { c.lost(m) }),
	)
}
