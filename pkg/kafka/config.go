package kafka

import (
	"errors"
	"fmt"
	"slices"

	"github.com/millrace/millrace/pkg/config"
)

// Config says where Kafka is and how to speak to it.
type Config struct {
	Brokers     []string `yaml:"brokers"`     // host:port of at least one broker
	ClientID    string   `yaml:"client_id"`   // seen in the brokers' logs and quotas
	Replication int      `yaml:"replication"` // of the topics that `topics apply` makes
	MinISR      int      `yaml:"min_isr"`     // min.insync.replicas of those topics
	TLS         TLS      `yaml:"tls"`
	SASL        SASL     `yaml:"sasl"`
}

// TLS is used when it is enabled or any of its files is named.
type TLS struct {
	Enabled    bool   `yaml:"enabled"`     // TLS with the system's authorities
	CA         string `yaml:"ca"`          // file of the authorities that sign the brokers
	Cert       string `yaml:"cert"`        // file of this client's certificate (mTLS)
	Key        string `yaml:"key"`         // file of its key
	ServerName string `yaml:"server_name"` // name in the brokers' certificates, where it is not the host
}

func (t TLS) used() bool {
	return t.Enabled || t.CA != "" || t.Cert != "" || t.Key != "" || t.ServerName != ""
}

// SASL is used when a mechanism is named.
type SASL struct {
	Mechanism string        `yaml:"mechanism"` // plain, scram-sha-256, scram-sha-512
	User      string        `yaml:"user"`
	Password  config.Secret `yaml:"password"`
}

// Default is a single broker on this machine.
func Default() Config {
	return Config{Brokers: []string{"127.0.0.1:9092"}, ClientID: "millrace", Replication: 3, MinISR: 2}
}

// Validate reports every mistake at once, in the operator's words.
func (c Config) Validate() error {
	var errs []error
	add := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if len(c.Brokers) == 0 {
		add("kafka.brokers is empty: name at least one host:port")
	}
	if slices.Contains(c.Brokers, "") {
		add("kafka.brokers has an empty entry: name host:port")
	}
	if c.ClientID == "" {
		add("kafka.client_id is empty: name this client")
	}
	if c.Replication < 1 {
		add("kafka.replication is %d: it must be at least 1", c.Replication)
	}
	if c.MinISR < 1 || c.MinISR > c.Replication {
		add("kafka.min_isr is %d: it must be between 1 and kafka.replication (%d)", c.MinISR, c.Replication)
	}
	if (c.TLS.Cert == "") != (c.TLS.Key == "") {
		add("kafka.tls.cert and kafka.tls.key must be given together")
	}
	switch c.SASL.Mechanism {
	case "":
		if c.SASL.User != "" || c.SASL.Password != "" {
			add("kafka.sasl.mechanism is empty: name plain, scram-sha-256 or scram-sha-512")
		}
	case saslPlain, saslScram256, saslScram512:
		if c.SASL.User == "" || c.SASL.Password == "" {
			add("kafka.sasl needs both user and password")
		}
	default:
		add("kafka.sasl.mechanism is %q: it must be plain, scram-sha-256 or scram-sha-512", c.SASL.Mechanism)
	}
	return errors.Join(errs...)
}
