package main

import (
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/millrace/millrace/pkg/codec"
	"github.com/millrace/millrace/pkg/devstore"
	"github.com/millrace/millrace/pkg/httpserver"
	"github.com/millrace/millrace/pkg/serve"
	"github.com/millrace/millrace/pkg/telemetry"
	"github.com/millrace/millrace/producers/loadgen"
)

var update = flag.Bool("update", false, "write docs/metrics.md anew")

// recorder keeps what is registered. A registry would show a metric only once it has a value.
type recorder struct {
	*prometheus.Registry

	rows map[string]string // of the table, by the metric's name
}

func (r *recorder) Register(c prometheus.Collector) error {
	if err := r.Registry.Register(c); err != nil {
		return err
	}
	descs := make(chan *prometheus.Desc, 100)
	c.Describe(descs)
	close(descs)
	for d := range descs {
		r.add(c, d)
	}
	return nil
}

func (r *recorder) MustRegister(cs ...prometheus.Collector) {
	for _, c := range cs {
		if err := r.Register(c); err != nil {
			r.rows[err.Error()] = err.Error() // which fails the comparison
		}
	}
}

// A Desc tells what it is only as text.
var (
	descText  = regexp.MustCompile(`^Desc\{fqName: "(.*)", help: "(.*)", unit: ".*", constLabels: \{(.*)\}, variableLabels: \{(.*)\}\}$`)
	labelText = regexp.MustCompile(`(\w+)(="[^"]*")?`)
)

func (r *recorder) add(c prometheus.Collector, d *prometheus.Desc) {
	m := descText.FindStringSubmatch(d.String())
	if m == nil {
		r.rows[d.String()] = "cannot be read: " + d.String()
		return
	}
	var labels []string
	for _, l := range labelText.FindAllStringSubmatch(m[3]+","+m[4], -1) {
		labels = append(labels, l[1])
	}
	r.rows[m[1]] = fmt.Sprintf("| `%s` | %s | %s | %s |\n", m[1], metricKind(c, m[1]), strings.Join(labels, ", "), m[2])
}

// metricKind goes by the collector's type, or by the name where one makes metrics of several kinds. With a label for all of a part, it is in a wrapper.
func metricKind(c prometheus.Collector, name string) string {
	t := reflect.TypeOf(c)
	if v := reflect.ValueOf(c).Elem(); strings.HasSuffix(t.String(), "wrappingCollector") {
		t = v.FieldByName("wrappedCollector").Elem().Type()
	}
	if t.String() == "*lag.collector" && strings.HasSuffix(name, "_total") {
		return "counter"
	}
	for _, kind := range []string{"counter", "histogram"} {
		if strings.Contains(strings.ToLower(t.String()), kind) {
			return kind
		}
	}
	return "gauge"
}

// allMetrics builds every part.
func allMetrics(t *testing.T) map[string]string {
	t.Helper()
	rec := &recorder{Registry: prometheus.NewRegistry(), rows: map[string]string{}}
	tel := telemetry.Discard()
	tel.Metrics = rec
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	cfg := DefaultConfig()
	types, err := loadTypes(cfg.Types)
	check(err)
	s := &system{cfg: cfg, tel: tel, types: types, api: &serve.API{}}
	s.codec, err = codec.New(cfg.Registry, types, tel)
	check(err)
	s.http, err = httpserver.New(cfg.HTTP, tel, rec)
	check(err)
	for _, c := range components() {
		check(c.add(s))
	}
	store := devstore.Default()
	store.Path = "never opened"
	_, err = devstore.New(store, types, tel)
	check(err)
	_, err = loadgen.New(loadgen.Default(), s.client, tel, io.Discard)
	check(err)
	return rec.rows
}

// TestMetricsReference keeps docs/metrics.md current: go test . -run MetricsReference -update writes it.
func TestMetricsReference(t *testing.T) {
	const path = "docs/metrics.md"
	var b strings.Builder
	b.WriteString("# Metrics\n\nWhat `/metrics` of a process shows, as far as its components are in it. This page is written by `make generate`.\n" +
		"`millrace_kafka_*` are the Kafka client's own, per client, and `go_*` and `process_*` those of Go and of the process.\n\n" +
		"| name | type | labels | |\n| --- | --- | --- | --- |\n")
	rows := allMetrics(t)
	for _, name := range slices.Sorted(maps.Keys(rows)) {
		b.WriteString(rows[name])
		counter := strings.Contains(rows[name], "` | counter |")
		ours := strings.HasPrefix(name, "millrace_") && !strings.HasPrefix(name, "millrace_lag_") // those are ages, by the field's names
		if counter != strings.HasSuffix(name, "_total") || ours && strings.HasSuffix(name, "_seconds") &&
			!strings.HasSuffix(name, "_duration_seconds") && !strings.HasSuffix(name, "_timestamp_seconds") {
			t.Errorf("%s is not named as others of its kind", name)
		}
	}
	if *update {
		if err := os.WriteFile(path, []byte(b.String()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != b.String() {
		t.Errorf("%s is not current (%v): run make generate", path, err)
	}
}
