package main

import (
	"context"
	"fmt"

	"github.com/millrace/millrace/pkg/lake"
	"github.com/millrace/millrace/pkg/schema"
)

type lakeCompactCmd struct {
	tableFlags
	Type   []string `arg:"" optional:"" help:"Data types; else all that have a table."`
	DryRun bool     `help:"Say what there is to merge, and change nothing."`
}

// Help is the long text of --help.
func (lakeCompactCmd) Help() string {
	return `The small files of each day (or hour) that has been over for lake.compact.after become files of about lake.compact.target,
sorted by the table's order. Of rows with the same event id and time the first by append time stays; what is dropped is
counted in the table, so that millrace lake verify still adds up. Every commit is pinned, and the number of rows and a sum
over their ids are compared before it. It is safe beside writers: it is the one that gives way. The files before stay until
their states are forgotten.

It needs room in the system's temporary folder (TMPDIR) for about four times lake.compact.target. Give it --wait.

Example: millrace lake compact log --wait 1h`
}

func (c *lakeCompactCmd) Run(ctx context.Context, e *env) error {
	return c.each(ctx, e, c.Type, func(ctx context.Context, s *system, typ *schema.Type, t *lake.Table) error {
		cfg := s.cfg.Lake.Table.Compact
		done, err := t.Compact(ctx, lake.Compaction{
			Target: int64(cfg.Target), Memory: int64(cfg.Memory), GroupRows: s.cfg.Lake.GroupRows, After: cfg.After,
			Now: e.now(), DryRun: c.DryRun,
		})
		switch {
		case done.Partitions == 0 && err == nil:
			fmt.Fprintf(e.stdout, "%s: nothing to merge\n", typ.Lake.Table)
		case c.DryRun:
			fmt.Fprintf(e.stdout, "%s: %d files of %d partitions would be merged\n", typ.Lake.Table, done.Before, done.Partitions)
		case done.Partitions > 0:
			fmt.Fprintf(e.stdout, "%s: %d files of %d partitions became %d, %d rows, %d repeats dropped\n",
				typ.Lake.Table, done.Before, done.Partitions, done.After, done.Rows, done.Repeats)
		}
		if done.Lost > 0 {
			fmt.Fprintf(e.stdout, "%s: %d partitions were changed by others meanwhile; run it again for them\n", typ.Lake.Table, done.Lost)
		}
		return err
	})
}
