package elasticsearch

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/millrace/millrace/pkg/stream"
	"github.com/millrace/millrace/pkg/telemetry"
)

type metrics struct {
	documents  *prometheus.CounterVec // by type
	duplicates *prometheus.CounterVec
	expired    *prometheus.CounterVec
	refused    *prometheus.CounterVec
	retried    *prometheus.CounterVec
	evolved    *prometheus.CounterVec
	deleted    *prometheus.CounterVec
	errors     *prometheus.CounterVec // by kind
	duration   prometheus.Histogram
	bytes      prometheus.Counter
}

func newMetrics(reg prometheus.Registerer, limiter *stream.Limiter) (*metrics, error) {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "millrace_elasticsearch_" + name, Help: help}, labels)
	}
	m := &metrics{
		documents:  counter("documents_total", "Documents that Elasticsearch created.", "type"),
		duplicates: counter("duplicates_total", "Documents that were there already.", "type"),
		expired:    counter("expired_total", "Records past their retention when they arrived: counted as stored, not indexed.", "type"),
		refused:    counter("refused_total", "Records that Elasticsearch refuses for what they hold.", "type", "reason"),
		retried:    counter("retried_total", "Documents sent again because Elasticsearch turned them away for the moment.", "type"),
		evolved:    counter("evolved_total", "Changes of templates and mappings made while running.", "type"),
		deleted:    counter("deleted_indices_total", "Daily indices deleted because they were past their retention.", "type"),
		errors:     counter("errors_total", "Requests that did not succeed, by kind.", "kind"),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "millrace_elasticsearch_bulk_duration_seconds",
			Help:    "Time of one bulk request, from sending to its answer.",
			Buckets: prometheus.ExponentialBuckets(0.002, 2, 15),
		}),
		bytes: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "millrace_elasticsearch_bulk_bytes_total", Help: "Bytes of bulk requests before compression.",
		}),
	}
	return m, telemetry.Register(reg, "elasticsearch", append(limiter.Metrics("elasticsearch"),
		m.documents, m.duplicates, m.expired, m.refused, m.retried, m.evolved, m.deleted, m.errors,
		m.duration, m.bytes)...)
}
