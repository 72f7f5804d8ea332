// Command prometheus writes the alerts on lag and what loads them: rules.yaml for Prometheus, with the recording rules that
// they stand on, alertmanager.yaml with what is grouped and what keeps what quiet, and prometheus.yaml, an example of a
// configuration that scrapes Millrace and loads the rules.
//
//	go run ./deploy/prometheus [-scale 60] [-slo 0.999] [-runbooks URL] -o DIR
//
// All times are divided by the scale, so that what takes three days can be seen in an hour and a bit. The files in this
// folder are those of scale 1; `make alerts` writes them anew. A flow is a group and a topic in a cluster: one Prometheus may
// scrape the watchers of several.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"time"
)

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "prometheus:", err)
		os.Exit(1) //nolint:forbidigo // this is main
	}
}

// options are what the files depend on.
type options struct {
	scale        float64
	slo          float64 // share of partition-seconds that are to be good over 30 days
	runbooks     string  // URL of docs/runbooks
	target       string  // host:port that Prometheus scrapes
	alertmanager string  // host:port
}

func defaults() options {
	return options{
		scale: 1, slo: 0.999,
		runbooks:     "https://github.com/millrace/millrace/blob/main/docs/runbooks",
		target:       "127.0.0.1:9470",
		alertmanager: "127.0.0.1:9093",
	}
}

func (o options) validate() error {
	switch {
	case !(o.scale > 0) || math.IsInf(o.scale, 0):
		return fmt.Errorf("-scale %v: it divides times, so it is to be above 0", o.scale)
	case !(o.slo > 0 && o.slo < 1):
		return fmt.Errorf("-slo %v: it is a share, so it is to lie between 0 and 1, as 0.999 does", o.slo)
	case burnFast*(1-o.slo) >= 1:
		return fmt.Errorf("-slo %v: the fast burn, %v times the budget, would be more than there is, and never alert", o.slo, burnFast)
	}
	return nil
}

// time is a duration at the scale, as Prometheus writes it. None is less than the second that scraping takes.
func (o options) time(d time.Duration) string {
	left := max(1, int64(math.Round(d.Seconds()/o.scale)))
	var b strings.Builder
	for _, unit := range []struct {
		name    string
		seconds int64
	}{{"d", 86400}, {"h", 3600}, {"m", 60}, {"s", 1}} {
		if n := left / unit.seconds; n > 0 {
			fmt.Fprintf(&b, "%d%s", n, unit.name)
			left %= unit.seconds
		}
	}
	return b.String()
}

// seconds is a duration at the scale, for comparing with a gauge.
func (o options) seconds(d time.Duration) string {
	return fmt.Sprintf("%g", d.Seconds()/o.scale)
}

// files are those that are written, by name.
var files = map[string]func(options) (string, error){
	"rules.yaml":        rules,
	"alertmanager.yaml": alertmanager,
	"prometheus.yaml":   scraping,
}

func run(args []string, stdout io.Writer) error {
	o, dir := defaults(), ""
	f := flag.NewFlagSet("prometheus", flag.ContinueOnError)
	f.SetOutput(stdout)
	f.Float64Var(&o.scale, "scale", o.scale, "divide all times by this")
	f.Float64Var(&o.slo, "slo", o.slo, "share of partition-seconds that are to be within the objective, over 30 days")
	f.StringVar(&o.runbooks, "runbooks", o.runbooks, "URL of the folder of runbooks")
	f.StringVar(&o.target, "target", o.target, "host:port that prometheus.yaml scrapes")
	f.StringVar(&o.alertmanager, "alertmanager", o.alertmanager, "host:port of the Alertmanager in prometheus.yaml")
	f.StringVar(&dir, "o", dir, "folder to write to")
	if err := f.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return nil
		}
		return fmt.Errorf("parsing flags: %w", err)
	}
	if dir == "" {
		return errors.New("-o is missing: name the folder to write to")
	}
	return write(o, dir)
}

func write(o options, dir string) error {
	o.runbooks = strings.TrimSuffix(o.runbooks, "/")
	if err := o.validate(); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return fmt.Errorf("making the folder: %w", err)
	}
	for name, made := range files {
		text, err := made(o)
		if err != nil {
			return fmt.Errorf("making %s: %w", name, err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil { //nolint:gosec // Prometheus runs as another user
			return fmt.Errorf("writing %s: %w", name, err)
		}
	}
	return nil
}
