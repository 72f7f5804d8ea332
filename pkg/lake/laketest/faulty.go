// Package laketest gives tests a catalog whose commits fail on demand.
package laketest

import (
	"context"
	"fmt"
	"sync"

	"github.com/apache/iceberg-go/catalog"
	"github.com/apache/iceberg-go/catalog/hadoop"
	"github.com/apache/iceberg-go/table"
)

// Catalog is a catalog with faults.
type Catalog struct {
	catalog.Catalog

	mu     sync.Mutex
	before func() error
	after  func() error
	load   func() error
}

// New opens the hadoop catalog of a warehouse.
func New(warehouse string) (*Catalog, error) {
	inner, err := hadoop.NewCatalog("test", warehouse, nil)
	if err != nil {
		return nil, fmt.Errorf("opening catalog: %w", err)
	}
	return &Catalog{Catalog: inner}, nil
}

// On gives another catalog faults.
func On(inner catalog.Catalog) *Catalog { return &Catalog{Catalog: inner} }

// Open gives the catalog to lake.NewOn.
func (c *Catalog) Open(context.Context) (catalog.Catalog, error) { return c, nil }

// Before runs f ahead of each commit; its error is the commit's, which then does not happen. Nil takes it back.
func (c *Catalog) Before(f func() error) { c.set(&c.before, f) }

// After runs f once a commit has happened; its error hides that.
func (c *Catalog) After(f func() error) { c.set(&c.after, f) }

// Load runs f ahead of each read of a table.
func (c *Catalog) Load(f func() error) { c.set(&c.load, f) }

func (c *Catalog) set(hook *func() error, f func() error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	*hook = f
}

func (c *Catalog) run(hook *func() error) error {
	c.mu.Lock()
	f := *hook
	c.mu.Unlock()
	if f == nil {
		return nil
	}
	return f()
}

// LoadTable gives a table that commits through c.
func (c *Catalog) LoadTable(ctx context.Context, id table.Identifier) (*table.Table, error) {
	if err := c.run(&c.load); err != nil {
		return nil, err
	}
	t, err := c.Catalog.LoadTable(ctx, id)
	if err != nil {
		return nil, err
	}
	return table.New(t.Identifier(), t.Metadata(), t.MetadataLocation(), t.FS, c), nil
}

// CommitTable commits, with the faults asked for.
func (c *Catalog) CommitTable(ctx context.Context, id table.Identifier, reqs []table.Requirement, updates []table.Update) (table.Metadata, string, error) {
	if err := c.run(&c.before); err != nil {
		return nil, "", err
	}
	meta, location, err := c.Catalog.CommitTable(ctx, id, reqs, updates)
	if err != nil {
		return nil, "", err
	}
	if err := c.run(&c.after); err != nil {
		return nil, "", err
	}
	return meta, location, nil
}
