package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/millrace/millrace/pkg/config"
	"github.com/millrace/millrace/pkg/lake"
	"github.com/millrace/millrace/pkg/lakesql"
)

// lakeFlags choose a lake, a state of it, and how to print what is read of it.
type lakeFlags struct {
	Data   string `default:".millrace" placeholder:"DIR" help:"Data directory of millrace dev (${default})."`
	Config string `short:"c" placeholder:"FILE" help:"Configuration file with the lake to query, instead of --data."`
	AsOf   string `name:"as-of" placeholder:"STATE" help:"Read an earlier state: a snapshot's id, or a time in RFC 3339."`
	Format string `enum:"table,csv,json,parquet" default:"table" help:"How to print: ${enum} (${default}). json is one object per line."`
}

// sqlCmd queries the lake.
type sqlCmd struct {
	Statement string `arg:"" help:"One SELECT."`
	lakeFlags `embed:""`
}

// Help is the long text of --help.
func (sqlCmd) Help() string {
	return `A view per data type, named as the type, over the rows that are committed now, or were at --as-of. DuckDB runs inside this
process; it can read the lake and nothing else, and write nothing; files on an object store come into sql.cache first. The views
of the types that sql.deduplicate names (usage; in dev mode all) show each event once; others show a row per Kafka record, so
that an event published twice is two rows until compaction. Conditions on time, on offsets and on words choose the files that
are opened.

To standard error goes, for each table that was read, up to when it is complete (valid through), its snapshot, how many
of its files were opened, and how much of them was fetched from an object store.

Example: millrace sql --format csv "select service, count(*) from log where time > now() - interval 1 hour group by all"`
}

func (c *sqlCmd) Run(ctx context.Context, e *env) error {
	_, err := c.query(ctx, e, lakesql.Request{Statement: c.Statement})
	return err
}

// query runs a statement over the lake and says what was read.
func (f *lakeFlags) query(ctx context.Context, e *env, r lakesql.Request) ([]lakesql.Read, error) {
	asOf, err := lake.ParseAsOf(f.AsOf)
	if err != nil {
		return nil, usageError{fmt.Errorf("--as-of: %w", err)}
	}
	if f.Format == lakesql.Parquet && terminal(e.stdout) != nil {
		return nil, usageError{errors.New("--format parquet is not for a terminal: send it to a file")}
	}
	s, err := e.system(f.Config, f.Data)
	if err != nil {
		return nil, err
	}
	l, err := lake.New(s.cfg.Lake.Table, s.tel)
	if err != nil {
		return nil, err
	}
	db, err := lakesql.Open(ctx, s.cfg.SQL, l, s.types.All(), asOf)
	if err != nil {
		return nil, fmt.Errorf("opening the lake: %w", err)
	}
	a, err := db.Query(ctx, r, e.stdout, f.Format)
	if err != nil {
		return nil, err
	}
	for _, r := range a.Reads {
		fmt.Fprintln(e.stderr, readLine(r))
	}
	return a.Reads, nil
}

// readLine says of a table that was read what a person wants to know of it.
func readLine(r lakesql.Read) string {
	if r.Snapshot == 0 {
		return r.Type + ": nothing is committed yet"
	}
	through := "valid through: not known yet"
	if !r.ValidThrough.IsZero() {
		through = "valid through " + r.ValidThrough.Format(time.RFC3339Nano)
	}
	of := ""
	if r.Of > 0 {
		of = fmt.Sprintf(" of %d", r.Of)
	}
	fetched := ""
	if r.Bytes > 0 {
		fetched = fmt.Sprintf(", %s of %s fetched", config.Bytes(r.Fetched).Rounded(), config.Bytes(r.Bytes).Rounded())
	}
	return fmt.Sprintf("%s: %s; snapshot %d of %s; %d%s files opened%s", r.Type, through, r.Snapshot, r.Committed.Format(time.RFC3339Nano), r.Files, of, fetched)
}
