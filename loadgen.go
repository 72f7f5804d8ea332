package main

import (
	"context"
	"time"

	"github.com/millrace/millrace/pkg/app"
	"github.com/millrace/millrace/producers/loadgen"
)

// loadgenCmd publishes synthetic records.
type loadgenCmd struct {
	Data    string        `default:".millrace" placeholder:"DIR" help:"Data directory of the running millrace dev (${default})."`
	Config  string        `short:"c" placeholder:"FILE" help:"Configuration file of real servers, instead of --data."`
	Types   []string      `default:"metric,log,usage,performance" help:"Data types, in turn (${default})."`
	Count   int64         `help:"Records in all; 0 is until it is stopped."`
	Rate    float64       `default:"100" help:"Records per second; 0 is as fast as Kafka takes them (${default})."`
	Source  string        `default:"loadgen" help:"Name of this run, in each record's attribute loadgen.source (${default})."`
	First   int64         `help:"Sequence number of the first record."`
	Seed    uint64        `default:"1" help:"Of the values: the same seed gives the same values."`
	Spread  time.Duration `help:"Event times lie within this before now."`
	Journal string        `placeholder:"FILE" help:"Write what was intended and what became of it, as NDJSON, for a checker."`
	Plain   bool          `help:"Plain logs of --size bytes, for benchmarks; without hashes."`
	Size    int           `default:"300" help:"Bytes of a plain log on the wire (${default})."`
}

// Help is the long text of --help.
func (loadgenCmd) Help() string {
	return `Each record carries a source, a sequence number and a hash over all its fields in its attributes, so that a checker can prove
what arrived; values go to the limits of their types. Prints throughput and produce latency at the end.

Example: millrace loadgen --config /etc/millrace.yaml --count 100000 --rate 0 --journal sent.ndjson`
}

func (c *loadgenCmd) Run(ctx context.Context, e *env) error {
	s, err := e.system(c.Config, c.Data)
	if err != nil {
		return err
	}
	pub, err := s.publisher()
	if err != nil {
		return err
	}
	gen := loadgen.Default()
	gen.Types, gen.Count, gen.Rate, gen.Source, gen.First, gen.Seed = c.Types, c.Count, c.Rate, c.Source, c.First, c.Seed
	gen.Spread, gen.Journal, gen.Plain, gen.Size = c.Spread, c.Journal, c.Plain, c.Size
	g, err := loadgen.New(gen, pub, s.tel, e.stdout)
	if err != nil {
		return usageError{err}
	}
	// The generator ends by itself when it has sent its count; that ends the client under it.
	ctx, done := context.WithCancel(ctx)
	defer done()
	return app.Run(ctx, gen.Drain+flushWithin,
		app.Part{Name: "registry", Run: s.codec.Run},
		app.Part{Name: "kafka producer", Run: s.runClient(time.Second)}, // the generator has waited for its records
		app.Part{Name: "loadgen", Run: func(ctx context.Context) error {
			defer done()
			return g.Run(ctx)
		}})
}
