package lakesql

import (
	"errors"
	"fmt"
	"time"

	"github.com/millrace/millrace/pkg/config"
	"github.com/millrace/millrace/pkg/diskcache"
)

// All stands for every type in Config.Deduplicate.
const All = "*"

// Config bounds a query and says what the views show.
type Config struct {
	Memory  config.Bytes  `yaml:"memory"`
	Threads int           `yaml:"threads"`
	Timeout time.Duration `yaml:"timeout"`
	// Deduplicate names the types whose views show each event, by id and time, once; "*" is all of them. An event that a
	// producer sent again after a crash is two rows of the lake until its table is compacted. It costs each query a sort
	// of the rows that its conditions on time leave, and their memory; other conditions apply after it. Measurements are
	// in docs/decisions.md.
	Deduplicate []string `yaml:"deduplicate"`
	// Cache keeps the data files that queries have read of an object store. Its size bounds those of one query, too.
	Cache diskcache.Config `yaml:"cache"`
}

// Default allows for reports over tens of millions of rows. Bills are made from usage, so it counts each event once.
func Default() Config {
	return Config{Memory: 2 << 30, Threads: 4, Timeout: 5 * time.Minute, Deduplicate: []string{"usage"}, Cache: diskcache.Default()}
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
	if c.Cache.Size < 1<<20 {
		errs = append(errs, fmt.Errorf("sql.cache.size is %v: at least 1MiB", c.Cache.Size))
	}
	return errors.Join(errs...)
}
