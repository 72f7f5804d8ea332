package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestTheFilesInTheTreeAreNew(t *testing.T) {
	dir := t.TempDir()
	if err := run([]string{"-o", dir}, os.Stdout); err != nil {
		t.Fatal(err)
	}
	for name := range files {
		want, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		have, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(have), string(want)); diff != "" {
			t.Errorf("deploy/prometheus/%s is not what is generated: run `make alerts` (- file, + generated):\n%s", name, diff)
		}
	}
}

func TestAllTimesAreDividedByTheScale(t *testing.T) {
	o := defaults()
	o.scale = 60
	text, err := rules(o)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"[5s]", "[30s]", "[1m]", "[6m]", "[1h12m]", "[24m]", "for: 5s", "< 240 and", "> 0.5", "offset 1m"} {
		if !strings.Contains(text, want) {
			t.Errorf("at scale 60 the rules have no %s", want)
		}
	}
	for _, not := range []string{"[3d]", "[1d]", "for: 5m", "offset 1h", "14400"} {
		if strings.Contains(text, not) {
			t.Errorf("at scale 60 the rules have %s", not)
		}
	}
}

func TestTimesAreWrittenAsPrometheusReadsThem(t *testing.T) {
	for want, d := range map[string]time.Duration{"3d": 3 * day, "1h12m": 72 * time.Minute, "1m30s": 90 * time.Second, "1s": time.Millisecond} {
		if got := defaults().time(d); got != want {
			t.Errorf("%v is written %s, want %s", d, got, want)
		}
	}
}

func TestAnObjectiveThatCannotAlertIsRefused(t *testing.T) {
	for _, args := range [][]string{
		{}, {"-o", t.TempDir(), "-scale", "0"}, {"-o", t.TempDir(), "-scale", "NaN"}, {"-o", t.TempDir(), "-slo", "1"}, {"-o", t.TempDir(), "-slo", "0.9"},
	} {
		if err := run(args, os.Stdout); err == nil {
			t.Errorf("%v was taken", args)
		}
	}
}

// Every alert on a flow or a group can be told apart by it, names its runbook, and no label but these makes two of one.
func TestEveryAlertHasWhatAlertmanagerNeeds(t *testing.T) {
	o := defaults()
	o.runbooks = "https://runbooks.example"
	for _, a := range alerts(o) {
		r := a.rule(o)
		if r.Annotations["runbook_url"] != "https://runbooks.example/"+a.name+".md" {
			t.Errorf("%s: its runbook is %s", a.name, r.Annotations["runbook_url"])
		}
		if r.Annotations["summary"] == "" || r.Annotations["description"] == "" {
			t.Errorf("%s says nothing", a.name)
		}
		if s := r.Labels["severity"]; s != page && s != ticket && s != nobody {
			t.Errorf("%s: severity %q goes nowhere", a.name, s)
		}
		if a.name != destinationDown && strings.Contains(a.expr, ", cause)") {
			t.Errorf("%s has a cause among its labels: it would be another alert with each", a.name)
		}
	}
}
