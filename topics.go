package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/consumers/cassandra"
	"github.com/millrace/millrace/consumers/elasticsearch"
	"github.com/millrace/millrace/pkg/lake"
	"github.com/millrace/millrace/pkg/provision"
)

// topicsCmd shows or makes what the data types need.
type topicsCmd struct {
	Plan  topicsPlanCmd  `cmd:"" help:"Show the difference between what the data types need and what the servers have."`
	Apply topicsApplyCmd `cmd:"" help:"Show the difference, then make it."`
}

type topicsFlags struct {
	Config string   `required:"" short:"c" placeholder:"FILE" help:"${config_help}"`
	Server []string `enum:"kafka,registry,cassandra,elasticsearch,lake" placeholder:"NAME" help:"Only this server: ${enum}. Can be given several times."`
}

type (
	topicsPlanCmd  struct{ topicsFlags }
	topicsApplyCmd struct{ topicsFlags }
)

const topicsHelp = `Topics with their dead letters, registry subjects, the keyspace and tables with their replication, index templates and
Iceberg tables are derived from the data types. Nothing is ever deleted or made smaller.

Example: millrace topics %s --config /etc/millrace.yaml --server kafka --server registry`

// Help is the long text of --help.
func (topicsPlanCmd) Help() string { return fmt.Sprintf(topicsHelp, "plan") }

// Help is the long text of --help.
func (topicsApplyCmd) Help() string { return fmt.Sprintf(topicsHelp, "apply") }

func (c *topicsPlanCmd) Run(ctx context.Context, e *env) error {
	return c.each(ctx, e, func(ctx context.Context, planners []provision.Planner) error {
		changes, err := plan(ctx, planners)
		show(e.stdout, changes)
		return err
	})
}

func (c *topicsApplyCmd) Run(ctx context.Context, e *env) error {
	return c.each(ctx, e, func(ctx context.Context, planners []provision.Planner) error {
		return applyAll(ctx, e.stdout, planners)
	})
}

func (c *topicsFlags) each(ctx context.Context, e *env, fn func(context.Context, []provision.Planner) error) error {
	s, err := e.system(c.Config, "")
	if err != nil {
		return err
	}
	cl, err := kgo.NewClient(s.kafka...)
	if err != nil {
		return fmt.Errorf("making a Kafka client: %w", err)
	}
	defer cl.Close()
	planners, closeAll, err := s.planners(cl, c.Server)
	if err != nil {
		return err
	}
	defer closeAll()
	return fn(ctx, planners)
}

// planners makes one for each chosen server, and a function that ends their connections.
func (s *system) planners(cl *kgo.Client, servers []string) (out []provision.Planner, closeAll func(), err error) {
	wanted := func(name string) bool { return len(servers) == 0 || slices.Contains(servers, name) }
	closeAll = func() {}
	if wanted("kafka") {
		out = append(out, s.kafkaPlanner(kadm.NewClient(cl)))
	}
	if wanted("registry") {
		out = append(out, s.codec.Planner(s.types.All()))
	}
	if wanted("cassandra") {
		c, err := cassandra.New(s.cfg.Cassandra, s.types, s.tel)
		if err != nil {
			return nil, nil, err
		}
		out = append(out, c)
		closeAll = c.Close
	}
	if wanted("elasticsearch") {
		c, err := elasticsearch.New(s.cfg.Elasticsearch, s.types, s.tel)
		if err != nil {
			return nil, nil, err
		}
		out = append(out, c)
	}
	if wanted("lake") {
		l, err := s.lakePlanner()
		if err != nil {
			return nil, nil, err
		}
		out = append(out, l)
	}
	return out, closeAll, nil
}

func (s *system) lakePlanner() (provision.Planner, error) {
	l, err := lake.New(s.cfg.Lake.Table, s.unregistered())
	if err != nil {
		return nil, err
	}
	return l.Planner(s.types.All()), nil
}

func plan(ctx context.Context, planners []provision.Planner) ([]provision.Change, error) {
	var all []provision.Change
	var errs []error
	for _, p := range planners {
		changes, err := p.Plan(ctx)
		all = append(all, changes...)
		errs = append(errs, err)
	}
	return all, errors.Join(errs...)
}

func show(w io.Writer, changes []provision.Change) {
	for _, c := range changes {
		fmt.Fprintf(w, "%s: %s\n  %s\n", c.Server, c.Object, strings.ReplaceAll(c.Detail, "\n", "\n  "))
	}
	if len(changes) == 0 {
		fmt.Fprintln(w, "nothing to do: the servers have what the data types need")
	}
}

// applyAll makes every difference, and goes on after one that could not be made: servers do not depend on each other.
// Where a type is refused it makes nothing.
func applyAll(ctx context.Context, w io.Writer, planners []provision.Planner) error {
	changes, err := plan(ctx, planners)
	if _, refused := errors.AsType[*provision.RefusedError](err); refused {
		return fmt.Errorf("nothing was made: %w", err)
	}
	show(w, changes)
	errs := []error{err}
	for _, c := range changes {
		if err := c.Apply(ctx); err != nil {
			errs = append(errs, fmt.Errorf("%s: %s: %w", c.Server, c.Object, err))
			continue
		}
		fmt.Fprintf(w, "made %s: %s\n", c.Server, c.Object)
	}
	return errors.Join(errs...)
}
