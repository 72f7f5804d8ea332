package lake

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/millrace/millrace/pkg/telemetry"
)

type metrics struct {
	rows, files, bytes, commits, conflicts, failures, restarts, wedged, merged, repeats, neglected *prometheus.CounterVec

	held, validThrough *prometheus.GaugeVec
	stopped            *prometheus.GaugeVec
	seconds            *prometheus.HistogramVec
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	counter := func(name, help string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "millrace_lake_" + name, Help: help}, []string{"table"})
	}
	gauge := func(name, help string, labels ...string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "millrace_lake_" + name, Help: help}, append([]string{"table"}, labels...))
	}
	m := &metrics{
		rows:         counter("rows_total", "Rows committed."),
		files:        counter("files_total", "Data files committed."),
		bytes:        counter("file_bytes_total", "Bytes of the data files committed."),
		commits:      counter("commits_total", "Commits that took effect."),
		conflicts:    counter("conflicts_total", "Attempts to commit that another writer was faster than."),
		failures:     counter("failures_total", "Commits that did not go through in time, and are tried again."),
		restarts:     counter("restarts_total", "Sets of held rows given up, to be read again from the log."),
		wedged:       counter("wedged_commits_total", "Commits that did not come back when their time was over."),
		merged:       counter("merged_files_total", "Small files that upkeep has merged."),
		repeats:      counter("repeats_total", "Rows that upkeep has dropped, since the same event is there already."),
		neglected:    counter("upkeep_failures_total", "Rounds of upkeep that did not come to their end."),
		held:         gauge("held_bytes", "Memory of the rows that are in no file yet."),
		validThrough: gauge("valid_through_timestamp_seconds", "Append time up to which the table is complete, in seconds since 1970."),
		stopped:      gauge("stopped", "1 for a partition that waits for an operator's decision.", "partition", "reason"),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "millrace_lake_commit_duration_seconds", Help: "How long commits take, from closing the files to the catalog's answer.",
			Buckets: prometheus.ExponentialBuckets(0.01, 2, 14),
		}, []string{"table"}),
	}
	return m, telemetry.Register(reg, "lake", m.rows, m.files, m.bytes, m.commits, m.conflicts, m.failures, m.restarts, m.wedged, m.merged, m.repeats, m.neglected,
		m.held, m.validThrough, m.stopped, m.seconds)
}
