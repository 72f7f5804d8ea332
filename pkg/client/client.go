// Package client is the SDK: it sends records to Millrace and says of each what became of it.
//
// A record that was taken is acknowledged by all in-sync replicas, failed for its own fault, or unknown; its callback
// is called exactly once, and Close accounts for every one. Batches are written idempotently, so that the client's own
// retries double nothing. A record that is in flight is never cancelled: no answer would tell whether it was written.
//
// [Dial] needs only the addresses of Kafka and of the schema registry:
//
//	c, err := client.Dial(ctx, []string{"kafka-1:9092"}, []string{"http://registry:8081"})
//	…
//	logs := client.For[Log](c, "log")
//	err = logs.Send(ctx, Log{Service: "billing", Body: "disk full"}, func(err error) { … })
package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.opentelemetry.io/otel/propagation"

	"github.com/millrace/millrace/pkg/codec"
	"github.com/millrace/millrace/pkg/telemetry"
)

// The errors for a record that was not taken.
var (
	ErrFull     = errors.New("buffer is full")
	ErrClosed   = errors.New("client is closed")
	ErrTooLarge = fmt.Errorf("record is larger than the buffer: %w", kerr.MessageTooLarge)
)

// Client sends records. It is safe for concurrent use.
type Client struct {
	cfg     Config
	codec   *codec.Codec
	metrics *metrics
	kafka   *kgo.Client
	budget  *budget

	accepted, acknowledged, failed, unknown atomic.Uint64

	anew  sync.Map    // topics that were found to be deleted and made anew
	stale atomic.Bool // there may be some

	closing sync.Once
	stop    func() // of what Dial started
}

// Report accounts for the records that were taken: Accepted is the sum of the others once the client is closed.
type Report struct {
	Accepted     uint64 // taken by Produce or Send
	Acknowledged uint64 // written by Kafka to all in-sync replicas
	Failed       uint64 // certainly not written
	Unknown      uint64 // perhaps written: the client was closed, or gave up, before Kafka answered
}

// New makes a client. It does no I/O. The options say how to reach Kafka; what the client promises cannot be changed by
// them.
func New(cfg Config, c *codec.Codec, tel telemetry.Set, opts []kgo.Opt) (*Client, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	m, err := newMetrics(tel.Metrics)
	if err != nil {
		return nil, fmt.Errorf("registering metrics: %w", err)
	}
	codecs := map[string]kgo.CompressionCodec{
		"zstd": kgo.ZstdCompression(), "lz4": kgo.Lz4Compression(), "none": kgo.NoCompression(),
	}
	own := []kgo.Opt{
		kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.ProducerBatchCompression(codecs[cfg.Compression], kgo.NoCompression()),
		kgo.ProducerLinger(cfg.Linger),
		kgo.RecordDeliveryTimeout(cfg.Delivery),
		// The budget is the bound: these are never reached.
		kgo.MaxBufferedRecords(cfg.Records + 1),
		kgo.MaxBufferedBytes(2 * int(cfg.Bytes)),
	}
	all := append(append(make([]kgo.Opt, 0, len(opts)+len(own)), opts...), own...)
	cl, err := kgo.NewClient(all...)
	if err != nil {
		return nil, fmt.Errorf("making the Kafka client: %w", err)
	}
	return &Client{
		cfg: cfg, codec: c, metrics: m, kafka: cl,
		budget: newBudget(cfg.Records, int(cfg.Bytes)), stop: func() {},
	}, nil
}

// Encoder gives the encoder of a type's current version.
func (c *Client) Encoder(ctx context.Context, typeName string) (*codec.Encoder, error) {
	return c.codec.Encoder(ctx, typeName)
}

// Produce takes an encoded record. An error means that it was not taken, and then done is not called. Otherwise done
// is called exactly once, from another goroutine, after Kafka's acknowledgement or with the error that ended the
// record; Outcome reads it. done must not block: all callbacks wait for each other. It may be nil.
//
// ctx bounds only the wait for room in the buffer. If it carries a trace, the record carries it on.
func (c *Client) Produce(ctx context.Context, r *kgo.Record, done func(error)) error {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	propagation.TraceContext{}.Inject(ctx, headers{r})
	size := sizeOf(r)
	if err := c.budget.take(ctx, size, c.cfg.Full == Block); err != nil {
		c.metrics.records.WithLabelValues("refused").Inc()
		return err
	}
	if c.stale.Load() {
		c.renew()
	}
	c.accepted.Add(1)
	c.metrics.buffered.Inc()
	c.metrics.bytes.Add(float64(size))
	c.kafka.Produce(context.WithoutCancel(ctx), r, func(_ *kgo.Record, err error) {
		if errors.Is(err, kerr.UnknownTopicID) {
			c.anew.Store(r.Topic, true)
			c.stale.Store(true)
		}
		c.count(err)
		c.metrics.buffered.Dec()
		c.metrics.bytes.Sub(float64(size))
		c.budget.give(size)
		if done != nil {
			done(err)
		}
		c.budget.finish()
	})
	return nil
}

// renew has the Kafka client forget topics that were deleted and made anew: it stays with the id under which it knew a
// topic, and would refuse every record for it until the program is restarted.
func (c *Client) renew() {
	c.stale.Store(false)
	c.anew.Range(func(topic, _ any) bool {
		if _, mine := c.anew.LoadAndDelete(topic); mine {
			c.kafka.PurgeTopicsFromProducing(topic.(string)) //nolint:forcetypeassert // nothing else is stored
		}
		return true
	})
}

func (c *Client) count(err error) {
	o := OutcomeOf(err)
	switch o {
	case Acknowledged:
		c.acknowledged.Add(1)
	case Failed:
		c.failed.Add(1)
	default:
		c.unknown.Add(1)
	}
	c.metrics.records.WithLabelValues(string(o)).Inc()
}

// sizeOf counts as the Kafka client does.
func sizeOf(r *kgo.Record) int {
	size := len(r.Key) + len(r.Value)
	for _, h := range r.Headers {
		size += len(h.Key) + len(h.Value)
	}
	return size
}

// Send encodes and produces one event of a type: a struct with avro tags or a pointer to one, a map[string]any, a JSON
// object as []byte or json.RawMessage, or []codec.Value by the positions of the encoder's type. A *codec.FieldError
// says what is wrong with it.
func (c *Client) Send(ctx context.Context, typeName string, event any, done func(error)) error {
	enc, err := c.codec.Encoder(ctx, typeName)
	if err != nil {
		return err
	}
	r, err := encode(enc, event)
	if err != nil {
		return err
	}
	return c.Produce(ctx, r, done)
}

func encode(enc *codec.Encoder, event any) (*kgo.Record, error) {
	switch event := event.(type) {
	case []byte:
		return enc.EncodeJSON(event)
	case json.RawMessage:
		return enc.EncodeJSON(event)
	case map[string]any:
		b, err := json.Marshal(event)
		if err != nil {
			return nil, &codec.FieldError{Msg: "record is no JSON: " + err.Error()}
		}
		return enc.EncodeJSON(b)
	case []codec.Value:
		return enc.Encode(event)
	default:
		return enc.EncodeStruct(event)
	}
}

// Sender sends events of one Go type as one data type.
type Sender[T any] struct {
	client   *Client
	typeName string
}

// For makes a sender of T, a struct with avro tags. That T fits the type is found at the first Send, which fails if it
// does not.
func For[T any](c *Client, typeName string) *Sender[T] {
	return &Sender[T]{client: c, typeName: typeName}
}

// Send is Client.Send for a T.
func (s *Sender[T]) Send(ctx context.Context, event T, done func(error)) error {
	return s.client.Send(ctx, s.typeName, &event, done)
}

// Flush waits until every record taken so far has its outcome, or ctx has ended.
func (c *Client) Flush(ctx context.Context) error {
	if err := c.kafka.Flush(ctx); err != nil {
		return fmt.Errorf("flushing: %w", err)
	}
	return nil
}

// Report accounts for the records so far. Those still buffered are in Accepted alone.
func (c *Client) Report() Report {
	return Report{
		Acknowledged: c.acknowledged.Load(), Failed: c.failed.Load(), Unknown: c.unknown.Load(),
		Accepted: c.accepted.Load(),
	}
}

// closeWait is how long Close waits for the callbacks of the records that it gives up.
const closeWait = 10 * time.Second

// Close takes no more records and waits until all have their outcome. What has none when ctx ends is given up: its
// callback is called with an error, and it counts as unknown, unless it was never sent. The error is of the wait.
func (c *Client) Close(ctx context.Context) (Report, error) {
	var err error
	c.closing.Do(func() {
		c.budget.close()
		err = c.Flush(ctx)
		c.kafka.Close()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeWait)
		defer cancel()
		c.budget.wait(ctx)
		c.stop()
	})
	r := c.Report()
	r.Unknown = r.Accepted - r.Acknowledged - r.Failed
	return r, err
}

// headers lets a trace be written into a record's headers.
type headers struct{ r *kgo.Record }

func (h headers) Get(key string) string {
	for _, x := range h.r.Headers {
		if x.Key == key {
			return string(x.Value)
		}
	}
	return ""
}

func (h headers) Set(key, value string) {
	for i := range h.r.Headers {
		if h.r.Headers[i].Key == key {
			h.r.Headers[i].Value = []byte(value)
			return
		}
	}
	h.r.Headers = append(h.r.Headers, kgo.RecordHeader{Key: key, Value: []byte(value)})
}

func (h headers) Keys() []string {
	keys := make([]string, len(h.r.Headers))
	for i, x := range h.r.Headers {
		keys[i] = x.Key
	}
	return keys
}
