package main

import (
	"context"

	"github.com/millrace/millrace/consumers/cassandra"
)

func cassandraRows() []row {
	return []row{{name: "cassandra", title: "Kafka to Cassandra", run: cassandraRow}}
}

func cassandraRow(ctx context.Context, b *bench, count int) error {
	store, err := b.cassandra()
	if err != nil {
		return err
	}
	if err := apply(ctx, store); err != nil {
		return err
	}
	n := newTally(count)
	return b.sink(ctx, "cassandra", counted{store, n}, n, store.Run, count)
}

func (b *bench) cassandra() (*cassandra.Store, error) {
	hosts, err := server("MILLRACE_CASSANDRA")
	if err != nil {
		return nil, err
	}
	cfg := cassandra.Default()
	cfg.Hosts, cfg.Keyspace = hosts, b.keyspace()
	return cassandra.New(cfg, b.types, b.tel)
}
