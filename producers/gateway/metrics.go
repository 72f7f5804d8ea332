package gateway

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/millrace/millrace/pkg/telemetry"
)

// What became of a record, as a label.
const (
	resAccepted = "accepted" // acknowledged by Kafka
	resRejected = "rejected" // the record's own fault
	resLimited  = "limited"  // over a limit; not sent
	resFailed   = "failed"   // not accepted by Kafka, or not known
)

type metrics struct {
	records  *prometheus.CounterVec
	bytes    *prometheus.CounterVec
	limited  *prometheus.CounterVec
	dropped  *prometheus.CounterVec
	inFlight prometheus.GaugeFunc
	left     prometheus.Counter
}

func newMetrics(reg prometheus.Registerer, inFlight func() float64) (*metrics, error) {
	m := &metrics{
		records: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "millrace_gateway_records_total", Help: "Records received, by type and by what became of them.",
		}, []string{"type", "result"}),
		bytes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "millrace_gateway_received_bytes_total", Help: "JSON bytes of the records received, after decompression.",
		}, []string{"type"}),
		limited: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "millrace_gateway_limited_total", Help: "Requests and records turned away by a limit.",
		}, []string{"limit"}),
		dropped: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "millrace_gateway_own_dropped_total", Help: "The gateway's own records that were not published.",
		}, []string{"type"}),
		inFlight: prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "millrace_gateway_in_flight_bytes", Help: "JSON bytes of records that Kafka has not acknowledged yet.",
		}, inFlight),
		left: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "millrace_gateway_disconnects_total", Help: "Clients that went away before their answer.",
		}),
	}
	return m, telemetry.Register(reg, "gateway", m.records, m.bytes, m.limited, m.dropped, m.inFlight, m.left)
}
