package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/millrace/millrace/pkg/config"
	"github.com/millrace/millrace/pkg/devbroker"
	"github.com/millrace/millrace/pkg/stream"
)

// site is an embedded broker with the topics and the lake's tables, and a configuration for processes on it.
type site struct {
	broker *devbroker.Broker
	dir    string
	cfg    *Config
	file   string
}

// newSite makes one, whose other destinations are at these addresses.
func newSite(t *testing.T, cassandra, elasticsearch string) *site {
	t.Helper()
	s := &site{dir: t.TempDir(), cfg: DefaultConfig()}
	s.file = filepath.Join(s.dir, "millrace.yaml")
	s.startBroker(t)
	t.Cleanup(func() { s.stopBroker(t) })
	c := s.cfg
	c.HTTP.Listen = "127.0.0.1:0"
	c.Kafka.Brokers, c.Kafka.Replication, c.Kafka.MinISR = s.broker.Brokers(), 1, 1
	c.Registry.URLs = []string{s.broker.RegistryURL()}
	c.Cassandra.Hosts = []string{cassandra}
	c.Elasticsearch.URLs = []string{"http://" + elasticsearch}
	c.Lake = devLake(s.dir, time.Hour)
	s.write(t)
	if out, errs, code := millrace(t, "", "topics", "apply", "--config", s.file, "--server", "kafka", "--server", "registry", "--server", "lake"); code != exitOK {
		t.Fatalf("topics apply: exit code %d, %s%s", code, out, errs)
	}
	return s
}

func (s *site) startBroker(t *testing.T) {
	t.Helper()
	var err error
	if s.broker, err = devbroker.Start(filepath.Join(s.dir, "broker")); err != nil {
		t.Fatal(err)
	}
}

func (s *site) stopBroker(t *testing.T) {
	t.Helper()
	if s.broker == nil {
		return
	}
	if err := s.broker.Close(context.Background()); err != nil {
		t.Error(err)
	}
	s.broker = nil
}

func (s *site) write(t *testing.T) {
	t.Helper()
	var text strings.Builder
	if err := config.Print(&text, s.cfg); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.file, []byte(text.String()), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (s *site) run(t *testing.T, components ...string) *process {
	t.Helper()
	return start(t, append([]string{"run", "--config", s.file, "--status", "0"}, components...)...)
}

// metric sums a metric of a process over the series that have all of these labels.
func (p *process) metric(t *testing.T, name string, labels ...string) float64 {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, p.addr+"/metrics", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	sum := 0.0
series:
	for line := range strings.Lines(string(body)) {
		series, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if n, _, _ := strings.Cut(series, "{"); n != name {
			continue
		}
		for _, l := range labels {
			if !strings.Contains(series, l) {
				continue series
			}
		}
		x, err := strconv.ParseFloat(value, 64)
		if err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		sum += x
	}
	return sum
}

// TestAWedgedWorkerEndsTheProcess: a call that never comes back makes the process not ready and then ends it with a
// failure, although the sink does not end either; another process takes its partitions.
func TestAWedgedWorkerEndsTheProcess(t *testing.T) {
	t.Parallel()
	s := newSite(t, "127.0.0.1:1", "127.0.0.1:1")
	s.cfg.Stream.Retry.Attempt, s.cfg.Stream.Wedge, s.cfg.Stream.Drain = time.Second, time.Second, time.Second
	s.write(t)
	gateway := s.run(t, "gateway")
	p := startAs(t, asWedged, s.file)
	publish(t, gateway, "log", `{"severity":"INFO","body":"stuck","service":"stop"}`)
	eventually(t, "it is not ready, and says why", func() error {
		err := p.get(t, "/-/ready", new(map[string]any))
		if err == nil || !strings.Contains(err.Error(), "503") || !strings.Contains(err.Error(), "does not come back") {
			return fmt.Errorf("ready: %w", err)
		}
		return nil
	})
	select {
	case err := <-p.done:
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != exitFailure {
			t.Errorf("the process ended with %v, want exit code %d", err, exitFailure)
		}
	case <-time.After(2 * patience):
		t.Fatal("the process did not end")
	}
	for _, want := range []string{"does not come back", "stuckInWrite", "did not come back, though its time was over", "wedged: did not end within"} {
		if !strings.Contains(p.output(), want) {
			t.Errorf("the process did not say %q", want)
		}
	}
	next := startAs(t, asTaking, s.file)
	eventually(t, "another process has taken over", func() error {
		if n := next.metric(t, "millrace_stream_applied_records_total", `topic="millrace.log"`); n != 1 {
			return fmt.Errorf("it has applied %v", n)
		}
		return nil
	})
	next.stop(t)
	gateway.stop(t)
}

// What this test binary can be besides the program itself: the program with a destination that hangs, or with one that
// takes everything.
const (
	asWedged = "wedged"
	asTaking = "taking"
)

// mainWith is main with one destination, of this role.
func mainWith(role, file string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	e := &env{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, now: time.Now}
	s, err := e.system(file, "")
	if err == nil {
		sink, duties := sinkFunc(takes), func(ctx context.Context) error { <-ctx.Done(); return nil }
		if role == asWedged {
			sink, duties = stuckInWrite, func(context.Context) error { select {} } // as one that waits for its writes
		}
		err = s.sink("wedged", sink, duties)
	}
	if err == nil {
		err = s.runParts(ctx, e, 0, "")
	}
	return exitCode(err, os.Stderr)
}

type sinkFunc func(context.Context, stream.Batch, func(error)) error

func (f sinkFunc) Write(ctx context.Context, b stream.Batch, done func(error)) error {
	return f(ctx, b, done)
}

// stuckInWrite is named so that the log can be asked for it.
func stuckInWrite(context.Context, stream.Batch, func(error)) error { select {} }

func takes(_ context.Context, _ stream.Batch, done func(error)) error {
	done(nil)
	return nil
}
