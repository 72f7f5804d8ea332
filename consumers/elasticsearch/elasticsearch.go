// Package elasticsearch is the search store: one daily index per data type, one document per event.
//
// A document's id is its event's id and it is only ever created, in the index of its event time: a replay finds it
// there and changes nothing. Only what Elasticsearch refuses for a document's own content, by a closed list of error
// types found by experiment, is a dead letter. What it has no room for now (429) is sent again alone, with fewer requests
// at once; everything else is an outage and comes again.
//
// Templates come before documents: without one Elasticsearch would guess the fields' types.
package elasticsearch

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/failsafe-go/failsafe-go/retrypolicy"

	"github.com/millrace/millrace/pkg/provision"
	"github.com/millrace/millrace/pkg/schema"
	"github.com/millrace/millrace/pkg/serve"
	"github.com/millrace/millrace/pkg/stream"
	"github.com/millrace/millrace/pkg/telemetry"
)

// Store writes, searches and plans. Its methods are safe for concurrent use.
type Store struct {
	cfg      Config
	types    *schema.Set
	client   *client
	log      *slog.Logger
	m        *metrics
	limit    *stream.Limiter // of the write requests under way
	retry    retrypolicy.RetryPolicy[any]
	known    known
	requests requests

	// Now is the clock that retention goes by. Set it, if at all, before first use.
	Now func() time.Time

	gate stream.Gate // batches under way
}

var (
	_ stream.Sink       = (*Store)(nil)
	_ serve.SearchStore = (*Store)(nil)
	_ provision.Planner = (*Store)(nil)
)

// New checks the configuration and connects to nothing. The types are those that are planned, searched and deleted
// when expired; a batch brings its own.
func New(cfg Config, types *schema.Set, tel telemetry.Set) (*Store, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	c, err := newClient(cfg)
	if err != nil {
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
		client: c,
		log:    tel.Log,
		m:      m,
		limit:  limit,
		retry:  newRetry(cfg.Retry),
		known:  known{lock: make(chan struct{}, 1)},
		Now:    time.Now,
	}, nil
}

// retentionEvery is how often expired indices are looked for.
const retentionEvery = time.Hour

// Run deletes expired indices, now and every hour, until ctx ends. Then it waits for the batches under way and closes
// the connections; a Write that comes later is an error.
func (s *Store) Run(ctx context.Context) error {
	tick := time.NewTicker(retentionEvery)
	defer tick.Stop()
	for {
		if err := s.DeleteExpired(ctx); err != nil && ctx.Err() == nil {
			s.log.Warn("expired indices could not be deleted", "err", err)
		}
		select {
		case <-tick.C:
			continue
		case <-ctx.Done():
		}
		break
	}
	s.gate.Close()
	s.client.http.CloseIdleConnections()
	return nil
}

// Ping asks whether the cluster answers and can take documents.
func (s *Store) Ping(ctx context.Context) error {
	var health struct {
		Status string `json:"status"`
	}
	if err := s.client.do(ctx, http.MethodGet, "/_cluster/health", nil, "", nil, &health); err != nil {
		return fmt.Errorf("asking Elasticsearch for its health: %w", err)
	}
	if health.Status == "red" {
		return errors.New("the cluster's health is red: some shard has no copy")
	}
	return nil
}
