package lakesql

import (
	"errors"
	"fmt"
	"time"

	"github.com/millrace/millrace/pkg/config"
)

// Config bounds a query.
type Config struct {
	Memory  config.Bytes  `yaml:"memory"`
	Threads int           `yaml:"threads"`
	Timeout time.Duration `yaml:"timeout"`
}

// Default allows for reports over tens of millions of rows.
func Default() Config {
	return Config{Memory: 2 << 30, Threads: 4, Timeout: 5 * time.Minute}
}

// Validate reports every mistake at once.
func (c Config) Validate() error {
	var errs []error
	if c.Memory < 64<<20 {
		errs = append(errs, fmt.Errorf("sql.memory is %d: a query needs at least 64MiB", c.Memory))
	}
	if c.Threads < 1 {
		errs = append(errs, errors.New("sql.threads is below 1: a query needs at least one"))
	}
	if c.Timeout <= 0 {
		errs = append(errs, errors.New("sql.timeout is not positive: say how long a query may take, as 5m"))
	}
	return errors.Join(errs...)
}
