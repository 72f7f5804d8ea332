package main

import (
	"context"

	"github.com/millrace/millrace/consumers/elasticsearch"
)

func elasticsearchRows() []row {
	return []row{
		{name: "bare-elasticsearch", title: "bare loop to Elasticsearch", run: bareElasticsearchRow},
		{name: "elasticsearch", title: "Kafka to Elasticsearch", bare: "bare-elasticsearch", run: elasticsearchRow},
	}
}

func elasticsearchRow(ctx context.Context, b *bench, count int) error {
	store, err := b.elasticsearch(ctx, b.prefix())
	if err != nil {
		return err
	}
	n := newTally(count)
	return b.sink(ctx, "elasticsearch", counted{store, n}, n, store.Run, count)
}

// elasticsearch opens the store and makes the index template.
func (b *bench) elasticsearch(ctx context.Context, prefix string) (*elasticsearch.Store, error) {
	urls, err := server("MILLRACE_ELASTICSEARCH")
	if err != nil {
		return nil, err
	}
	cfg := elasticsearch.Default()
	cfg.URLs, cfg.Prefix, cfg.Replicas = urls, prefix, 0
	store, err := elasticsearch.New(cfg, b.types, b.tel)
	if err != nil {
		return nil, err
	}
	return store, apply(ctx, store)
}
