package lake

import (
	"errors"
	"fmt"
	"time"

	"github.com/millrace/millrace/pkg/config"
	"github.com/millrace/millrace/pkg/lake"
)

// Config is the section "lake".
type Config struct {
	Table lake.Config `yaml:",inline"`
	// A commit is due when the oldest row held is this old,
	Age time.Duration `yaml:"age"`
	// or when this much of a table is held, as bytes of records.
	Bytes config.Bytes `yaml:"bytes"`
	// Memory bounds the rows of a table that are in no row group yet. While a commit is under way there can be
	// twice as much.
	Memory config.Bytes `yaml:"memory"`
	// GroupRows is how many rows a row group has at most.
	GroupRows int `yaml:"group_rows"`
	// Timeout is after how long a commit that does not go through is reported. It goes on being tried; one that does not
	// even come back by then ends the process after three times as long.
	Timeout time.Duration `yaml:"timeout"`
	Upkeep  Upkeep        `yaml:"upkeep"`
}

// Upkeep is what a process that runs the lake does for the tables beside committing: merge small files, forget earlier
// states, remove orphans.
type Upkeep struct {
	Every   time.Duration `yaml:"every"`   // 0 is never
	Orphans time.Duration `yaml:"orphans"` // are older; 0 leaves them
}

// Default commits every minute.
func Default() Config {
	return Config{
		Table:     lake.Default(),
		Age:       time.Minute,
		Bytes:     128 << 20,
		Memory:    64 << 20,
		GroupRows: 100_000,
		Timeout:   time.Minute,
		Upkeep:    Upkeep{Orphans: 72 * time.Hour},
	}
}

// Validate reports every mistake at once.
func (c Config) Validate() error {
	errs := []error{c.Table.Validate()}
	if c.Age <= 0 {
		errs = append(errs, errors.New("lake.age is not positive: say how long rows are held at most, as 60s"))
	}
	if c.Age > lake.MinOrphanAge/4 {
		errs = append(errs, fmt.Errorf("lake.age is %v: at most %v, since files that are not committed for long are removed", c.Age, lake.MinOrphanAge/4))
	}
	if c.Bytes < 1<<10 {
		errs = append(errs, fmt.Errorf("lake.bytes is %d: a commit holds at least 1KiB", c.Bytes))
	}
	if c.Memory < 1<<10 {
		errs = append(errs, fmt.Errorf("lake.memory is %d: at least 1KiB of rows is held", c.Memory))
	}
	if c.GroupRows < 1 {
		errs = append(errs, errors.New("lake.group_rows is below 1: a row group has at least one row"))
	}
	if c.Timeout <= 0 {
		errs = append(errs, errors.New("lake.timeout is not positive: say after how long a commit is reported, as 60s"))
	}
	if c.Upkeep.Every < 0 {
		errs = append(errs, errors.New("lake.upkeep.every is negative: say how often, as 6h, or 0 for never"))
	}
	if c.Upkeep.Orphans != 0 && c.Upkeep.Orphans < lake.MinOrphanAge {
		errs = append(errs, fmt.Errorf("lake.upkeep.orphans is %v: at least %v, or 0 to leave them", c.Upkeep.Orphans, lake.MinOrphanAge))
	}
	return errors.Join(errs...)
}
