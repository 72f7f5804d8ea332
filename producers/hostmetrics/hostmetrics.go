// Package hostmetrics publishes this machine's metrics: CPU, memory, paging, load, file systems, disks, network,
// processes and uptime, under the names, units and attributes of OpenTelemetry's semantic conventions.
//
// One collection has one time, and each record its id, from the moment it is collected. Collected records are written
// to a bounded spool on disk before they are sent, so that neither an outage of Kafka nor a kill -9 loses any, and what
// is sent again has the same ids. The spool holds the records as JSON and not in the wire format: the wire format
// names a schema by the id that one registry gave it, and needs that registry to be up when a metric is collected.
//
// Guarantee: a collected record is published, or counted as dropped when the spool was full.
package hostmetrics

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/millrace/millrace/pkg/spool"
	"github.com/millrace/millrace/pkg/telemetry"
)

// Publisher is what is needed of the SDK. *client.Client is one.
type Publisher = spool.Publisher

// typeName is the data type that is published.
const typeName = "metric"

// Agent collects and publishes.
type Agent struct {
	cfg        Config
	host       string
	target     spool.Target
	log        *slog.Logger
	m          *metrics
	collectors []collector
	mu         sync.Mutex // guards the counting of memory
	held       int        // events that are only in memory, since the disk refused them
	failing    map[string]bool
	diskFails  bool
}

// New makes an agent. It touches nothing until Run.
func New(cfg Config, pub Publisher, tel telemetry.Set) (*Agent, error) {
	return newAgent(cfg, spool.To(pub, typeName), machine(), tel)
}

func newAgent(cfg Config, target spool.Target, src source, tel telemetry.Set) (*Agent, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	m, err := newMetrics(tel.Metrics)
	if err != nil {
		return nil, err
	}
	host := cfg.Host
	if host == "" {
		if host, err = os.Hostname(); err != nil {
			return nil, fmt.Errorf("asking for the host's name (hostmetrics.host can say it): %w", err)
		}
	}
	return &Agent{
		cfg: cfg, host: host, target: target, log: tel.With("hostmetrics").Log, m: m,
		collectors: collectors(src, cfg.Exclude), failing: map[string]bool{},
	}, nil
}

// Run collects and publishes until ctx ends. Then it waits at most cfg.Drain for Kafka to acknowledge what is out;
// what is not acknowledged stays on disk for the next Run.
func (a *Agent) Run(ctx context.Context) (err error) {
	sp, err := spool.Open(a.cfg.Spool, int64(a.cfg.SpoolBytes))
	if err != nil {
		return fmt.Errorf("opening the spool of hostmetrics: %w", err)
	}
	defer func() { err = errors.Join(err, sp.Close()) }()

	sender := spool.NewSender(a.target, a.log, a.m.retries.Inc)
	f := &forwarder{sp: sp, sender: sender, agent: a, wake: make(chan struct{}, 1), idle: make(chan struct{}, 1)}
	sending, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var wg sync.WaitGroup
	wg.Go(func() { sender.Run(sending) })
	wg.Go(func() { f.run(sending) })

	a.loop(ctx, f)
	f.drain(a.cfg.Drain)
	stop()
	wg.Wait()
	return nil
}

// loop collects at each interval. A collection that takes longer than the interval delays the next; none is doubled.
func (a *Agent) loop(ctx context.Context, f *forwarder) {
	tick := time.NewTicker(a.cfg.Interval)
	defer tick.Stop()
	for {
		a.keep(f, a.collect(ctx, time.Now()))
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// collect runs every collector. One that fails is counted, and logged when it starts to fail; the others' data flows.
func (a *Agent) collect(ctx context.Context, now time.Time) [][]byte {
	b := batch{now: now.UTC().Truncate(time.Microsecond)}
	for _, c := range a.collectors {
		mark := len(b.points)
		err := c.read(ctx, &b)
		if err == nil {
			if a.failing[c.name] {
				a.log.Info("collecting works again", "collector", c.name)
			}
			a.failing[c.name] = false
			continue
		}
		a.m.failures.WithLabelValues(c.name).Inc()
		if !a.failing[c.name] {
			a.log.Warn("collecting fails; said once until it works", "collector", c.name, "points", len(b.points)-mark, "err", err)
		}
		a.failing[c.name] = true
	}
	a.m.records.Add(float64(len(b.points)))
	return a.encode(&b)
}

// keep writes a collection to disk. Where the disk refuses it, it is sent from memory, within a bound: the metrics of
// a full disk are the last that should be missing.
func (a *Agent) keep(f *forwarder, events [][]byte) {
	if len(events) == 0 {
		return
	}
	dropped, err := f.sp.Append(events...)
	a.m.dropped.Add(float64(dropped))
	if err != nil {
		a.m.spoolErrors.Inc()
	}
	if failed := err != nil; failed != a.diskFails {
		a.diskFails = failed
		if failed {
			a.log.Warn("writing to the spool fails; sending from memory", "err", err)
		} else {
			a.log.Info("writing to the spool works again")
		}
	}
	if err != nil {
		a.sendUnkept(f, events)
	}
	f.signal(f.wake)
}

// maxHeld bounds the events that are only in memory.
const maxHeld = 20000

func (a *Agent) sendUnkept(f *forwarder, events [][]byte) {
	for _, e := range events {
		a.mu.Lock()
		full := a.held >= maxHeld
		if !full {
			a.held++
		}
		a.mu.Unlock()
		if full {
			a.m.dropped.Inc()
			continue
		}
		f.sender.Put(e, func(refused error) {
			a.mu.Lock()
			a.held--
			a.mu.Unlock()
			a.count(refused)
			f.answered()
		})
	}
}

// count counts one event that is done with.
func (a *Agent) count(refused error) {
	if refused == nil {
		a.m.published.Inc()
		return
	}
	a.m.refused.Inc()
	a.log.Error("a metric can never be published; given up", "err", refused)
}
