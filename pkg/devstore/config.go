package devstore

import (
	"errors"
	"time"

	"github.com/millrace/millrace/pkg/config"
)

// Config says where the store lies and what it may use.
type Config struct {
	Path      string        `yaml:"path"`      // the database file; its folder is made
	Memory    config.Bytes  `yaml:"memory"`    // that DuckDB may use
	Threads   int           `yaml:"threads"`   // that DuckDB may use
	Retention time.Duration `yaml:"retention"` // between two deletions of expired rows
	Drain     time.Duration `yaml:"drain"`     // how long a stop waits for the last writes
}

// Default suits a laptop. It has no path.
func Default() Config {
	return Config{Memory: 512 << 20, Threads: 2, Retention: 10 * time.Minute, Drain: 10 * time.Second}
}

// Validate reports every mistake at once.
func (c Config) Validate() error {
	var errs []error
	if c.Path == "" {
		errs = append(errs, errors.New("devstore.path is empty: name the database file"))
	}
	if c.Memory < 64<<20 {
		errs = append(errs, errors.New("devstore.memory is below 64MiB: DuckDB would fail on ordinary queries"))
	}
	if c.Threads < 1 {
		errs = append(errs, errors.New("devstore.threads is below 1"))
	}
	if c.Retention <= 0 {
		errs = append(errs, errors.New("devstore.retention is not a positive duration"))
	}
	if c.Drain <= 0 {
		errs = append(errs, errors.New("devstore.drain is not a positive duration"))
	}
	return errors.Join(errs...)
}
