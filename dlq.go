package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/millrace/millrace/pkg/dlq"
)

// dlqCmd shows and resolves dead letters.
type dlqCmd struct {
	List    dlqListCmd    `cmd:"" help:"Count dead letters by topic, destination and reason."`
	Show    dlqShowCmd    `cmd:"" help:"Show letters: the record decoded, or its bytes."`
	Replay  dlqReplayCmd  `cmd:"" help:"Publish letters again for the destination that refused them."`
	Discard dlqDiscardCmd `cmd:"" help:"Give letters up, with a reason."`
}

// dlqFlags say where the letters are and which are meant.
type dlqFlags struct {
	Data        string        `default:".millrace" placeholder:"DIR" help:"Data directory of the running millrace dev (${default})."`
	Config      string        `short:"c" placeholder:"FILE" help:"Configuration file of real servers, instead of --data."`
	Topic       string        `placeholder:"NAME" help:"Only letters of this topic, such as millrace.log."`
	Destination string        `aliases:"to" placeholder:"NAME" help:"Only letters that this destination refused (also --to)."`
	Reason      string        `placeholder:"NAME" help:"Only letters of this reason."`
	Wait        time.Duration `default:"1m" help:"For all of it (${default})."`
}

type (
	dlqListCmd struct {
		dlqFlags
		JSON bool `name:"json" help:"Print JSON."`
	}
	dlqShowCmd struct {
		dlqFlags
		Letter string `arg:"" optional:"" help:"One letter, as TOPIC/PARTITION/OFFSET; else the newest."`
		Limit  int    `short:"n" default:"10" help:"How many of the newest (${default})."`
		All    bool   `help:"Resolved letters too."`
		JSON   bool   `name:"json" help:"Print JSON, a letter a line, with all of its bytes."`
	}
	dlqResolve struct {
		Letter []string `arg:"" optional:"" help:"Letters, as TOPIC/PARTITION/OFFSET; else all that the flags leave."`
		Limit  int      `short:"n" default:"1000" help:"Letters at most, oldest first (${default})."`
		DryRun bool     `help:"Say which letters it would be, and change nothing."`
		By     string   `placeholder:"NAME" help:"Who is named in the resolution (this user on this machine)."`
	}
	dlqReplayCmd struct {
		dlqFlags
		dlqResolve
		Why      string        `placeholder:"TEXT" help:"What was repaired; it is kept with the letter."`
		Confirm  time.Duration `default:"30s" help:"Wait so long for the destinations to acknowledge; 0s: not at all (${default})."`
		MaxLoops int           `default:"3" help:"Refuse a record that was replayed so often already (${default})."`
		Force    bool          `help:"Replay it all the same, also one that is being replayed or is of another cluster."`
	}
	dlqDiscardCmd struct {
		dlqFlags
		dlqResolve
		Why string `required:"" placeholder:"TEXT" help:"Why; it is kept with the letter."`
	}
)

// Help is the long text of --help.
func (dlqListCmd) Help() string {
	return `A row for each topic, destination and reason, most open letters first. A letter is OPEN until it is replayed or
discarded, REPLAYING until the destination has acknowledged the replay, then RESOLVED. FIRST and LAST are when a letter of
the row, open or not, was written.

Example: millrace dlq list --config /etc/millrace.yaml --topic millrace.log`
}

// Help is the long text of --help.
func (dlqShowCmd) Help() string {
	return `Without a letter's address: the newest that the flags leave and that are not resolved.

Example: millrace dlq show millrace.log.dlq/0/17`
}

// Help is the long text of --help.
func (dlqReplayCmd) Help() string {
	return `The record's own bytes are published to the topic they came from, marked for the destination that refused them; all
others pass over them. The letter is resolved once the destination has acknowledged it; one that refuses the record again
makes a new letter. The command waits --confirm for that and says how many have; what is not acknowledged by then may be
later, as list and show tell. The exit code is not 0 when a letter could not be replayed, or Kafka gave an error.

Example: millrace dlq replay --destination elasticsearch --reason refused --why "mapping repaired" --dry-run`
}

// Help is the long text of --help.
func (dlqDiscardCmd) Help() string {
	return `Nothing is deleted: a record that says who gave the letter up, when and why is appended to its topic.

Example: millrace dlq discard --reason malformed --topic millrace.log --why "a test client's"`
}

func (c *dlqFlags) filter(letters ...string) (dlq.Filter, error) {
	f := dlq.Filter{Topic: c.Topic, Destination: c.Destination, Reason: c.Reason}
	for _, s := range letters {
		a, err := dlq.ParseAddress(s)
		if err != nil {
			return f, usageError{err}
		}
		f.Letters = append(f.Letters, a)
	}
	return f, nil
}

// box gives the letters.
func (c *dlqFlags) box(e *env) (*dlq.Box, error) {
	s, err := e.system(c.Config, c.Data)
	if err != nil {
		return nil, err
	}
	return s.letters(e.now), nil
}

// letters are the dead letters of the system's types.
func (s *system) letters(now func() time.Time) *dlq.Box {
	return &dlq.Box{
		Kafka: s.kafka, Types: s.types.All(), Now: now, Log: s.tel.With("dlq").Log,
		Decoder: func(typeName string) dlq.Decoder { return s.codec.Decoder(typeName) },
	}
}

// asked makes a mistake in the question one in the command.
func asked(err error) error {
	if errors.Is(err, dlq.ErrQuery) {
		return usageError{err}
	}
	return err
}

func (c *dlqListCmd) Run(ctx context.Context, e *env) error {
	box, err := c.box(e)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, c.Wait)
	defer cancel()
	filter, err := c.filter()
	if err != nil {
		return err
	}
	answer := dlq.Answer{AsOf: e.now().UTC()}
	if answer.Groups, err = box.List(ctx, filter); err != nil {
		return asked(err)
	}
	if c.JSON {
		return json.NewEncoder(e.stdout).Encode(answer)
	}
	if len(answer.Groups) == 0 {
		fmt.Fprintln(e.stdout, "no dead letters")
		return nil
	}
	w := tabwriter.NewWriter(e.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "TOPIC\tDESTINATION\tREASON\tOPEN\tREPLAYING\tRESOLVED\tFIRST\tLAST")
	for _, g := range answer.Groups {
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%d\t%d\t%s\t%s\n", g.Topic, cmp.Or(plain(g.Destination), "-"), cmp.Or(plain(g.Reason), "-"),
			g.Open, g.Replaying, g.Resolved, g.First.Format(time.RFC3339), g.Last.Format(time.RFC3339))
	}
	return w.Flush()
}

func (c *dlqShowCmd) Run(ctx context.Context, e *env) error {
	if c.Limit < 1 {
		return usageError{fmt.Errorf("--limit=%d: it must be at least 1", c.Limit)}
	}
	var one []string
	if c.Letter != "" {
		one = append(one, c.Letter)
	}
	filter, err := c.filter(one...)
	if err != nil {
		return err
	}
	box, err := c.box(e)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, c.Wait)
	defer cancel()
	var letters []*dlq.Letter
	if c.Letter != "" {
		letters = make([]*dlq.Letter, 1)
		letters[0], err = box.Get(ctx, filter.Letters[0])
	} else {
		filter.All = c.All
		letters, err = box.Newest(ctx, filter, c.Limit)
	}
	if err != nil {
		return asked(err)
	}
	for i, l := range letters {
		v := box.View(ctx, l)
		if c.JSON {
			if err := json.NewEncoder(e.stdout).Encode(v); err != nil {
				return fmt.Errorf("printing a letter: %w", err)
			}
			continue
		}
		if i > 0 {
			fmt.Fprintln(e.stdout)
		}
		printLetter(e.stdout, &v)
	}
	return nil
}

// plain takes out what a terminal would obey: a letter's bytes are anybody's.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return unicode.ReplacementChar
	}, s)
}

// printLetter shows a letter to a person.
func printLetter(out io.Writer, v *dlq.View) {
	const most = 512 // bytes in hex
	line := func(name, value string) {
		if value != "" {
			fmt.Fprintf(out, "%-13s %s\n", name, plain(value))
		}
	}
	fmt.Fprintf(out, "%s  %s\n", v.Letter, plain(v.State))
	if r := v.Resolution; r != nil {
		from := strings.TrimSpace(" " + r.From)
		line("  "+r.How, strings.TrimSpace(fmt.Sprintf("by %s at %s  %s", strings.TrimSpace(r.By+" "+from), r.Time.Format(time.RFC3339), r.Why)))
		if r.Replay != nil {
			line("  replay", fmt.Sprintf("%s/%d/%d", r.Replay.Topic, r.Replay.Partition, r.Replay.Offset))
		}
	}
	line("  waits for", v.Waits)
	line("  became", v.Became)
	line("  destination", v.Destination)
	line("  reason", strings.TrimPrefix(v.Class+": "+v.Reason, ": "))
	line("  error", fmt.Sprintf("%.400q", v.Error))
	line("  since", fmt.Sprintf("%s, %d attempts, %d replays", cmp.Or(v.FirstFailure, v.At.Format(time.RFC3339Nano)), v.Attempts, v.Replays))
	line("  origin", printOrigin(&v.Origin))
	if v.First != nil {
		line("  first origin", printOrigin(v.First))
	}
	if v.Key != nil {
		line("  key", fmt.Sprintf("%.200q", v.Key.String()))
	}
	for _, h := range v.Headers {
		if !strings.HasPrefix(h.Name, "millrace.") { // the others are shown above
			line("  header", fmt.Sprintf("%.100q: %.200q", h.Name, h.Value.String()))
		}
	}
	if v.Record != nil {
		line("  record", string(v.Record))
		return
	}
	line("  undecodable", fmt.Sprintf("%.400q", v.Undecodable))
	hex := v.Hex
	if len(hex) > 2*most {
		hex = hex[:2*most] + "... (all of it with --json)"
	}
	line("  bytes", strings.TrimSpace(fmt.Sprintf("%d  %s", v.Bytes, hex)))
}

func printOrigin(o *dlq.Origin) string {
	at := fmt.Sprintf("%s/%d/%d  %s", o.Topic, o.Partition, o.Offset, o.Timestamp)
	if o.Cluster != "" {
		at += "  in cluster " + o.Cluster
	}
	return at
}

func (c *dlqReplayCmd) Run(ctx context.Context, e *env) error {
	if c.Confirm < 0 {
		return usageError{fmt.Errorf("--confirm=%s: it must not be negative", c.Confirm)}
	}
	box, err := c.box(e)
	if err != nil {
		return err
	}
	o := dlq.Order{Why: c.Why, MaxLoops: c.MaxLoops, Force: c.Force}
	report, failed := c.resolve(ctx, e, &c.dlqFlags, o, dlq.Replayed, box.Replay)
	if len(report.Sent) == 0 || c.Confirm == 0 {
		return failed
	}
	ctx, cancel := context.WithTimeout(ctx, c.Confirm+c.Wait)
	defer cancel()
	done, err := box.Confirm(ctx, c.Confirm, report.Sent)
	if err != nil {
		return errors.Join(failed, fmt.Errorf("finding out what became of the replays, which are published: %w", err))
	}
	fmt.Fprintf(e.stdout, "acknowledged: %d; refused again: %d; still waiting: %d\n", done.Stored, done.Refused, done.Waiting)
	return failed
}

func (c *dlqDiscardCmd) Run(ctx context.Context, e *env) error {
	box, err := c.box(e)
	if err != nil {
		return err
	}
	_, err = c.resolve(ctx, e, &c.dlqFlags, dlq.Order{Why: c.Why}, dlq.Discarded, box.Discard)
	return err
}

// resolve replays or discards, a line for each letter.
func (c *dlqResolve) resolve(
	ctx context.Context, e *env, flags *dlqFlags, o dlq.Order, how string,
	do func(context.Context, dlq.Order) (dlq.Report, error),
) (dlq.Report, error) {
	var err error
	if o.Filter, err = flags.filter(c.Letter...); err != nil {
		return dlq.Report{}, err
	}
	if c.DryRun {
		how = "would be " + how
	}
	o.Limit, o.DryRun, o.By = c.Limit, c.DryRun, cmp.Or(c.By, whoami())
	o.Said = func(l *dlq.Letter, err error) {
		if err != nil {
			fmt.Fprintln(e.stderr, plain(err.Error()))
			return
		}
		fmt.Fprintf(e.stdout, "%s  %s  %s  %s\n", l.Address, plain(l.Destination), plain(l.Reason), how)
	}
	ctx, cancel := context.WithTimeout(ctx, flags.Wait)
	defer cancel()
	report, err := do(ctx, o)
	if errors.Is(err, dlq.ErrQuery) {
		return report, usageError{err}
	}
	fmt.Fprintf(e.stdout, "%s: %d", how, report.Done)
	if report.Refused > 0 {
		fmt.Fprintf(e.stdout, "; refused: %d", report.Refused)
	}
	if report.More {
		fmt.Fprint(e.stdout, "; there are more: --limit")
	}
	fmt.Fprintln(e.stdout)
	if err == nil && report.Refused > 0 {
		err = errors.New("not for all of the letters: see above")
	}
	return report, err
}

// whoami is who runs this, for the resolution.
func whoami() string {
	name := "unknown"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	host, err := os.Hostname()
	if err != nil {
		return name
	}
	return name + "@" + host
}
