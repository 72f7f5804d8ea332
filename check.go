package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/consumers/cassandra"
	"github.com/millrace/millrace/consumers/elasticsearch"
	lakeconsumer "github.com/millrace/millrace/consumers/lake"
	"github.com/millrace/millrace/pkg/config"
	"github.com/millrace/millrace/pkg/telemetry"
)

// checkCmd validates a configuration file.
type checkCmd struct {
	Config  string        `required:"" short:"c" placeholder:"FILE" help:"${config_help}"`
	Connect bool          `help:"Also ask every server in it for an answer."`
	Timeout time.Duration `default:"10s" help:"For each server's answer (${default})."`
}

// Help is the long text of --help.
func (checkCmd) Help() string {
	return `Builds every component without starting it, prints the configuration in effect with its secrets masked, and the rate that
each type's Cassandra partitions are sized for. Every mistake is reported, each with file, line and key.

Example: millrace check --config /etc/millrace.yaml --connect`
}

func (c *checkCmd) Run(ctx context.Context, e *env) error {
	s, err := e.system(c.Config, "")
	if err != nil {
		return err
	}
	for _, part := range components() {
		if err := part.add(s); err != nil {
			return err
		}
	}
	if err := config.Print(e.stdout, s.cfg); err != nil {
		return err
	}
	for _, t := range s.types.All() {
		fmt.Fprintf(e.stdout, "# type %s: Cassandra partitions stay under 100 MB up to %.0f records/s per key\n", t.Name, t.MaxRate())
	}
	if !c.Connect {
		return nil
	}
	return s.connect(ctx, e.stdout, c.Timeout)
}

// unregistered is for a second instance of a part: metrics can be registered once.
func (s *system) unregistered() telemetry.Set {
	return telemetry.Set{Log: s.tel.Log, Metrics: prometheus.NewRegistry()}
}

// pinger is a server that can be asked for an answer.
type pinger struct {
	name string
	ping func(context.Context) error
}

func (s *system) connect(ctx context.Context, out io.Writer, timeout time.Duration) error {
	cl, err := kgo.NewClient(s.kafka...)
	if err != nil {
		return fmt.Errorf("making a Kafka client: %w", err)
	}
	defer cl.Close()
	cass, err := cassandra.New(s.cfg.Cassandra, s.types, s.unregistered())
	if err != nil {
		return err
	}
	defer cass.Close()
	es, err := elasticsearch.New(s.cfg.Elasticsearch, s.types, s.unregistered())
	if err != nil {
		return err
	}
	lake, err := lakeconsumer.New(s.cfg.Lake, s.types, s.kafka, s.unregistered())
	if err != nil {
		return err
	}
	var errs []error
	for _, p := range []pinger{
		{"kafka", cl.Ping}, {"registry", s.codec.Ping}, {"cassandra", cass.Ping}, {"elasticsearch", es.Ping}, {"lake", lake.Ping},
	} {
		ctx, cancel := context.WithTimeout(ctx, timeout)
		err := p.ping(ctx)
		cancel()
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", p.name, err))
			fmt.Fprintf(out, "# %s: does not answer\n", p.name)
			continue
		}
		fmt.Fprintf(out, "# %s: answers\n", p.name)
	}
	return errors.Join(errs...)
}
