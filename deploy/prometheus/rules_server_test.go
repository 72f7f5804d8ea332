package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// binary is one of Debian's Prometheus or Alertmanager, as `deploy/local/setup.sh prometheus` unpacks them. Without
// MILLRACE_SERVERS=1 there is none and the test has nothing to do; with it a missing one fails the test.
func binary(t *testing.T, name string) (string, bool) {
	t.Helper()
	if os.Getenv("MILLRACE_SERVERS") != "1" {
		return "", false
	}
	cache := os.Getenv("XDG_CACHE_HOME") // as setup.sh finds it, on every system
	if cache == "" {
		cache = filepath.Join(os.Getenv("HOME"), ".cache")
	}
	path := filepath.Join(cache, "millrace", "prometheus", "usr", "bin", name)
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("MILLRACE_SERVERS=1 says that %s is there, but: %v. `deploy/local/setup.sh prometheus` fetches it", name, err)
	}
	return path, true
}

func check(t *testing.T, tool string, args ...string) {
	t.Helper()
	path, ok := binary(t, tool)
	if !ok {
		return
	}
	if out, err := exec.CommandContext(t.Context(), path, args...).CombinedOutput(); err != nil {
		t.Errorf("%s %v: %v\n%s", tool, args, err, out)
	}
}

func TestPromtoolsTestsPass(t *testing.T) {
	for _, path := range unitTestFiles(t) {
		t.Run(path, func(t *testing.T) {
			t.Parallel()
			check(t, "promtool", "test", "rules", path)
		})
	}
}

func TestTheToolsTakeTheFiles(t *testing.T) {
	for _, scale := range []float64{1, 60} {
		o, dir := defaults(), t.TempDir()
		o.scale = scale
		if err := write(o, dir); err != nil {
			t.Fatal(err)
		}
		check(t, "promtool", "check", "config", filepath.Join(dir, "prometheus.yaml")) // and the rules that it names
		check(t, "amtool", "check-config", filepath.Join(dir, "alertmanager.yaml"))
	}
}
