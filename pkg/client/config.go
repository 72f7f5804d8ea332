package client

import (
	"errors"
	"fmt"
	"time"

	"github.com/millrace/millrace/pkg/config"
)

// What happens when the buffer is full.
const (
	Block = "block" // Produce waits for room, or for its context's end
	Shed  = "shed"  // Produce gives ErrFull at once
)

// Config says how records are buffered and sent.
type Config struct {
	Records     int           `yaml:"records"`     // most records in the buffer
	Bytes       config.Bytes  `yaml:"bytes"`       // most bytes in the buffer
	Full        string        `yaml:"full"`        // block or shed
	Compression string        `yaml:"compression"` // zstd, lz4 or none
	Linger      time.Duration `yaml:"linger"`      // how long a batch waits for more records
	Delivery    time.Duration `yaml:"delivery"`    // how long a record is tried, where that can end safely; 0 is without end
}

// Default blocks, which loses nothing.
func Default() Config {
	return Config{
		Records: 50_000, Bytes: 64 << 20, Full: Block, Compression: "zstd",
		Linger: 10 * time.Millisecond, Delivery: 2 * time.Minute,
	}
}

// Validate reports every mistake at once.
func (c Config) Validate() error {
	var errs []error
	if c.Records <= 0 {
		errs = append(errs, errors.New("client.records must be more than 0"))
	}
	if c.Bytes <= 0 {
		errs = append(errs, errors.New("client.bytes must be more than 0"))
	}
	if c.Full != Block && c.Full != Shed {
		errs = append(errs, fmt.Errorf("client.full is %q: write block or shed", c.Full))
	}
	switch c.Compression {
	case "zstd", "lz4", "none":
	default:
		errs = append(errs, fmt.Errorf("client.compression is %q: write zstd, lz4 or none", c.Compression))
	}
	if c.Linger < 0 {
		errs = append(errs, errors.New("client.linger must not be negative"))
	}
	if c.Delivery != 0 && c.Delivery < time.Second {
		errs = append(errs, errors.New("client.delivery must be 0 or at least 1s"))
	}
	return errors.Join(errs...)
}
