package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"go.yaml.in/yaml/v3"

	"github.com/millrace/millrace/pkg/lag"
	"github.com/millrace/millrace/pkg/schema"
	"github.com/millrace/millrace/pkg/servertest/esproxy"
	"github.com/millrace/millrace/schemas"
)

// env is what one play of a scenario has to itself: a data type with topics, tables and indices of its own, a
// configuration, processes, a ledger of what was sent.
type env struct {
	world  *world
	short  bool
	seed   uint64
	rnd    *rand.Rand // from the seed
	run    string     // names everything of this play
	dir    string     // its files, kept where it fails
	binary string

	typ          *schema.Type
	types        *schema.Set
	destinations []string // those that are judged; all unless the scenario says otherwise
	settings     map[string]any
	config       string // file
	ledger       *ledger
	unread       map[place]key      // records whose dead letters have no value, by where they lie
	commitsFrom  kadm.ListedOffsets // where the log of commits ended before
	causes       []lag.Why          // of which the watcher has to name one
	watched      bool               // there is one
	watcher      *watcher

	mu        sync.Mutex
	processes []*process
	workloads []*workload
	sources   uint16
	recovery  time.Duration // within which lag has to return to 0
	cleanups  []func() error
}

// place is a partition and an offset in the topic of a play.
type place struct {
	partition int32
	offset    int64
}

// onClose has something undone at the end of the play, the last first.
func (e *env) onClose(f func() error) { e.cleanups = append(e.cleanups, f) }

// flow makes the tables, starts one process of all destinations and the sources, and waits until n records are
// acknowledged and some of them committed by each destination.
func (e *env) flow(ctx context.Context, l load, n int64) (*process, *workload, error) {
	if err := e.provision(ctx); err != nil {
		return nil, nil, err
	}
	p, err := e.consume("consumers", "")
	if err != nil {
		return nil, nil, err
	}
	w, err := e.produce(ctx, l)
	if err != nil {
		return nil, nil, err
	}
	if err := w.awaitAcked(ctx, n, time.Minute); err != nil {
		return nil, nil, err
	}
	for _, d := range e.destinations {
		if err := e.awaitCommitted(ctx, d, 1, time.Minute); err != nil {
			return nil, nil, err
		}
	}
	return p, w, nil
}

// awaitMetric waits until a metric of a process is at least so much, and gives it.
func (e *env) awaitMetric(ctx context.Context, p *process, within time.Duration, least float64, name string, labels ...string) (at float64, err error) {
	err = until(ctx, within, fmt.Sprintf("%s of %v is %g", name, labels, least), func(ctx context.Context) error {
		if at, err = p.metric(ctx, name, labels...); err != nil {
			return errors.Join(err, e.health())
		}
		if at < least {
			return errors.Join(fmt.Errorf("it is %g", at), e.health())
		}
		return nil
	})
	return at, err
}

// elasticsearchProxy puts a proxy with faults before Elasticsearch. It is for before provision.
func (e *env) elasticsearchProxy() (*esproxy.Proxy, error) {
	p, err := esproxy.Start(e.world.servers.elasticsearch, e.seed)
	if err != nil {
		return nil, err
	}
	e.onClose(p.Close)
	e.set("elasticsearch.urls", []string{p.URL()})
	return p, nil
}

func newEnv(ctx context.Context, w *world, s *scenario, b build_, seed uint64) (*env, error) {
	e := &env{
		world: w, short: w.opts.Short || w.opts.Soak > 0, seed: seed, binary: b.path(w.opts.out), destinations: destinationNames,
		causes: s.causes, watched: true, rnd: rand.New(rand.NewPCG(seed, uint64(s.number))), //nolint:gosec // to be repeated
		run: fmt.Sprintf("f%02d_%x", s.number, time.Now().UnixMilli()), ledger: newLedger(), unread: map[place]key{}, recovery: 3 * time.Minute,
	}
	if b.name != sound.name { // it is not expected to recover
		e.recovery, e.watched = 45*time.Second, false
	}
	e.dir = filepath.Join(w.opts.out, "runs", strconv.Itoa(s.number)+"-"+s.name+"-"+b.name)
	if err := errors.Join(os.RemoveAll(e.dir), os.MkdirAll(e.dir, 0o700)); err != nil { //nolint:gosec // under -out, which the caller names
		return nil, err
	}
	e.settings = map[string]any{
		"http":          map[string]any{"listen": "127.0.0.1:0"},
		"kafka":         map[string]any{"brokers": w.cluster.addresses(), "replication": brokerCount, "min_isr": 2},
		"registry":      map[string]any{"urls": []string{w.servers.registry}},
		"types":         map[string]any{"builtin": false, "files": []string{filepath.Join(e.dir, "type.avsc")}},
		"gateway":       map[string]any{"own_records": false},
		"cassandra":     map[string]any{"hosts": []string{w.servers.cassandra}, "keyspace": e.run},
		"elasticsearch": map[string]any{"urls": []string{w.servers.elasticsearch}, "prefix": e.run, "replicas": 0},
		"sql":           map[string]any{"deduplicate": []string{}},
		"lake":          map[string]any{"age": "1s", "warehouse": filepath.Join(e.dir, "lake")},
	}
	// Short waits everywhere: what takes half a minute by default shows nothing more than what takes seconds.
	e.set("stream.session", "6s")
	e.set("stream.drain", "5s")
	e.set("stream.commit", "500ms")
	e.set("stream.batch.records", 500)
	e.set("stream.batch.age", "200ms")
	e.set("stream.retry.max", "2s")
	e.set("stream.retry.attempt", "10s")
	e.set("stream.report", "1s")
	e.set("lag.interval", "1s")
	e.set("lag.groups", []string{})
	for _, d := range destinationNames {
		e.set("lag.objectives."+group(d), "3s")
	}
	text, err := fs.ReadFile(schemas.Files, "log.avsc")
	if err != nil {
		return nil, err
	}
	return e, e.setType(ctx, bytes.Replace(text, []byte(`"name": "log"`), []byte(`"name": "`+e.run+`"`), 1))
}

// setType makes the data type of the play; its name is e.run.
func (e *env) setType(_ context.Context, text []byte) (err error) {
	if e.typ, e.types, err = typeOf(text, e.run); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(e.dir, "type.avsc"), text, 0o600)
}

// set sets a value of the configuration, by the path of its key. It is for before provision.
func (e *env) set(path string, value any) {
	at := e.settings
	keys := strings.Split(path, ".")
	for _, k := range keys[:len(keys)-1] {
		next, ok := at[k].(map[string]any)
		if !ok {
			next = map[string]any{}
			at[k] = next
		}
		at = next
	}
	at[keys[len(keys)-1]] = value
}

// configure writes the configuration as it now is to a file, and gives its path.
func (e *env) configure(name string) (string, error) {
	data, err := yaml.Marshal(e.settings)
	if err != nil {
		return "", err
	}
	path := filepath.Join(e.dir, name+".yaml")
	return path, os.WriteFile(path, data, 0o600)
}

// pick gives the first in the short form, the second otherwise.
func pick[T any](e *env, short, full T) T {
	if e.short {
		return short
	}
	return full
}

// provision makes the topics, tables and indices as an operator does.
func (e *env) provision(ctx context.Context) (err error) {
	if e.config, err = e.configure("millrace"); err != nil {
		return err
	}
	if err := e.command(ctx, "apply", "topics", "apply", "--config", e.config); err != nil {
		return err
	}
	if e.watched && e.watcher == nil {
		if err := e.watch(); err != nil {
			return err
		}
	}
	e.commitsFrom, err = listed(ctx, e.world.adm.ListEndOffsets, commitTopic)
	if errors.Is(err, kerr.UnknownTopicOrPartition) { // before the first group
		return nil
	}
	return err
}

// command runs `millrace args…` to its end.
func (e *env) command(ctx context.Context, name string, args ...string) error {
	p, err := e.start(name, nil, args...)
	if err != nil {
		return err
	}
	p.ending.Store(true)
	select {
	case <-p.done:
	case <-time.After(2 * time.Minute):
		p.kill()
		return fmt.Errorf("millrace %s did not end within 2 minutes: %s", strings.Join(args, " "), p.log)
	case <-ctx.Done():
		p.kill()
		return ctx.Err()
	}
	if p.err != nil {
		printed, _ := os.ReadFile(p.log) // it is shown, if it can be
		return fmt.Errorf("millrace %s: %w\n%s", strings.Join(args, " "), p.err, printed)
	}
	return nil
}

// consume starts a process with these components, or with all destinations of the play. A failpoint is
// MILLRACE_FAILPOINT's value; none is "".
func (e *env) consume(name, failpoint string, components ...string) (*process, error) {
	return e.consumeWith(e.config, name, failpoint, components...)
}

// consumeWith is consume with another configuration file.
func (e *env) consumeWith(config, name, failpoint string, components ...string) (*process, error) {
	if len(components) == 0 {
		components = e.destinations
	}
	return e.start(name, []string{"MILLRACE_FAILPOINT=" + failpoint},
		append([]string{"run", "--config", config, "--status", "0"}, components...)...)
}

func (e *env) nextSource() uint16 {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.sources++
	return e.sources - 1
}

func (e *env) topic() string { return e.typ.TopicName() }

// positions sums over the partitions what there is to read, and what a destination's group has committed.
func (e *env) positions(ctx context.Context, destination string) (end, committed int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	ends, err := e.world.adm.ListEndOffsets(ctx, e.topic())
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		return 0, 0, fmt.Errorf("listing the ends of %s: %w", e.topic(), err)
	}
	commits, err := e.world.adm.FetchOffsets(ctx, group(destination))
	if err != nil && !errors.Is(err, kerr.GroupIDNotFound) { // before its first member
		return 0, 0, fmt.Errorf("fetching what %s has committed: %w", group(destination), err)
	}
	ends.Each(func(o kadm.ListedOffset) {
		end += o.Offset
		if c, ok := commits.Lookup(o.Topic, o.Partition); ok {
			committed += max(0, c.At)
		}
	})
	return end, committed, commits.Error()
}

// awaitCommitted waits until a destination's group has committed n records more than now.
func (e *env) awaitCommitted(ctx context.Context, destination string, n int64, within time.Duration) error {
	from := int64(-1)
	return until(ctx, within, fmt.Sprintf("%s commits %d more records", destination, n), func(ctx context.Context) error {
		_, committed, err := e.positions(ctx, destination)
		if err != nil {
			return err
		}
		if from < 0 {
			from = committed
		}
		if committed < from+n {
			return fmt.Errorf("it has committed %d", committed-from)
		}
		return e.health()
	})
}

// health says whether a process or a source has ended by itself.
func (e *env) health() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, p := range e.processes {
		if err := p.ended(); err != nil {
			return &finalError{err}
		}
	}
	for _, w := range e.workloads {
		if err := w.health(); err != nil {
			return err
		}
	}
	return nil
}

// awaitCaughtUp waits until every destination's group has committed all that there is. How long that takes is the machine's
// affair: what ends the wait is that nothing is committed for the time that recovery may take.
func (e *env) awaitCaughtUp(ctx context.Context) error {
	for _, d := range e.destinations {
		var err error
		for reached, moved := int64(-1), true; moved; {
			at := reached
			err = until(ctx, e.recovery, d+" catches up", func(ctx context.Context) error {
				end, committed, err := e.positions(ctx, d)
				if err != nil {
					return err
				}
				if at = committed; committed != end {
					return errors.Join(fmt.Errorf("it has committed %d of %d records", committed, end), e.health())
				}
				return nil
			})
			moved, reached = err != nil && at > reached && ctx.Err() == nil, at
		}
		if err != nil {
			return fmt.Errorf("%w; the processes say: %s", err, e.statements(ctx, d))
		}
	}
	return nil
}

// statements is what the running processes say of a destination of theirs.
func (e *env) statements(ctx context.Context, destination string) string {
	var said []string
	for _, p := range e.processes {
		select {
		case <-p.done:
			continue
		default:
		}
		body, err := p.get(ctx, "/api/v1/consumers")
		if err != nil {
			said = append(said, fmt.Sprintf("%s: %v", p.name, err))
			continue
		}
		var answer struct {
			Rows []struct {
				Destination string `json:"destination"`
				Applied     int64  `json:"applied"`
				LagRecords  int64  `json:"lag_records"`
				State       string `json:"state"`
			} `json:"rows"`
		}
		if err := json.Unmarshal(body, &answer); err != nil {
			said = append(said, fmt.Sprintf("%s: %v", p.name, err))
		}
		for _, r := range answer.Rows {
			if r.Destination == destination {
				said = append(said, fmt.Sprintf("%s: applied %d, lag %d %s", p.name, r.Applied, r.LagRecords, r.State))
			}
		}
	}
	return strings.Join(said, "; ")
}

// stopSources ends the workloads; every record has its outcome then.
func (e *env) stopSources(ctx context.Context) error {
	var errs []error
	for _, w := range e.workloads {
		errs = append(errs, w.stop(ctx))
	}
	return errors.Join(errs...)
}

// stopProcesses ends the processes that still run, as an operator does.
func (e *env) stopProcesses(ctx context.Context) error {
	var wg sync.WaitGroup
	errs := make([]error, len(e.processes))
	for i, p := range e.processes {
		select {
		case <-p.done:
			errs[i] = p.ended()
		default:
			wg.Go(func() { errs[i] = p.stop(ctx) })
		}
	}
	wg.Wait()
	return errors.Join(errs...)
}

// close removes what the play has made on the servers, and ends what is left of it.
func (e *env) close(ctx context.Context) error {
	var errs []error
	for _, w := range e.workloads {
		w.stop_()
	}
	for _, p := range e.processes {
		p.kill()
	}
	errs = append(errs, e.stopSources(ctx), e.removeGroups(ctx))
	if _, err := e.world.adm.DeleteTopics(ctx, e.typ.TopicName(), e.typ.DLQName()); err != nil {
		errs = append(errs, fmt.Errorf("deleting the topics: %w", err))
	}
	errs = append(errs, e.world.servers.forget(ctx, e.run))
	for _, f := range slices.Backward(e.cleanups) {
		errs = append(errs, f())
	}
	return errors.Join(errs...)
}

// removeGroups sends away the members that were killed, which would be missed for a session time-out, and deletes the
// groups: the next play begins with none.
func (e *env) removeGroups(ctx context.Context) error {
	var names []string
	for _, d := range destinationNames {
		names = append(names, group(d))
	}
	return until(ctx, time.Minute, "the groups are deleted", func(ctx context.Context) error {
		described, err := e.world.adm.DescribeGroups(ctx, names...)
		if err != nil {
			return err
		}
		for _, g := range described {
			var members []string
			for _, m := range g.Members {
				members = append(members, m.MemberID)
			}
			if len(members) > 0 {
				if err := e.world.leave(ctx, g.Group, members); err != nil {
					return err
				}
			}
		}
		deleted, err := e.world.adm.DeleteGroups(ctx, names...)
		if err != nil {
			return err
		}
		for _, d := range deleted {
			if d.Err != nil && !errors.Is(d.Err, kerr.GroupIDNotFound) {
				return fmt.Errorf("deleting the group %s: %w", d.Group, d.Err)
			}
		}
		return nil
	})
}
