package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/millrace/millrace/pkg/lake"
	"github.com/millrace/millrace/pkg/lakesql"
)

type lakeDeleteCmd struct {
	tableFlags
	Type   string `arg:"" help:"The data type whose rows are to be deleted."`
	Where  string `required:"" placeholder:"CONDITION" help:"Which rows: a condition in SQL on the columns of one row."`
	Purge  bool   `help:"Then forget all earlier states of the table, and remove their files: the rows are in no file of it any more."`
	Yes    bool   `help:"Do it."`
	DryRun bool   `help:"Show what would be deleted, and change nothing."`
	Reason string `placeholder:"TEXT" help:"Why; it is kept in the summary of the commit, so name no person in it. Needed with --yes."`
}

// deleteBatch is how many bytes of files are rewritten for one commit: what the disk needs to have free, about.
const deleteBatch = 8 << 30

// Help is the long text of --help.
func (lakeDeleteCmd) Help() string {
	return `Deletes the rows for which the condition is true, repeats of an event too: it is asked of the rows as they are in the table's
files. The files that have such rows are rewritten without them, and counted in the table, so that millrace lake verify still
adds up. A row for which the condition is unknown, as a comparison with NULL is, stays. The condition is one expression over
the columns of a row; it can read nothing else. now() in it is when the command began.

It is safe beside writers: the table is looked through again until a state of it has no such row. That state, and the offsets
up to which it is, are printed: rows that come later are not deleted. Run it again for those.

Earlier states of the table still have the rows, for as long as lake.snapshots keeps them. With --purge they are forgotten at
once and their files removed, and it is looked that they are gone; a query that reads an earlier state breaks off. A branch or
a tag that somebody made of the table is refused: it would keep its rows.

Not reached are Kafka, the dead letters, Cassandra, Elasticsearch, backups, and files that a process left that died (see
millrace lake orphans): docs/lake.md says what to do about each. Give it --wait.

Example: millrace lake delete log --where "tenant = 'acme'" --purge --reason "contract 17 ended" --yes --wait 1h`
}

func (c *lakeDeleteCmd) Run(ctx context.Context, e *env) (err error) {
	if c.Yes && strings.TrimSpace(c.Reason) == "" {
		return usageError{errors.New("--reason is missing: say why, it is kept in the table's history")}
	}
	s, l, types, err := c.tables(e, c.Type)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, c.Wait)
	defer cancel()
	table, err := l.Open(ctx, types[0])
	if err != nil {
		return err
	}
	if c.Purge {
		if err := table.Purgeable(); err != nil {
			return err
		}
	}
	state, err := table.At(lake.AsOf{})
	if err != nil {
		return err
	}
	where, err := lakesql.OpenWhere(ctx, s.cfg.SQL, types[0].Name, state, c.Where)
	if errors.Is(err, lakesql.ErrCondition) {
		return usageError{fmt.Errorf("--where: %w", err)}
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, where.Close()) }()
	does := c.Yes && !c.DryRun
	done, err := table.Delete(ctx, lake.Deletion{
		Where: where, Reason: c.Reason, Memory: int64(s.cfg.Lake.Table.Compact.Memory), GroupRows: s.cfg.Lake.GroupRows,
		Batch: deleteBatch, DryRun: !does,
	})
	if perr := printDeleted(e.stdout, types[0].Lake.Table, done, does); perr != nil || err != nil {
		return errors.Join(err, perr)
	}
	if c.Purge && !does {
		states, _, err := table.ExpireNow(ctx, lake.Snapshots{Keep: 1}, true)
		if err != nil {
			return err
		}
		fmt.Fprintf(e.stdout, "%s: its %d states up to now would be forgotten, and what only they have removed\n", types[0].Lake.Table, states)
	}
	switch {
	case does && c.Purge:
		return purge(ctx, e.stdout, types[0].Lake.Table, table)
	case c.DryRun:
		fmt.Fprintln(e.stdout, "nothing was changed: a dry run")
	case !c.Yes && (done.Rows > 0 || c.Purge):
		return errors.New("nothing was changed: to have it so, give --yes and --reason")
	}
	return nil
}

func printDeleted(out io.Writer, name string, d lake.Deleted, does bool) error {
	how := "would be deleted"
	if does {
		how = "deleted"
	}
	fmt.Fprintf(out, "%s: %d rows in %d files %s; %d of these have no other rows\n", name, d.Rows, d.Files, how, d.Gone)
	if len(d.Partitions) > 0 {
		w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "PARTITION\tFILES\tROWS\tOF")
		for _, folder := range slices.Sorted(maps.Keys(d.Partitions)) {
			in := d.Partitions[folder]
			fmt.Fprintf(w, "%s\t%d\t%d\t%d\n", plain(folder), in.Files, in.Rows, in.Of)
		}
		if err := w.Flush(); err != nil {
			return err
		}
	}
	if !does || d.Complete.Snapshot == 0 {
		return nil
	}
	fmt.Fprintf(out, "%s: snapshot %d has no such row; rows of these offsets and later are not looked at:", name, d.Complete.Snapshot)
	for _, tp := range slices.SortedFunc(maps.Keys(d.Complete.Next), lake.TopicPartition.Compare) {
		fmt.Fprintf(out, " %s/%d: %d", plain(tp.Topic), tp.Partition, d.Complete.Next[tp])
	}
	_, err := fmt.Fprintln(out)
	return err
}

func purge(ctx context.Context, out io.Writer, name string, table *lake.Table) error {
	p, err := table.Purge(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "%s: %d earlier states forgotten, %d files of theirs are gone\n", name, p.States, p.Files)
	if p.Strays != 0 {
		fmt.Fprintf(out, "%s: %s that no state refers to may hold such rows: of writers under way, and of processes that died; "+
			"in a day's time, run millrace lake orphans --older-than 24h\n", name, strays(p.Strays))
	}
	return nil
}

func strays(n int) string {
	if n < 0 {
		return "files, if there are any,"
	}
	return fmt.Sprintf("%d data files", n)
}
