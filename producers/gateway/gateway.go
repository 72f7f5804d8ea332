// Package gateway accepts events over HTTP and answers once Kafka has acknowledged them.
//
// POST /v1/events/{type} takes a JSON object, a JSON array of them, or NDJSON, optionally compressed by gzip or zstd.
// What it promises: a record answered with 202 is acknowledged by Kafka; one answered with 4xx is not in Kafka; one
// answered with 503 may be, and sending it again with the id and time of the answer does no harm. A bad record does
// not keep the others back.
//
// The gateway's own requests become performance records and what each tenant sent becomes usage records; they are
// published beside the requests and never slow one down.
package gateway

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"os"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/pkg/codec"
	"github.com/millrace/millrace/pkg/telemetry"
)

// Publisher is how records reach Kafka: *client.Client.
type Publisher interface {
	// Encoder gives the encoder of a type's current version; codec.ErrUnknownType where there is no such type.
	Encoder(ctx context.Context, typeName string) (*codec.Encoder, error)
	// Produce calls done exactly once, after Kafka's acknowledgement. An error means that the record was not taken, and
	// then done is not called.
	Produce(ctx context.Context, r *kgo.Record, done func(error)) error
}

// Server is the gateway.
type Server struct {
	cfg      Config
	pub      Publisher
	log      *slog.Logger
	m        *metrics
	requests chan struct{} // one slot per request under way
	bytes    *budget
	tenants  *tenants
	own      *own
	stopping atomic.Bool
	now      func() time.Time
}

// New makes a gateway. Mount it with Register, and run it with Run for as long as the HTTP server runs.
func New(cfg Config, tel telemetry.Set, pub Publisher) (*Server, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	tel = tel.With("gateway")
	s := &Server{
		cfg: cfg, pub: pub, log: tel.Log, now: time.Now,
		requests: make(chan struct{}, cfg.MaxRequests),
		bytes:    newBudget(int64(cfg.InFlight)),
		tenants:  newTenants(cfg.MaxTenants, cfg.TenantRate, cfg.TenantBurst),
	}
	m, err := newMetrics(tel.Metrics, func() float64 { return float64(s.bytes.inUse()) })
	if err != nil {
		return nil, err
	}
	s.m = m
	host, err := os.Hostname()
	if err != nil {
		host = ""
	}
	s.own = &own{
		pub: pub, m: m, host: host, datacenter: cfg.Datacenter, timeout: cfg.Drain,
		queue: make(chan ownRecord, ownQueue),
	}
	return s, nil
}

// Register mounts the gateway's routes.
func (s *Server) Register(mux interface {
	Handle(pattern string, h http.Handler)
},
) {
	mux.Handle("POST /v1/events/{type}", http.HandlerFunc(s.events))
}

// Run publishes the gateway's own records until ctx ends. Then it turns new requests away, waits for those under way,
// and publishes what is left; the publisher stops after it, whether the HTTP server does so before or after.
func (s *Server) Run(ctx context.Context) error {
	if !s.cfg.OwnRecords {
		<-ctx.Done()
		s.finishRequests(ctx)
		return nil
	}
	tick := time.NewTicker(s.cfg.UsageInterval)
	defer tick.Stop()
	since := s.now()
	for {
		select {
		case r := <-s.own.queue:
			s.own.publish(ctx, r)
		case <-tick.C:
			since = s.publishUsage(ctx, since)
		case <-ctx.Done():
			s.finishRequests(ctx)
			s.drain(ctx, since)
			return nil
		}
	}
}

// finishRequests turns new requests away and waits for those under way.
func (s *Server) finishRequests(ctx context.Context) {
	s.stopping.Store(true)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.Drain)
	defer cancel()
	for range cap(s.requests) {
		select {
		case s.requests <- struct{}{}: // every slot taken: nobody is inside
		case <-ctx.Done():
			s.log.Warn("requests were still under way at the stop")
			return
		}
	}
}

func (s *Server) drain(ctx context.Context, since time.Time) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.Drain)
	defer cancel()
	for len(s.own.queue) > 0 {
		s.own.publish(ctx, <-s.own.queue)
	}
	s.publishUsage(ctx, since)
	if err := s.own.wait(ctx); err != nil {
		s.log.Warn("own records were not acknowledged before the stop", "err", err)
	}
}

func (s *Server) publishUsage(ctx context.Context, since time.Time) time.Time {
	now := s.now()
	for _, u := range s.tenants.takeUsage(now) {
		for _, r := range u.ownRecords(since, now) {
			s.own.publish(ctx, r)
		}
	}
	return now
}

// errTimeout is why the records of a request are given up when Kafka does not answer.
var errTimeout = errors.New("Kafka did not acknowledge in time") //nolint:staticcheck // a name begins it
