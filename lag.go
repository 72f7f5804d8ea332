package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	lagconsumer "github.com/millrace/millrace/consumers/lag"
	"github.com/millrace/millrace/pkg/app"
	"github.com/millrace/millrace/pkg/failpoint"
	"github.com/millrace/millrace/pkg/httpserver"
	"github.com/millrace/millrace/pkg/lag"
	"github.com/millrace/millrace/pkg/lag/reporttopic"
	"github.com/millrace/millrace/pkg/status"
	"github.com/millrace/millrace/pkg/stream"
)

// lagCmd shows how far groups are behind.
type lagCmd struct {
	Data       string        `default:".millrace" placeholder:"DIR" help:"Data directory of the running millrace dev (${default})."`
	Config     string        `short:"c" placeholder:"FILE" help:"Configuration file of real servers, instead of --data."`
	URL        string        `name:"url" placeholder:"URL" help:"Where a process that runs the watcher listens; http.listen of the configuration when none is given."`
	Direct     bool          `help:"Ask the brokers, and no watcher."`
	Group      []string      `placeholder:"NAME" help:"Consumer groups; all that are watched when none is named."`
	Topic      []string      `placeholder:"NAME" help:"Topics; all when none is named."`
	Partitions bool          `help:"A row for each partition that has lag, under its group and topic."`
	Watch      bool          `help:"Draw it again every --every, until an interrupt."`
	Every      time.Duration `default:"2s" help:"Interval of --watch (${default})."`
	JSON       bool          `name:"json" help:"Print JSON, in the form of /api/v1/lag with all partitions."`
	Wait       time.Duration `default:"10s" help:"For an answer (${default})."`
}

// Help is the long text of --help.
func (lagCmd) Help() string {
	return `A row for each group and topic, worst first, and under them a sentence for each that has a cause: what shows it, and
what to do. LAG is the end of the log minus the group's commit, over all partitions: its last stable offset for groups
that read committed records, as Millrace's do, else its high watermark. A group that never committed is behind by the
whole log; one that is ahead is shown so. AGE is that of the oldest unread record on the worst partition: a number where
it is known to a second, from..to where it is not, "unknown" where nothing is known; never 0 for unknown. BY is how it was
found. CATCH-UP is how long the lag takes to be gone at these rates, HEADROOM how long it takes at least until unread
records may be deleted.

It asks the watcher (millrace run lag, millrace dev); where none answers, the brokers themselves, and then there are no
rates, and statuses that take a memory are not known.

The exit code is 3 when anything shown is past its objective or the watcher knows nothing, so that scripts can use it.

Example: millrace lag --config /etc/millrace.yaml --group millrace-lake`
}

// pastObjectiveError is how lag ends when something is.
type pastObjectiveError struct{ what []string }

func (e pastObjectiveError) Error() string {
	return "past the objective, or not known: " + strings.Join(e.what, ", ")
}

func (c *lagCmd) Run(ctx context.Context, e *env) error {
	if c.Every <= 0 || c.Wait <= 0 {
		return usageError{errors.New("--every and --wait take a time above 0")}
	}
	look, err := c.source(e)
	if err != nil {
		return err
	}
	size := terminal(e.stdout)
	screen := &lagScreen{out: e.stdout, size: size, colours: size != nil && os.Getenv("NO_COLOR") == "", partitions: c.Partitions}
	for {
		asking, cancel := context.WithTimeout(ctx, c.Wait)
		v, err := look(asking)
		cancel()
		if err != nil {
			return err
		}
		if v, err = c.choose(v); err != nil {
			return err
		}
		switch {
		case c.JSON:
			err = json.NewEncoder(e.stdout).Encode(v)
		default:
			err = screen.draw(v, c.Watch)
		}
		if err != nil {
			return fmt.Errorf("printing the lag: %w", err)
		}
		if !c.Watch {
			return judge(v)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(c.Every):
		}
	}
}

// judge says what is past its objective.
func judge(v *lag.View) error {
	var what []string
	if v.Blind != "" {
		what = append(what, "everything")
	}
	for _, f := range v.Flows {
		if f.Past {
			what = append(what, f.Group+" on "+f.Topic)
		}
	}
	if len(what) > 0 {
		return pastObjectiveError{what}
	}
	return nil
}

// source gives what shows the lag: a watcher that answers, or a look of our own.
func (c *lagCmd) source(e *env) (func(context.Context) (*lag.View, error), error) {
	if c.URL != "" && c.Config == "" {
		return func(ctx context.Context) (*lag.View, error) { return askWatcher(ctx, c.URL) }, nil
	}
	s, err := e.system(c.Config, c.Data)
	if err != nil {
		return nil, err
	}
	deps := s.lagDeps(e.now, c.Config == "")
	direct := func(ctx context.Context) (*lag.View, error) {
		return lagconsumer.Once(ctx, s.cfg.Lag, deps, time.Second)
	}
	if c.Direct {
		return direct, nil
	}
	address := c.URL
	if address == "" {
		address = "http://" + s.cfg.HTTP.Listen
	}
	said := false
	return func(ctx context.Context) (*lag.View, error) {
		asking, cancel := context.WithTimeout(ctx, 2*time.Second)
		v, err := askWatcher(asking, address)
		cancel()
		if err == nil || c.URL != "" {
			return v, err
		}
		if !said {
			said = true
			fmt.Fprintf(e.stderr, "millrace: no watcher answers at %s (%v): asked the brokers, so there are no rates, and no statuses that take a memory\n", address, err)
		}
		return direct(ctx)
	}, nil
}

// maxViewBytes bounds what a watcher may answer.
const maxViewBytes = 256 << 20

// askWatcher reads the view of a process that watches.
func askWatcher(ctx context.Context, address string) (*lag.View, error) {
	u, err := url.Parse(strings.TrimSuffix(address, "/") + "/api/v1/lag?partitions=all")
	if err != nil {
		return nil, fmt.Errorf("the watcher's address: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, fmt.Errorf("asking the watcher: %w", err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		if refused, ok := errors.AsType[*net.OpError](err); ok {
			err = refused.Err
		}
		return nil, fmt.Errorf("asking the watcher: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusNotFound {
		return nil, errors.New("the process there runs no watcher")
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the watcher answers %s", resp.Status)
	}
	var v lag.View
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxViewBytes)).Decode(&v); err != nil {
		return nil, fmt.Errorf("reading the watcher's answer: %w", err)
	}
	return &v, nil
}

// choose gives what of a view is asked for. A name that nobody has is an error: a slip would look like no lag.
func (c *lagCmd) choose(v *lag.View) (*lag.View, error) {
	groups, topics := map[string]bool{}, map[string]bool{}
	for _, f := range v.Flows {
		groups[f.Group], topics[f.Topic] = true, true
	}
	if v.Blind == "" {
		for _, g := range c.Group {
			if !groups[g] {
				return nil, fmt.Errorf("there is no consumer group %s; there are: %s", g, strings.Join(slices.Sorted(maps.Keys(groups)), ", "))
			}
		}
		for _, t := range c.Topic {
			if !topics[t] {
				return nil, fmt.Errorf("nobody reads a topic %s; they read: %s", t, strings.Join(slices.Sorted(maps.Keys(topics)), ", "))
			}
		}
	}
	out := *v
	out.Flows = []lag.Flow{}
	for _, f := range v.Flows {
		if (len(c.Group) == 0 || slices.Contains(c.Group, f.Group)) && (len(c.Topic) == 0 || slices.Contains(c.Topic, f.Topic)) {
			out.Flows = append(out.Flows, f)
		}
	}
	return &out, nil
}

// lagScreen prints views.
type lagScreen struct {
	out        io.Writer
	size       func() (width, height int)
	colours    bool
	partitions bool
	drawer     status.Drawer
}

func (s *lagScreen) draw(v *lag.View, again bool) error {
	lines := s.lines(v)
	text := strings.Join(lines, "\n") + "\n"
	if again && s.size != nil {
		text = s.drawer.Draw(lines, s.size)
	}
	_, err := io.WriteString(s.out, text)
	return err
}

const (
	red    = "\x1b[31m"
	yellow = "\x1b[33m"
	green  = "\x1b[32m"
	normal = "\x1b[0m"
)

func colourOf(f lag.Status, past bool) string {
	switch {
	case past || f == lag.Stop || f == lag.Stall || f == lag.Err:
		return red
	case f == lag.OK:
		return green
	}
	return yellow
}

func (s *lagScreen) lines(v *lag.View) []string {
	out := []string{fmt.Sprintf("as of %s, %.0f s ago; %d requests", v.AsOf.Local().Format("2006-01-02 15:04:05"), v.Age, v.Calls)}
	if v.AsOf.IsZero() {
		out = []string{"nothing was read yet"}
	}
	if v.Blind != "" {
		out = append(out, s.paint(red, "BLIND: "+v.Blind))
	}
	for _, e := range v.Errors {
		out = append(out, s.paint(yellow, "not read: "+e))
	}
	cells := [][]string{{"GROUP", "TOPIC", "STATUS", "LAG", "AGE (s)", "BY", "IN/S", "OUT/S", "CATCH-UP", "HEADROOM", "EXPIRED", "CAUSE"}}
	paints := []string{""}
	var reasons []string
	for i := range v.Flows {
		f := &v.Flows[i]
		cells = append(cells, []string{
			f.Group, f.Topic, string(f.Status), records(f.Records), age(f.Age), string(f.Age.Method),
			perSecond(f.In), perSecond(f.Out), seconds(f.CatchUp), seconds(f.Headroom), strconv.FormatInt(f.Expired, 10), string(f.Why),
		})
		paints = append(paints, colourOf(f.Status, f.Past))
		if f.Why != "" {
			reasons = append(reasons, fmt.Sprintf("%s on %s: %s: %s. What to do: %s.", f.Group, f.Topic, f.Why, f.Evidence, f.Next))
		}
		if !s.partitions {
			continue
		}
		for j := range f.Rows {
			r := &f.Rows[j]
			if r.Records != nil && *r.Records == 0 {
				continue
			}
			cells = append(cells, []string{
				"", fmt.Sprintf("  partition %d", r.Partition), string(r.Status), records(r.Records),
				age(r.Age), string(r.Age.Method), perSecond(r.In), perSecond(r.Out), seconds(r.CatchUp), seconds(r.Headroom),
				strconv.FormatInt(r.Expired, 10), string(r.Why),
			})
			paints = append(paints, colourOf(r.Status, r.Past))
		}
	}
	for i, l := range status.Align(cells, 0, 1, 2, 5, 11) {
		out = append(out, s.paint(paints[i], l))
	}
	return append(out, reasons...)
}

func (s *lagScreen) paint(colour, line string) string {
	if !s.colours || colour == "" {
		return line
	}
	return colour + line + normal
}

func records(n *int64) string {
	switch {
	case n == nil:
		return "unknown"
	case *n < 0:
		return fmt.Sprintf("ahead by %d", -*n)
	}
	return strconv.FormatInt(*n, 10)
}

// age is one number where it is known to a second.
func age(s lag.Seconds) string {
	number := func(f float64) string { return strconv.FormatFloat(f, 'f', 1, 64) }
	switch {
	case s.Low == nil && s.High == nil:
		return "unknown"
	case s.Low == nil:
		return "to " + number(*s.High)
	case s.High == nil:
		return number(*s.Low) + " or more"
	case *s.High-*s.Low <= 1:
		return number(*s.High)
	}
	return number(*s.Low) + ".." + number(*s.High)
}

func perSecond(f *float64) string {
	if f == nil {
		return "-"
	}
	return strconv.FormatFloat(*f, 'f', 1, 64)
}

// seconds writes a time in two units at most.
func seconds(s *float64) string {
	switch {
	case s == nil:
		return "-"
	case *s < 0:
		return "never"
	case *s >= 48*3600:
		return fmt.Sprintf("%.1fd", *s/86400)
	}
	return time.Duration(*s * float64(time.Second)).Round(time.Second).String()
}

// lagDeps are what the watcher is given. The broker of dev mode keeps the clients' stamps.
func (s *system) lagDeps(now func() time.Time, dev bool) lagconsumer.Deps {
	var topics []string
	for _, t := range s.types.All() {
		topics = append(topics, t.TopicName())
	}
	own, objectives := map[string][]string{}, map[string]time.Duration{}
	for _, name := range s.cfg.Lag.Destinations {
		own[stream.Group(name)] = topics
		objectives[stream.Group(name)] = 30 * time.Second
	}
	// The lake commits at an interval: what waits for less than that, and a little more for the commit, is as it should be.
	objectives[stream.Group("lake")] = s.cfg.Lake.Age + time.Minute
	return lagconsumer.Deps{
		Kafka: s.kafka, Own: own, Objectives: objectives, ClientStamps: dev, Telemetry: s.tel, Now: now,
		Follow: func(ctx context.Context, fn func(group, instance string, r *lag.Report)) error {
			return reporttopic.Follow(ctx, s.kafka, fn)
		},
	}
}

// addLag adds the watcher.
func addLag(s *system) error { return s.watch(false) }

func addDevLag(s *system) error { return s.watch(true) }

func (s *system) watch(dev bool) error {
	deps := s.lagDeps(failpoint.Now, dev)
	run := func(ctx context.Context, m *lagconsumer.Monitor) error { return m.Run(ctx) }
	if dev {
		deps.Follow = s.overhear
	} else {
		var clock *reporttopic.Clock
		deps.Skew = func(ctx context.Context) (time.Duration, error) {
			by, _, err := clock.Skew(ctx)
			return by, err
		}
		run = func(ctx context.Context, m *lagconsumer.Monitor) (err error) {
			if clock, err = reporttopic.NewClock(s.kafka, "lag", failpoint.Now); err != nil {
				return err
			}
			defer clock.Close()
			return m.Run(ctx)
		}
	}
	m, err := lagconsumer.New(s.cfg.Lag, deps)
	if err != nil {
		return err
	}
	s.monitor = m
	s.http.Check("lag", m.Ready)
	m.Register(s.http)
	s.sinks = append(s.sinks, []app.Part{{Name: "lag", Run: func(ctx context.Context) error { return run(ctx, m) }}})
	return nil
}

// overhear gives the watcher what the consumers of the same process say. In dev mode they say it nowhere else: the embedded
// broker does not compact, and would keep every word.
func (s *system) overhear(ctx context.Context, fn func(group, instance string, r *lag.Report)) error {
	tick := time.NewTicker(s.cfg.Lag.Interval)
	defer tick.Stop()
	for {
		for _, d := range s.consumers {
			r := d.consumer.Report(s.api.Now())
			r.Instance, r.Every, r.At = "dev", s.cfg.Lag.Interval.Seconds(), s.api.Now()
			fn(r.Group, r.Instance, r)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// consumersAnswer is what /api/v1/consumers answers.
type consumersAnswer struct {
	AsOf time.Time     `json:"as_of"`
	Rows []consumerRow `json:"rows"`
}

type consumerRow struct {
	Destination string   `json:"destination"`
	Topic       string   `json:"topic"`
	Produced    int64    `json:"produced"`
	Applied     int64    `json:"applied"`
	LagRecords  int64    `json:"lag_records"`
	LagSeconds  *float64 `json:"lag_seconds"` // null when it is not known
	State       string   `json:"state,omitempty"`
}

// consumersHandler shows what the consumers of this process say of themselves.
func consumersHandler(rows func() []status.Row, now func() time.Time) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		out := consumersAnswer{AsOf: now().UTC(), Rows: []consumerRow{}}
		for _, r := range rows() {
			row := consumerRow{
				Destination: r.Destination, Topic: r.Topic, Produced: r.Produced, Applied: r.Applied,
				LagRecords: r.LagRecords(), State: r.State,
			}
			if r.LagKnown {
				row.LagSeconds = new(r.Lag.Seconds())
			}
			out.Rows = append(out.Rows, row)
		}
		httpserver.JSON(w, http.StatusOK, out)
	})
}

// causeOf is what the watcher says of a destination and topic, in a few words.
func causeOf(v *lag.View, group, topic string) string {
	for i := range v.Flows {
		if f := &v.Flows[i]; f.Group == group && f.Topic == topic {
			text := string(f.Why)
			if f.Status != lag.OK {
				text = strings.TrimSpace(string(f.Status) + " " + text)
			}
			return text
		}
	}
	return ""
}

// sentences are the causes that the watcher names, worst first.
func sentences(v *lag.View) []string {
	var out []string
	if v.Blind != "" && !v.AsOf.IsZero() {
		out = append(out, "lag: the watcher is blind: "+v.Blind)
	}
	for i := range v.Flows {
		if f := &v.Flows[i]; f.Why != "" {
			out = append(out, fmt.Sprintf("%s on %s: %s: %s", f.Group, f.Topic, f.Why, f.Evidence))
		}
	}
	return out[:min(len(out), 5)]
}

// flowRows are the watcher's flows as rows of the status table, for a process that has no consumer but it.
func flowRows(v *lag.View) []status.Row {
	var rows []status.Row
	for i := range v.Flows {
		f := &v.Flows[i]
		r := status.Row{Destination: f.Group, Topic: f.Topic, State: causeOf(v, f.Group, f.Topic), LagKnown: f.Records != nil && f.Age.High != nil}
		for j := range f.Rows {
			r.Produced += f.Rows[j].End
		}
		if r.Applied = r.Produced; f.Records != nil {
			r.Applied -= *f.Records
		}
		if r.LagKnown {
			r.Lag = time.Duration(*f.Age.High * float64(time.Second))
		}
		rows = append(rows, r)
	}
	slices.SortStableFunc(rows, func(a, b status.Row) int { return cmp.Compare(a.Destination, b.Destination) })
	return rows
}
