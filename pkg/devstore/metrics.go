package devstore

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/millrace/millrace/pkg/telemetry"
)

type metrics struct {
	rows    *prometheus.CounterVec
	repeats *prometheus.CounterVec
	expired *prometheus.CounterVec
	commits prometheus.Histogram
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		rows: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "millrace_devstore_rows_total", Help: "Rows stored for the first time, by type.",
		}, []string{"type"}),
		repeats: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "millrace_devstore_repeats_total", Help: "Records that were there already and changed nothing, by type.",
		}, []string{"type"}),
		expired: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "millrace_devstore_expired_total", Help: "Rows deleted because their retention was over, by type.",
		}, []string{"type"}),
		commits: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "millrace_devstore_commit_duration_seconds", Help: "Time to make some batches durable.",
			Buckets: prometheus.ExponentialBuckets(0.002, 2, 12),
		}),
	}
	return m, telemetry.Register(reg, "devstore", m.rows, m.repeats, m.expired, m.commits)
}
