package lag

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"time"
)

// Config is the watcher's section of the configuration file.
type Config struct {
	Interval     time.Duration `yaml:"interval"`     // between two looks at the cluster
	Cluster      string        `yaml:"cluster"`      // its name in the metrics; empty is the id that Kafka gives it
	Destinations []string      `yaml:"destinations"` // of Millrace: their groups are watched although they never ran
	// Groups are the consumer groups that are watched besides Millrace's own: expressions, each for whole names.
	Groups        []string `yaml:"groups"`
	ExcludeGroups []string `yaml:"exclude_groups"`
	// ReadCommitted are the groups among them that read committed records only: their members alone know. They are behind
	// the last stable offset, others behind the high watermark.
	ReadCommitted []string `yaml:"read_committed"`
	// Objectives are how old a group's oldest unread record may become, by the group's name. Millrace's own have defaults.
	Objectives map[string]time.Duration `yaml:"objectives"`
	// Objective is that of all groups that are not named; 0 is none.
	Objective time.Duration `yaml:"objective"`
	// History is the directory in which the last 24 hours survive a restart; empty keeps them in memory alone.
	History string `yaml:"history"`
	Flows   int    `yaml:"flows"` // groups by topics that are in the metrics and the history, the worst first
}

const (
	minInterval = time.Second
	maxInterval = 5 * time.Minute
)

// Default watches every group of the cluster.
func Default() Config {
	return Config{
		Interval: 10 * time.Second, Destinations: []string{"cassandra", "elasticsearch", "lake"},
		Groups: []string{".*"}, Objectives: map[string]time.Duration{}, Flows: 1000,
	}
}

// Validate reports every mistake at once.
func (c Config) Validate() error {
	var errs []error
	if c.Interval < minInterval || c.Interval > maxInterval {
		errs = append(errs, fmt.Errorf("lag.interval is %s: give %s to %s", c.Interval, minInterval, maxInterval))
	}
	for _, list := range []struct {
		key      string
		patterns []string
	}{{"groups", c.Groups}, {"exclude_groups", c.ExcludeGroups}, {"read_committed", c.ReadCommitted}} {
		for _, p := range list.patterns {
			if _, err := regexp.Compile(p); err != nil {
				errs = append(errs, fmt.Errorf("lag.%s: %w", list.key, err))
			}
		}
	}
	for _, group := range slices.Sorted(maps.Keys(c.Objectives)) {
		if d := c.Objectives[group]; d < 0 {
			errs = append(errs, fmt.Errorf("lag.objectives: that of %s is %s: give 0 for none, or more", group, d))
		}
	}
	if c.Objective < 0 {
		errs = append(errs, fmt.Errorf("lag.objective is %s: give 0 for none, or more", c.Objective))
	}
	if c.Flows < 1 || c.Flows > 10_000 {
		errs = append(errs, fmt.Errorf("lag.flows is %d: give 1 to 10000", c.Flows))
	}
	return errors.Join(errs...)
}

// matcher says whether a name is one of some expressions as a whole.
func matcher(patterns []string) (func(string) bool, error) {
	var all []*regexp.Regexp
	for _, p := range patterns {
		re, err := regexp.Compile("^(?:" + p + ")$")
		if err != nil {
			return nil, fmt.Errorf("reading the expression %s: %w", p, err)
		}
		all = append(all, re)
	}
	return func(name string) bool {
		return slices.ContainsFunc(all, func(re *regexp.Regexp) bool { return re.MatchString(name) })
	}, nil
}
