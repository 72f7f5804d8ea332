package main

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"go.yaml.in/yaml/v3"
)

// unitTests are the parts of promtool's tests that say which alert they are about.
type unitTests struct {
	Tests []struct {
		Name  string `yaml:"name"`
		Exprs []struct {
			Expr    string `yaml:"expr"`
			Samples []any  `yaml:"exp_samples"`
		} `yaml:"promql_expr_test"`
		Alerts []struct {
			Name   string `yaml:"alertname"`
			Alerts []any  `yaml:"exp_alerts"`
		} `yaml:"alert_rule_test"`
	} `yaml:"tests"`
}

var alertOf = regexp.MustCompile(`alertname="(\w+)", alertstate="firing"`)

func unitTestFiles(t *testing.T) []string {
	t.Helper()
	found, err := filepath.Glob("*_test.yaml")
	if err != nil || len(found) == 0 {
		t.Fatalf("promtool's tests: found %v, error %v", found, err)
	}
	return found
}

func TestEveryAlertIsExpectedOnceAndOnceNot(t *testing.T) {
	fires, quiet, known := map[string]bool{}, map[string]bool{}, map[string]bool{}
	for _, path := range unitTestFiles(t) {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var file unitTests
		if err := yaml.Unmarshal(text, &file); err != nil {
			t.Fatalf("reading %s: %v", path, err)
		}
		note := func(name string, expected bool) {
			known[name] = true
			if expected {
				fires[name] = true
			} else {
				quiet[name] = true
			}
		}
		for _, one := range file.Tests {
			for _, e := range one.Exprs {
				m := alertOf.FindStringSubmatch(e.Expr)
				if m == nil {
					t.Errorf("%s, %q: %s is about no alert", path, one.Name, e.Expr)
					continue
				}
				note(m[1], len(e.Samples) > 0)
			}
			for _, a := range one.Alerts {
				note(a.Name, len(a.Alerts) > 0)
			}
		}
	}
	for _, a := range alerts(defaults()) {
		if !fires[a.name] {
			t.Errorf("no test expects %s", a.name)
		}
		if !quiet[a.name] {
			t.Errorf("no test expects that %s does not fire", a.name)
		}
		delete(known, a.name)
	}
	for name := range known {
		t.Errorf("the tests are about %s, which does not exist", name)
	}
}
