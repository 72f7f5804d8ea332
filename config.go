package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"

	"github.com/millrace/millrace/consumers/cassandra"
	"github.com/millrace/millrace/consumers/elasticsearch"
	lagconsumer "github.com/millrace/millrace/consumers/lag"
	lakeconsumer "github.com/millrace/millrace/consumers/lake"
	"github.com/millrace/millrace/pkg/client"
	"github.com/millrace/millrace/pkg/codec"
	"github.com/millrace/millrace/pkg/config"
	"github.com/millrace/millrace/pkg/httpserver"
	"github.com/millrace/millrace/pkg/kafka"
	"github.com/millrace/millrace/pkg/lag"
	"github.com/millrace/millrace/pkg/lakesql"
	"github.com/millrace/millrace/pkg/schema"
	"github.com/millrace/millrace/pkg/stream"
	"github.com/millrace/millrace/producers/gateway"
	"github.com/millrace/millrace/producers/hostmetrics"
	"github.com/millrace/millrace/producers/logtail"
)

// Config is the one configuration file: a section for each part.
type Config struct {
	Log           LogConfig            `yaml:"log"`
	Types         TypesConfig          `yaml:"types"`
	HTTP          httpserver.Config    `yaml:"http"`
	Kafka         kafka.Config         `yaml:"kafka"`
	Registry      codec.Config         `yaml:"registry"`
	Client        client.Config        `yaml:"client"`
	Stream        stream.Config        `yaml:"stream"`
	Cassandra     cassandra.Config     `yaml:"cassandra"`
	Elasticsearch elasticsearch.Config `yaml:"elasticsearch"`
	Lake          lakeconsumer.Config  `yaml:"lake"`
	Lag           lagconsumer.Config   `yaml:"lag"`
	SQL           lakesql.Config       `yaml:"sql"`
	Gateway       gateway.Config       `yaml:"gateway"`
	Hostmetrics   hostmetrics.Config   `yaml:"hostmetrics"`
	Logtail       logtail.Config       `yaml:"logtail"`
}

// LogConfig says how the process logs, to standard error.
type LogConfig struct {
	Format string     `yaml:"format"` // text or json
	Level  slog.Level `yaml:"level"`  // debug, info, warn, error
}

// TypesConfig adds data types to the built-in ones, or replaces them.
type TypesConfig struct {
	Builtin bool     `yaml:"builtin"` // false leaves the built-in ones out; sql.deduplicate then may not name them either
	Files   []string `yaml:"files"`   // annotated Avro schemas; a type with a built-in's name replaces it
}

// DefaultConfig works for servers on this machine.
func DefaultConfig() *Config {
	return &Config{
		Log:           LogConfig{Format: "text", Level: slog.LevelInfo},
		Types:         TypesConfig{Builtin: true},
		HTTP:          httpserver.Default(),
		Kafka:         kafka.Default(),
		Registry:      codec.Default(),
		Client:        client.Default(),
		Stream:        stream.Default(),
		Cassandra:     cassandra.Default(),
		Elasticsearch: elasticsearch.Default(),
		Lake:          lakeconsumer.Default(),
		Lag:           lagconsumer.Default(),
		SQL:           lakesql.Default(),
		Gateway:       gateway.Default(),
		Hostmetrics:   hostmetrics.Default(),
		Logtail:       logtail.Default(),
	}
}

// Validate reports every mistake at once.
func (c *Config) Validate() error {
	errs := []error{
		c.HTTP.Validate(), c.Kafka.Validate(), c.Registry.Validate(), c.Client.Validate(), c.Stream.Validate(),
		c.Cassandra.Validate(), c.Elasticsearch.Validate(), c.Lake.Validate(), c.Lag.Validate(), c.SQL.Validate(),
		c.Gateway.Validate(), c.Hostmetrics.Validate(), c.Logtail.Validate(),
	}
	if _, err := loadTypes(c.Types); err != nil {
		errs = append(errs, fmt.Errorf("types.files: %w", err))
	}
	if c.Log.Format != "text" && c.Log.Format != "json" {
		errs = append(errs, fmt.Errorf("log.format is %q: give text or json", c.Log.Format))
	}
	return errors.Join(errs...)
}

// loadConfig reads a file over the defaults.
func loadConfig(path string) (*Config, error) {
	c := DefaultConfig()
	if err := config.Load(path, c); err != nil {
		return nil, err
	}
	return c, nil
}

// loadTypes reads the built-in data types and those of the configuration.
func loadTypes(c TypesConfig) (*schema.Set, error) {
	byName := map[string]*schema.Type{}
	if c.Builtin {
		builtin, err := schema.Builtin()
		if err != nil {
			return nil, err
		}
		for _, t := range builtin {
			byName[t.Name] = t
		}
	}
	for _, path := range c.Files {
		data, err := os.ReadFile(path) //nolint:gosec // the operator names the file
		if err != nil {
			return nil, fmt.Errorf("reading a data type: %w", err)
		}
		t, err := schema.Parse(data)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		byName[t.Name] = t
	}
	types := make([]*schema.Type, 0, len(byName))
	for _, t := range byName {
		if t.TopicName() == lag.StatusTopic {
			return nil, fmt.Errorf("the type %s would have the topic %s, in which consumers say how they do: give it another name", t.Name, lag.StatusTopic)
		}
		types = append(types, t)
	}
	return schema.NewSet(types...)
}
