package e2e

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/millrace/millrace/consumers/cassandra"
	"github.com/millrace/millrace/consumers/elasticsearch"
	"github.com/millrace/millrace/pkg/codec"
	"github.com/millrace/millrace/pkg/servertest"
	"github.com/millrace/millrace/pkg/telemetry"
)

// On the real servers: 200,000 records of all four types over 6 partitions, while each consumer is restarted once and
// killed once. Everything acknowledged is in Cassandra, in Elasticsearch and in the lake, once, field by field as it was
// sent; the lag returns to 0; and readers that are not ours see the same in the topics and in the lake.
func TestEverythingAcknowledgedArrivesOnce(t *testing.T) {
	servers, ok := servertest.Require(t)
	if !ok {
		return
	}
	w := &world{
		Brokers: servers.Kafka, Registry: servers.Registry, Hosts: servers.Cassandra, Elastic: servers.Elasticsearch,
		Keyspace: servers.Keyspace(t), Prefix: servers.Prefix(t), Age: 2 * time.Second, Session: 10 * time.Second,
	}
	w.open(t)
	w.destinations = []destination{
		{"cassandra", w.scanCassandra(t)},
		{"elasticsearch", w.scanElasticsearch(t)},
		{"lake", scanLake(t, w.types, "--config", w.config)},
	}
	sent := w.run(t, load{count: 200_000, rate: 10_000})
	t.Run("kafka-python and fastavro read the topics", func(t *testing.T) {
		args := append([]string{w.Brokers[0], w.Registry}, w.topics()...)
		sent.judgeReader(t, "topics", w.names(), "readers/topics.py", args...)
	})
	t.Run("pyiceberg reads the lake", func(t *testing.T) {
		for _, typ := range w.types.All() {
			sent.judgeReader(t, "lake", []string{typ.Name}, "readers/lake.py", typ.Name,
				filepath.Join("..", "..", "schemas", typ.Name+".avsc"), filepath.Join(w.Warehouse, "millrace", typ.Name))
		}
	})
	// The last, since it sends more.
	t.Run("the lag that is shown is the log's", func(t *testing.T) { w.lagIsTrue(t, load{count: 120_000, rate: 2000}) })
}

func (w *world) scanCassandra(t *testing.T) scanner {
	t.Helper()
	return func(ctx context.Context, typ string, fn func([]codec.Value) error) error {
		cfg := cassandra.Default()
		cfg.Hosts, cfg.Keyspace = w.Hosts, w.Keyspace
		store, err := cassandra.New(cfg, w.types, telemetry.Discard())
		if err != nil {
			return err
		}
		defer store.Close()
		return store.Scan(ctx, typ, fn)
	}
}

func (w *world) scanElasticsearch(t *testing.T) scanner {
	t.Helper()
	return func(ctx context.Context, typ string, fn func([]codec.Value) error) error {
		cfg := elasticsearch.Default()
		cfg.URLs, cfg.Prefix = []string{w.Elastic}, w.Prefix
		store, err := elasticsearch.New(cfg, w.types, telemetry.Discard())
		if err != nil {
			return err
		}
		return store.Scan(ctx, typ, fn)
	}
}
