package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
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

// stopBound is what a stop may take with whatever is in flight: what orchestrators give a process before they kill it.
const stopBound = 30 * time.Second

// silent listens, and takes all that comes without ever answering.
func silent(t *testing.T) string {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(io.Discard, c) }()
		}
	}()
	return l.Addr().String()
}

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

// rows counts those of the lake, and how many Kafka records they are of.
func (s *site) rows(t *testing.T) string {
	t.Helper()
	out, errs, code := millrace(t, "", "sql", "--config", s.file, "--format", "csv",
		"select count(*) as n, count(distinct (_partition, _offset)) as records from log")
	if code != exitOK {
		t.Fatalf("sql: exit code %d, %s%s", code, out, errs)
	}
	return strings.ReplaceAll(strings.TrimPrefix(out, "n,records\n"), "\n", "")
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

// inFlight is a process that holds records in all of its destinations.
type inFlight struct {
	*site

	p       *process
	noKafka bool // when it stops
}

const sentInFlight = 200

func newInFlight(t *testing.T, noKafka bool, cassandra, elasticsearch string) *inFlight {
	t.Helper()
	s := &inFlight{site: newSite(t, cassandra, elasticsearch), noKafka: noKafka}
	s.p = s.run(t, "cassandra", "elasticsearch", "lake", "gateway")
	publish(t, s.p, "log", strings.Repeat(`{"severity":"INFO","body":"in flight","service":"stop"}`+"\n", sentInFlight))
	eventually(t, "all is in flight", func() error {
		for _, consumer := range []string{"cassandra", "elasticsearch", "lake"} {
			if n := s.p.metric(t, "millrace_stream_fetched_offset", `consumer="`+consumer+`"`, `topic="millrace.log"`); n != sentInFlight {
				return fmt.Errorf("%s has fetched %v", consumer, n)
			}
		}
		if s.p.metric(t, "millrace_lake_held_bytes", `table="log"`) == 0 {
			return errors.New("the lake holds nothing")
		}
		return nil
	})
	return s
}

// TestStopWithEverythingInFlight stops processes whose destinations do not answer or are not there, one of which has lost
// Kafka, too, while the lake holds rows: it is over in time, with exit code 0, and the lake has each record once and
// reads none again.
func TestStopWithEverythingInFlight(t *testing.T) {
	t.Parallel()
	const down = "127.0.0.1:1"
	both := []*inFlight{newInFlight(t, false, silent(t), down), newInFlight(t, true, down, silent(t))}
	begun := time.Now()
	for _, s := range both { // side by side, since there is nothing to do but to wait
		if s.noKafka {
			s.stopBroker(t)
		}
		if err := s.p.cmd.Process.Signal(os.Interrupt); err != nil {
			t.Fatal(err)
		}
	}
	for _, s := range both {
		s.p.wait(t)
		took := s.p.ended.Sub(begun)
		t.Logf("without Kafka: %t; the stop took %v", s.noKafka, took.Round(100*time.Millisecond))
		if took > stopBound {
			t.Errorf("without Kafka: %t; the stop took %v, want at most %v", s.noKafka, took, stopBound)
		}
		s.checkLake(t)
	}
}

// checkLake holds the lake against what was sent, after the stop and after a restart.
func (s *inFlight) checkLake(t *testing.T) {
	t.Helper()
	// Without Kafka a process may find that it lost its partitions, and then it lets go of what it holds.
	if got, want := s.rows(t), fmt.Sprintf("%d,%d", sentInFlight, sentInFlight); got != want && !s.noKafka {
		t.Errorf("the lake has %s rows and records after the stop, want %s", got, want)
	}
	if s.noKafka {
		s.startBroker(t)
	}
	s.cfg.Lake.Age = time.Second
	s.write(t)
	p := s.run(t, "lake", "gateway")
	publish(t, p, "log", `{"severity":"INFO","body":"one more","service":"stop"}`)
	eventually(t, "the one more is in the lake", func() error {
		if n := p.metric(t, "millrace_stream_applied_offset", `consumer="lake"`, `topic="millrace.log"`); n != sentInFlight+1 {
			return fmt.Errorf("the lake has applied %v", n)
		}
		return nil
	})
	if n := p.metric(t, "millrace_stream_applied_records_total", `consumer="lake"`, `topic="millrace.log"`); n != 1 && !s.noKafka {
		t.Errorf("%v records were applied after the restart, want the one more: others were read again", n)
	}
	p.stop(t)
	if got, want := s.rows(t), fmt.Sprintf("%d,%d", sentInFlight+1, sentInFlight+1); got != want {
		t.Errorf("the lake has %s rows and records after the restart, want %s", got, want)
	}
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
