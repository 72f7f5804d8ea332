// Command millrace distributes a company's operational data: published once to Kafka, pulled from there by a speed
// layer, a batch layer and whoever else wants it. See README.md.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	code := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code) //nolint:forbidigo // this is main
}

// Exit codes.
const (
	exitOK      = 0
	exitFailure = 1
	exitUsage   = 2
	exitPast    = 3 // lag: something is past its objective; lake verify: something is missing or double
)

// usageError is a mistake in how the program was called.
type usageError struct{ err error }

func (e usageError) Error() string { return e.err.Error() }
func (e usageError) Unwrap() error { return e.err }

// run is main without the process: tests call it, and only main exits.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	return exitCode(dispatch(ctx, args, stdin, stdout, stderr), stderr)
}

// exitCode says what went wrong, if anything, and how the process ends.
func exitCode(err error, stderr io.Writer) int {
	var (
		usage usageError
		past  pastObjectiveError
		wrong discrepancyError
	)
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &usage):
		fmt.Fprintln(stderr, "millrace:", err)
		fmt.Fprintln(stderr, "Run `millrace --help` for the commands and `millrace COMMAND --help` for one of them.")
		return exitUsage
	case errors.As(err, &past), errors.As(err, &wrong):
		fmt.Fprintln(stderr, "millrace:", err)
		return exitPast
	default:
		fmt.Fprintln(stderr, "millrace:", err)
		return exitFailure
	}
}
