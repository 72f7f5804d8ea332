// Command bench measures what moving logs costs on the real Kafka, per stage: a bare franz-go consume loop, which is the
// ceiling, the same with decoding, and Kafka to each destination. Beside a destination's row stands a bare loop that does
// the same writes by hand, straight on the clients' libraries: the limit that the row is held against.
//
// It fills a topic of 6 partitions with logs of about 300 bytes, then runs each row in a process of its own, so that CPU
// can be counted per row, and prints a table and writes it as JSON. `make bench` runs it.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1) //nolint:forbidigo // this is main
	}
}

type options struct {
	count   int
	rounds  int
	out     string
	reports bool   // measure the reports over the lake instead
	rows    string // names, separated by commas; empty is all
	profile string // folder
	row     string // set in the processes that measure one
	run     string // what this run's topics, tables and indices are named by
}

func run(ctx context.Context, args []string, stdout io.Writer) error {
	var o options
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.IntVar(&o.count, "count", 1_000_000, "records per row")
	flags.IntVar(&o.rounds, "rounds", 3, "how often each row is measured; the median by records/s is shown")
	flags.StringVar(&o.out, "out", "", "file for the results as JSON")
	flags.StringVar(&o.rows, "rows", "", "only these rows, separated by commas: "+strings.Join(names(rows()), ","))
	flags.BoolVar(&o.reports, "reports", false, "instead, write so many rows into tables of a lake and time the reports over them; needs no servers")
	flags.StringVar(&o.profile, "profile", "", "folder for a CPU profile of each row and round")
	flags.StringVar(&o.row, "row", "", "measure this row only, in this process (used by bench itself)")
	flags.StringVar(&o.run, "run", "", "name of the run (used by bench itself)")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if o.count < 6 || o.rounds < 1 {
		return errors.New("-count is at least 6 and -rounds at least 1")
	}
	if step, ok := strings.CutPrefix(o.row, reportsRow+"/"); ok {
		return reportsStep(ctx, o, step, stdout)
	}
	if o.row != "" {
		return measure(ctx, o, stdout)
	}
	if o.reports {
		return measureReports(ctx, o, stdout)
	}
	return all(ctx, o, stdout)
}

// all fills the topic and runs every row in processes of its own, round by round, so that a slow minute of the machine
// does not hit one row only. Every other round goes backwards: what a row leaves behind on the servers, such as indices
// that are still being merged, is not always there for the same one.
func all(ctx context.Context, o options, stdout io.Writer) (err error) {
	chosen, err := choose(o.rows)
	if err != nil {
		return err
	}
	if o.profile != "" {
		if err := os.MkdirAll(o.profile, 0o755); err != nil { //nolint:gosec // profiles are for everybody
			return err
		}
	}
	o.run = fmt.Sprintf("bench%x", time.Now().UnixNano())
	b, err := newBench(o.run)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.clean(context.WithoutCancel(ctx))) }()
	if err := b.provision(ctx); err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "bench: filling the topic with %d records\n", o.count)
	size, err := b.fill(ctx, o.count)
	if err != nil {
		return fmt.Errorf("filling the topic: %w", err)
	}
	measured := map[string][]result{}
	for round := range o.rounds {
		order := slices.Clone(chosen)
		if round%2 == 1 {
			slices.Reverse(order)
		}
		for _, row := range order {
			fmt.Fprintf(os.Stderr, "bench: round %d of %d: %s", round+1, o.rounds, row.title)
			r, err := child(ctx, o, row.name, round)
			if err != nil {
				return fmt.Errorf("row %q: %w", row.title, err)
			}
			fmt.Fprintf(os.Stderr, ": %.0f records/s, %.2f CPU-s per million\n", r.PerSecond, r.CPUPerMillion)
			measured[row.name] = append(measured[row.name], r)
		}
	}
	rep := report{Time: time.Now().UTC(), Go: runtime.Version(), CPUs: runtime.NumCPU(), Records: o.count, RecordBytes: size, Rounds: o.rounds}
	for _, row := range chosen {
		rep.Rows = append(rep.Rows, summarize(row, measured))
	}
	return show(stdout, o.out, rep)
}

func names(rows []row) []string {
	var out []string
	for _, r := range rows {
		out = append(out, r.name)
	}
	return out
}

// choose gives the named rows in the table's order.
func choose(text string) ([]row, error) {
	all := rows()
	if text == "" {
		return all, nil
	}
	wanted := strings.Split(text, ",")
	for _, name := range wanted {
		if !slices.Contains(names(all), name) {
			return nil, fmt.Errorf("-rows: there is no row %q among %s", name, strings.Join(names(all), ", "))
		}
	}
	return slices.DeleteFunc(all, func(r row) bool { return !slices.Contains(wanted, r.name) }), nil
}

// child measures one row. Each round is a group, a table and an index of its own: nothing is there yet.
func child(ctx context.Context, o options, row string, round int) (result, error) {
	self, err := os.Executable()
	if err != nil {
		return result{}, err
	}
	cmd := exec.CommandContext(ctx, self, "-row", row, "-run", o.run, "-count", strconv.Itoa(o.count), "-rounds", strconv.Itoa(round+1), "-profile", o.profile) //nolint:gosec // itself
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return result{}, err
	}
	var r result
	return r, json.Unmarshal(out, &r)
}

// server gives the addresses that the environment names, as for tests.
func server(variable string) ([]string, error) {
	value := os.Getenv(variable)
	if value == "" {
		return nil, fmt.Errorf("%s is empty: start the servers by `make stack` and source .stack/env, or use `make bench`", variable)
	}
	return strings.Split(value, ","), nil
}
