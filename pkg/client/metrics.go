package client

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/millrace/millrace/pkg/telemetry"
)

type metrics struct {
	records  *prometheus.CounterVec // by outcome
	buffered prometheus.Gauge
	bytes    prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	var errs []error
	m := &metrics{
		records: telemetry.Shared(reg, prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "millrace_client_records_total",
			Help: "Records by outcome: acknowledged, failed, unknown (taken, but nothing is known of it), refused (not taken).",
		}, []string{"outcome"}), &errs),
		buffered: telemetry.Shared(reg, prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "millrace_client_buffered_records",
			Help: "Records taken that Kafka has not acknowledged yet.",
		}), &errs),
		bytes: telemetry.Shared(reg, prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "millrace_client_buffered_bytes",
			Help: "Bytes of records taken that Kafka has not acknowledged yet.",
		}), &errs),
	}
	return m, errors.Join(errs...)
}
