// Package loadgen sends synthetic records of any data type, at a rate or up to a count, such that a checker can prove
// what arrived: each record says which run it is of, its sequence number and a hash over all its fields, and a journal
// keeps what was sent and what Kafka answered.
//
// Values are those at which things break: nulls, empty strings, Unicode, the limits of numbers, odd microseconds.
package loadgen

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/time/rate"

	"github.com/millrace/millrace/pkg/client"
	"github.com/millrace/millrace/pkg/codec"
	"github.com/millrace/millrace/pkg/schema"
	"github.com/millrace/millrace/pkg/telemetry"
)

// Publisher is how records reach Kafka: *client.Client.
type Publisher interface {
	Encoder(ctx context.Context, typeName string) (*codec.Encoder, error)
	Produce(ctx context.Context, r *kgo.Record, done func(error)) error
	Flush(ctx context.Context) error
}

// Generator is one run.
type Generator struct {
	cfg     Config
	pub     Publisher
	metrics *metrics
	out     io.Writer
	now     func() time.Time

	plans   map[*schema.Type]*plan
	journal *journal

	sent, bytes, ok, failed, unknown atomic.Int64
	latencies                        latencies
}

// New makes a generator. It does no I/O. The summary goes to out.
func New(cfg Config, pub Publisher, tel telemetry.Set, out io.Writer) (*Generator, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	m, err := newMetrics(tel.Metrics)
	if err != nil {
		return nil, fmt.Errorf("registering metrics: %w", err)
	}
	if cfg.Plain {
		cfg.Types = []string{"log"}
	}
	return &Generator{
		cfg: cfg, pub: pub, metrics: m, out: out, now: time.Now,
		plans: map[*schema.Type]*plan{},
	}, nil
}

// Report is what a run came to.
type Report struct {
	Sent, OK, Failed, Unknown int64
	Bytes                     int64 // of keys and values
	Elapsed                   time.Duration
	P50, P95, P99, P999, Max  time.Duration // from Produce to Kafka's acknowledgement
}

// interrupted bounds the wait for outcomes after an interrupt: somebody waits for the end. A broker that is there
// answers in less.
const interrupted = 10 * time.Second

// Run sends until the count is reached or ctx ends, waits for the outcomes and prints the summary. It is an error if
// any record was not acknowledged.
func (g *Generator) Run(ctx context.Context) (err error) {
	if g.cfg.Journal != "" {
		if g.journal, err = openJournal(g.cfg.Journal); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, g.journal.close()) }()
	}
	start := g.now()
	if err := g.send(ctx); err != nil && ctx.Err() == nil {
		return err
	}
	wait := g.cfg.Drain
	if ctx.Err() != nil {
		wait = min(wait, interrupted)
	}
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), wait)
	defer cancel()
	flushed := g.pub.Flush(drain)
	r := g.report(g.now().Sub(start))
	if _, err := io.WriteString(g.out, r.String()); err != nil {
		return fmt.Errorf("printing summary: %w", err)
	}
	if flushed != nil {
		return flushed
	}
	if r.OK != r.Sent {
		return fmt.Errorf("of %d records %d failed and %d are unknown", r.Sent, r.Failed, r.Unknown)
	}
	return nil
}

// send makes and hands over records.
func (g *Generator) send(ctx context.Context) error {
	limit := rate.NewLimiter(rate.Inf, 0)
	chunk := int64(1)
	if g.cfg.Rate > 0 {
		chunk = max(1, int64(g.cfg.Rate/100))
		limit = rate.NewLimiter(rate.Limit(g.cfg.Rate), int(chunk))
	}
	pcg := rand.NewPCG(g.cfg.Seed, 0)
	rnd := rand.New(pcg) //nolint:gosec // values that can be made again
	for n := int64(0); g.cfg.Count == 0 || n < g.cfg.Count; n++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		if n%chunk == 0 {
			if limit.WaitN(ctx, int(chunk)) != nil {
				<-ctx.Done() // it fails at once when ctx would end before the next record is due
				return ctx.Err()
			}
		}
		seq := g.cfg.First + n
		pcg.Seed(g.cfg.Seed, uint64(seq)) //nolint:gosec // any bits do
		if err := g.one(ctx, g.cfg.Types[n%int64(len(g.cfg.Types))], seq, rnd); err != nil {
			return err
		}
	}
	return nil
}

// one makes and hands over one record.
func (g *Generator) one(ctx context.Context, typeName string, seq int64, rnd *rand.Rand) error {
	enc, err := g.pub.Encoder(ctx, typeName)
	if err != nil {
		return fmt.Errorf("getting the encoder of %s: %w", typeName, err)
	}
	p := g.plans[enc.Type()]
	if p == nil {
		p = newPlan(enc.Type())
		g.plans[enc.Type()] = p
	}
	at := g.now()
	if g.cfg.Spread > 0 {
		at = at.Add(-time.Duration(rnd.Int64N(int64(g.cfg.Spread))))
	}
	entry := Entry{Type: typeName, Source: g.cfg.Source, Seq: seq, TimeUS: at.UnixMicro()}
	values := enc.Defaults()
	if g.cfg.Plain {
		entry.ID = p.plain(values, &g.cfg, seq, at, rnd)
	} else {
		entry.ID, entry.Hash = p.fill(values, &g.cfg, seq, at, rnd)
	}
	r, err := enc.Encode(values)
	if err != nil {
		return fmt.Errorf("encoding record %d of %s: %w", seq, typeName, err)
	}
	if err := g.journal.intent(entry); err != nil {
		return err
	}
	size := int64(len(r.Key) + len(r.Value))
	handed := g.now()
	err = g.pub.Produce(ctx, r, func(err error) { g.done(entry, handed, err) })
	if err == nil {
		g.sent.Add(1)
		g.bytes.Add(size)
		return nil
	}
	entry.Outcome = Failed // it was not taken
	g.journal.outcome(&entry)
	if !errors.Is(err, client.ErrFull) {
		return fmt.Errorf("producing: %w", err)
	}
	g.sent.Add(1)
	g.failed.Add(1)
	g.metrics.records.WithLabelValues(Failed).Inc()
	return nil
}

func (g *Generator) done(e Entry, handed time.Time, err error) {
	switch client.OutcomeOf(err) {
	case client.Acknowledged:
		took := g.now().Sub(handed)
		g.latencies.add(took)
		g.metrics.seconds.Observe(took.Seconds())
		g.ok.Add(1)
		e.Outcome = OK
	case client.Failed:
		g.failed.Add(1)
		e.Outcome = Failed
	default:
		g.unknown.Add(1)
		e.Outcome = Unknown
	}
	g.metrics.records.WithLabelValues(e.Outcome).Inc()
	g.journal.outcome(&e)
}

// Report gives what the run came to so far.
func (g *Generator) report(elapsed time.Duration) Report {
	r := Report{
		Sent: g.sent.Load(), OK: g.ok.Load(), Failed: g.failed.Load(), Bytes: g.bytes.Load(), Elapsed: elapsed,
		P50: g.latencies.quantile(0.5), P95: g.latencies.quantile(0.95), P99: g.latencies.quantile(0.99),
		P999: g.latencies.quantile(0.999), Max: g.latencies.longest(),
	}
	r.Unknown = r.Sent - r.OK - r.Failed // also those without an outcome
	return r
}

// String is the summary.
func (r Report) String() string {
	s := r.Elapsed.Seconds()
	return fmt.Sprintf("sent %d records (%.1f MB) in %.1f s: %.0f records/s, %.1f MB/s\n"+
		"ok %d, failed %d, unknown %d\nproduce latency p50 %v, p95 %v, p99 %v, p99.9 %v, max %v\n",
		r.Sent, float64(r.Bytes)/1e6, s, float64(r.Sent)/max(s, 1e-9), float64(r.Bytes)/1e6/max(s, 1e-9),
		r.OK, r.Failed, r.Unknown, r.P50, r.P95, r.P99, r.P999, r.Max)
}
