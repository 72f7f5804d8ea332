// Package lag is the watcher of consumer groups, ours and anyone's: how far each is behind on each topic, in records and in
// seconds, and why. It belongs to no consumer, so it sees the one that hangs or is gone.
//
// A [Monitor] looks at the cluster at an interval, in as many requests as there are brokers and coordinators, and keeps the
// last [lag.View]: metrics, the API and the status table show that one, and none of them asks Kafka anything.
package lag

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/pkg/lag"
	"github.com/millrace/millrace/pkg/telemetry"
)

// Deps are what a Monitor is given.
type Deps struct {
	Kafka []kgo.Opt
	// Own are Millrace's groups, with the topics that each is to read: one that never ran is behind by all there is.
	Own map[string][]string
	// Objectives are those of Own where the configuration names none.
	Objectives map[string]time.Duration
	// Follow gives what consumers say of themselves to fn, until ctx ends. A nil report is that one stopped in order.
	Follow func(ctx context.Context, fn func(group, instance string, r *lag.Report)) error
	// Skew is by how much the brokers' clock is ahead of this machine's; nil is not at all.
	Skew func(ctx context.Context) (time.Duration, error)
	// ClientStamps says that the brokers keep the clients' stamps whatever the topics' configuration says, as kfake does.
	ClientStamps bool
	Telemetry    telemetry.Set
	Now          func() time.Time
}

// Monitor watches one cluster.
type Monitor struct {
	cfg  Config
	deps Deps
	tel  telemetry.Set
	opts lag.Options
	want func(group string) bool

	view     atomic.Pointer[lag.View]
	history  *history
	counters *counters
	views    broadcast

	followers atomic.Int64 // of the live view
	compared  time.Time    // when clocks were

	watcher *lag.Watcher // of the loop alone

	mu    sync.Mutex
	heard map[speaker]*lag.Report // what consumers have said since the last look
}

// speaker is a consumer that says how it does.
type speaker struct{ group, instance string }

// New checks the configuration and registers the metrics.
func New(cfg Config, deps Deps) (*Monitor, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	opts, want, err := options(cfg, deps)
	if err != nil {
		return nil, err
	}
	m := &Monitor{
		cfg: cfg, deps: deps, tel: deps.Telemetry.With("lag"), opts: opts, want: want,
		watcher: lag.NewWatcher(opts), heard: map[speaker]*lag.Report{}, history: newHistory(cfg.Flows), counters: newCounters(deps.Now()),
	}
	m.view.Store(m.watcher.View(deps.Now()))
	if err := telemetry.Register(deps.Telemetry.Metrics, "lag", &collector{m}); err != nil {
		return nil, err
	}
	return m, nil
}

// options are what the watcher is to know of groups.
func options(cfg Config, deps Deps) (o lag.Options, want func(string) bool, err error) {
	groups, err1 := matcher(cfg.Groups)
	exclude, err2 := matcher(cfg.ExcludeGroups)
	committed, err3 := matcher(cfg.ReadCommitted)
	if err := errors.Join(err1, err2, err3); err != nil {
		return lag.Options{}, nil, err
	}
	own := func(group string) bool { _, ok := deps.Own[group]; return ok }
	return lag.Options{
		Interval: cfg.Interval,
		Expected: deps.Own,
		Committed: func(group string) bool {
			return own(group) || committed(group)
		},
		Objective: func(group string) time.Duration {
			if d, ok := cfg.Objectives[group]; ok {
				return d
			}
			if d, ok := deps.Objectives[group]; ok {
				return d
			}
			return cfg.Objective
		},
	}, func(group string) bool { return own(group) || groups(group) && !exclude(group) }, nil
}

// View is the last one. It is not to be changed.
func (m *Monitor) View() *lag.View { return m.view.Load() }

// Ready says why nothing is known.
func (m *Monitor) Ready() error {
	if v := m.View(); v.Blind != "" {
		return fmt.Errorf("the lag is not known: %s", v.Blind)
	}
	return nil
}

// Run looks at an interval until ctx ends. That Kafka cannot be reached is shown, and ends nothing.
func (m *Monitor) Run(ctx context.Context) error {
	if err := m.history.open(m.cfg.History, m.deps.Now()); err != nil {
		return err
	}
	defer m.history.close()
	look, closing, err := newLooker(m.deps, m.want)
	if err != nil {
		return err
	}
	defer closing()
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { m.follow(ctx) })
	tick := time.NewTicker(m.cfg.Interval)
	defer tick.Stop()
	for {
		m.once(ctx, look)
		select {
		case <-ctx.Done():
			m.views.close()
			return nil
		case <-tick.C:
		}
	}
}

func (m *Monitor) follow(ctx context.Context) {
	if m.deps.Follow == nil {
		return
	}
	err := m.deps.Follow(ctx, func(group, instance string, r *lag.Report) {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.heard[speaker{group, instance}] = r
	})
	if err != nil && ctx.Err() == nil {
		m.tel.Log.Error("following what consumers say of themselves; causes rest on offsets alone from now on", "err", err)
	}
}

// listen takes over what was heard.
func (m *Monitor) listen() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for s, r := range m.heard {
		m.watcher.Report(s.group, s.instance, r)
	}
	clear(m.heard)
}

// once takes a look and says what it means.
func (m *Monitor) once(ctx context.Context, look *looker) {
	ctx, cancel := context.WithTimeout(ctx, max(2*m.cfg.Interval, leastLook))
	defer cancel()
	m.compareClocks(ctx)
	m.listen()
	seen, err := look.reader.Look(ctx)
	if err != nil && errors.Is(context.Cause(ctx), context.Canceled) {
		return // the process stops
	}
	if err != nil {
		m.counters.fail()
		m.watcher.Failed(err)
		m.tel.Log.Warn("looking at the consumer groups; the next interval tries again", "err", err)
	} else {
		look.adjust(seen)
		m.watcher.Observe(seen)
		if err := look.finder.Find(ctx, m.watcher, m.deps.Now); err != nil && ctx.Err() == nil {
			m.counters.fail()
			m.tel.Log.Warn("finding how old unread records are; what is not known stays unknown", "err", err)
		}
	}
	m.show(m.watcher.View(m.deps.Now()))
}

// leastLook is for a look at a cluster with a broker that is silent.
const leastLook = 20 * time.Second

const (
	clockEvery = time.Minute // clocks are compared
	clockWait  = 3 * time.Second
)

// compareClocks finds out now and then by how much the brokers' clock is ahead.
func (m *Monitor) compareClocks(ctx context.Context) {
	if m.deps.Skew == nil || m.deps.Now().Sub(m.compared) < clockEvery {
		return
	}
	m.compared = m.deps.Now()
	ctx, cancel := context.WithTimeout(ctx, clockWait)
	defer cancel()
	skew, err := m.deps.Skew(ctx)
	if err != nil {
		m.tel.Log.Debug("comparing the brokers' clock with this machine's; it counts as before", "err", err)
		return
	}
	m.watcher.Skew(skew)
}

// show makes a view the last one.
func (m *Monitor) show(v *lag.View) {
	m.counters.add(v)
	if err := m.history.add(v); err != nil {
		m.tel.Log.Warn("writing the history; it is in memory", "err", err)
	}
	m.view.Store(v)
	m.views.send()
}

// looker is how a cluster is looked at.
type looker struct {
	reader       *lag.Reader
	finder       *lag.Finder
	clientStamps bool
}

func newLooker(deps Deps, want func(string) bool) (*looker, func(), error) {
	calls := &lag.Calls{}
	cl, err := kgo.NewClient(append(append([]kgo.Opt{}, deps.Kafka...), lag.Opts(calls)...)...)
	if err != nil {
		return nil, nil, fmt.Errorf("making a Kafka client: %w", err)
	}
	return &looker{
		reader: lag.NewReader(cl, calls, slices.Concat(slices.Collect(maps.Values(deps.Own))...), want, deps.Now), finder: lag.NewFinder(cl), clientStamps: deps.ClientStamps,
	}, cl.Close, nil
}

// adjust takes back what the topics' configuration says and the brokers do not do.
func (l *looker) adjust(seen *lag.Look) {
	if !l.clientStamps {
		return
	}
	for name, t := range seen.Topics {
		t.AppendTime = false
		seen.Topics[name] = t
	}
}

// Once looks at a cluster without a memory: rates, and the statuses that take a window of time, are not known. It waits for
// what consumers have said of themselves so far no longer than patience.
func Once(ctx context.Context, cfg Config, deps Deps, patience time.Duration) (*lag.View, error) {
	opts, want, err := options(cfg, deps)
	if err != nil {
		return nil, err
	}
	look, closing, err := newLooker(deps, want)
	if err != nil {
		return nil, err
	}
	defer closing()
	w := lag.NewWatcher(opts)
	if deps.Follow != nil {
		following, cancel := context.WithTimeout(ctx, patience)
		err := deps.Follow(following, w.Report)
		cancel()
		if err != nil && following.Err() == nil {
			return nil, err
		}
	}
	seen, err := look.reader.Look(ctx)
	if err != nil {
		return nil, err
	}
	look.adjust(seen)
	w.Observe(seen)
	if err := look.finder.Find(ctx, w, deps.Now); err != nil {
		return nil, err
	}
	return w.View(deps.Now()), nil
}
