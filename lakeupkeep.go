package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/pkg/lake"
	"github.com/millrace/millrace/pkg/schema"
)

// lakeCmd looks after the lake's tables.
type lakeCmd struct {
	Adopt   lakeAdoptCmd   `cmd:"" help:"Let a table that has stopped go on from its topic as it is now."`
	Verify  lakeVerifyCmd  `cmd:"" help:"Prove that every offset is in the tables once, or say what is missing or double."`
	Compact lakeCompactCmd `cmd:"" help:"Merge small files of days that are over: sorted, and each event once."`
	Expire  lakeExpireCmd  `cmd:"" help:"Forget earlier states of the tables, and remove what only they refer to."`
	Orphans lakeOrphansCmd `cmd:"" help:"Remove old files that no state of a table refers to."`
	Delete  lakeDeleteCmd  `cmd:"" help:"Delete rows, as of a tenant or a person, and with --purge what earlier states have of them."`
}

// tableFlags say which lake, and for how long.
type tableFlags struct {
	Data   string        `default:".millrace" placeholder:"DIR" help:"Data directory of millrace dev (${default})."`
	Config string        `short:"c" placeholder:"FILE" help:"Configuration file with the lake, instead of --data."`
	Wait   time.Duration `default:"${wait}" help:"For all of it (${default})."`
}

type lakeAdoptCmd struct {
	tableFlags
	Type   string `arg:"" help:"The data type whose table has stopped."`
	From   string `enum:"start,end" default:"start" help:"Where to begin in another topic or cluster than the table's: ${enum} (${default})."`
	Yes    bool   `help:"Do it."`
	DryRun bool   `help:"Show what would change, and change nothing."`
	Reason string `placeholder:"TEXT" help:"Why; it is kept in the table's history. Needed with --yes."`
}

// Help is the long text of --help.
func (lakeAdoptCmd) Help() string {
	return `A partition of the lake stops, and waits for this decision, when its topic was deleted and made again or belongs to another
cluster (other_source), when somebody rolled the table back (rolled_back), and when the topic's log ends before what the
table has (beyond_end). Shown is where the table says that it stands (TABLE), what the history of its current snapshot
says (HISTORY), what Kafka has (START, END) and where each partition would go on (FROM). With --yes one commit makes it so:

  other_source  the table takes the new cluster and topic, and begins at the start of its log, or with --from end at its end
  rolled_back   the table stands again where its history says; what was rolled back is read again, if Kafka still has it
  beyond_end    the partition goes on at the log's end

No row is removed. Consumers that wait look every 10 s, and go on by themselves.

Example: millrace lake adopt log --reason "topic made anew after the move" --yes`
}

// tables opens the lake and gives the named types, or all.
func (c *tableFlags) tables(e *env, names ...string) (*system, *lake.Lake, []*schema.Type, error) {
	s, err := e.system(c.Config, c.Data)
	if err != nil {
		return nil, nil, nil, err
	}
	l, err := lake.New(s.cfg.Lake.Table, s.tel)
	if err != nil {
		return nil, nil, nil, err
	}
	if len(names) == 0 {
		return s, l, s.types.All(), nil
	}
	var types []*schema.Type
	for _, name := range names {
		i := slices.IndexFunc(s.types.All(), func(t *schema.Type) bool { return t.Name == name })
		if i < 0 {
			return nil, nil, nil, usageError{fmt.Errorf("no data type has the name %q", name)}
		}
		types = append(types, s.types.All()[i])
	}
	return s, l, types, nil
}

func (c *lakeAdoptCmd) Run(ctx context.Context, e *env) error {
	if c.Yes && strings.TrimSpace(c.Reason) == "" {
		return usageError{errors.New("--reason is missing: say why, it is kept in the table's history")}
	}
	s, l, types, err := c.tables(e, c.Type)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, c.Wait)
	defer cancel()
	topic := types[0].Topic.Name
	log, err := s.logOf(ctx, topic)
	if err != nil {
		return err
	}
	table, err := l.Open(ctx, types[0])
	if err != nil {
		return err
	}
	a, err := table.Adoption(topic, log, c.From == "end")
	if err != nil {
		return err
	}
	if err := printAdoption(e.stdout, a); err != nil {
		return err
	}
	switch {
	case !a.Needed():
		fmt.Fprintln(e.stdout, "nothing to do: no partition waits for a decision")
		return nil
	case c.DryRun:
		fmt.Fprintln(e.stdout, "nothing was changed: a dry run")
		return nil
	case !c.Yes:
		return errors.New("nothing was changed: to have it so, give --yes and --reason")
	}
	if err := table.Adopt(ctx, a, c.Reason); err != nil {
		return err
	}
	fmt.Fprintln(e.stdout, "adopted; consumers that wait for it go on within seconds")
	return nil
}

func printAdoption(out io.Writer, a *lake.Adoption) error {
	const known = "%s: cluster %s, topic id %s\n"
	if a.Table == (lake.Source{}) {
		fmt.Fprintln(out, "the table: nothing of this topic is in it")
	} else {
		fmt.Fprintf(out, known, "the table", plain(a.Table.Cluster), plain(a.Table.TopicID))
	}
	fmt.Fprintf(out, known, "Kafka    ", a.Kafka.Cluster, a.Kafka.TopicID)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "PARTITION\tSTATE\tTABLE\tHISTORY\tSTART\tEND\tFROM")
	for _, p := range a.Partitions {
		state := p.State
		if state == lake.AsItIs {
			state = "-"
		}
		fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%s\t%s\t%s\n", p.Partition, state,
			offset(p.Next), offset(p.History), offset(p.Start), offset(p.End), offset(p.From))
	}
	return w.Flush()
}

// offset shows -1 as unknown.
func offset(n int64) string {
	if n < 0 {
		return "-"
	}
	return strconv.FormatInt(n, 10)
}

// logOf asks Kafka for a topic as it is now.
func (s *system) logOf(ctx context.Context, topic string) (lake.Log, error) {
	cl, err := kgo.NewClient(s.kafka...)
	if err != nil {
		return lake.Log{}, fmt.Errorf("making a Kafka client: %w", err)
	}
	defer cl.Close()
	adm := kadm.NewClient(cl)
	meta, err := adm.Metadata(ctx, topic)
	if err != nil {
		return lake.Log{}, fmt.Errorf("asking for topic %s: %w", topic, err)
	}
	if err := meta.Topics[topic].Err; err != nil {
		return lake.Log{}, fmt.Errorf("asking for topic %s: %w", topic, err)
	}
	starts, err := adm.ListStartOffsets(ctx, topic)
	if err = errors.Join(err, starts.Error()); err != nil {
		return lake.Log{}, fmt.Errorf("asking where topic %s starts: %w", topic, err)
	}
	ends, err := adm.ListEndOffsets(ctx, topic)
	if err = errors.Join(err, ends.Error()); err != nil {
		return lake.Log{}, fmt.Errorf("asking where topic %s ends: %w", topic, err)
	}
	log := lake.Log{
		Source:     lake.Source{Cluster: meta.Cluster, TopicID: meta.Topics[topic].ID.String()},
		Partitions: map[int32]lake.Bounds{},
	}
	starts.Each(func(o kadm.ListedOffset) {
		end, _ := ends.Lookup(topic, o.Partition)
		log.Partitions[o.Partition] = lake.Bounds{Start: o.Offset, End: end.Offset}
	})
	return log, nil
}
