package codec

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/millrace/millrace/pkg/telemetry"
)

type metrics struct {
	calls   *prometheus.CounterVec // by call and result
	version *prometheus.GaugeVec   // by type
	refused *prometheus.CounterVec // by type
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "millrace_codec_registry_calls_total",
			Help: "Calls to the schema registry, by what was asked and how it ended (ok, not_found, error).",
		}, []string{"call", "result"}),
		version: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "millrace_codec_schema_version",
			Help: "The version of the type's subject that is in use.",
		}, []string{"type"}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "millrace_codec_schema_refused_total",
			Help: "Newer versions in the registry that this process cannot use.",
		}, []string{"type"}),
	}
	var errs []error
	m.calls = telemetry.Shared(reg, m.calls, &errs)
	m.version = telemetry.Shared(reg, m.version, &errs)
	m.refused = telemetry.Shared(reg, m.refused, &errs)
	return m, errors.Join(errs...)
}
