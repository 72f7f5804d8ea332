package main

import (
	"context"

	"github.com/millrace/millrace/consumers/cassandra"
)

func cassandraRows() []row {
	return []row{
		{name: "bare-cassandra", title: "bare loop to Cassandra", run: bareCassandraRow},
		{name: "cassandra", title: "Kafka to Cassandra", bare: "bare-cassandra", run: cassandraRow},
	}
}

func cassandraRow(ctx context.Context, b *bench, count int) error {
	store, err := b.cassandra(ctx, b.keyspace())
	if err != nil {
		return err
	}
	n := newTally(count)
	return b.sink(ctx, "cassandra", counted{store, n}, n, store.Run, count)
}

// cassandra opens the store and makes the table.
func (b *bench) cassandra(ctx context.Context, keyspace string) (*cassandra.Store, error) {
	hosts, err := server("MILLRACE_CASSANDRA")
	if err != nil {
		return nil, err
	}
	cfg := cassandra.Default()
	cfg.Hosts, cfg.Keyspace = hosts, keyspace
	store, err := cassandra.New(cfg, b.types, b.tel)
	if err != nil {
		return nil, err
	}
	return store, apply(ctx, store)
}
