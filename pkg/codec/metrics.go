package codec

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
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
	m.calls = register(reg, m.calls, &errs)
	m.version = register(reg, m.version, &errs)
	m.refused = register(reg, m.refused, &errs)
	return m, errors.Join(errs...)
}

// register gives the collector that is registered already, if there is one: a process may have several codecs.
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
