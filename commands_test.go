package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/millrace/millrace/pkg/config"
)

func TestEveryCommandShowsAnExample(t *testing.T) {
	t.Parallel()
	for _, c := range []string{"dev", "run", "check", "topics plan", "topics apply", "send", "sql", "report", "lag", "dlq list", "dlq show", "dlq replay", "dlq discard", "loadgen", "version"} {
		out, errs, code := millrace(t, "", append(strings.Fields(c), "--help")...)
		if code != exitOK || errs != "" || !strings.Contains(out, "Example:") || !strings.Contains(out, "millrace "+c) {
			t.Errorf("%s --help: exit code %d, %s%s", c, code, out, errs)
		}
	}
}

func TestExitCodes(t *testing.T) {
	t.Parallel()
	bad := filepath.Join(t.TempDir(), "bad.yaml")
	if err := os.WriteFile(bad, []byte("kafka:\n  brokrs: [a:1]\nstream:\n  drain: 0s\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	f := func(want int, said string, args ...string) {
		t.Helper()
		out, errs, code := millrace(t, "", args...)
		if code != want || !strings.Contains(out+errs, said) {
			t.Errorf("%v: exit code %d, %s%s; want %d and %q", args, code, out, errs, want, said)
		}
	}
	f(exitOK, "millrace ", "version")
	f(exitUsage, "expected one of")
	f(exitUsage, "unexpected argument nothing", "nothing")
	f(exitUsage, "missing flags: --config", "run")
	f(exitUsage, "there are: cassandra, elasticsearch, lake, lag, gateway, hostmetrics, logtail", "run", "--config", bad, "lkae")
	f(exitUsage, "--format", "sql", "--format", "xml", "select 1")
	f(exitFailure, "bad.yaml:2: kafka.brokrs: unknown key", "check", "--config", bad)
	f(exitUsage, "--status=-1s is negative", "dev", "--data", filepath.Join(t.TempDir(), "d"), "--listen", "127.0.0.1:0", "--status=-1s")
	f(exitUsage, "--type", "dev", "--data", filepath.Join(t.TempDir(), "d"), "--listen", "127.0.0.1:0", "--type", bad+".missing")
	f(exitFailure, "is no data directory of millrace dev", "sql", "--data", t.TempDir(), "select 1")
	f(exitUsage, "neither a snapshot's id nor a time", "sql", "--as-of", "yesterday", "select 1")
	f(exitOK, "usage     What each tenant has consumed", "report")
	f(exitUsage, "there are: capacity, errors, slowest, usage", "report", "usag")
	f(exitUsage, "is not before to", "report", "usage", "--from", "2026-11-02", "--to", "2026-11-01")
	f(exitFailure, "is no data directory of millrace dev", "report", "usage", "--data", t.TempDir())
	f(exitFailure, "no such file", "check", "--config", bad+".missing")
	f(exitUsage, "127.0.0.1:9470", "send", "log", bad, "--addr", "127.0.0.1:9470")
	f(exitFailure, "is it running?", "send", "log", bad, "--addr", "http://127.0.0.1:1")
}

// TestCheckPrintsWhatIsInEffect reads its own output back, and never shows a secret.
func TestCheckPrintsWhatIsInEffect(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "c.yaml")
	const secret = "hunter2"
	err := os.WriteFile(file, []byte("kafka: {brokers: [k:1], sasl: {mechanism: plain, user: u, password: "+secret+"}}\nlake: {age: 5s}\n"), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	out, errs, code := millrace(t, "", "check", "--config", file)
	if code != exitOK || strings.Contains(out+errs, secret) || !strings.Contains(out, "password: '***'") {
		t.Fatalf("exit code %d, %s%s", code, out, errs)
	}
	back := DefaultConfig()
	if err := config.Parse("printed", []byte(out), back); err != nil {
		t.Errorf("what was printed cannot be read: %v", err)
	}
	var again bytes.Buffer
	if err := config.Print(&again, back); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(out, again.String()) {
		t.Errorf("read back and printed again it differs:\n%s\nfrom\n%s", &again, out)
	}
}

// TestTheLocalConfigurationIsValid holds the file that `make stack` is used with.
func TestTheLocalConfigurationIsValid(t *testing.T) {
	t.Parallel()
	if _, err := loadConfig("deploy/local/millrace.yaml"); err != nil {
		t.Error(err)
	}
}
