package httpserver

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/millrace/millrace/pkg/config"
)

// Config says where the process answers HTTP, and within which bounds.
type Config struct {
	Listen       string        `yaml:"listen"`        // host:port of the API, the metrics and the health checks
	Admin        string        `yaml:"admin"`         // host:port of pprof; empty is off
	AllowedHosts []string      `yaml:"allowed_hosts"` // names that requests may address, besides localhost and IP addresses
	MaxHeader    config.Bytes  `yaml:"max_header"`    // of a request's header
	ReadHeader   time.Duration `yaml:"read_header"`   // until a request's header is there
	Read         time.Duration `yaml:"read"`          // until a request's body is there
	Write        time.Duration `yaml:"write"`         // until a request is answered
	Idle         time.Duration `yaml:"idle"`          // of a connection between two requests
	Drain        time.Duration `yaml:"drain"`         // how long a stop waits for requests that are under way
}

// Default answers on this machine only.
func Default() Config {
	return Config{
		Listen:     "127.0.0.1:9470",
		MaxHeader:  64 << 10,
		ReadHeader: 5 * time.Second,
		Read:       60 * time.Second,
		Write:      90 * time.Second,
		Idle:       2 * time.Minute,
		Drain:      5 * time.Second,
	}
}

// Validate reports every mistake at once.
func (c Config) Validate() error {
	var errs []error
	if c.Listen == "" {
		errs = append(errs, errors.New("http.listen is empty: give host:port, for example 127.0.0.1:9470"))
	} else if _, _, err := net.SplitHostPort(c.Listen); err != nil {
		errs = append(errs, fmt.Errorf("http.listen %q is not host:port", c.Listen))
	}
	if c.Admin != "" {
		if _, _, err := net.SplitHostPort(c.Admin); err != nil {
			errs = append(errs, fmt.Errorf("http.admin %q is not host:port", c.Admin))
		}
	}
	for _, h := range c.AllowedHosts {
		if h == "" || strings.ContainsAny(h, "/:*") {
			errs = append(errs, fmt.Errorf("http.allowed_hosts has %q: give a plain host name, without scheme, port or wildcard", h))
		}
	}
	if c.MaxHeader < 4<<10 || c.MaxHeader > 1<<20 {
		errs = append(errs, errors.New("http.max_header is out of range: give 4KiB to 1MiB"))
	}
	for _, d := range []struct {
		key string
		d   time.Duration
	}{{"read_header", c.ReadHeader}, {"read", c.Read}, {"write", c.Write}, {"idle", c.Idle}, {"drain", c.Drain}} {
		if d.d <= 0 {
			errs = append(errs, fmt.Errorf("http.%s is %s: give a positive duration", d.key, d.d))
		}
	}
	return errors.Join(errs...)
}
