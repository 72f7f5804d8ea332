package logtail

import (
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"time"

	"github.com/millrace/millrace/pkg/config"
)

// Config says which files are followed and how their lines become events.
type Config struct {
	Inputs     []Input       `yaml:"inputs"`
	Exclude    []string      `yaml:"exclude"`     // patterns of file names, without the folder, that no input takes
	Host       string        `yaml:"host"`        // the events' host; empty: the machine's name
	Datacenter string        `yaml:"datacenter"`  // the events' data centre
	Tenant     string        `yaml:"tenant"`      // the events' tenant
	State      string        `yaml:"state"`       // directory of the journal: what was read, when, and what is acknowledged
	Poll       time.Duration `yaml:"poll"`        // between two looks at the files
	MaxEvent   config.Bytes  `yaml:"max_event"`   // a longer line, or joined event, is cut into several events
	MaxUnacked config.Bytes  `yaml:"max_unacked"` // of events that Kafka has not acknowledged; reading stops beyond it
	MaxOpen    int           `yaml:"max_open"`    // files open at a time
	Idle       time.Duration `yaml:"idle"`        // after which a last line without its end, or an open joined event, is taken as it is
	Rotated    time.Duration `yaml:"rotated"`     // how long a file that was renamed away or deleted is read on after its last byte
	Forget     time.Duration `yaml:"forget"`      // how long the position in a file that is gone is remembered
	MaxAge     time.Duration `yaml:"max_age"`     // a time in a line that is older takes the time of reading instead
	MaxAhead   time.Duration `yaml:"max_ahead"`   // the same for a time in the future
	Timezone   string        `yaml:"timezone"`    // of times in lines that name none: Local, UTC, Europe/Vienna
	Drain      time.Duration `yaml:"drain"`       // how long a stop waits for Kafka's acknowledgement
}

// Input is a group of files that are read alike.
type Input struct {
	Paths     []string `yaml:"paths"`     // globs as of filepath.Match
	Service   string   `yaml:"service"`   // empty: what the line says (a syslog program, a JSON field), else logtail
	Format    string   `yaml:"format"`    // auto, plain, json or syslog
	Multiline string   `yaml:"multiline"` // a regular expression that the first line of each event matches; empty: every line is one
}

// Default follows this machine's usual logs.
func Default() Config {
	return Config{
		Inputs:     []Input{{Paths: []string{"/var/log/*.log", "/var/log/syslog", "/var/log/messages"}, Format: "auto"}},
		Exclude:    []string{"*.gz", "*.xz", "*.zst", "*.bz2", "*.zip"},
		State:      "data/logtail",
		Poll:       500 * time.Millisecond,
		MaxEvent:   64 << 10,
		MaxUnacked: 16 << 20,
		MaxOpen:    256,
		Idle:       5 * time.Second,
		Rotated:    30 * time.Second,
		Forget:     7 * 24 * time.Hour,
		MaxAge:     29 * 24 * time.Hour, // a day below what the type log accepts: the line may wait for Kafka
		MaxAhead:   9 * time.Minute,
		Timezone:   "Local",
		Drain:      5 * time.Second,
	}
}

// Validate reports every mistake at once.
func (c Config) Validate() error {
	var errs []error
	add := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	for i, in := range c.Inputs {
		at := fmt.Sprintf("logtail.inputs[%d]", i)
		if len(in.Paths) == 0 {
			add("%s.paths is empty: name at least one glob", at)
		}
		for _, p := range in.Paths {
			if _, err := filepath.Match(p, ""); err != nil || p == "" {
				add("%s.paths: %q is not a glob", at, p)
			}
		}
		switch in.Format {
		case "", formatAuto, formatPlain, formatJSON, formatSyslog:
		default:
			add("%s.format is %q: one of auto, plain, json, syslog", at, in.Format)
		}
		if _, err := regexp.Compile(in.Multiline); err != nil {
			add("%s.multiline: %w", at, err)
		}
	}
	for _, p := range c.Exclude {
		if _, err := filepath.Match(p, ""); err != nil {
			add("logtail.exclude: %q is not a pattern", p)
		}
	}
	return errors.Join(append(errs, c.validateBounds()...)...)
}

func (c Config) validateBounds() []error {
	var errs []error
	add := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if len(c.Inputs) == 0 {
		add("logtail.inputs is empty: name at least one")
	}
	if c.State == "" {
		add("logtail.state is empty: name a directory")
	}
	if c.MaxEvent < 64 || c.MaxEvent > 512<<10 {
		add("logtail.max_event is %d: from 64 to 512KiB", int64(c.MaxEvent))
	}
	if c.MaxUnacked < 1<<10 {
		add("logtail.max_unacked is %d: at least 1KiB", int64(c.MaxUnacked))
	}
	if c.MaxOpen < 1 {
		add("logtail.max_open is %d: at least 1", c.MaxOpen)
	}
	for _, d := range []struct {
		key   string
		value time.Duration
		least time.Duration
	}{
		{"poll", c.Poll, 10 * time.Millisecond},
		{"idle", c.Idle, time.Millisecond},
		{"rotated", c.Rotated, time.Millisecond},
		{"forget", c.Forget, time.Minute},
		{"max_age", c.MaxAge, time.Second},
		{"max_ahead", c.MaxAhead, 0},
		{"drain", c.Drain, 0},
	} {
		if d.value < d.least {
			add("logtail.%s is %s: at least %s", d.key, d.value, d.least)
		}
	}
	if _, err := time.LoadLocation(c.Timezone); err != nil {
		add("logtail.timezone: %w", err)
	}
	return errs
}
