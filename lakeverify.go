package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/millrace/millrace/pkg/config"
	"github.com/millrace/millrace/pkg/lake"
	"github.com/millrace/millrace/pkg/schema"
)

type lakeVerifyCmd struct {
	tableFlags
	Type   []string     `arg:"" optional:"" help:"Data types; else all that have a table."`
	Memory config.Bytes `default:"512MiB" placeholder:"BYTES" help:"Memory for the offsets of a table (${default})."`
	JSON   bool         `name:"json" help:"Print JSON, a table a line."`
}

// Help is the long text of --help.
func (lakeVerifyCmd) Help() string {
	return `Reads from where every row of the current snapshot is, and holds it against the table's own account of each source
partition: rows + dead letters + skipped offsets = next - first, every offset once. Repeats that compaction dropped,
rows that were deleted, and logs that were left with millrace lake adopt, are part of the account. Exit code 3 says that something is missing, double
or in no account; what, is listed.

Memory is a bit for each offset, but for whole blocks of 65536 that are all rows, which take none.

Example: millrace lake verify log --json`
}

// discrepancyError says that a table is not what its account says.
type discrepancyError struct{ tables []string }

func (e discrepancyError) Error() string {
	return "rows and account do not agree: " + strings.Join(e.tables, ", ")
}

func (c *lakeVerifyCmd) Run(ctx context.Context, e *env) error {
	var wrong []string
	err := c.each(ctx, e, c.Type, func(ctx context.Context, _ *system, _ *schema.Type, t *lake.Table) error {
		v, err := t.Verify(ctx, int64(c.Memory))
		if err != nil {
			return err
		}
		if !v.OK() {
			wrong = append(wrong, v.Table)
		}
		if c.JSON {
			return json.NewEncoder(e.stdout).Encode(struct {
				OK bool `json:"ok"`
				*lake.Verification
			}{v.OK(), v})
		}
		return printVerification(e.stdout, v)
	})
	if err == nil && len(wrong) > 0 {
		return discrepancyError{wrong}
	}
	return err
}

// each calls fn for each table in turn. A type that is not named and has no table is passed over.
func (c *tableFlags) each(
	ctx context.Context, e *env, names []string, fn func(context.Context, *system, *schema.Type, *lake.Table) error,
) error {
	s, l, types, err := c.tables(e, names...)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, c.Wait)
	defer cancel()
	for _, typ := range types {
		t, err := l.Open(ctx, typ)
		if errors.Is(err, lake.ErrNoTable) && len(names) == 0 {
			continue
		}
		if err != nil {
			return err
		}
		if err := fn(ctx, s, typ, t); err != nil {
			return err
		}
	}
	return nil
}

func printVerification(out io.Writer, v *lake.Verification) error {
	verdict := "every offset is accounted for, once"
	if !v.OK() {
		verdict = "NOT all is accounted for"
	}
	fmt.Fprintf(out, "%s: %d rows in %d files: %s\n", v.Table, v.Rows, v.Files, verdict)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	if len(v.Partitions) > 0 {
		fmt.Fprintln(w, "PARTITION\tFIRST\tNEXT\tROWS\tDEAD\tSKIPPED\tREPLAYED\tFORMER\tREPEATS\tDELETED\tFOUND\tMISSING\tDOUBLE\tSTRANGE\tSURPLUS")
	}
	for _, p := range v.Partitions {
		fmt.Fprintf(w, "%s/%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\n", plain(p.Topic), p.Partition, p.First, p.Next, p.Rows, p.Dead,
			p.Skipped, p.Replayed, p.Former, p.Repeats, p.Deleted, p.Found, p.Missing, p.Double.Count, p.Strange.Count, p.Surplus)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, p := range v.Partitions {
		if p.OK() {
			continue
		}
		at := fmt.Sprintf("%s/%d", plain(p.Topic), p.Partition)
		if p.Problem != "" {
			fmt.Fprintf(out, "%s: %s\n", at, p.Problem)
		}
		if p.Missing > 0 {
			fmt.Fprintf(out, "%s: missing are %d of the offsets without a row: %s\n", at, p.Missing, printRanges(p.Absent))
		}
		if p.Double.Count > 0 {
			fmt.Fprintf(out, "%s: double are %s\n", at, printRanges(p.Double))
		}
		if p.Strange.Count > 0 {
			fmt.Fprintf(out, "%s: in no account are %s\n", at, printRanges(p.Strange))
		}
		if p.Surplus > 0 {
			fmt.Fprintf(out, "%s: %d more rows than accounted for\n", at, p.Surplus)
		}
	}
	return nil
}

// printRanges lists the first ranges, by their first and last offset.
func printRanges(r lake.Ranges) string {
	const most = 20
	var parts []string
	for _, x := range r.Ranges[:min(most, len(r.Ranges))] {
		if x.Next == x.First+1 {
			parts = append(parts, strconv.FormatInt(x.First, 10))
		} else {
			parts = append(parts, fmt.Sprintf("%d-%d", x.First, x.Next-1))
		}
	}
	if len(r.Ranges) > most || r.More {
		parts = append(parts, "and more (--json)")
	}
	return strings.Join(parts, ", ")
}
