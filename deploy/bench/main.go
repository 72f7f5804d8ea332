// Command bench measures what moving logs costs on the real Kafka, per stage: a bare franz-go consume loop, which is the
// ceiling, the same with decoding, and Kafka to each destination.
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
	"text/tabwriter"
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
	count  int
	rounds int
	out    string
	row    string // set in the processes that measure one
	run    string // what this run's topics, tables and indices are named by
}

// result is what one row says of itself.
type result struct {
	Row           string  `json:"row"`
	Records       int     `json:"records"`
	Seconds       float64 `json:"seconds"`
	PerSecond     float64 `json:"records_per_second"`
	CPUPerMillion float64 `json:"cpu_seconds_per_million"`
	PeakBytes     int64   `json:"peak_resident_bytes"`
}

// report is what is written as JSON.
type report struct {
	Time        time.Time `json:"time"`
	Go          string    `json:"go"`
	CPUs        int       `json:"cpus"`
	RecordBytes int       `json:"record_bytes"` // on the wire, uncompressed
	Rounds      int       `json:"rounds"`       // the median of each row is shown
	Rows        []result  `json:"rows"`
}

func run(ctx context.Context, args []string, stdout io.Writer) error {
	var o options
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.IntVar(&o.count, "count", 1_000_000, "records per row")
	flags.IntVar(&o.rounds, "rounds", 3, "how often each row is measured; the median by records/s is shown")
	flags.StringVar(&o.out, "out", "", "file for the results as JSON")
	flags.StringVar(&o.row, "row", "", "measure this row only, in this process (used by bench itself)")
	flags.StringVar(&o.run, "run", "", "name of the run (used by bench itself)")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if o.count < 6 || o.rounds < 1 {
		return errors.New("-count is at least 6 and -rounds at least 1")
	}
	if o.row != "" {
		return measure(ctx, o, stdout)
	}
	return all(ctx, o, stdout)
}

// all fills the topic and runs every row in processes of its own, round by round, so that a slow minute of the machine
// does not hit one row only.
func all(ctx context.Context, o options, stdout io.Writer) (err error) {
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
		for _, row := range rows() {
			fmt.Fprintf(os.Stderr, "bench: round %d of %d: %s\n", round+1, o.rounds, row.title)
			r, err := child(ctx, o, row.name, round)
			if err != nil {
				return fmt.Errorf("row %q: %w", row.title, err)
			}
			measured[row.name] = append(measured[row.name], r)
		}
	}
	rep := report{Time: time.Now().UTC(), Go: runtime.Version(), CPUs: runtime.NumCPU(), RecordBytes: size, Rounds: o.rounds}
	for _, row := range rows() {
		r := median(measured[row.name])
		r.Row = row.title
		rep.Rows = append(rep.Rows, r)
	}
	return show(stdout, o.out, rep)
}

func median(rs []result) result {
	slices.SortFunc(rs, func(a, b result) int {
		if a.PerSecond < b.PerSecond {
			return -1
		}
		return 1
	})
	return rs[len(rs)/2]
}

// child measures one row. Each round is a group, a table and an index of its own: nothing is there yet.
func child(ctx context.Context, o options, row string, round int) (result, error) {
	self, err := os.Executable()
	if err != nil {
		return result{}, err
	}
	cmd := exec.CommandContext(ctx, self, "-row", row, "-run", o.run, "-count", strconv.Itoa(o.count), "-rounds", strconv.Itoa(round+1)) //nolint:gosec // itself
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return result{}, err
	}
	var r result
	return r, json.Unmarshal(out, &r)
}

func show(stdout io.Writer, path string, rep report) error {
	ceiling := rep.Rows[0].PerSecond
	w := tabwriter.NewWriter(stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "row\trecords/s\tof the ceiling\tCPU-s per million\tpeak MiB\t")
	for _, r := range rep.Rows {
		fmt.Fprintf(w, "%s\t%.0f\t%.0f %%\t%.2f\t%d\t\n", r.Row, r.PerSecond, 100*r.PerSecond/ceiling, r.CPUPerMillion, r.PeakBytes>>20)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(stdout, "%d records of %d bytes, 6 partitions, median of %d rounds, %d CPUs shared with the servers\n",
		rep.Rows[0].Records, rep.RecordBytes, rep.Rounds, rep.CPUs)
	if path == "" {
		return nil
	}
	data, err := json.MarshalIndent(rep, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(data, '\n'), 0o644) //nolint:gosec // results are for everybody
}

// server gives the addresses that the environment names, as for tests.
func server(variable string) ([]string, error) {
	value := os.Getenv(variable)
	if value == "" {
		return nil, fmt.Errorf("%s is empty: start the servers by `make stack` and source .stack/env, or use `make bench`", variable)
	}
	return strings.Split(value, ","), nil
}
