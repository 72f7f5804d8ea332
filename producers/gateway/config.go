package gateway

import (
	"errors"
	"fmt"
	"time"

	"github.com/millrace/millrace/pkg/config"
)

// Config bounds what the gateway takes at once.
type Config struct {
	MaxCompressed config.Bytes  `yaml:"max_compressed"` // of a request's body as it is sent
	MaxBody       config.Bytes  `yaml:"max_body"`       // of a request's body after decompression
	MaxRecord     config.Bytes  `yaml:"max_record"`     // of one record's JSON
	MaxRecords    int           `yaml:"max_records"`    // of one request
	MaxRequests   int           `yaml:"max_requests"`   // under way at once; more are told to come again
	InFlight      config.Bytes  `yaml:"in_flight"`      // JSON of records that Kafka has not acknowledged yet, over all requests
	Timeout       time.Duration `yaml:"timeout"`        // how long a request waits for Kafka
	TenantRate    float64       `yaml:"tenant_rate"`    // records per second of one tenant; 0 is no limit
	TenantBurst   int           `yaml:"tenant_burst"`   // records that a tenant may send at once
	MaxTenants    int           `yaml:"max_tenants"`    // that are told apart; more share one limit and one name
	DefaultTenant string        `yaml:"default_tenant"` // of requests without X-Millrace-Tenant, and so of their records
	OwnRecords    bool          `yaml:"own_records"`    // publish the gateway's own requests and usage
	UsageInterval time.Duration `yaml:"usage_interval"` // between two usage records of a tenant
	Datacenter    string        `yaml:"datacenter"`     // of the gateway's own records
	Drain         time.Duration `yaml:"drain"`          // how long a stop waits for the own records
}

// Default suits one gateway in front of a healthy cluster.
func Default() Config {
	return Config{
		MaxCompressed: 8 << 20, MaxBody: 32 << 20, MaxRecord: 512 << 10, MaxRecords: 50_000,
		MaxRequests: 256, InFlight: 128 << 20, Timeout: 15 * time.Second,
		TenantBurst: 100_000, MaxTenants: 1000,
		OwnRecords: true, UsageInterval: 10 * time.Second, Drain: 5 * time.Second,
	}
}

// Validate reports every mistake at once.
func (c Config) Validate() error {
	var errs []error
	positive := func(key string, n int64) {
		if n <= 0 {
			errs = append(errs, fmt.Errorf("gateway.%s is %d: give a number above 0", key, n))
		}
	}
	positive("max_compressed", int64(c.MaxCompressed))
	positive("max_record", int64(c.MaxRecord))
	positive("max_records", int64(c.MaxRecords))
	positive("max_requests", int64(c.MaxRequests))
	positive("max_tenants", int64(c.MaxTenants))
	for _, d := range []struct {
		key string
		d   time.Duration
	}{{"timeout", c.Timeout}, {"usage_interval", c.UsageInterval}, {"drain", c.Drain}} {
		if d.d <= 0 {
			errs = append(errs, fmt.Errorf("gateway.%s is %s: give a positive duration", d.key, d.d))
		}
	}
	if c.MaxBody < c.MaxRecord {
		errs = append(errs, errors.New("gateway.max_body is smaller than gateway.max_record: no record of that size could come in"))
	}
	if c.InFlight < c.MaxRecord {
		errs = append(errs, errors.New("gateway.in_flight is smaller than gateway.max_record: a record of that size would wait for ever"))
	}
	if c.TenantRate < 0 || (c.TenantRate > 0 && c.TenantBurst <= 0) {
		errs = append(errs, errors.New("gateway.tenant_rate needs a positive rate and gateway.tenant_burst"))
	}
	if !validTenant(c.DefaultTenant) {
		errs = append(errs, errors.New("gateway.default_tenant has characters outside of letters, digits and ._- or is longer than 128"))
	}
	return errors.Join(errs...)
}
