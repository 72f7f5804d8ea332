package cassandra

import (
	"errors"
	"fmt"
	"net"
	"regexp"
	"strings"
	"time"

	"github.com/gocql/gocql"

	"github.com/millrace/millrace/pkg/config"
)

// Config says where and how events are stored.
type Config struct {
	Hosts    []string `yaml:"hosts"`    // host:port of a few nodes; the others are found through them
	Keyspace string   `yaml:"keyspace"` // one for all types
	// Datacenter is the local one: requests go to its nodes first. Empty treats all nodes as equal.
	Datacenter string `yaml:"datacenter"`
	// Replication is data centre to copies, for the keyspace. Empty asks the cluster: every data centre that it
	// has, with 3 copies or as many as there are nodes.
	Replication map[string]int `yaml:"replication"`
	Consistency string         `yaml:"consistency"` // of writes and reads: local_quorum, quorum, local_one, one, each_quorum, all
	User        string         `yaml:"user"`
	Password    config.Secret  `yaml:"password"`
	TLS         TLS            `yaml:"tls"`
	Timeout     time.Duration  `yaml:"timeout"` // of one request, and of connecting
	Connections int            `yaml:"connections"`
	Batch       Batch          `yaml:"batch"`
	// InFlight bounds the requests that are under way at once, of all partitions together.
	InFlight int `yaml:"in_flight"`
	// PartitionBytes is the size from which a partition is warned about.
	PartitionBytes config.Bytes `yaml:"partition_bytes"`
	Read           Read         `yaml:"read"`
}

// TLS says how connections are encrypted.
type TLS struct {
	Enabled bool   `yaml:"enabled"`
	CA      string `yaml:"ca"`   // file of certificates to trust; empty trusts the system's
	Cert    string `yaml:"cert"` // file of this client's certificate
	Key     string `yaml:"key"`
}

// Batch bounds one request. All rows of a request belong to one partition.
type Batch struct {
	Rows  int          `yaml:"rows"`
	Bytes config.Bytes `yaml:"bytes"`
}

// Read bounds what one query may cost.
type Read struct {
	Parallel   int `yaml:"parallel"`   // partitions read at once
	Partitions int `yaml:"partitions"` // partitions that one query may touch
}

// Default is a working configuration for a cluster on this machine.
func Default() Config {
	return Config{
		Hosts:          []string{"127.0.0.1:9042"},
		Keyspace:       "millrace",
		Consistency:    "local_quorum",
		Timeout:        10 * time.Second,
		Connections:    2,
		Batch:          Batch{Rows: 200, Bytes: 64 << 10},
		InFlight:       32,
		PartitionBytes: 100 << 20,
		Read:           Read{Parallel: 16, Partitions: 20000},
	}
}

// Validate reports every mistake at once, in the operator's words.
func (c Config) Validate() error {
	var errs []error
	add := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if len(c.Hosts) == 0 {
		add("cassandra.hosts is empty: name at least one host:port")
	}
	for i, h := range c.Hosts {
		if _, _, err := net.SplitHostPort(h); err != nil {
			add("cassandra.hosts[%d] is %q: write it as host:port", i, h)
		}
	}
	if !keyspaceName.MatchString(c.Keyspace) {
		add("cassandra.keyspace is %q: use lower-case letters, digits and underscores, a letter first, 48 at most", c.Keyspace)
	}
	for dc, n := range c.Replication {
		if !datacenterName.MatchString(dc) {
			add("cassandra.replication names the data centre %q: use letters, digits, dot, dash and underscore", dc)
		}
		if n < 1 {
			add("cassandra.replication.%s is %d: keep at least one copy", dc, n)
		}
	}
	if _, err := c.consistency(); err != nil {
		errs = append(errs, err)
	}
	if c.User == "" && c.Password != "" {
		add("cassandra.password is set without cassandra.user")
	}
	errs = append(errs, c.TLS.validate(), c.validateBounds())
	return errors.Join(errs...)
}

func (t TLS) validate() error {
	if (t.Cert == "") != (t.Key == "") {
		return errors.New("cassandra.tls.cert and cassandra.tls.key go together: set both or neither")
	}
	if !t.Enabled && (t.CA != "" || t.Cert != "") {
		return errors.New("cassandra.tls names files but is not enabled: set cassandra.tls.enabled")
	}
	return nil
}

func (c Config) validateBounds() error {
	var errs []error
	for _, b := range []struct {
		key      string
		n, least int64
	}{
		{"timeout", int64(c.Timeout), 1},
		{"connections", int64(c.Connections), 1},
		{"in_flight", int64(c.InFlight), 1},
		{"batch.rows", int64(c.Batch.Rows), 1},
		{"batch.bytes", int64(c.Batch.Bytes), 1},
		{"partition_bytes", int64(c.PartitionBytes), 1},
		{"read.parallel", int64(c.Read.Parallel), 1},
		{"read.partitions", int64(c.Read.Partitions), 1},
	} {
		if b.n < b.least {
			errs = append(errs, fmt.Errorf("cassandra.%s is %d: it must be at least %d", b.key, b.n, b.least))
		}
	}
	if c.Batch.Rows > 65535 {
		errs = append(errs, fmt.Errorf("cassandra.batch.rows is %d: the protocol takes 65535 at most", c.Batch.Rows))
	}
	return errors.Join(errs...)
}

var (
	keyspaceName   = regexp.MustCompile(`^[a-z][a-z0-9_]{0,47}$`)
	datacenterName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*$`)
)

func (c Config) consistency() (gocql.Consistency, error) {
	switch strings.ToLower(c.Consistency) {
	case "local_quorum":
		return gocql.LocalQuorum, nil
	case "quorum":
		return gocql.Quorum, nil
	case "each_quorum":
		return gocql.EachQuorum, nil
	case "local_one":
		return gocql.LocalOne, nil
	case "one":
		return gocql.One, nil
	case "all":
		return gocql.All, nil
	}
	return 0, fmt.Errorf("cassandra.consistency is %q: use local_quorum, quorum, each_quorum, local_one, one or all", c.Consistency)
}
