package loadgen

import (
	"errors"
	"fmt"
	"time"
)

// Config says what is sent.
type Config struct {
	Types   []string      `yaml:"types"`   // of each record in turn
	Rate    float64       `yaml:"rate"`    // records per second; 0 is as fast as Kafka takes them
	Count   int64         `yaml:"count"`   // records in all; 0 is until it is stopped
	Source  string        `yaml:"source"`  // names this run in loadgen.source
	First   int64         `yaml:"first"`   // sequence number of the first record
	Seed    uint64        `yaml:"seed"`    // of the values: the same seed gives the same values
	Spread  time.Duration `yaml:"spread"`  // event times lie within this before now
	Journal string        `yaml:"journal"` // file for intents and outcomes; none if empty
	Plain   bool          `yaml:"plain"`   // plain logs of Size bytes for benchmarks, without hashes
	Size    int           `yaml:"size"`    // bytes of a plain log on the wire
	Drain   time.Duration `yaml:"drain"`   // how long the end waits for outcomes; after an interrupt at most 10 s
}

// Default sends 100 records of all built-in types a second.
func Default() Config {
	return Config{
		Types: []string{"metric", "log", "usage", "performance"}, Rate: 100, Source: "loadgen", Seed: 1,
		Size: 300, Drain: time.Minute,
	}
}

// minSize is the least size of a plain log: its common fields take that much.
const minSize = 150

// Validate reports every mistake at once.
func (c Config) Validate() error {
	var errs []error
	if len(c.Types) == 0 && !c.Plain {
		errs = append(errs, errors.New("loadgen.types is empty: name at least one data type"))
	}
	if c.Rate < 0 {
		errs = append(errs, errors.New("loadgen.rate must not be negative"))
	}
	if c.Count < 0 {
		errs = append(errs, errors.New("loadgen.count must not be negative"))
	}
	if c.Source == "" {
		errs = append(errs, errors.New("loadgen.source is empty: name this run"))
	}
	if c.Spread < 0 {
		errs = append(errs, errors.New("loadgen.spread must not be negative"))
	}
	if c.Plain && c.Size < minSize {
		errs = append(errs, fmt.Errorf("loadgen.size must be at least %d", minSize))
	}
	if c.Plain && c.Journal != "" {
		errs = append(errs, errors.New("loadgen.journal does not go with loadgen.plain: plain records have no hash"))
	}
	if c.Drain <= 0 {
		errs = append(errs, errors.New("loadgen.drain must be more than 0"))
	}
	return errors.Join(errs...)
}
