package client

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	records  *prometheus.CounterVec // by outcome
	buffered prometheus.Gauge
	bytes    prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	var errs []error
	m := &metrics{
		records: register(reg, prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "millrace_client_records_total",
			Help: "Records by outcome: acknowledged, failed, unknown (taken, but nothing is known of it), refused (not taken).",
		}, []string{"outcome"}), &errs),
		buffered: register(reg, prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "millrace_client_buffered_records",
			Help: "Records taken that Kafka has not acknowledged yet.",
		}), &errs),
		bytes: register(reg, prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "millrace_client_buffered_bytes",
			Help: "Bytes of records taken that Kafka has not acknowledged yet.",
		}), &errs),
	}
	return m, errors.Join(errs...)
}

// register gives the collector that is registered already, if there is one: a process may have several clients.
func register[C prometheus.Collector](reg prometheus.Registerer, c C, errs *[]error) C {
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
