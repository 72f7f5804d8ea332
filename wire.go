package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/consumers/cassandra"
	"github.com/millrace/millrace/consumers/elasticsearch"
	lagconsumer "github.com/millrace/millrace/consumers/lag"
	lakeconsumer "github.com/millrace/millrace/consumers/lake"
	"github.com/millrace/millrace/pkg/app"
	"github.com/millrace/millrace/pkg/client"
	"github.com/millrace/millrace/pkg/codec"
	"github.com/millrace/millrace/pkg/failpoint"
	"github.com/millrace/millrace/pkg/httpserver"
	"github.com/millrace/millrace/pkg/kafka"
	"github.com/millrace/millrace/pkg/lag/reporttopic"
	"github.com/millrace/millrace/pkg/lake"
	"github.com/millrace/millrace/pkg/lakesql"
	"github.com/millrace/millrace/pkg/provision"
	"github.com/millrace/millrace/pkg/schema"
	"github.com/millrace/millrace/pkg/serve"
	"github.com/millrace/millrace/pkg/status"
	"github.com/millrace/millrace/pkg/stream"
	"github.com/millrace/millrace/pkg/telemetry"
	"github.com/millrace/millrace/producers/gateway"
	"github.com/millrace/millrace/producers/hostmetrics"
	"github.com/millrace/millrace/producers/logtail"
)

// component is a part that can be named on the command line.
type component struct {
	name string
	help string
	add  func(*system) error
}

// components are all of them. Producers come last: whoever depends on others is started after them and stopped before.
func components() []component {
	return []component{
		{"cassandra", "store events in Cassandra", addCassandra},
		{"elasticsearch", "index events in Elasticsearch", addElasticsearch},
		{"lake", "store events as Parquet in Iceberg tables", addLake},
		{"lag", "watch how far every consumer group is behind, and why", addLag},
		{"gateway", "accept events over HTTP", addGateway},
		{"hostmetrics", "publish this machine's metrics", addHostmetrics},
		{"logtail", "publish this machine's logs", addLogtail},
	}
}

// system is one process as it is put together: nothing here does any I/O before its parts run.
type system struct {
	cfg   *Config
	tel   telemetry.Set
	types *schema.Set
	codec *codec.Codec
	kafka []kgo.Opt
	http  *httpserver.Server
	api   *serve.API
	held  *stream.Budget // of all consumers

	monitor   *lagconsumer.Monitor // nil where none runs in this process
	client    *client.Client       // made when the first producer asks for it
	consumers []destination
	sinks     [][]app.Part // for each consumer the sink that it writes to, and itself
	producers [][]app.Part
}

// destination is a running consumer, by its component's name.
type destination struct {
	name     string
	consumer *stream.Consumer
}

// system puts one together from a configuration file or, where none is named, from what the `millrace dev` that keeps
// its data there has written for others.
func (e *env) system(file, data string) (*system, error) {
	if file == "" {
		file = filepath.Join(data, devConfigFile)
		if _, err := os.Stat(file); err != nil {
			return nil, fmt.Errorf("%s is no data directory of millrace dev: name another with --data, or a configuration with --config", data)
		}
	}
	cfg, err := loadConfig(file)
	if err != nil {
		return nil, err
	}
	return newSystem(cfg, e.stderr)
}

func newSystem(cfg *Config, logs io.Writer) (*system, error) {
	reg := prometheus.NewRegistry()
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	tel := telemetry.New(logs, cfg.Log.Format, cfg.Log.Level, reg)
	types, err := loadTypes(cfg.Types)
	if err != nil {
		return nil, err
	}
	cdc, err := codec.New(cfg.Registry, types, tel)
	if err != nil {
		return nil, err
	}
	opts, err := cfg.Kafka.Opts(tel)
	if err != nil {
		return nil, err
	}
	server, err := httpserver.New(cfg.HTTP, tel, reg)
	if err != nil {
		return nil, err
	}
	return &system{
		cfg: cfg, tel: tel, types: types, codec: cdc, kafka: opts, http: server, held: stream.NewBudget(cfg.Stream.Memory),
		api: &serve.API{Types: types, Current: cdc.Type, Timeout: 30 * time.Second, Now: failpoint.Now},
	}, nil
}

// sink is the only place that knows how a sink is run: its own duties under it, a consumer group above.
func (s *system) sink(name string, sink stream.Sink, duties func(context.Context) error) error {
	c, err := stream.New(s.cfg.Stream, name, sink, stream.Deps{
		Kafka: s.kafka, Types: s.types.All(), Telemetry: s.tel, Budget: s.held,
		Decoder: func(typeName string) stream.Decoder { return s.codec.Decoder(typeName) },
	})
	if err != nil {
		return fmt.Errorf("building the consumer %s: %w", name, err)
	}
	s.consumers = append(s.consumers, destination{name, c})
	s.http.Check("consumer "+name, c.Ready)
	s.sinks = append(s.sinks, []app.Part{{Name: name, Run: duties}, {Name: name + " consumer", Run: c.Run}})
	return nil
}

// publisher gives the one client that all producers of the process share.
func (s *system) publisher() (*client.Client, error) {
	if s.client == nil {
		var err error
		if s.client, err = client.New(s.cfg.Client, s.codec, s.tel, s.kafka); err != nil {
			return nil, fmt.Errorf("building the Kafka producer: %w", err)
		}
	}
	return s.client, nil
}

// The time that a stop takes with whatever is in flight. It is in sum less than the 30 s after which most who run
// processes kill them.
const (
	flushWithin = 10 * time.Second // for Kafka to acknowledge what the producers of the process published
	drainSlack  = 10 * time.Second // beyond stream.drain: for a consumer to commit, to leave its group, to close
	stopSlack   = 3 * time.Second  // beyond both: for what is left, as the HTTP server
)

// stopWithin is when a process that stops is over, whatever hangs.
func (s *system) stopWithin() time.Duration { return s.cfg.Stream.Drain + drainSlack + stopSlack }

// parts are what the process runs, in order of who needs whom. Destinations and producers need none of each other, and
// each of them may take all of its time to stop.
func (s *system) parts() []app.Part {
	s.api.Register(s.http)
	s.http.Handle("GET /api/v1/consumers", consumersHandler(s.consumerRows, failpoint.Now))
	s.letters(time.Now).Register(s.http)
	within := s.cfg.Stream.Drain + drainSlack
	rows := s.sinks
	if s.client != nil {
		rows = append(rows, []app.Part{
			{Name: "kafka producer", Run: s.runClient(flushWithin)},
			app.Together("producers", within, s.producers...),
		})
	}
	parts := []app.Part{{Name: "http", Run: s.http.Run}, {Name: "registry", Run: s.codec.Run}}
	if s.cfg.Stream.Report > 0 && len(s.consumers) > 0 {
		parts = append(parts, app.Part{Name: "reports", Run: s.reports().Run}) // to the end of the consumers' drain
	}
	return append(parts, app.Together("components", within, rows...))
}

// reports publishes how the consumers of this process do, for who watches the lag.
func (s *system) reports() *reporttopic.Publisher {
	sources := make([]reporttopic.Source, 0, len(s.consumers))
	for _, d := range s.consumers {
		sources = append(sources, d.consumer.Report)
	}
	return reporttopic.NewPublisher(s.kafka, s.cfg.Kafka, s.cfg.Stream.Report, s.tel, sources...)
}

// runClient closes the client after the producers have stopped. What Kafka has not acknowledged by then is given up:
// whoever published it is told so, by its callback, and that is no failure of the stop.
func (s *system) runClient(drain time.Duration) func(context.Context) error {
	return func(ctx context.Context) error {
		<-ctx.Done()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), drain)
		defer cancel()
		if report, err := s.client.Close(ctx); err != nil {
			s.tel.Log.Warn("not all that was published was acknowledged before the stop; its producers know",
				"accepted", report.Accepted, "acknowledged", report.Acknowledged, "failed", report.Failed, "unknown", report.Unknown, "err", err)
		}
		return nil
	}
}

func addCassandra(s *system) error {
	c, err := cassandra.New(s.cfg.Cassandra, s.types, s.tel)
	if err != nil {
		return err
	}
	c.Now = failpoint.Now
	s.api.Series = c
	return s.sink("cassandra", c, c.Run)
}

func addElasticsearch(s *system) error {
	e, err := elasticsearch.New(s.cfg.Elasticsearch, s.types, s.tel)
	if err != nil {
		return err
	}
	e.Now = failpoint.Now
	s.api.Search = e
	return s.sink("elasticsearch", e, e.Run)
}

func addLake(s *system) error {
	l, err := lakeconsumer.New(s.cfg.Lake, s.types, s.kafka, s.tel)
	if err != nil {
		return err
	}
	table, err := lake.New(s.cfg.Lake.Table, s.tel)
	if err != nil {
		return err
	}
	s.api.SQL = lakesql.NewService(s.cfg.SQL, table, s.types.All())
	s.http.Check("lake", l.Ready)
	return s.sink("lake", l, l.Run)
}

func addGateway(s *system) error {
	p, err := s.publisher()
	if err != nil {
		return err
	}
	g, err := gateway.New(s.cfg.Gateway, s.tel, p)
	if err != nil {
		return err
	}
	g.Register(s.http)
	s.producers = append(s.producers, []app.Part{{Name: "gateway", Run: g.Run}})
	return nil
}

func addHostmetrics(s *system) error {
	p, err := s.publisher()
	if err != nil {
		return err
	}
	h, err := hostmetrics.New(s.cfg.Hostmetrics, p, s.tel)
	if err != nil {
		return err
	}
	s.producers = append(s.producers, []app.Part{{Name: "hostmetrics", Run: h.Run}})
	return nil
}

func addLogtail(s *system) error {
	p, err := s.publisher()
	if err != nil {
		return err
	}
	l, err := logtail.New(s.cfg.Logtail, p, s.tel)
	if err != nil {
		return err
	}
	s.producers = append(s.producers, []app.Part{{Name: "logtail", Run: l.Run}})
	return nil
}

// kafkaPlanner compares Kafka's topics with what the data types and the consumers' reports need.
func (s *system) kafkaPlanner(adm *kadm.Client) provision.Planner {
	specs := []schema.TopicSpec{reporttopic.Spec()}
	for _, t := range s.types.All() {
		specs = append(specs, t.TopicSpec(), t.DLQSpec())
	}
	return kafka.NewPlanner(adm, specs, s.cfg.Kafka.Replication, s.cfg.Kafka.MinISR)
}

// rows are what the status table shows: this process's consumers, or all that the watcher sees where it has none.
func (s *system) rows() []status.Row {
	if s.monitor != nil && len(s.consumers) == 0 {
		return flowRows(s.monitor.View())
	}
	rows := s.consumerRows()
	for i := range rows {
		if r := &rows[i]; s.monitor != nil && r.State == "" {
			r.State = causeOf(s.monitor.View(), stream.Group(r.Destination), r.Topic)
		}
	}
	return rows
}

// sentences are what the watcher of this process has to say.
func (s *system) sentences() []string {
	if s.monitor == nil {
		return nil
	}
	return sentences(s.monitor.View())
}

// consumerRows sums what the consumers of this process say up to a row per destination and topic.
func (s *system) consumerRows() []status.Row {
	var rows []status.Row
	now := failpoint.Now()
	for _, d := range s.consumers {
		at := map[string]int{}
		for _, p := range d.consumer.Status() {
			i, ok := at[p.Topic]
			if !ok {
				i = len(rows)
				at[p.Topic] = i
				rows = append(rows, status.Row{Destination: d.name, Topic: p.Topic, LagKnown: true})
			}
			addPartition(&rows[i], p, now)
		}
	}
	return rows
}

var errNoComponent = errors.New("no component of that name")

// choose gives the named components, or all of them, in the table's order.
func choose(names []string) ([]component, error) {
	if len(names) == 0 {
		return components(), nil
	}
	wanted := map[string]bool{}
	for _, n := range names {
		wanted[n] = true
	}
	var out []component
	for _, c := range components() {
		if wanted[c.name] {
			out = append(out, c)
			delete(wanted, c.name)
		}
	}
	for n := range wanted {
		return nil, usageError{fmt.Errorf("%w: %s; there are: %s", errNoComponent, n, componentNames())}
	}
	return out, nil
}

// addPartition adds what a consumer says of one partition. What is not known makes the row unknown, never 0.
func addPartition(r *status.Row, p stream.PartitionStatus, now time.Time) {
	if p.State != "running" && r.State == "" {
		r.State = p.State
	}
	if p.End < 0 || p.Applied < 0 {
		r.LagKnown = false
		return
	}
	r.Produced += max(p.End, p.Applied) // the end is as of the last fetch, and can be older
	r.Applied += p.Applied
	switch {
	case p.Lag() == 0:
	case p.Head.IsZero():
		r.LagKnown = false
	default:
		r.Lag = max(r.Lag, now.Sub(p.Head))
	}
}
