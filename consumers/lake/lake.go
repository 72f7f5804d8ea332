// Package lake is the consumer that stores events as Parquet files in Iceberg tables, exactly once.
//
// It holds the rows of each table until a commit is due and then adds them, with the offsets they end at, in one
// transaction. Where a partition starts is read from the table, never from the consumer group. What is held and not
// committed is lost in a crash and read again.
package lake

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/pkg/lake"
	"github.com/millrace/millrace/pkg/provision"
	"github.com/millrace/millrace/pkg/schema"
	"github.com/millrace/millrace/pkg/stream"
	"github.com/millrace/millrace/pkg/telemetry"
)

// Sink is the lake as a destination.
type Sink struct {
	cfg     Config
	types   *schema.Set
	tel     telemetry.Set
	metrics *metrics
	lake    *lake.Lake
	sources *sources
	wake    chan struct{}

	mu     sync.Mutex
	tables map[string]*committer // by topic
}

var (
	_ stream.Sink   = (*Sink)(nil)
	_ stream.Keeper = (*Sink)(nil)
)

// New checks the configuration. kafka are the options of a client that is asked for the cluster's and the topics' ids.
func New(cfg Config, types *schema.Set, kafka []kgo.Opt, tel telemetry.Set) (*Sink, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	l, err := lake.New(cfg.Table, tel)
	if err != nil {
		return nil, err
	}
	m, err := newMetrics(tel.Metrics)
	if err != nil {
		return nil, err
	}
	return &Sink{
		cfg: cfg, types: types, tel: tel.With("lake"), metrics: m, lake: l,
		sources: &sources{opts: kafka}, wake: make(chan struct{}, 1), tables: map[string]*committer{},
	}, nil
}

// Ping asks the catalog.
func (s *Sink) Ping(ctx context.Context) error { return s.lake.Ping(ctx) }

// Planner says what the tables lack.
func (s *Sink) Planner() provision.Planner { return s.lake.Planner(s.types.All()) }

// Run commits what is due, until ctx ends. By then the consumer has stopped and has had everything committed. It ends
// before, with an error, where a commit does not come back: a goroutine cannot be ended from outside, so the process is to
// end, and give its partitions to another.
func (s *Sink) Run(ctx context.Context) error {
	defer s.sources.close()
	var commits sync.WaitGroup
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	if s.cfg.Upkeep.Every > 0 {
		commits.Go(func() { s.upkeep(ctx) })
	}
	if err := s.commitUntil(ctx, &commits); err != nil {
		return err
	}
	commits.Wait()
	s.settle(ctx)
	return nil
}

func (s *Sink) commitUntil(ctx context.Context, commits *sync.WaitGroup) error {
	tick := time.NewTicker(min(max(s.cfg.Age/20, 10*time.Millisecond), time.Second))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-s.wake:
		}
		for _, c := range s.committers() {
			if err := c.watch(time.Now()); err != nil {
				return err
			}
			if c.due(time.Now()) {
				commits.Go(func() { s.commitDue(ctx, c) })
			}
		}
	}
}

// settle removes the files of commits that did not go through before the end.
func (s *Sink) settle(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
	defer cancel()
	for _, c := range s.committers() {
		c.settle(ctx)
	}
}

// settleTimeout is for reading the tables a last time.
const settleTimeout = 5 * time.Second

// commitDue reports a commit that takes too long; the next tick tries it again.
func (s *Sink) commitDue(ctx context.Context, c *committer) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	if err := c.flush(ctx); err != nil && !errors.Is(context.Cause(ctx), context.Canceled) {
		s.metrics.failures.WithLabelValues(c.name).Inc()
		s.tel.Log.Warn("committing rows", "table", c.name, "err", err)
	}
}

func (s *Sink) committers() []*committer {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]*committer, 0, len(s.tables))
	for _, c := range s.tables {
		all = append(all, c)
	}
	return all
}

// committer gives the committer of a topic's table.
func (s *Sink) committer(topic string) (*committer, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.tables[topic]; c != nil {
		return c, nil
	}
	for _, t := range s.types.All() {
		if t.Topic.Name == topic {
			c := newCommitter(s, topic, t)
			s.tables[topic] = c
			return c, nil
		}
	}
	return nil, fmt.Errorf("finding the table of topic %s: no data type has this topic", topic)
}

// Write implements stream.Sink: it holds the rows until the next commit.
func (s *Sink) Write(ctx context.Context, b stream.Batch, done func(error)) error {
	c, err := s.committer(b.Topic)
	if err != nil {
		return err
	}
	return c.write(ctx, b, done)
}

// Assigned implements stream.Keeper.
func (s *Sink) Assigned(ctx context.Context, topic string, partitions []int32) (map[int32]int64, error) {
	c, err := s.committer(topic)
	if err != nil {
		return nil, err
	}
	return c.assigned(ctx, partitions)
}

// Revoked implements stream.Keeper. It commits all that is held of the table: the rows of several partitions are in
// the same files.
func (s *Sink) Revoked(ctx context.Context, topic string, partitions []int32) error {
	c, err := s.committer(topic)
	if err != nil {
		return err
	}
	err = c.flush(ctx)
	c.forget(partitions)
	if err != nil {
		return fmt.Errorf("committing table %s before its partitions move: %w", c.name, err)
	}
	return nil
}

// Lost implements stream.Keeper.
func (s *Sink) Lost(topic string, partitions []int32) {
	if c, err := s.committer(topic); err == nil {
		c.forget(partitions)
	}
}

func (s *Sink) nudge() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}
