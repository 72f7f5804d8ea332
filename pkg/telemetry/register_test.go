package telemetry_test

import (
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/millrace/millrace/pkg/telemetry"
)

func gauge(name string) prometheus.Gauge {
	return prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: "h"})
}

func TestRegisterTwiceIsAnError(t *testing.T) {
	reg := prometheus.NewRegistry()
	if err := telemetry.Register(reg, "part", gauge("a"), gauge("b")); err != nil {
		t.Fatal(err)
	}
	err := telemetry.Register(reg, "part", gauge("a"), gauge("c"))
	if err == nil || !strings.Contains(err.Error(), "registering the metrics of part: ") {
		t.Errorf("got %v", err)
	}
	if families, err := reg.Gather(); err != nil || len(families) != 3 {
		t.Errorf("%d metrics, %v; want the one that was new beside the first two", len(families), err)
	}
}

func TestSharedGivesTheFirst(t *testing.T) {
	reg := prometheus.NewRegistry()
	var errs []error
	first := telemetry.Shared(reg, gauge("a"), &errs)
	if again := telemetry.Shared(reg, gauge("a"), &errs); again != first || len(errs) != 0 {
		t.Errorf("another collector, %v", errs)
	}
	telemetry.Shared(reg, prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "a", Help: "other"}, []string{"label"}), &errs)
	if len(errs) != 1 {
		t.Errorf("another metric of the same name gave %v", errs)
	}
}
