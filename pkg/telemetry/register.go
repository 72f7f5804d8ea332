package telemetry

import (
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// Register registers the metrics of a part that a process has once. A second one is an error, never a panic.
func Register(reg prometheus.Registerer, part string, collectors ...prometheus.Collector) error {
	var errs []error
	for _, c := range collectors {
		if err := reg.Register(c); err != nil {
			errs = append(errs, fmt.Errorf("registering the metrics of %s: %w", part, err))
		}
	}
	return errors.Join(errs...)
}

// Shared registers a metric of a part that a process may have several of: it gives the collector that is registered
// already, if there is one.
func Shared[C prometheus.Collector](reg prometheus.Registerer, c C, errs *[]error) C {
	err := reg.Register(c)
	if twice, ok := errors.AsType[prometheus.AlreadyRegisteredError](err); ok {
		if same, ok := twice.ExistingCollector.(C); ok {
			return same
		}
	}
	if err != nil {
		*errs = append(*errs, err)
	}
	return c
}
