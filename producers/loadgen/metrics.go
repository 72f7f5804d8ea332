package loadgen

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/millrace/millrace/pkg/telemetry"
)

type metrics struct {
	records *prometheus.CounterVec
	seconds prometheus.Histogram
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		records: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "millrace_loadgen_records_total",
			Help: "Records by outcome: ok, failed, unknown.",
		}, []string{"outcome"}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "millrace_loadgen_produce_duration_seconds",
			Help:    "From handing a record to the client until Kafka acknowledged it.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 16),
		}),
	}
	return m, telemetry.Register(reg, "loadgen", m.records, m.seconds)
}
