// Package telemetry is what every part is given to be seen by: a logger and a metrics registry.
package telemetry

import (
	"io"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"
)

// Set is handed to every part's New.
type Set struct {
	Log     *slog.Logger
	Metrics prometheus.Registerer
}

// With gives the set for one component: its name is on every log line.
func (s Set) With(component string) Set {
	s.Log = s.Log.With("component", component)
	return s
}

// Discard is a set whose logs go nowhere and whose metrics nobody reads.
func Discard() Set {
	return Set{Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry()}
}

// New makes a set that logs to w, as "json" or "text", from a level on.
func New(w io.Writer, format string, level slog.Level, reg prometheus.Registerer) Set {
	opts := &slog.HandlerOptions{Level: level}
	if format == "json" {
		return Set{Log: slog.New(slog.NewJSONHandler(w, opts)), Metrics: reg}
	}
	return Set{Log: slog.New(slog.NewTextHandler(w, opts)), Metrics: reg}
}
