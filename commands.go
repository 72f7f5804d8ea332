package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/alecthomas/kong"
)

// cli is the whole program on one screen: a field per command.
type cli struct {
	Dev     devCmd     `cmd:"" help:"Run the whole system in this process, on an embedded broker."`
	Run     runCmd     `cmd:"" help:"Run components against real servers."`
	Check   checkCmd   `cmd:"" help:"Validate a configuration file, and with --connect every server in it."`
	Topics  topicsCmd  `cmd:"" help:"Show or make what the data types need on the servers."`
	Send    sendCmd    `cmd:"" help:"Publish NDJSON records through a gateway."`
	SQL     sqlCmd     `cmd:"" name:"sql" help:"Query the lake."`
	Report  reportCmd  `cmd:"" help:"Run a report over the lake, or list the reports."`
	Lake    lakeCmd    `cmd:"" help:"Look after the lake's tables."`
	Lag     lagCmd     `cmd:"" help:"Show how far each consumer is behind."`
	DLQ     dlqCmd     `cmd:"" name:"dlq" help:"Show, replay or discard dead letters."`
	Loadgen loadgenCmd `cmd:"" help:"Publish synthetic records, each with a number and a hash over all its fields."`
	Version versionCmd `cmd:"" help:"Print the version."`
}

// env is what a command is given besides its flags.
type env struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	now            func() time.Time
}

func dispatch(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) error {
	var c cli
	exited := false
	parser, err := kong.New(&c,
		kong.Name("millrace"),
		kong.Description("Operational data, published once to Kafka and pulled from there by everything that wants it."),
		kong.Writers(stdout, stderr),
		kong.Exit(func(int) { exited = true }), // after --help; only main exits
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 110}),
		kong.Vars{"config_help": "Configuration file.", "components": componentNames(), "wait": "1m"},
	)
	if err != nil {
		return fmt.Errorf("building the command line: %w", err)
	}
	k, err := parser.Parse(args)
	if exited {
		return nil
	}
	if err != nil {
		return usageError{err}
	}
	k.BindTo(ctx, (*context.Context)(nil))
	err = k.Run(&env{stdin: stdin, stdout: stdout, stderr: stderr, now: time.Now})
	// An interrupt is how `sql`, `loadgen` and `send` are ended by hand; it is said once, without a chain of causes.
	if err != nil && ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return errors.New("interrupted")
	}
	return err
}
