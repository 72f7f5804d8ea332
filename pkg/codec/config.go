package codec

import (
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/millrace/millrace/pkg/config"
)

// Config says where the schema registry is.
type Config struct {
	URLs     []string      `yaml:"urls"`     // tried in order
	User     string        `yaml:"user"`     // of basic authentication; none if empty
	Password config.Secret `yaml:"password"` //
	Timeout  time.Duration `yaml:"timeout"`  // of one call
	Refresh  time.Duration `yaml:"refresh"`  // how often the latest versions are asked for
}

// Default is a registry on this machine.
func Default() Config {
	return Config{URLs: []string{"http://127.0.0.1:8081"}, Timeout: 5 * time.Second, Refresh: 10 * time.Second}
}

// Validate reports every mistake at once.
func (c Config) Validate() error {
	var errs []error
	if len(c.URLs) == 0 {
		errs = append(errs, errors.New("registry.urls is empty: name at least one http://host:port"))
	}
	for _, u := range c.URLs {
		p, err := url.Parse(u)
		if err != nil || p.Host == "" || p.Scheme != "http" && p.Scheme != "https" {
			errs = append(errs, fmt.Errorf("registry.urls has %q: write it as http://host:port", u))
		}
	}
	if c.Password != "" && c.User == "" {
		errs = append(errs, errors.New("registry.password is set without registry.user"))
	}
	if c.Timeout <= 0 {
		errs = append(errs, errors.New("registry.timeout must be more than 0"))
	}
	if c.Refresh <= 0 {
		errs = append(errs, errors.New("registry.refresh must be more than 0"))
	}
	return errors.Join(errs...)
}
