package main

import (
	"context"
	"fmt"
	"net/url"
	"text/tabwriter"
	"time"

	"github.com/millrace/millrace/deploy/reports"
	"github.com/millrace/millrace/pkg/lakesql"
	"github.com/millrace/millrace/pkg/serve"
)

// reportCmd runs one of the reports over the lake.
type reportCmd struct {
	Name      string `arg:"" optional:"" help:"Which report; without it they are listed."`
	From      string `default:"-1d" placeholder:"TIME" help:"Begin of the period (${default})."`
	To        string `default:"now" placeholder:"TIME" help:"End of the period, which is not in it (${default})."`
	Tenant    string `placeholder:"NAME" help:"Of one tenant only."`
	lakeFlags `embed:""`
}

// Help is the long text of --help.
func (reportCmd) Help() string {
	return `Times are now, -5m, -2d, 2006-01-02 (its begin, UTC), 2006-01-02T15:04:05Z, or seconds since 1970. A report is a SELECT in
deploy/reports, and is built into the binary; for one of your own use millrace sql.

Example: millrace report usage --from 2026-10-01 --to 2026-11-01 --format csv`
}

// reportBack is how far a report reaches back unless told otherwise; --from says it too.
const reportBack = 24 * time.Hour

func (c *reportCmd) Run(ctx context.Context, e *env) error {
	if c.Name == "" {
		return c.list(e)
	}
	r, err := reports.Get(c.Name)
	if err != nil {
		return usageError{err}
	}
	from, to, err := serve.TimeRange(url.Values{"from": {c.From}, "to": {c.To}}, e.now(), reportBack)
	if err != nil {
		return usageError{err}
	}
	variables := map[string]any{"from": from, "to": to, "tenant": nil}
	if c.Tenant != "" {
		variables["tenant"] = c.Tenant
	}
	fmt.Fprintf(e.stderr, "%s from %s to %s\n", r.Name, from.Format(time.RFC3339Nano), to.Format(time.RFC3339Nano))
	reads, err := c.query(ctx, e, lakesql.Request{Statement: r.SQL, Variables: variables})
	for _, read := range reads {
		if read.Snapshot != 0 && read.ValidThrough.Before(to) {
			fmt.Fprintf(e.stderr, "%s is not complete up to the end of the period: more may come in\n", read.Type)
		}
	}
	return err
}

func (c *reportCmd) list(e *env) error {
	all, err := reports.All()
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(e.stdout, 0, 0, 2, ' ', 0)
	for _, r := range all {
		fmt.Fprintf(w, "%s\t%s\n", r.Name, r.Doc)
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("listing reports: %w", err)
	}
	return nil
}
