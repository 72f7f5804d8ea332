package hostmetrics

import (
	"errors"
	"fmt"
	"path"
	"time"

	"github.com/millrace/millrace/pkg/config"
)

// Config says what is collected, how often, and where it waits for Kafka.
type Config struct {
	Interval   time.Duration `yaml:"interval"`    // between two collections
	Service    string        `yaml:"service"`     // the records' service
	Host       string        `yaml:"host"`        // the records' host; empty: the machine's name
	Datacenter string        `yaml:"datacenter"`  // the records' data centre
	Tenant     string        `yaml:"tenant"`      // the records' tenant
	Spool      string        `yaml:"spool"`       // directory for what Kafka has not acknowledged
	SpoolBytes config.Bytes  `yaml:"spool_bytes"` // its bound; the oldest records are dropped beyond it
	Drain      time.Duration `yaml:"drain"`       // how long a stop waits for Kafka's acknowledgement
	Exclude    Exclude       `yaml:"exclude"`
}

// Exclude names, by patterns as of path.Match, what is not reported.
type Exclude struct {
	Interfaces  []string `yaml:"interfaces"`  // network interfaces: veth*
	Devices     []string `yaml:"devices"`     // disks: loop*
	Filesystems []string `yaml:"filesystems"` // types of file systems: squashfs
}

// Default collects every 10 seconds and keeps up to 64 MiB on disk: at some 100 records a collection about five hours.
func Default() Config {
	return Config{
		Interval:   10 * time.Second,
		Service:    "hostmetrics",
		Spool:      "data/hostmetrics",
		SpoolBytes: 64 << 20,
		Drain:      5 * time.Second,
		Exclude: Exclude{
			Interfaces:  []string{"veth*"},
			Devices:     []string{"loop*", "ram*"},
			Filesystems: []string{"squashfs", "iso9660"},
		},
	}
}

// Validate reports every mistake at once.
func (c Config) Validate() error {
	var errs []error
	add := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if c.Interval < 100*time.Millisecond {
		add("hostmetrics.interval is %s: at least 100ms", c.Interval)
	}
	if c.Service == "" {
		add("hostmetrics.service is empty: name the service that the records are published as")
	}
	if c.Spool == "" {
		add("hostmetrics.spool is empty: name a directory")
	}
	if c.SpoolBytes < 1<<20 {
		add("hostmetrics.spool_bytes is %d: at least 1MiB", int64(c.SpoolBytes))
	}
	if c.Drain < 0 {
		add("hostmetrics.drain is %s: not negative", c.Drain)
	}
	for key, patterns := range map[string][]string{
		"interfaces": c.Exclude.Interfaces, "devices": c.Exclude.Devices, "filesystems": c.Exclude.Filesystems,
	} {
		for _, p := range patterns {
			if _, err := path.Match(p, ""); err != nil {
				add("hostmetrics.exclude.%s: %q is not a pattern", key, p)
			}
		}
	}
	return errors.Join(errs...)
}

// matches says whether any of the patterns matches. They were checked by Validate.
func matches(patterns []string, name string) bool {
	for _, p := range patterns {
		if ok, err := path.Match(p, name); ok && err == nil {
			return true
		}
	}
	return false
}
