package main

import (
	"context"
	"fmt"
	"time"

	"github.com/millrace/millrace/pkg/lake"
	"github.com/millrace/millrace/pkg/schema"
)

type (
	lakeExpireCmd struct {
		tableFlags
		Type      []string      `arg:"" optional:"" help:"Data types; else all that have a table."`
		OlderThan time.Duration `placeholder:"DURATION" help:"Forget states that are older (lake.snapshots.age)."`
		Keep      int           `placeholder:"N" help:"But never the newest so many (lake.snapshots.keep)."`
		Most      int           `placeholder:"N" help:"And of more than so many the oldest (lake.snapshots.most)."`
		DryRun    bool          `help:"Say how many it would be, and change nothing."`
	}
	lakeOrphansCmd struct {
		tableFlags
		Type      []string      `arg:"" optional:"" help:"Data types; else all that have a table."`
		OlderThan time.Duration `default:"72h" help:"Only files that are older; 24h at least (${default})."`
		DryRun    bool          `help:"List them, and remove nothing."`
	}
)

// Help is the long text of --help.
func (lakeExpireCmd) Help() string {
	return `Each commit is a state of the table that can be read, and set back to, until it is forgotten. Consumers forget them by
themselves; this does it now. It is safe beside writers.

Example: millrace lake expire log --older-than 10m --keep 5`
}

// Help is the long text of --help.
func (lakeOrphansCmd) Help() string {
	return `A process that is killed leaves files behind that are in no table. Only files are removed that no state of the table
refers to, and that are older than any that a commit may still add. It is safe beside writers.

Example: millrace lake orphans --older-than 72h --dry-run`
}

func (c *lakeExpireCmd) Run(ctx context.Context, e *env) error {
	if c.Keep < 0 || c.OlderThan < 0 || c.Most < 0 {
		return usageError{fmt.Errorf("--keep=%d --older-than=%s --most=%d: they must not be negative", c.Keep, c.OlderThan, c.Most)}
	}
	return c.each(ctx, e, c.Type, func(ctx context.Context, s *system, typ *schema.Type, t *lake.Table) error {
		keep := s.cfg.Lake.Table.Snapshots
		if c.Keep > 0 {
			keep.Keep = c.Keep
		}
		if c.OlderThan > 0 {
			keep.Age = c.OlderThan
		}
		if c.Most > 0 {
			keep.Most = c.Most
		}
		before, after, err := t.ExpireNow(ctx, keep, c.DryRun)
		switch {
		case err != nil:
			return err
		case after == before:
			fmt.Fprintf(e.stdout, "%s: %d states, all kept\n", typ.Lake.Table, before)
		case c.DryRun:
			fmt.Fprintf(e.stdout, "%s: %d states, %d would be kept\n", typ.Lake.Table, before, after)
		default:
			fmt.Fprintf(e.stdout, "%s: %d states, %d kept\n", typ.Lake.Table, before, after)
		}
		return nil
	})
}

func (c *lakeOrphansCmd) Run(ctx context.Context, e *env) error {
	return c.each(ctx, e, c.Type, func(ctx context.Context, _ *system, typ *schema.Type, t *lake.Table) error {
		found, err := t.Orphans(ctx, c.OlderThan, c.DryRun)
		if err != nil {
			return err
		}
		for _, path := range found.Files {
			fmt.Fprintln(e.stdout, plain(path))
		}
		how := "removed"
		if c.DryRun {
			how = "would be removed"
		}
		fmt.Fprintf(e.stdout, "%s: %d orphan files of %d bytes %s\n", typ.Lake.Table, len(found.Files), found.Bytes, how)
		return nil
	})
}
