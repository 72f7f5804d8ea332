package client

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sr"

	"github.com/millrace/millrace/pkg/codec"
	"github.com/millrace/millrace/pkg/kafka"
	"github.com/millrace/millrace/pkg/schema"
	"github.com/millrace/millrace/pkg/telemetry"
)

// Option changes what Dial does.
type Option func(*dialed)

type dialed struct {
	cfg      Config
	kafka    kafka.Config
	registry codec.Config
	tel      telemetry.Set
	kafkaOpt []kgo.Opt
	srOpt    []sr.ClientOpt
}

// WithConfig sets how records are buffered and sent.
func WithConfig(cfg Config) Option { return func(d *dialed) { d.cfg = cfg } }

// WithKafka sets how Kafka is reached: TLS, SASL. Its brokers are Dial's.
func WithKafka(cfg kafka.Config) Option { return func(d *dialed) { d.kafka = cfg } }

// WithRegistry sets how the registry is reached: user, password, time-outs. Its URLs are Dial's.
func WithRegistry(cfg codec.Config) Option { return func(d *dialed) { d.registry = cfg } }

// WithTelemetry sets where logs and metrics go. They go nowhere without it.
func WithTelemetry(tel telemetry.Set) Option { return func(d *dialed) { d.tel = tel } }

// WithKafkaOptions adds options of the Kafka client. What the client promises cannot be changed by them.
func WithKafkaOptions(opts ...kgo.Opt) Option {
	return func(d *dialed) { d.kafkaOpt = append(d.kafkaOpt, opts...) }
}

// WithRegistryOptions adds options of the registry's client.
func WithRegistryOptions(opts ...sr.ClientOpt) Option {
	return func(d *dialed) { d.srOpt = append(d.srOpt, opts...) }
}

// ErrNoTypes says that a registry has no data types: they are put there by `millrace topics apply`.
var ErrNoTypes = errors.New("the registry has no data types: run `millrace topics apply`")

// Dial makes a client for use outside of Millrace's own processes. The data types are those that the registry has; a
// newer version of one is taken up while running. Both Kafka and the registry must answer before ctx ends. Close it.
func Dial(ctx context.Context, brokers, registryURLs []string, opts ...Option) (*Client, error) {
	d := dialed{cfg: Default(), kafka: kafka.Default(), registry: codec.Default(), tel: telemetry.Discard()}
	for _, o := range opts {
		o(&d)
	}
	d.kafka.Brokers, d.registry.URLs = brokers, registryURLs
	kopts, err := d.kafka.Opts(d.tel)
	if err != nil {
		return nil, err
	}
	types, err := codec.Discover(ctx, d.registry, d.tel, d.srOpt...)
	if err != nil {
		return nil, err
	}
	if len(types) == 0 {
		return nil, ErrNoTypes
	}
	set, err := schema.NewSet(types...)
	if err != nil {
		return nil, err
	}
	cdc, err := codec.New(d.registry, set, d.tel, d.srOpt...)
	if err != nil {
		return nil, err
	}
	c, err := New(d.cfg, cdc, d.tel, append(kopts, d.kafkaOpt...))
	if err != nil {
		return nil, err
	}
	if err := c.kafka.Ping(ctx); err != nil {
		c.kafka.Close()
		return nil, fmt.Errorf("reaching Kafka: %w", err)
	}
	c.run(ctx, cdc)
	return c, nil
}

// run follows the registry until Close.
func (c *Client) run(ctx context.Context, cdc *codec.Codec) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	wg.Go(func() { _ = cdc.Run(ctx) }) // it fails never
	c.stop = func() {
		cancel()
		wg.Wait()
	}
}
