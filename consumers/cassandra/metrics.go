package cassandra

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/millrace/millrace/pkg/stream"
	"github.com/millrace/millrace/pkg/telemetry"
)

type metrics struct {
	rows      *prometheus.CounterVec // by type
	expired   *prometheus.CounterVec
	refused   *prometheus.CounterVec
	evolved   *prometheus.CounterVec
	oversized *prometheus.CounterVec
	errors    *prometheus.CounterVec // by kind
	duration  prometheus.Histogram
}

func newMetrics(reg prometheus.Registerer, limiter *stream.Limiter) (*metrics, error) {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "millrace_cassandra_" + name, Help: help}, labels)
	}
	m := &metrics{
		rows:      counter("rows_total", "Rows that Cassandra acknowledged.", "type"),
		expired:   counter("expired_total", "Records past their retention when they arrived: counted as stored, not written.", "type"),
		refused:   counter("refused_total", "Records that Cassandra refuses for what they hold.", "type", "reason"),
		evolved:   counter("evolved_total", "Columns added to a table while running.", "type"),
		oversized: counter("oversized_partitions_total", "Partitions that passed the size bound.", "type"),
		errors:    counter("errors_total", "Requests that did not succeed, by kind.", "kind"),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "millrace_cassandra_write_duration_seconds",
			Help:    "Time of one write request, from sending to its answer.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 15),
		}),
	}
	return m, telemetry.Register(reg, "cassandra", append(limiter.Metrics("cassandra"),
		m.rows, m.expired, m.refused, m.evolved, m.oversized, m.errors, m.duration)...)
}
