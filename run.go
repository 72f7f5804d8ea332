package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/term"

	"github.com/millrace/millrace/pkg/app"
	"github.com/millrace/millrace/pkg/status"
)

// runCmd runs components against real servers.
type runCmd struct {
	Config     string        `required:"" short:"c" placeholder:"FILE" help:"${config_help}"`
	Components []string      `arg:"" optional:"" help:"Which to run; all of them when none is named: ${components}."`
	Status     time.Duration `default:"5s" help:"Interval of the status table on standard output; 0 is off."`
}

// Help is the long text of --help.
func (runCmd) Help() string {
	return `Runs until SIGTERM or an interrupt, then drains: producers stop and what they published is flushed, and at the same time
consumers finish what they hold and commit it. That takes less than 30 s (stream.drain and 13 s), whatever hangs. A second
signal ends the process at once; what was not committed comes again.

Example: millrace run --config /etc/millrace.yaml gateway lake`
}

func (c *runCmd) Run(ctx context.Context, e *env) error {
	chosen, err := choose(c.Components)
	if err != nil {
		return err
	}
	s, err := e.system(c.Config, "")
	if err != nil {
		return err
	}
	for _, part := range chosen {
		if err := part.add(s); err != nil {
			return err
		}
	}
	return s.runParts(ctx, e, c.Status, "")
}

// statusPart prints the address once there is one, and then the table.
func (s *system) statusPart(out io.Writer, every time.Duration, note string) app.Part {
	return app.Part{Name: "status", Run: func(ctx context.Context) error {
		select {
		case <-ctx.Done():
			return nil
		case <-s.http.Listening():
		}
		fmt.Fprintf(out, "millrace: API, metrics and health at http://%s\n", s.http.Addr())
		if every <= 0 || (len(s.consumers) == 0 && s.monitor == nil) {
			<-ctx.Done()
			return nil
		}
		table := status.Table{Out: out, Size: terminal(out), Every: every, Now: time.Now, Rows: s.rows, Lines: s.sentences, Note: note}
		return table.Run(ctx)
	}}
}

// terminal gives the size of the terminal that w is; nil when it is none.
func terminal(w io.Writer) func() (width, height int) {
	f, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return nil
	}
	return func() (int, int) {
		width, height, err := term.GetSize(int(f.Fd()))
		if err != nil {
			return 0, 0
		}
		return width, height
	}
}

// runParts runs a process until it is told to stop, and says that it has stopped.
func (s *system) runParts(ctx context.Context, e *env, every time.Duration, note string, before ...app.Part) error {
	if every < 0 {
		return usageError{fmt.Errorf("--status=%s is negative: give an interval, or 0 for none", every)}
	}
	parts := slices.Concat(before, s.parts(), []app.Part{s.statusPart(e.stdout, every, note)})
	if err := app.Run(ctx, s.stopWithin(), parts...); err != nil {
		return err
	}
	fmt.Fprintln(e.stdout, "millrace: drained and stopped")
	return nil
}

func componentNames() string {
	var names []string
	for _, c := range components() {
		names = append(names, c.name)
	}
	return strings.Join(names, ", ")
}
