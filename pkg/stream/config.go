package stream

import (
	"errors"
	"fmt"
	"time"

	"github.com/millrace/millrace/pkg/config"
)

// Config bounds what the runtime holds and how long it waits.
type Config struct {
	Batch    Batching      `yaml:"batch"`
	Memory   config.Bytes  `yaml:"memory"`    // of the records that all consumers of a process hold; at it, partitions are paused
	InFlight int           `yaml:"in_flight"` // batches of one partition that a sink may have at once
	Commit   time.Duration `yaml:"commit"`    // interval of commits
	Session  time.Duration `yaml:"session"`   // after which the broker gives a dead consumer's partitions to others
	Drain    time.Duration `yaml:"drain"`     // for what is in flight, at a stop or when a partition is taken away
	Stall    time.Duration `yaml:"stall"`     // not ready when a partition waits this long without progress
	// Wedge is how long after retry.attempt a call of the sink or the decoder may take to come back until its partition
	// is taken from it, and after that until the process ends.
	Wedge  time.Duration `yaml:"wedge"`
	Report time.Duration `yaml:"report"` // interval of what a process says of its consumers in millrace.status; 0 is never
	Retry  Retry         `yaml:"retry"`
}

// Batching says when a batch is full.
type Batching struct {
	Records int           `yaml:"records"`
	Bytes   config.Bytes  `yaml:"bytes"`
	Age     time.Duration `yaml:"age"` // of its first record's arrival here
}

// Retry says how a failed write is tried again: for ever, after a random time between nothing and a bound that
// doubles from Min to Max.
type Retry struct {
	Min     time.Duration `yaml:"min"`
	Max     time.Duration `yaml:"max"`
	Attempt time.Duration `yaml:"attempt"` // time-out of one attempt
	Breaker int           `yaml:"breaker"` // failures in a row after which a topic's writes stop but for single probes
	// Bugs is how many records in a row, each of which the sink panics at, a partition gives to the dead letters. At
	// more it waits: the sink is to blame, not the records.
	Bugs int `yaml:"bugs"`
}

// Default suits stores that answer within seconds.
func Default() Config {
	return Config{
		Batch:    Batching{Records: 5000, Bytes: 4 << 20, Age: time.Second},
		Memory:   128 << 20,
		InFlight: 4,
		Commit:   time.Second,
		Session:  30 * time.Second,
		Drain:    15 * time.Second,
		Stall:    2 * time.Minute,
		Wedge:    30 * time.Second,
		Report:   5 * time.Second,
		Retry:    Retry{Min: 100 * time.Millisecond, Max: 30 * time.Second, Attempt: 30 * time.Second, Breaker: 5, Bugs: 100},
	}
}

// Validate reports every mistake at once, in the operator's words.
func (c Config) Validate() error {
	var errs []error
	positive := func(key string, ok bool, value any) {
		if !ok {
			errs = append(errs, fmt.Errorf("stream.%s is %v: it must be more than 0", key, value))
		}
	}
	positive("batch.records", c.Batch.Records > 0, c.Batch.Records)
	positive("batch.bytes", c.Batch.Bytes > 0, c.Batch.Bytes)
	positive("batch.age", c.Batch.Age > 0, c.Batch.Age)
	positive("memory", c.Memory > 0, c.Memory)
	positive("in_flight", c.InFlight > 0, c.InFlight)
	positive("commit", c.Commit > 0, c.Commit)
	positive("session", c.Session > 0, c.Session)
	positive("drain", c.Drain > 0, c.Drain)
	positive("stall", c.Stall > 0, c.Stall)
	positive("wedge", c.Wedge > 0, c.Wedge)
	positive("retry.min", c.Retry.Min > 0, c.Retry.Min)
	positive("retry.attempt", c.Retry.Attempt > 0, c.Retry.Attempt)
	positive("retry.breaker", c.Retry.Breaker > 0, c.Retry.Breaker)
	positive("retry.bugs", c.Retry.Bugs > 0, c.Retry.Bugs)
	if c.Report < 0 {
		errs = append(errs, fmt.Errorf("stream.report is %v: give an interval, or 0 for no reports", c.Report))
	}
	if c.Retry.Max < c.Retry.Min {
		errs = append(errs, fmt.Errorf("stream.retry.max is %v: it must be at least stream.retry.min (%v)", c.Retry.Max, c.Retry.Min))
	}
	if c.Memory > 0 && c.Memory < 2*c.Batch.Bytes {
		errs = append(errs, fmt.Errorf("stream.memory is %d: it must hold at least two of stream.batch.bytes (%d)", c.Memory, c.Batch.Bytes))
	}
	return errors.Join(errs...)
}
