package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	lakeconsumer "github.com/millrace/millrace/consumers/lake"
	"github.com/millrace/millrace/pkg/app"
	"github.com/millrace/millrace/pkg/config"
	"github.com/millrace/millrace/pkg/devbroker"
	"github.com/millrace/millrace/pkg/devstore"
	"github.com/millrace/millrace/pkg/lakesql"
	"github.com/millrace/millrace/pkg/provision"
)

// devCmd runs everything in this process.
type devCmd struct {
	Data   string        `default:".millrace" placeholder:"DIR" help:"Where everything is kept (${default})."`
	Listen string        `default:"127.0.0.1:9470" placeholder:"HOST:PORT" help:"Address of the API (${default})."`
	Type   []string      `placeholder:"FILE" help:"Annotated Avro schema of a further data type; can be given several times."`
	Commit time.Duration `default:"10s" help:"Interval of the lake's commits (${default})."`
	Status time.Duration `default:"2s" help:"Interval of the status table; 0 is off."`
}

// Help is the long text of --help.
func (devCmd) Help() string {
	return `The broker is kfake, in process and without replication; one DuckDB store takes the place of Cassandra and
Elasticsearch; the lake is on local disk. Input is this machine's metrics and logs, and whatever is sent to the
gateway. It is for trying, developing and tests, not for production. Started again on the same directory it goes on
where it stopped, also after kill -9.

Example: millrace dev --data /tmp/millrace --listen 127.0.0.1:9999`
}

// devSink is the destination that takes the place of Cassandra and Elasticsearch.
const devSink = "store"

const stopWithin = 10 * time.Second // for the embedded broker, after everything else has stopped

func (c *devCmd) Run(ctx context.Context, e *env) error {
	data, err := filepath.Abs(c.Data)
	if err != nil {
		return fmt.Errorf("finding the data directory: %w", err)
	}
	if err := free(c.Listen); err != nil { // before anything is made or joined
		return err
	}
	broker, err := devbroker.Start(filepath.Join(data, "broker"))
	if err != nil {
		return err
	}
	logs, note, err := devLogs(e, data)
	if err != nil {
		return errors.Join(err, broker.Close(ctx))
	}
	defer logs.Close()
	s, err := newDevSystem(c, data, broker, logs)
	if err == nil {
		err = writeDevConfig(filepath.Join(data, devConfigFile), s.cfg)
	}
	if err == nil {
		err = s.provisionDev(ctx)
	}
	if err != nil {
		return errors.Join(err, broker.Close(ctx))
	}
	fmt.Fprintf(e.stdout, "millrace dev: everything in this process, kept in %s; not for production\n", c.Data)
	return s.runParts(ctx, e, c.Status, note, app.Part{Name: "embedded broker", Run: func(ctx context.Context) error {
		<-ctx.Done()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopWithin)
		defer cancel()
		return broker.Close(ctx)
	}})
}

// free says whether an address can be listened on.
func free(addr string) error {
	l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", addr)
	if err != nil {
		return fmt.Errorf("--listen %s: %w: give another address", addr, err)
	}
	return l.Close()
}

// devConfig is the configuration of dev mode: the defaults, faster, on the embedded servers.
func devConfig(c *devCmd, data string, broker *devbroker.Broker) (*Config, error) {
	cfg := DefaultConfig()
	cfg.HTTP.Listen = c.Listen
	for _, file := range c.Type {
		abs, err := filepath.Abs(file)
		if err == nil {
			_, err = os.Stat(abs)
		}
		if err != nil {
			return nil, usageError{fmt.Errorf("--type %s: %w", file, err)}
		}
		cfg.Types.Files = append(cfg.Types.Files, abs)
	}
	cfg.Kafka.Brokers = broker.Brokers()
	cfg.Kafka.Replication, cfg.Kafka.MinISR = 1, 1
	cfg.Registry.URLs = []string{broker.RegistryURL()}
	cfg.Registry.Refresh = 2 * time.Second
	cfg.Lake = devLake(data, c.Commit)
	cfg.SQL.Deduplicate = []string{lakesql.All} // little data, and agents are killed often
	cfg.Stream.Report = 0                       // the watcher is in the process
	cfg.Lag.Interval, cfg.Lag.Destinations = 2*time.Second, []string{devSink, "lake"}
	cfg.Lag.History = filepath.Join(data, "lag")
	cfg.Hostmetrics.Interval = 2 * time.Second
	cfg.Hostmetrics.Spool = filepath.Join(data, "hostmetrics")
	cfg.Logtail.State = filepath.Join(data, "logtail")
	return cfg, cfg.Validate()
}

// devLake is where dev mode's lake lies.
func devLake(data string, commit time.Duration) lakeconsumer.Config {
	cfg := lakeconsumer.Default()
	cfg.Table.Warehouse = filepath.Join(data, "lake")
	cfg.Age = commit
	cfg.Table.Snapshots.Age = 10 * time.Minute // each commit leaves a snapshot, and there are many
	return cfg
}

func newDevSystem(c *devCmd, data string, broker *devbroker.Broker, logs io.Writer) (*system, error) {
	cfg, err := devConfig(c, data, broker)
	if err != nil {
		return nil, err
	}
	s, err := newSystem(cfg, logs)
	if err != nil {
		return nil, err
	}
	storeCfg := devstore.Default()
	storeCfg.Path = filepath.Join(data, "store.duckdb")
	store, err := devstore.New(storeCfg, s.types, s.tel)
	if err != nil {
		return nil, err
	}
	s.api.Series, s.api.Search = store, store
	if err := s.sink(devSink, store, store.Run); err != nil {
		return nil, err
	}
	for _, add := range []func(*system) error{addLake, addDevLag, addGateway, addHostmetrics, addLogtail} {
		if err := add(s); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// provisionDev makes topics, subjects and lake tables, as `topics apply` does on real servers.
func (s *system) provisionDev(ctx context.Context) error {
	cl, err := kgo.NewClient(s.kafka...)
	if err != nil {
		return fmt.Errorf("reaching the embedded broker: %w", err)
	}
	defer cl.Close()
	lake, err := s.lakePlanner()
	if err != nil {
		return err
	}
	return applyAll(ctx, io.Discard, []provision.Planner{s.kafkaPlanner(kadm.NewClient(cl)), s.codec.Planner(s.types.All()), lake})
}

// devConfigFile lets other commands find the running system: millrace lag, topics, loadgen.
const devConfigFile = "dev.yaml"

func writeDevConfig(path string, cfg *Config) error {
	var out bytes.Buffer
	out.WriteString("# Written by `millrace dev` at each start: where its broker, registry and lake are.\n")
	if err := config.Print(&out, cfg); err != nil {
		return err
	}
	if err := os.WriteFile(path, out.Bytes(), 0o600); err != nil {
		return fmt.Errorf("writing the addresses of the embedded servers: %w", err)
	}
	return nil
}

// devLogs keeps log lines out of a table that refreshes in place.
func devLogs(e *env, data string) (w io.WriteCloser, note string, err error) {
	if terminal(e.stdout) == nil {
		return nopCloser{e.stderr}, "", nil
	}
	path := filepath.Join(data, "millrace.log")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600) //nolint:gosec // inside the data directory
	if err != nil {
		return nil, "", fmt.Errorf("opening the log: %w", err)
	}
	return f, "Ctrl-C stops. Log: " + path, nil
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }
