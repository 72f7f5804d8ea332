package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/millrace/millrace/pkg/lake"
	"github.com/millrace/millrace/pkg/lakesql"
)

// sqlCmd queries the lake.
type sqlCmd struct {
	Statement string `arg:"" help:"One SELECT."`
	Data      string `default:".millrace" placeholder:"DIR" help:"Data directory of millrace dev (${default})."`
	Config    string `short:"c" placeholder:"FILE" help:"Configuration file with the lake to query, instead of --data."`
	Format    string `enum:"table,csv,json" default:"table" help:"How to print: ${enum} (${default}). json is one object per line."`
}

// Help is the long text of --help.
func (sqlCmd) Help() string {
	return `A view per data type, named as the type, over the rows that are committed now. DuckDB runs inside this process; it can read
the lake, where its tables are on a local disk, and nothing else, and write nothing. The views of the types that
sql.deduplicate names (usage; in dev mode all) show each event once; others show a row per Kafka record, so that an event
published twice is two rows until compaction.

Example: millrace sql --format csv "select service, count(*) from log where time > now() - interval 1 hour group by all"`
}

func (c *sqlCmd) Run(ctx context.Context, e *env) (err error) {
	s, err := e.system(c.Config, c.Data)
	if err != nil {
		return err
	}
	l, err := lake.New(s.cfg.Lake.Table, s.tel)
	if err != nil {
		return err
	}
	if err := l.RequireLocal(ctx, s.types.All()); err != nil {
		return fmt.Errorf("millrace sql reads tables on a local disk only so far, Spark, Trino or pyiceberg read the others: %w", err)
	}
	db, err := lakesql.Open(ctx, s.cfg.SQL, l, s.types.All())
	if err != nil {
		return fmt.Errorf("opening the lake: %w", err)
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	return db.Query(ctx, c.Statement, e.stdout, c.Format)
}
