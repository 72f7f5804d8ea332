package hostmetrics

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/millrace/millrace/pkg/telemetry"
)

type metrics struct {
	records, published, refused   prometheus.Counter
	dropped, retries, spoolErrors prometheus.Counter
	failures                      *prometheus.CounterVec
	waiting, waitingBytes         prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "millrace_hostmetrics_" + name, Help: help})
	}
	m := &metrics{
		records:     counter("records_collected_total", "Records collected."),
		published:   counter("records_published_total", "Records that Kafka acknowledged."),
		refused:     counter("records_refused_total", "Records that can never be published."),
		dropped:     counter("records_dropped_total", "Records dropped because the spool was full."),
		retries:     counter("publish_retries_total", "Attempts to publish that had to be made again."),
		spoolErrors: counter("spool_errors_total", "Errors in writing or reading the spool."),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "millrace_hostmetrics_collect_failures_total", Help: "Collections that failed, by collector.",
		}, []string{"collector"}),
		waiting: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "millrace_hostmetrics_spool_records", Help: "Records on disk that Kafka has not acknowledged.",
		}),
		waitingBytes: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "millrace_hostmetrics_spool_bytes", Help: "Size of the spool.",
		}),
	}
	return m, telemetry.Register(reg, "hostmetrics", m.records, m.published, m.refused, m.dropped, m.retries, m.spoolErrors, m.failures, m.waiting, m.waitingBytes)
}
