package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/pkg/client"
	"github.com/millrace/millrace/pkg/codec"
	"github.com/millrace/millrace/pkg/kafka"
	"github.com/millrace/millrace/pkg/schema"
	"github.com/millrace/millrace/pkg/telemetry"
	"github.com/millrace/millrace/producers/loadgen"
)

// load is what the sources send until the workload is stopped.
type load struct {
	sources int     // each a client of its own
	rate    float64 // records per second, of all sources together
	count   int64   // in all; 0 is until the workload is stopped
	client  func(*client.Config)
	// refusal says which destinations must, and which may, refuse a record that Kafka takes. It may change the record.
	refusal func(r *kgo.Record, seq int64) (must, may uint8)
}

// workload is sources at work: loadgen's records through the SDK, each noted in the ledger before it is sent and when
// its outcome is known.
type workload struct {
	ledger  *ledger
	sources []*source
	gate    sync.RWMutex // held by a source while it hands a record over, and by pause
	failed  atomic.Int64 // produce requests that were cut off: their records were sent again
	stop_   context.CancelFunc
	wg      sync.WaitGroup
	once    sync.Once
	result  error
	done    chan struct{} // closed when every source has ended
}

type source struct {
	number  uint16
	client  *client.Client
	decoder *codec.Decoder
	w       *workload
	refusal func(*kgo.Record, int64) (must, may uint8)
	seq     int64
	err     error // of its end, where it ended by itself
}

// produce starts sources. What they send is in the ledger of the scenario.
func (e *env) produce(ctx context.Context, l load) (*workload, error) {
	ctx, stop := context.WithCancel(ctx)
	w := &workload{ledger: e.ledger, stop_: stop, done: make(chan struct{})}
	for range max(1, l.sources) {
		s, err := e.source(w, l)
		if err != nil {
			stop()
			return nil, err
		}
		cfg := loadgen.Default()
		cfg.Types, cfg.Source = []string{e.typ.Name}, e.run+"-"+strconv.Itoa(int(s.number))
		cfg.Rate, cfg.Seed = l.rate/float64(max(1, l.sources)), e.seed+uint64(s.number)
		cfg.Count = l.count / int64(max(1, l.sources))
		g, err := loadgen.New(cfg, s, telemetry.Discard(), io.Discard)
		if err != nil {
			stop()
			return nil, err
		}
		w.sources = append(w.sources, s)
		w.wg.Go(func() {
			err := g.Run(ctx)
			if s.err == nil && ctx.Err() == nil && cfg.Count == 0 {
				s.err = fmt.Errorf("source %d ended by itself: %w", s.number, err)
			}
		})
	}
	go func() { w.wg.Wait(); close(w.done) }()
	e.mu.Lock()
	e.workloads = append(e.workloads, w)
	e.mu.Unlock()
	return w, nil
}

// source makes one, with the SDK as another program would have it.
func (e *env) source(w *workload, l load) (*source, error) {
	cdc, err := e.codec()
	if err != nil {
		return nil, err
	}
	brokers := kafka.Default()
	brokers.Brokers = e.world.cluster.addresses()
	opts, err := brokers.Opts(telemetry.Discard())
	if err != nil {
		return nil, err
	}
	cfg := client.Default()
	if l.client != nil {
		l.client(&cfg)
	}
	c, err := client.New(cfg, cdc, telemetry.Discard(), append(opts, kgo.WithHooks(w)))
	if err != nil {
		return nil, err
	}
	return &source{number: e.nextSource(), client: c, decoder: cdc.Decoder(e.typ.Name), w: w, refusal: l.refusal}, nil
}

func (e *env) codec() (*codec.Codec, error) {
	cfg := codec.Default()
	cfg.URLs = []string{e.world.servers.registry}
	return codec.New(cfg, e.types, telemetry.Discard())
}

// OnBrokerE2E counts the produce requests that were cut off.
func (w *workload) OnBrokerE2E(_ kgo.BrokerMetadata, key int16, e2e kgo.BrokerE2E) {
	if key == 0 && e2e.Err() != nil {
		w.failed.Add(1)
	}
}

// Encoder implements loadgen.Publisher.
func (s *source) Encoder(ctx context.Context, name string) (*codec.Encoder, error) {
	return s.client.Encoder(ctx, name)
}

// Flush implements loadgen.Publisher. The outcomes are waited for when the client is closed.
func (s *source) Flush(context.Context) error { return nil }

// Produce implements loadgen.Publisher. It notes what is really sent: what the bytes say, decoded again.
func (s *source) Produce(ctx context.Context, r *kgo.Record, done func(error)) error {
	e := entry{source: s.number, seq: uint32(s.seq)} //nolint:gosec // they count from 0
	if s.refusal != nil {
		e.must, e.may = s.refusal(r, s.seq)
	}
	asWritten := *r
	asWritten.Timestamp = time.Now() // Kafka's, without which no event time is in bounds
	rec, err := s.decoder.Decode(ctx, &asWritten)
	var bad *codec.BadRecord
	switch {
	case err == nil:
		if e.key, err = idKey(rec.ID()); err != nil {
			s.err = err
			return err
		}
		e.hash = fingerprint(&rec)
	case e.must == toAll && errors.As(err, &bad):
		e.key = bytesKey(r.Value)
	default:
		s.err = fmt.Errorf("source %d: decoding what is to be sent: %w", s.number, err)
		return s.err
	}
	s.seq++
	s.w.gate.RLock()
	defer s.w.gate.RUnlock()
	i := s.w.ledger.intent(e)
	err = s.client.Produce(ctx, r, func(err error) {
		s.w.ledger.outcome(i, err)
		done(err)
	})
	if err != nil { // it was not taken
		s.w.ledger.settle(i, client.Failed, err)
	}
	return err
}

// inFlight is how many records were handed over and have no outcome.
func (w *workload) inFlight() int64 {
	c := w.ledger.sums()
	return c.Sent - c.OK - c.Failed - c.Unknown
}

// acked is how many records Kafka has acknowledged.
func (w *workload) acked() int64 { return w.ledger.sums().OK }

// awaitAcked waits until n more records than now are acknowledged: what was done does not keep them from flowing.
func (w *workload) awaitAcked(ctx context.Context, n int64, within time.Duration) error {
	from := w.acked()
	return until(ctx, within, fmt.Sprintf("%d more acknowledged records", n), func(context.Context) error {
		if at := w.acked(); at < from+n {
			return fmt.Errorf("there are %d", at-from)
		}
		return w.health()
	})
}

// pause lets no source hand anything over until it is resumed, and waits until all that was has its outcome.
func (w *workload) pause(ctx context.Context) error {
	w.gate.Lock()
	err := until(ctx, 3*time.Minute, "outcomes of all records", func(context.Context) error {
		if n := w.inFlight(); n > 0 {
			return fmt.Errorf("%d are in flight", n)
		}
		return nil
	})
	if err != nil {
		w.gate.Unlock()
	}
	return err
}

func (w *workload) resume() { w.gate.Unlock() }

// awaitInFlight waits for a moment in which records are in flight, and gives how many.
func (w *workload) awaitInFlight(ctx context.Context) (n int64, err error) {
	for begun := time.Now(); time.Since(begun) < 10*time.Second; {
		if n = w.inFlight(); n > 0 {
			return n, nil
		}
		if err := sleep(ctx, time.Millisecond); err != nil {
			return 0, err
		}
	}
	return 0, errors.New("no record was in flight for 10 s: the fault would hit nothing")
}

// aim picks a broker that leads a partition of the topic, at a moment in which records are in flight: how many it leads, and
// how many those are.
func (e *env) aim(ctx context.Context, w *workload) (at *broker, led, inFlight int64, err error) {
	at, err = e.world.leader(ctx, e.topic(), int32(e.rnd.IntN(e.typ.Topic.Partitions))) //nolint:gosec // few
	if err == nil {
		led, inFlight, err = e.aimAt(ctx, w, at)
	}
	return at, led, inFlight, err
}

// aimAt does the same at a broker that is chosen already.
func (e *env) aimAt(ctx context.Context, w *workload, at *broker) (led, inFlight int64, err error) {
	all, err := e.world.partitions(ctx, e.topic())
	if err != nil {
		return 0, 0, err
	}
	inFlight, err = w.awaitInFlight(ctx)
	return leads(all, at), inFlight, err
}

// health says whether a source has ended by itself.
func (w *workload) health() error {
	select {
	case <-w.done:
		for _, s := range w.sources {
			if s.err != nil {
				return &finalError{s.err}
			}
		}
	default:
	}
	return nil
}

// stop ends the sources and waits until the SDK has said of every record what became of it.
func (w *workload) stop(ctx context.Context) error {
	w.once.Do(func() {
		w.stop_()
		w.wg.Wait()
		var errs []error
		for _, s := range w.sources {
			closing, cancel := context.WithTimeout(ctx, 3*time.Minute) // a record is tried for two
			if _, err := s.client.Close(closing); err != nil {
				errs = append(errs, fmt.Errorf("closing source %d: %w", s.number, err))
			}
			cancel()
			errs = append(errs, s.err)
		}
		w.result = errors.Join(errs...)
	})
	return w.result
}

// typeOf gives the built-in log with another name, and so with topics, tables and indices of its own.
func typeOf(text []byte, name string) (*schema.Type, *schema.Set, error) {
	typ, err := schema.Parse(text)
	if err != nil {
		return nil, nil, fmt.Errorf("the type %s: %w", name, err)
	}
	set, err := schema.NewSet(typ)
	return typ, set, err
}
