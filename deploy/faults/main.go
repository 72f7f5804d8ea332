// Command faults breaks things while records flow, and proves afterwards that nothing was lost and nothing doubled: it
// kills, freezes and cuts off real servers and the processes of Millrace, and reads every destination in full against
// what was sent. `make test-faults` runs it; docs/faults.md says what each scenario does and how to replay one.
//
// It runs in a network namespace and a mount namespace of its own, where packets can be dropped and small disks be
// mounted without anybody else noticing, and where all ports are free.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
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
		fmt.Fprintln(os.Stderr, "faults:", err)
		os.Exit(1) //nolint:forbidigo // this is main
	}
}

type options struct {
	Short  bool          `json:"short"`
	Only   string        `json:"only,omitempty"`
	Seed   uint64        `json:"seed"`
	Broken string        `json:"broken"`
	Soak   time.Duration `json:"soak,omitempty"`
	out    string
	keep   bool
	list   bool
}

func parse(args []string) (options, error) {
	var o options
	flags := flag.NewFlagSet("faults", flag.ContinueOnError)
	flags.BoolVar(&o.Short, "short", false, "every scenario with small volumes and short durations")
	flags.StringVar(&o.Only, "only", "", "numbers of the scenarios to run, separated by commas; none is all of them")
	flags.Uint64Var(&o.Seed, "seed", 0, "replay a run: the seed that its lines say; 0 is a random one")
	flags.StringVar(&o.Broken, "broken", "", "which defective builds the scenarios must catch: all, none, or names separated by commas; without -only it is all, with it none")
	flags.DurationVar(&o.Soak, "soak", 0, "run random scenarios with random seeds for this long instead")
	flags.StringVar(&o.out, "out", ".stack/faults", "directory for results, logs and the servers' data")
	flags.BoolVar(&o.keep, "keep", false, "leave the servers running; the next run takes them over")
	flags.BoolVar(&o.list, "list", false, "print the scenarios and end")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if flags.NArg() > 0 {
		return o, fmt.Errorf("%q is no option", flags.Arg(0))
	}
	if o.Seed == 0 {
		o.Seed = 1 + rand.Uint64N(1_000_000_000) //nolint:gosec // any seed does
	}
	if o.Broken == "" {
		o.Broken = "all"
		if o.Only != "" || o.Soak > 0 {
			o.Broken = "none"
		}
	}
	var err error
	o.out, err = filepath.Abs(o.out)
	return o, err
}

func run(ctx context.Context, args []string, stdout io.Writer) error {
	o, err := parse(args)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	if o.list {
		for _, s := range scenarios() {
			fmt.Fprintf(stdout, "%2d %-22s %s\n", s.number, s.name, s.what)
		}
		return nil
	}
	chosen, err := choose(o.Only)
	if err != nil {
		return err
	}
	variants, err := chooseVariants(o.Broken)
	if err != nil {
		return err
	}
	if !inside() {
		if err := build(ctx, o, variants); err != nil {
			return err
		}
		return enter(ctx, o, append(args, "-seed", strconv.FormatUint(o.Seed, 10)))
	}
	return suite(ctx, o, chosen, variants, stdout)
}

// choose gives the scenarios of these numbers, or all of them.
func choose(numbers string) ([]scenario, error) {
	all := scenarios()
	if numbers == "" {
		return all, nil
	}
	var out []scenario
next:
	for text := range strings.SplitSeq(numbers, ",") {
		n, err := strconv.Atoi(strings.TrimSpace(text))
		if err != nil {
			return nil, fmt.Errorf("-only %s: %q is no number of a scenario; -list prints them", numbers, text)
		}
		for _, s := range all {
			if s.number == n {
				out = append(out, s)
				continue next
			}
		}
		return nil, fmt.Errorf("there is no scenario %d; -list prints them", n)
	}
	return out, nil
}

// suite runs what was chosen on one start of the servers, and fails if any of it does.
func suite(ctx context.Context, o options, chosen []scenario, variants []variant, stdout io.Writer) (err error) {
	begun := time.Now()
	w, err := openWorld(ctx, o)
	if err != nil {
		return err
	}
	defer func() {
		if !o.keep {
			err = errors.Join(err, w.close())
		}
	}()
	fmt.Fprintf(os.Stderr, "faults: the servers run after %.0f s\n", time.Since(begun).Seconds())
	var failed []string
	count := 0
	one := func(s scenario, b build_, seed uint64) result {
		r := w.play(ctx, s, b, seed)
		return r
	}
	say := func(line string, ok bool, name string) {
		fmt.Fprintln(stdout, line)
		count++
		if !ok {
			failed = append(failed, name)
		}
	}
	if o.Soak > 0 {
		soak(ctx, o, chosen, func(s scenario, seed uint64) {
			r := one(s, sound, seed)
			say(r.line(), r.ok(), r.Name)
		})
	} else {
		for _, s := range chosen {
			if ctx.Err() != nil {
				break
			}
			r := one(s, sound, o.Seed)
			say(r.line(), r.ok(), r.Name)
		}
		for _, v := range variants {
			if ctx.Err() != nil {
				break
			}
			line, ok := v.caught(func(s scenario) result { return one(s, v.build(), o.Seed) })
			say(line, ok, v.name)
		}
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("interrupted after %d: %w", count, err)
	}
	fmt.Fprintf(stdout, "%d of %d passed in %.0f s, seed %d, results in %s\n", count-len(failed), count, time.Since(begun).Seconds(), o.Seed, o.out)
	if len(failed) > 0 {
		return fmt.Errorf("failed: %s", strings.Join(failed, ", "))
	}
	return nil
}

// soak plays random scenarios until the time is over.
func soak(ctx context.Context, o options, from []scenario, play func(scenario, uint64)) {
	rnd := rand.New(rand.NewPCG(o.Seed, 0)) //nolint:gosec // to be repeated
	for end := time.Now().Add(o.Soak); time.Now().Before(end) && ctx.Err() == nil; {
		play(from[rnd.IntN(len(from))], 1+rnd.Uint64N(1_000_000_000))
	}
}
