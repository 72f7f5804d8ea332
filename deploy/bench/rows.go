package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/pprof"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/consumers/lake"
	"github.com/millrace/millrace/pkg/provision"
	"github.com/millrace/millrace/pkg/stream"
)

// row is one line of the table. Its run ends when count records are through: consumed, decoded, or durable.
type row struct {
	name, title string
	bare        string // name of the row that does the same work by hand, the limit that this one is held against
	run         func(ctx context.Context, b *bench, count int) error
}

func rows() []row {
	return slices.Concat(consumeRows(), cassandraRows(), elasticsearchRows(), lakeRows())
}

func consumeRows() []row {
	return []row{
		{name: ceiling, title: "franz-go consume", run: func(ctx context.Context, b *bench, count int) error {
			return b.consume(ctx, count, func(*kgo.Record) error { return nil })
		}},
		{name: "decode", title: "consume and decode", run: func(ctx context.Context, b *bench, count int) error {
			d := b.codec.Decoder(b.typ.Name)
			return b.consume(ctx, count, func(r *kgo.Record) error {
				_, err := d.Decode(ctx, r)
				return err
			})
		}},
	}
}

// ceiling is the name of the row that the others' records/s are shown as a share of.
const ceiling = "consume"

func lakeRows() []row {
	return []row{
		{name: "bare-lake", title: "bare loop to Parquet files", run: bareLakeRow},
		{name: "lake", title: "Kafka to the lake", bare: "bare-lake", run: lakeRow},
	}
}

// measure runs one row and prints its result as JSON.
func measure(ctx context.Context, o options, stdout io.Writer) error {
	b, err := newBench(o.run)
	if err != nil {
		return err
	}
	b.round = o.rounds
	if o.profile != "" {
		b.clock.profile = filepath.Join(o.profile, fmt.Sprintf("%s-%d.pprof", o.row, o.rounds))
	}
	for _, r := range rows() {
		if r.name != o.row {
			continue
		}
		if err := r.run(ctx, b, o.count); err != nil {
			return err
		}
		if b.clock.err != nil {
			return fmt.Errorf("profiling: %w", b.clock.err)
		}
		return json.NewEncoder(stdout).Encode(b.result(o.count))
	}
	return fmt.Errorf("there is no row %q", o.row)
}

// clock counts from the moment when there is nothing left to prepare, and profiles what it counts.
type clock struct {
	profile string // file, or empty
	file    *os.File
	err     error // of profiling
	wall    time.Time
	cpu     time.Duration
	took    time.Duration
	used    time.Duration
}

func (c *clock) start() {
	if c.profile != "" {
		if c.file, c.err = os.Create(c.profile); c.err == nil {
			c.err = pprof.StartCPUProfile(c.file)
		}
	}
	c.wall, c.cpu = time.Now(), cpuTime()
}

func (c *clock) stop() {
	c.took, c.used = time.Since(c.wall), cpuTime()-c.cpu
	if c.file != nil {
		pprof.StopCPUProfile()
		c.err = errors.Join(c.err, c.file.Close())
	}
}

func usage() (u syscall.Rusage) {
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u) // fails for a bad argument only
	return u
}

func cpuTime() time.Duration {
	u := usage()
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func (b *bench) result(count int) result {
	return result{
		Seconds: b.clock.took.Seconds(), PerSecond: float64(count) / b.clock.took.Seconds(),
		CPUPerMillion: b.clock.used.Seconds() / float64(count) * 1e6, PeakBytes: peakBytes(usage()), DiskBytes: b.disk,
	}
}

// consume reads the topic from its start.
func (b *bench) consume(ctx context.Context, count int, each func(*kgo.Record) error) error {
	opts := slices.Concat(b.kafka, []kgo.Opt{
		kgo.ConsumeTopics(b.typ.Topic.Name), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
	})
	client, err := kgo.NewClient(opts...)
	if err != nil {
		return err
	}
	defer client.Close()
	b.clock.start()
	var wrong error
	for n := 0; n < count; {
		fetches := client.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			return err
		}
		fetches.EachRecord(func(r *kgo.Record) {
			n++
			if err := each(r); err != nil {
				wrong = err
			}
		})
		if wrong != nil {
			return wrong
		}
	}
	b.clock.stop()
	return nil
}

// sink runs a consumer group until all is durable and committed.
func (b *bench) sink(ctx context.Context, name string, sink stream.Sink, accepted *tally, duties func(context.Context) error, count int) error {
	group := fmt.Sprintf("%s-%s-%d", b.run, name, b.round)
	consumer, err := stream.New(stream.Default(), group, sink, stream.Deps{
		Kafka: b.kafka, Types: b.types.All(), Telemetry: b.tel,
		Decoder: func(typ string) stream.Decoder { return b.codec.Decoder(typ) },
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, 2)
	consuming, stopConsuming := context.WithCancel(ctx)
	defer stopConsuming()
	b.clock.start()
	go func() { ended <- duties(ctx) }()
	go func() { ended <- consumer.Run(consuming) }()
	select {
	case <-accepted.all:
	case err := <-ended:
		return fmt.Errorf("the consumer ended by itself with %d records to go: %w", accepted.left.Load(), err)
	case <-ctx.Done():
		return ctx.Err()
	}
	stopConsuming() // drains: returns when everything is durable
	if err := <-ended; err != nil {
		return err
	}
	b.clock.stop()
	cancel()
	return errors.Join(<-ended, b.committed(context.WithoutCancel(ctx), stream.Group(group), count))
}

// tally counts the records that a sink has accepted. What it has accepted, a stop drains.
type tally struct {
	left atomic.Int64
	all  chan struct{} // closed with the last one
}

func newTally(count int) *tally {
	t := &tally{all: make(chan struct{})}
	t.left.Store(int64(count))
	return t
}

func (t *tally) add(n int) {
	if left := t.left.Add(-int64(n)); left <= 0 && left+int64(n) > 0 {
		close(t.all)
	}
}

// counted is a sink that counts what it accepts.
type counted struct {
	stream.Sink
	accepted *tally
}

func (c counted) Write(ctx context.Context, batch stream.Batch, done func(error)) error {
	return count(ctx, c.Sink, c.accepted, batch, done)
}

// countedLake is the same for the lake, which has more abilities than a sink's.
type countedLake struct {
	*lake.Sink
	accepted *tally
}

func (c countedLake) Write(ctx context.Context, batch stream.Batch, done func(error)) error {
	return count(ctx, c.Sink, c.accepted, batch, done)
}

func count(ctx context.Context, sink stream.Sink, accepted *tally, batch stream.Batch, done func(error)) error {
	err := sink.Write(ctx, batch, done)
	if err == nil {
		accepted.add(len(batch.Records))
	}
	return err
}

func lakeRow(ctx context.Context, b *bench, count int) error {
	cfg := lake.Default()
	cfg.Table.Warehouse = b.warehouse()
	sink, err := lake.New(cfg, b.types, b.kafka, b.tel)
	if err != nil {
		return err
	}
	if err := apply(ctx, sink.Planner()); err != nil {
		return err
	}
	n := newTally(count)
	if err := b.sink(ctx, "lake", countedLake{sink, n}, n, sink.Run, count); err != nil {
		return err
	}
	b.disk, err = sizeOf(cfg.Table.Warehouse)
	return err
}

// sizeOf sums up the files under a folder.
func sizeOf(folder string) (size int64, err error) {
	err = filepath.WalkDir(folder, func(_ string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		size += info.Size()
		return nil
	})
	return size, err
}

func apply(ctx context.Context, p provision.Planner) error {
	changes, err := p.Plan(ctx)
	if err != nil {
		return err
	}
	for _, c := range changes {
		if err := c.Apply(ctx); err != nil {
			return fmt.Errorf("%s: %s: %w", c.Server, c.Object, err)
		}
	}
	return nil
}
