package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

const stackScript = "deploy/local/stack.sh"

// world is what all scenarios of a run share: the servers.
type world struct {
	opts    options
	cluster *cluster
	servers servers
	client  *kgo.Client
	adm     *kadm.Client
}

// openWorld starts all servers, or takes over those that run, and waits until all is well with them.
func openWorld(ctx context.Context, o options) (w *world, err error) {
	if err := settle(ctx); err != nil {
		return nil, err
	}
	w = &world{opts: o, servers: servers{dir: filepath.Join(o.out, "servers")}}
	_, adopted := runningServer(o.out)
	if !adopted {
		if err := w.servers.script(ctx, nil, "", "clean"); err != nil {
			return nil, err
		}
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.close())
		}
	}()
	if w.cluster, err = openCluster(ctx, filepath.Join(o.out, "kafka"), !adopted); err != nil {
		return w, err
	}
	for _, b := range w.cluster.brokers {
		if err := b.start(); err != nil {
			return w, err
		}
	}
	if err := w.servers.up(ctx); err != nil {
		return w, err
	}
	if w.client, err = kgo.NewClient(kgo.SeedBrokers(w.cluster.addresses()...), kgo.RetryTimeout(10*time.Second)); err != nil {
		return w, err
	}
	w.adm = kadm.NewClient(w.client)
	return w, w.cluster.heal(ctx, w.adm)
}

// heal has all servers run and be well.
func (w *world) heal(ctx context.Context) error {
	return errors.Join(w.cluster.heal(ctx, w.adm), w.servers.script(ctx, nil, "", "up"))
}

// close stops all servers.
func (w *world) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	if w.client != nil {
		w.client.Close()
	}
	var errs []error
	if w.cluster != nil {
		for _, b := range w.cluster.brokers {
			errs = append(errs, b.kill(ctx)) // its data is of no more use
		}
	}
	errs = append(errs, w.servers.script(ctx, nil, "", "clean"))
	return errors.Join(errs...)
}

// servers are those that deploy/local/stack.sh starts: registry, Cassandra, Elasticsearch.
type servers struct {
	dir                                string
	registry, cassandra, elasticsearch string
}

const otherServers = "registry cassandra elasticsearch"

// script calls stack.sh, for one server or for all but Kafka.
func (s *servers) script(ctx context.Context, out *bytes.Buffer, only string, args ...string) error {
	if only == "" {
		only = otherServers
	}
	cmd := exec.CommandContext(ctx, stackScript, args...) //nolint:gosec // ours
	cmd.Env = append(os.Environ(), "MILLRACE_STACK_DIR="+s.dir, "MILLRACE_STACK_PORT_BASE=auto", "MILLRACE_STACK_SERVERS="+only)
	var printed bytes.Buffer
	cmd.Stdout, cmd.Stderr = &printed, &printed
	if out != nil {
		cmd.Stdout = out
	}
	cmd.WaitDelay = time.Second
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s %s: %w\n%s", stackScript, strings.Join(args, " "), err, printed.Bytes())
	}
	return nil
}

func (s *servers) up(ctx context.Context) error {
	if err := s.script(ctx, nil, "", "up"); err != nil {
		return err
	}
	data, err := os.ReadFile(filepath.Join(s.dir, "env"))
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(data)) {
		name, value, _ := strings.Cut(strings.TrimSpace(strings.TrimPrefix(line, "export ")), "=")
		switch name {
		case "MILLRACE_REGISTRY":
			s.registry = value
		case "MILLRACE_CASSANDRA":
			s.cassandra = value
		case "MILLRACE_ELASTICSEARCH":
			s.elasticsearch = value
		}
	}
	if s.registry == "" || s.cassandra == "" || s.elasticsearch == "" {
		return fmt.Errorf("%s does not say where all servers are", filepath.Join(s.dir, "env"))
	}
	return nil
}

// stop and start end one of the servers and start it again, with its data. start returns once it answers.
func (s *servers) stop(ctx context.Context, name string) error {
	return s.script(ctx, nil, name, "down")
}

func (s *servers) start(ctx context.Context, name string) error {
	return s.script(ctx, nil, name, "up")
}

// runningServer gives a server of an earlier run in this directory, which that run left running.
func runningServer(out string) (pid int, ok bool) {
	dir := filepath.Join(out, "servers")
	pid, err := readPid(filepath.Join(dir, "pids", "cassandra"))
	return pid, err == nil && alive(pid, "-Dmillrace.stack="+filepath.Join(dir, "cassandra"))
}

func readPid(path string) (int, error) {
	data, err := os.ReadFile(path) //nolint:gosec // ours
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(data)))
}

// alive says whether a process runs whose command line has this argument, so that a pid that now is another's is not
// taken for it.
func alive(pid int, argument string) bool {
	line, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cmdline")       //nolint:gosec // a number
	return err == nil && bytes.Contains(line, []byte("\x00"+argument+"\x00")) // a dead one that nobody waited for has no command line
}

// build_ is a binary under test.
type build_ struct {
	name string // sound, or the defect's
	tags string
}

var sound = build_{name: "sound", tags: "synctests,failpoints"}

func (b build_) path(out string) string { return filepath.Join(out, "bin", "millrace-"+b.name) }

// build compiles what will run. It comes before the namespaces, within which nothing can be downloaded.
func build(ctx context.Context, o options, variants []variant) error {
	builds := []build_{sound}
	for _, v := range variants {
		builds = append(builds, v.build())
	}
	for _, b := range builds {
		begun := time.Now()
		cmd := exec.CommandContext(ctx, "go", "build", "-tags", b.tags, "-o", b.path(o.out), "github.com/millrace/millrace") //nolint:gosec // ours
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("building the %s binary: %w\n%s", b.name, err, out)
		}
		fmt.Fprintf(os.Stderr, "faults: built %s in %.0f s\n", b.name, time.Since(begun).Seconds())
	}
	cmd := exec.CommandContext(ctx, stackScript, "fetch")
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("downloading the servers: %w", err)
	}
	return nil
}

// until waits for a condition, and says at the end what it lacked.
func until(ctx context.Context, within time.Duration, what string, condition func(context.Context) error) error {
	begun := time.Now()
	waiting, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	var last error
	for {
		err := condition(waiting)
		if err == nil {
			return nil
		}
		if final, ok := errors.AsType[*finalError](err); ok {
			return fmt.Errorf("%s: %w", what, final.error)
		}
		if last == nil || waiting.Err() == nil { // that the time ran out in the middle of a call says nothing
			last = err
		}
		select {
		case <-tick.C:
		case <-waiting.Done():
			return fmt.Errorf("%s: not within %.0f s: %w", what, time.Since(begun).Seconds(), last)
		}
	}
}

// finalError ends an until at once: waiting would change nothing.
type finalError struct{ error }

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
