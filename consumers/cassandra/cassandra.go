// Package cassandra is the series store: one table per data type, one row per event.
//
// A row's key is made of the event's own fields, its time and its id; its write time is the record's append time. Both
// are the same for every replay, so a repeat changes nothing. Rows live as long as their type's retention, counted
// from the event's time.
//
// Only what Cassandra refuses for a row's own content, by a closed list found by experiment, is a dead letter;
// everything else is an outage and comes again.
package cassandra

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/millrace/millrace/pkg/provision"
	"github.com/millrace/millrace/pkg/schema"
	"github.com/millrace/millrace/pkg/serve"
	"github.com/millrace/millrace/pkg/stream"
	"github.com/millrace/millrace/pkg/telemetry"
)

// Store writes, reads and plans. Its methods are safe for concurrent use.
type Store struct {
	cfg    Config
	types  *schema.Set
	log    *slog.Logger
	m      *metrics
	data   *connector      // in the keyspace, which token-aware routing needs
	admin  *connector      // outside of it, for there may be none yet
	limit  *stream.Limiter // of the write requests under way
	reads  chan struct{}
	tables tables
	sizes  sizes
	sheets sync.Pool // of *sheet

	// Now is the clock that retention goes by. Set it, if at all, before first use.
	Now func() time.Time

	gate stream.Gate // batches under way
}

var (
	_ stream.Sink       = (*Store)(nil)
	_ serve.SeriesStore = (*Store)(nil)
	_ provision.Planner = (*Store)(nil)
)

// New checks the configuration and connects to nothing. The types are those that are planned and read; a batch brings
// its own.
func New(cfg Config, types *schema.Set, tel telemetry.Set) (*Store, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	limit := stream.NewLimiter(cfg.InFlight)
	m, err := newMetrics(tel.Metrics, limit)
	if err != nil {
		return nil, err
	}
	return &Store{
		cfg:    cfg,
		types:  types,
		log:    tel.Log,
		m:      m,
		data:   &connector{cfg: cfg, keyspace: cfg.Keyspace, log: tel.Log},
		admin:  &connector{cfg: cfg, log: tel.Log},
		limit:  limit,
		reads:  make(chan struct{}, cfg.Read.Parallel),
		tables: tables{lock: make(chan struct{}, 1)},
		Now:    time.Now,
	}, nil
}

// Run waits for ctx to end, then for the batches under way, and closes the connections. A Write that comes later is an
// error. Rows expire by themselves: there are no other duties.
func (s *Store) Run(ctx context.Context) error {
	<-ctx.Done()
	s.Close()
	return nil
}

// Close is for who uses a Store without running it: to plan, or to scan.
func (s *Store) Close() {
	s.gate.Close()
	s.data.close()
	s.admin.close()
}

// Ping asks whether a node answers.
func (s *Store) Ping(ctx context.Context) error {
	session, err := s.admin.get(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	var version string
	if err := session.Query("SELECT release_version FROM system.local").WithContext(ctx).Scan(&version); err != nil {
		return fmt.Errorf("asking Cassandra for its version: %w", err)
	}
	return nil
}
