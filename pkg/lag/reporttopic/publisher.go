package reporttopic

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/pkg/kafka"
	"github.com/millrace/millrace/pkg/lag"
	"github.com/millrace/millrace/pkg/telemetry"
)

const (
	farewell   = time.Second     // for the tombstones of a stop, which must not hold it up
	quietFor   = 5 * time.Minute // between two lines of the log about failures
	maxReport  = 900 << 10       // bytes of one, under what a broker takes of a record; past it the errors are left out
	leastLimit = time.Second     // until a publication is given up, where reports come more often
)

// Source says how one consumer does now.
type Source func(now time.Time) *lag.Report

// Publisher publishes the reports of a process's consumers.
type Publisher struct {
	kafka     []kgo.Opt
	conf      kafka.Config
	every     time.Duration
	tel       telemetry.Set
	sources   []Source
	now       func() time.Time
	host      string
	instance  string
	published map[string]bool // keys that have a report which stands for a consumer at work
	told      time.Time       // when a failure was last logged
	failing   bool
}

// NewPublisher makes one that publishes every so often with a client of its own. The topic is made as conf says where it
// is missing.
func NewPublisher(opts []kgo.Opt, conf kafka.Config, every time.Duration, tel telemetry.Set, sources ...Source) *Publisher {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return &Publisher{
		kafka: opts, conf: conf, every: every, tel: tel, sources: sources, now: time.Now, host: host,
		// Two processes may share a host's name and, in containers, their number.
		instance:  instanceName(fmt.Sprintf("%s-%d-%s", host, os.Getpid(), rand.Text()[:6])),
		published: map[string]bool{},
	}
}

// Instance is the process's name in the topic.
func (p *Publisher) Instance() string { return p.instance }

// Run publishes until ctx ends, then says that the consumers have stopped. What fails is logged now and then: nothing
// depends on it.
func (p *Publisher) Run(ctx context.Context) error {
	cl, err := kgo.NewClient(append(append([]kgo.Opt{}, p.kafka...),
		// What does not come through at once is worth nothing, and the next report says more. So a record may be given up
		// while it is under way, which idempotence does not allow.
		kgo.DisableIdempotentWrite(), kgo.RequiredAcks(kgo.LeaderAck()), kgo.ProducerLinger(0), kgo.MetadataMinAge(leastLimit/2),
		kgo.RecordDeliveryTimeout(p.limit()), kgo.MaxBufferedRecords(4*max(1, len(p.sources))), kgo.UnknownTopicRetries(1),
		kgo.RecordPartitioner(kgo.ManualPartitioner()),
	)...)
	if err != nil {
		return fmt.Errorf("making the Kafka client that publishes reports: %w", err)
	}
	defer cl.Close()
	tick := time.NewTicker(p.every)
	defer tick.Stop()
	for {
		p.round(ctx, cl)
		select {
		case <-ctx.Done():
			p.leave(context.WithoutCancel(ctx), cl)
			return nil
		case <-tick.C:
		}
	}
}

// limit is for how long a publication is tried.
func (p *Publisher) limit() time.Duration { return max(p.every, leastLimit) }

// round publishes each consumer's report once.
func (p *Publisher) round(ctx context.Context, cl *kgo.Client) {
	ctx, cancel := context.WithTimeout(ctx, p.limit())
	defer cancel()
	var records []*kgo.Record
	for _, source := range p.sources {
		r := source(p.now())
		r.Instance, r.Host, r.Every = p.instance, p.host, p.every.Seconds()
		value, err := marshal(r)
		if err != nil {
			p.failed(err)
			continue
		}
		p.published[string(r.Key())] = true
		records = append(records, &kgo.Record{Topic: lag.StatusTopic, Key: r.Key(), Value: value})
	}
	err := produce(ctx, cl, records)
	switch {
	case err == nil:
		if p.failing {
			p.failing = false
			p.tel.Log.Info("reports of the consumers are published again", "topic", lag.StatusTopic)
		}
		return
	case ctx.Err() != nil && errors.Is(context.Cause(ctx), context.Canceled): // the stop
		return
	case errors.Is(err, kerr.UnknownTopicID), errors.Is(err, kerr.UnknownTopicOrPartition):
		cl.PurgeTopicsFromProducing(lag.StatusTopic) // else a client stays with the id of a topic that was deleted
		err = kafka.Create(ctx, kadm.NewClient(cl), Spec(), p.conf.Replication, p.conf.MinISR)
		if err == nil {
			err = produce(ctx, cl, again(records))
		}
	}
	if err != nil {
		p.failed(err)
	}
}

// leave says that the consumers have stopped in order. If it does not come through, the last reports grow old.
func (p *Publisher) leave(ctx context.Context, cl *kgo.Client) {
	ctx, cancel := context.WithTimeout(ctx, farewell)
	defer cancel()
	var records []*kgo.Record
	for key := range p.published {
		records = append(records, &kgo.Record{Topic: lag.StatusTopic, Key: []byte(key)})
	}
	if err := produce(ctx, cl, records); err != nil {
		p.tel.Log.Info("saying that the consumers have stopped; their last reports grow old instead", "topic", lag.StatusTopic, "err", err)
	}
}

func (p *Publisher) failed(err error) {
	p.failing = true
	if now := time.Now(); p.told.IsZero() || now.Sub(p.told) >= quietFor {
		p.told = now
		p.tel.Log.Warn("publishing the reports of the consumers; the next is tried, and who watches the lag knows less until then",
			"topic", lag.StatusTopic, "err", err)
	}
}

// marshal gives a report's bytes, without the errors of its partitions where it would be too large with them.
func marshal(r *lag.Report) ([]byte, error) {
	value, err := json.Marshal(r)
	if err == nil && len(value) > maxReport {
		for i := range r.Partitions {
			r.Partitions[i].Error = ""
		}
		value, err = json.Marshal(r)
	}
	if err != nil {
		return nil, fmt.Errorf("encoding the report of %s: %w", r.Group, err)
	}
	return value, nil
}

// again gives records that the client has not seen.
func again(records []*kgo.Record) []*kgo.Record {
	out := make([]*kgo.Record, len(records))
	for i, r := range records {
		out[i] = &kgo.Record{Topic: r.Topic, Key: r.Key, Value: r.Value}
	}
	return out
}

// produce comes back when ctx ends at the latest, whatever became of the records.
func produce(ctx context.Context, cl *kgo.Client, records []*kgo.Record) error {
	results := make(chan error, len(records))
	for _, r := range records {
		cl.TryProduce(ctx, r, func(_ *kgo.Record, err error) { results <- err })
	}
	var errs []error
	for range records {
		select {
		case err := <-results:
			errs = append(errs, err)
		case <-ctx.Done():
			return errors.Join(append(errs, ctx.Err())...)
		}
	}
	return errors.Join(errs...)
}
