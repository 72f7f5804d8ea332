package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/gocql/gocql"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/pkg/codec"
	"github.com/millrace/millrace/pkg/event"
	"github.com/millrace/millrace/pkg/kafka"
	"github.com/millrace/millrace/pkg/schema"
	"github.com/millrace/millrace/pkg/telemetry"
	"github.com/millrace/millrace/schemas"
)

// bench is one run: a data type of its own, as the built-in log but for its name, and so with topics, tables and
// indices that meet nobody else's.
type bench struct {
	run   string
	round int
	typ   *schema.Type
	types *schema.Set
	tel   telemetry.Set
	kafka []kgo.Opt
	codec *codec.Codec
	cfg   kafka.Config
	clock clock
	disk  int64 // bytes that a row has written to files
}

func newBench(run string) (*bench, error) {
	brokers, err := server("MILLRACE_KAFKA")
	if err != nil {
		return nil, err
	}
	registry, err := server("MILLRACE_REGISTRY")
	if err != nil {
		return nil, err
	}
	text, err := fs.ReadFile(schemas.Files, "log.avsc")
	if err != nil {
		return nil, err
	}
	b := &bench{run: run, tel: telemetry.New(os.Stderr, "text", slog.LevelWarn, prometheus.NewRegistry())}
	if b.typ, err = schema.Parse(bytes.Replace(text, []byte(`"name": "log"`), []byte(`"name": "`+run+`"`), 1)); err != nil {
		return nil, err
	}
	if b.types, err = schema.NewSet(b.typ); err != nil {
		return nil, err
	}
	b.cfg = kafka.Default()
	b.cfg.Brokers = brokers
	if b.kafka, err = b.cfg.Opts(b.tel); err != nil {
		return nil, err
	}
	cfg := codec.Default()
	cfg.URLs = registry
	b.codec, err = codec.New(cfg, b.types, b.tel)
	return b, err
}

// bareConsumer is what the bare loops read by, with the client's own settings.
func (b *bench) bareConsumer(row string) (client *kgo.Client, group string, err error) {
	group = fmt.Sprintf("%s-%s-%d", b.run, row, b.round)
	client, err = kgo.NewClient(
		kgo.SeedBrokers(b.cfg.Brokers...), kgo.ConsumerGroup(group), kgo.ConsumeTopics(b.typ.Topic.Name),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.DisableAutoCommit(),
	)
	return client, group, err
}

func (b *bench) keyspace() string { return b.run + "_" + strconv.Itoa(b.round) }
func (b *bench) prefix() string   { return b.run + "-" + strconv.Itoa(b.round) }
func (b *bench) warehouse() string {
	return filepath.Join(os.TempDir(), b.run, "lake-"+strconv.Itoa(b.round))
}

// admin calls fn with a client for Kafka's administration.
func (b *bench) admin(fn func(*kadm.Client) error) error {
	client, err := kgo.NewClient(b.kafka...)
	if err != nil {
		return err
	}
	defer client.Close()
	return fn(kadm.NewClient(client))
}

// provision makes the topic and registers the schema.
func (b *bench) provision(ctx context.Context) error {
	if _, err := b.codec.Register(ctx, b.typ); err != nil {
		return fmt.Errorf("registering the schema: %w", err)
	}
	return b.admin(func(adm *kadm.Client) error {
		return apply(ctx, kafka.NewPlanner(adm, []schema.TopicSpec{b.typ.TopicSpec(), b.typ.DLQSpec()}, 1, 1))
	})
}

// fill produces the records and gives their size on the wire.
func (b *bench) fill(ctx context.Context, count int) (size int, err error) {
	encoder, err := b.codec.Encoder(ctx, b.typ.Name)
	if err != nil {
		return 0, err
	}
	// Evenly over the partitions, whatever the keys.
	opts := slices.Concat(b.kafka, b.cfg.ProducerOpts(), []kgo.Opt{kgo.RecordPartitioner(kgo.RoundRobinPartitioner())})
	client, err := kgo.NewClient(opts...)
	if err != nil {
		return 0, err
	}
	defer client.Close()
	var once sync.Once
	var wrong error
	for i := range count {
		record, err := encoder.Encode(b.values(i))
		if err != nil {
			return 0, err
		}
		size += len(record.Value)
		client.Produce(ctx, record, func(_ *kgo.Record, err error) {
			if err != nil {
				once.Do(func() { wrong = err })
			}
		})
	}
	return size / count, errors.Join(client.Flush(ctx), wrong)
}

// values makes a log of about 300 bytes, like a service's: few distinct services and hosts, a line with numbers in it.
func (b *bench) values(i int) []codec.Value {
	now := time.Now()
	n := strconv.Itoa(i * 7919 % 1_000_003)
	set := map[string]codec.Value{
		"id": codec.StringValue(event.NewID(now)), "time": codec.LongValue(now.UnixMicro()),
		"service": codec.StringValue("service-" + strconv.Itoa(i%20)), "host": codec.StringValue("host-" + strconv.Itoa(i%50)),
		"datacenter": codec.StringValue("dc1"), "tenant": codec.StringValue("default"),
		"severity": codec.StringValue("INFO"), "source": codec.StringValue("/var/log/service.log"),
		"body": codec.StringValue("GET /api/v1/orders/" + n + " 200 in " + strconv.Itoa(i%900) +
			" ms, 1834 bytes sent, upstream 10.0.3." + strconv.Itoa(i%250) + ":8080, cache miss, retried 0 times"),
		"trace_id":   codec.StringValue(fmt.Sprintf("%032x", i)),
		"attributes": codec.MapValue(map[string]string{"route": "/api/v1/orders/{id}", "method": "GET"}),
	}
	return valuesOf(b.typ, set)
}

func valuesOf(typ *schema.Type, set map[string]codec.Value) []codec.Value {
	values := make([]codec.Value, len(typ.Fields))
	for name, v := range set {
		values[typ.Index(name)] = v
	}
	return values
}

// committed holds what a group has committed against what there is.
func (b *bench) committed(ctx context.Context, group string, count int) error {
	return b.admin(func(adm *kadm.Client) error {
		offsets, err := adm.FetchOffsets(ctx, group)
		if err != nil {
			return err
		}
		var sum int64
		offsets.Each(func(o kadm.OffsetResponse) { sum += max(0, o.At) })
		if sum != int64(count) {
			return fmt.Errorf("the group %s has committed %d of %d records", group, sum, count)
		}
		return nil
	})
}

// clean removes what the run made on the servers.
func (b *bench) clean(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	return errors.Join(
		b.admin(func(adm *kadm.Client) error {
			_, err := adm.DeleteTopics(ctx, b.typ.TopicName(), b.typ.DLQName())
			return err
		}),
		b.cleanCassandra(ctx), b.cleanElasticsearch(ctx), os.RemoveAll(filepath.Join(os.TempDir(), b.run)),
	)
}

func (b *bench) cleanCassandra(ctx context.Context) error {
	hosts, err := server("MILLRACE_CASSANDRA")
	if err != nil {
		return err
	}
	cluster := gocql.NewCluster(hosts...)
	cluster.Timeout, cluster.ConnectTimeout = time.Minute, time.Minute
	session, err := cluster.CreateSession()
	if err != nil {
		return fmt.Errorf("cleaning up Cassandra: %w", err)
	}
	defer session.Close()
	var errs []error
	names := session.Query("SELECT keyspace_name FROM system_schema.keyspaces").WithContext(ctx).Iter()
	var name string
	for names.Scan(&name) {
		if len(name) > len(b.run) && name[:len(b.run)] == b.run {
			errs = append(errs, session.Query("DROP KEYSPACE "+name).WithContext(ctx).Exec())
		}
	}
	return errors.Join(append(errs, names.Close())...)
}

func (b *bench) cleanElasticsearch(ctx context.Context) error {
	urls, err := server("MILLRACE_ELASTICSEARCH")
	if err != nil {
		return err
	}
	var errs []error
	for _, path := range []string{"/" + b.run + "*?ignore_unavailable=true", "/_index_template/" + b.run + "*"} {
		req, err := http.NewRequestWithContext(ctx, http.MethodDelete, urls[0]+path, http.NoBody)
		if err != nil {
			return err
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			return fmt.Errorf("cleaning up Elasticsearch: %w", err)
		}
		body, _ := io.ReadAll(res.Body)
		errs = append(errs, res.Body.Close())
		if res.StatusCode/100 != 2 && res.StatusCode != http.StatusNotFound {
			errs = append(errs, fmt.Errorf("cleaning up Elasticsearch: %s: %s", res.Status, body))
		}
	}
	return errors.Join(errs...)
}

// peakBytes is the largest resident size so far: kilobytes, but on macOS bytes.
func peakBytes(u syscall.Rusage) int64 {
	if runtime.GOOS == "darwin" {
		return u.Maxrss
	}
	return u.Maxrss << 10
}
