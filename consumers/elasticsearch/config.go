package elasticsearch

import (
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"time"

	"github.com/millrace/millrace/pkg/config"
)

// Config says where and how events are indexed.
type Config struct {
	URLs     []string      `yaml:"urls"`
	User     string        `yaml:"user"`
	Password config.Secret `yaml:"password"`
	APIKey   config.Secret `yaml:"api_key"` // instead of user and password
	CA       string        `yaml:"ca"`      // file of certificates to trust; empty trusts the system's
	Prefix   string        `yaml:"prefix"`  // indices are <prefix>-<type>-YYYY.MM.DD
	Replicas int           `yaml:"replicas"`
	Timeout  time.Duration `yaml:"timeout"` // of one request
	// Bulk is the size from which a bulk request is sent. One record larger than it goes alone.
	Bulk config.Bytes `yaml:"bulk"`
	// InFlight bounds the bulk requests that are under way at once, of all partitions together.
	InFlight int   `yaml:"in_flight"`
	Gzip     bool  `yaml:"gzip"`
	Retry    Retry `yaml:"retry"`
	// Count is how far a search counts what matches.
	Count int `yaml:"count"`
}

// Retry says how single documents that Elasticsearch failed to store for the moment are tried again, before the whole
// batch is given back.
type Retry struct {
	Min      time.Duration `yaml:"min"`
	Max      time.Duration `yaml:"max"`
	Attempts int           `yaml:"attempts"`
}

// Default is a working configuration for a server on this machine.
func Default() Config {
	return Config{
		URLs:     []string{"http://127.0.0.1:9200"},
		Prefix:   "millrace",
		Replicas: 1,
		Timeout:  30 * time.Second,
		Bulk:     5 << 20,
		InFlight: 4,
		Retry:    Retry{Min: 200 * time.Millisecond, Max: 5 * time.Second, Attempts: 5},
		Count:    10000,
	}
}

// Validate reports every mistake at once, in the operator's words.
func (c Config) Validate() error {
	var errs []error
	add := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if len(c.URLs) == 0 {
		add("elasticsearch.urls is empty: name at least one, as http://host:9200")
	}
	for i, raw := range c.URLs {
		u, err := url.Parse(raw)
		if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
			add("elasticsearch.urls[%d] is not a URL: write it as http://host:9200", i)
		} else if u.User != nil {
			add("elasticsearch.urls[%d] holds a password: set elasticsearch.user and elasticsearch.password", i)
		}
	}
	if !prefixName.MatchString(c.Prefix) {
		add("elasticsearch.prefix is %q: use lower-case letters, digits, dash and underscore, a letter first, 64 at most", c.Prefix)
	}
	if c.APIKey != "" && c.User != "" {
		add("elasticsearch.api_key and elasticsearch.user are both set: use one")
	}
	if c.User == "" && c.Password != "" {
		add("elasticsearch.password is set without elasticsearch.user")
	}
	if c.Replicas < 0 {
		add("elasticsearch.replicas is %d: it cannot be negative", c.Replicas)
	}
	if c.Timeout <= 0 {
		add("elasticsearch.timeout is %s: it must be positive", c.Timeout)
	}
	if c.Bulk < 1<<10 || c.Bulk > 90<<20 {
		add("elasticsearch.bulk is %d bytes: use 1KiB to 90MiB, since Elasticsearch refuses requests over 100MB", c.Bulk)
	}
	if c.InFlight < 1 {
		add("elasticsearch.in_flight is %d: it must be at least 1", c.InFlight)
	}
	if c.Retry.Min <= 0 || c.Retry.Max < c.Retry.Min || c.Retry.Attempts < 0 {
		add("elasticsearch.retry is not in order: min must be positive, max at least min, attempts not negative")
	}
	if c.Count < 1 {
		add("elasticsearch.count is %d: it must be at least 1", c.Count)
	}
	return errors.Join(errs...)
}

var prefixName = regexp.MustCompile(`^[a-z][a-z0-9_-]{0,63}$`)
