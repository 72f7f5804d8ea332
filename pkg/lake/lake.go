// Package lake keeps the batch layer: one Iceberg table of Parquet files per data type, and in each table, in the same
// commit as the rows, the next offset of every source partition.
//
// The guarantee: a row is in a table exactly once. The offsets enter the table in the one transaction that adds the
// files, pinned to the snapshot it was built on, so that no second writer, no retry and no crash can add rows twice or
// leave some out. The consumer group's commit plays no part in it.
package lake

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/apache/iceberg-go/catalog"
	"github.com/apache/iceberg-go/table"

	"github.com/millrace/millrace/pkg/schema"
	"github.com/millrace/millrace/pkg/telemetry"
)

// ErrNoTable says that a type has no table yet.
var ErrNoTable = errors.New("the table does not exist: run `millrace topics apply`")

// Lake opens and makes tables in one catalog.
type Lake struct {
	cfg  Config
	tel  telemetry.Set
	open func(context.Context) (catalog.Catalog, error)

	mu  sync.Mutex
	cat catalog.Catalog
}

// New checks the configuration. The catalog is opened by the first call that needs it.
func New(cfg Config, tel telemetry.Set) (*Lake, error) {
	return NewOn(cfg, tel, func(ctx context.Context) (catalog.Catalog, error) {
		return openCatalog(ctx, cfg)
	})
}

// NewOn is New with another way to open the catalog.
func NewOn(cfg Config, tel telemetry.Set, open func(context.Context) (catalog.Catalog, error)) (*Lake, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	return &Lake{cfg: cfg, tel: tel.With("lake"), open: open}, nil
}

func (l *Lake) catalog(ctx context.Context) (catalog.Catalog, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cat != nil {
		return l.cat, nil
	}
	cat, err := l.open(ctx)
	if err != nil {
		return nil, fmt.Errorf("opening catalog %s: %w", l.cfg.Catalog, err)
	}
	l.cat = cat
	return cat, nil
}

// Ping asks the catalog for its namespace.
func (l *Lake) Ping(ctx context.Context) error {
	cat, err := l.catalog(ctx)
	if err != nil {
		return err
	}
	if _, err := cat.CheckNamespaceExists(ctx, table.Identifier{l.cfg.Namespace}); err != nil {
		return fmt.Errorf("asking for namespace %s: %w", l.cfg.Namespace, err)
	}
	return nil
}

func (l *Lake) identifier(t *schema.Type) table.Identifier {
	return table.Identifier{l.cfg.Namespace, t.Lake.Table}
}

// Open reads a type's table; ErrNoTable where there is none.
func (l *Lake) Open(ctx context.Context, t *schema.Type) (*Table, error) {
	cat, err := l.catalog(ctx)
	if err != nil {
		return nil, err
	}
	ice, err := cat.LoadTable(ctx, l.identifier(t))
	switch {
	case errors.Is(err, catalog.ErrNoSuchTable), errors.Is(err, catalog.ErrNoSuchNamespace):
		return nil, fmt.Errorf("opening table %s: %w", t.Lake.Table, ErrNoTable)
	case err != nil:
		return nil, fmt.Errorf("opening table %s: %w", t.Lake.Table, err)
	}
	return newTable(l, cat, ice, t)
}

// Create makes a type's table, and the namespace, where they are missing.
func (l *Lake) Create(ctx context.Context, t *schema.Type) error {
	cat, err := l.catalog(ctx)
	if err != nil {
		return err
	}
	ns := table.Identifier{l.cfg.Namespace}
	if err := cat.CreateNamespace(ctx, ns, nil); err != nil && !errors.Is(err, catalog.ErrNamespaceAlreadyExists) {
		// A catalog may lose a race against another process with an error of its own, whatever its words.
		if there, _ := cat.CheckNamespaceExists(ctx, ns); !there {
			return fmt.Errorf("creating namespace %s: %w", l.cfg.Namespace, err)
		}
	}
	s, err := shapeOf(t)
	if err != nil {
		return err
	}
	_, err = cat.CreateTable(ctx, l.identifier(t), s.schema, catalog.WithPartitionSpec(&s.spec),
		catalog.WithSortOrder(s.order), catalog.WithProperties(l.tableProperties()))
	if err == nil {
		return nil
	}
	if lerr := l.await(ctx, cat, t); lerr != nil {
		return fmt.Errorf("creating table %s: %w", t.Lake.Table, errors.Join(err, lerr))
	}
	return nil
}

// await waits for a table that another process makes: its folder may be there before there is anything to read.
func (l *Lake) await(ctx context.Context, cat catalog.Catalog, t *schema.Type) error {
	ctx, cancel := context.WithTimeout(ctx, createWait)
	defer cancel()
	for {
		_, err := cat.LoadTable(ctx, l.identifier(t))
		if err == nil {
			return nil
		}
		if wait(ctx, minPause) != nil {
			return err
		}
	}
}

// createWait is for another process to make a table.
const createWait = 10 * time.Second

// tableProperties keep a table's metadata small from its first commit on, for every engine that writes to it.
func (l *Lake) tableProperties() map[string]string {
	return map[string]string{
		table.PropertyFormatVersion:               strconv.Itoa(formatVersion),
		table.MetadataDeleteAfterCommitEnabledKey: "true",
		table.MetadataPreviousVersionsMaxKey:      "20",
		table.ManifestMergeEnabledKey:             "true",
		table.ManifestMinMergeCountKey:            "50",
		table.MaxSnapshotAgeMsKey:                 strconv.FormatInt(l.cfg.Snapshots.Age.Milliseconds(), 10),
		table.MinSnapshotsToKeepKey:               strconv.Itoa(l.cfg.Snapshots.Keep),
		table.ParquetCompressionKey:               "zstd",
	}
}
