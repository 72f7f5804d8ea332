package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/pkg/httpserver"
	"github.com/millrace/millrace/pkg/kafka"
	"github.com/millrace/millrace/pkg/status"
	"github.com/millrace/millrace/pkg/stream"
)

// lagCmd shows how far groups are behind.
type lagCmd struct {
	Data   string        `default:".millrace" placeholder:"DIR" help:"Data directory of the running millrace dev (${default})."`
	Config string        `short:"c" placeholder:"FILE" help:"Configuration file of real servers, instead of --data."`
	Group  []string      `placeholder:"NAME" help:"Consumer groups; Millrace's own when none is named."`
	JSON   bool          `name:"json" help:"Print JSON."`
	Wait   time.Duration `default:"5s" help:"For reading the oldest unread records (${default})."`
}

// Help is the long text of --help.
func (lagCmd) Help() string {
	return `A row for each group, topic and partition, worst first. LAG is the end of the log (its last stable offset) minus the
group's commit; a partition without a commit is behind by the whole log. AGE is that of the oldest unread record, by its
time in Kafka; "unknown" is never shown as 0. The lake's commit in Kafka mirrors the offsets in its tables.

Example: millrace lag --config /etc/millrace.yaml --group millrace-lake`
}

func (c *lagCmd) Run(ctx context.Context, e *env) error {
	sinks := []string{"cassandra", "elasticsearch", "lake"}
	if c.Config == "" {
		sinks = []string{devSink, "lake"}
	}
	s, err := e.system(c.Config, c.Data)
	if err != nil {
		return err
	}
	cl, err := kgo.NewClient(s.kafka...)
	if err != nil {
		return fmt.Errorf("making a Kafka client: %w", err)
	}
	defer cl.Close()
	var topics []string
	for _, t := range s.types.All() {
		topics = append(topics, t.TopicName())
	}
	groups := c.Group
	if len(groups) == 0 { // also those that never ran: they are behind by all there is
		for _, name := range sinks {
			groups = append(groups, stream.Group(name))
		}
	}
	if err := known(ctx, cl, c.Group); err != nil {
		return err
	}
	rows, err := kafka.Lag(ctx, cl, groups, topics, c.Wait, e.now)
	if err != nil {
		return err
	}
	if c.JSON {
		return json.NewEncoder(e.stdout).Encode(groupAnswer{AsOf: e.now().UTC(), Rows: groupRows(rows)})
	}
	return printLag(e.stdout, rows)
}

// known refuses groups that the cluster does not have: a slip in a name would look like a consumer that never ran.
func known(ctx context.Context, cl *kgo.Client, groups []string) error {
	if len(groups) == 0 {
		return nil
	}
	listed, err := kadm.NewClient(cl).ListGroups(ctx)
	if err != nil {
		return fmt.Errorf("listing consumer groups: %w", err)
	}
	for _, g := range groups {
		if _, ok := listed[g]; !ok {
			return fmt.Errorf("there is no consumer group %s; there are: %s", g, strings.Join(listed.Groups(), ", "))
		}
	}
	return nil
}

// groupAnswer is what lag --json prints, in the words of /api/v1/lag.
type groupAnswer struct {
	AsOf time.Time  `json:"as_of"`
	Rows []groupRow `json:"rows"`
}

type groupRow struct {
	Group      string   `json:"group"`
	Topic      string   `json:"topic"`
	Partition  int32    `json:"partition"`
	Start      int64    `json:"start"`
	Committed  *int64   `json:"committed"` // null when the group never committed
	End        int64    `json:"end"`
	LagRecords int64    `json:"lag_records"`
	LagSeconds *float64 `json:"lag_seconds"` // null when it is not known
	Method     string   `json:"method,omitempty"`
	Expired    int64    `json:"expired"`
}

func groupRows(rows []kafka.LagRow) []groupRow {
	out := make([]groupRow, len(rows))
	for i, r := range rows {
		out[i] = groupRow{
			Group: r.Group, Topic: r.Topic, Partition: r.Partition, Start: r.Start, End: r.End,
			LagRecords: r.Records, Method: r.Method, Expired: r.Expired,
		}
		if r.Committed >= 0 {
			out[i].Committed = &r.Committed
		}
		if r.Method != kafka.ByNothing {
			seconds := r.Age.Seconds()
			out[i].LagSeconds = &seconds
		}
	}
	return out
}

func printLag(out io.Writer, rows []kafka.LagRow) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "GROUP\tTOPIC\tPARTITION\tCOMMITTED\tEND\tLAG\tAGE (s)\tBY\tEXPIRED\t")
	for _, r := range rows {
		committed, age := "-", "0.0"
		if r.Committed >= 0 {
			committed = strconv.FormatInt(r.Committed, 10)
		}
		switch {
		case r.Method == kafka.ByNothing:
			age = "unknown"
		case r.Method != "":
			age = strconv.FormatFloat(r.Age.Seconds(), 'f', 1, 64)
		}
		fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%d\t%d\t%s\t%s\t%d\t\n", r.Group, r.Topic, r.Partition, committed, r.End, r.Records, age, r.Method, r.Expired)
	}
	return w.Flush()
}

// lagAnswer is what /api/v1/lag answers.
type lagAnswer struct {
	AsOf time.Time `json:"as_of"`
	Rows []lagRow  `json:"rows"`
}

type lagRow struct {
	Destination string   `json:"destination"`
	Topic       string   `json:"topic"`
	Produced    int64    `json:"produced"`
	Applied     int64    `json:"applied"`
	LagRecords  int64    `json:"lag_records"`
	LagSeconds  *float64 `json:"lag_seconds"` // null when it is not known
	State       string   `json:"state,omitempty"`
}

// lagHandler shows what the consumers of this process say of themselves.
func lagHandler(rows func() []status.Row, now func() time.Time) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		out := lagAnswer{AsOf: now().UTC(), Rows: []lagRow{}}
		for _, r := range rows() {
			row := lagRow{
				Destination: r.Destination, Topic: r.Topic, Produced: r.Produced, Applied: r.Applied,
				LagRecords: r.LagRecords(), State: r.State,
			}
			if r.LagKnown {
				seconds := r.Lag.Seconds()
				row.LagSeconds = &seconds
			}
			out.Rows = append(out.Rows, row)
		}
		httpserver.JSON(w, http.StatusOK, out)
	})
}
