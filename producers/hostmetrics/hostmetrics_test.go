package hostmetrics

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/shirou/gopsutil/v4/cpu"
	"github.com/shirou/gopsutil/v4/disk"
	"github.com/shirou/gopsutil/v4/load"
	"github.com/shirou/gopsutil/v4/mem"
	"github.com/shirou/gopsutil/v4/net"

	"github.com/millrace/millrace/pkg/telemetry"
)

// world is Kafka as the agent sees it: up, down, or acknowledging nothing.
type world struct {
	mu     sync.Mutex
	down   bool
	silent bool           // takes events and never answers
	seen   map[string]int // deliveries by id
	events map[string]record
	t      *testing.T
}

func newWorld(t *testing.T) *world {
	return &world{seen: map[string]int{}, events: map[string]record{}, t: t}
}

func (w *world) Publish(_ context.Context, e []byte, done func(error)) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.down {
		return errors.New("no broker")
	}
	var r record
	if err := json.Unmarshal(e, &r); err != nil {
		w.t.Errorf("not JSON: %s: %v", e, err)
	}
	if old, ok := w.events[r.ID]; ok && (old.Time != r.Time || old.Name != r.Name || old.Value != r.Value) {
		w.t.Errorf("id %s came again as another event: %+v, before %+v", r.ID, r, old)
	}
	w.seen[r.ID]++
	w.events[r.ID] = r
	if !w.silent {
		go done(nil)
	}
	return nil
}

func (w *world) set(f func(w *world)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f(w)
}

// readings is a machine whose numbers are known.
func readings(step *float64) source {
	return source{
		boot:   func(context.Context) (uint64, error) { return 1_700_000_000, nil },
		uptime: func(context.Context) (uint64, error) { return 4242, nil },
		cpus: func(context.Context, bool) ([]cpu.TimesStat, error) {
			*step++
			return []cpu.TimesStat{{User: 10 + 3**step, System: 5 + *step, Idle: 100 + 5**step, Iowait: 1 + *step}}, nil
		},
		memory: func(context.Context) (*mem.VirtualMemoryStat, error) {
			return &mem.VirtualMemoryStat{Total: 1000, Free: 250, Buffers: 50, Cached: 200, Available: 400}, nil
		},
		swap: func(context.Context) (*mem.SwapMemoryStat, error) {
			return &mem.SwapMemoryStat{Total: 100, Used: 25, Free: 75, PgFault: 10, PgMajFault: 4}, nil
		},
		load: func(context.Context) (*load.AvgStat, error) { return &load.AvgStat{Load1: 1, Load5: 2, Load15: 3}, nil },
		partitions: func(context.Context, bool) ([]disk.PartitionStat, error) {
			return []disk.PartitionStat{
				{Device: "/dev/a", Mountpoint: "/usr", Fstype: "ext4"},
				{Device: "/dev/a", Mountpoint: "/", Fstype: "ext4", Opts: []string{"ro"}},
				{Device: "/dev/b", Mountpoint: "/tmp", Fstype: "squashfs"},
			}, nil
		},
		usage: func(context.Context, string) (*disk.UsageStat, error) {
			return &disk.UsageStat{Total: 100, Used: 30, Free: 60}, nil
		},
		disks: func(context.Context, ...string) (map[string]disk.IOCountersStat, error) {
			return map[string]disk.IOCountersStat{"sda": {ReadBytes: 7, WriteTime: 1500}, "loop0": {}}, nil
		},
		nets: func(context.Context, bool) ([]net.IOCountersStat, error) {
			return []net.IOCountersStat{{Name: "eth0", BytesRecv: 9, Errout: 2}, {Name: "veth12"}}, nil
		},
		processes: func(context.Context) (*load.MiscStat, error) {
			return &load.MiscStat{ProcsTotal: 12, ProcsRunning: 2, ProcsCreated: 99}, nil
		},
	}
}

func testConfig(t *testing.T) Config {
	c := Default()
	c.Host, c.Datacenter, c.Tenant = "h1", "dc1", "acme"
	c.Spool = t.TempDir()
	return c
}

func agent(t *testing.T, cfg Config, w *world, src source) *Agent {
	t.Helper()
	a, err := newAgent(cfg, w, src, telemetry.Discard())
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// start runs the agent and gives the function that stops it and waits.
func start(t *testing.T, a *Agent) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	return func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

func key(p point) string { return p.name + " " + strings.Join(p.attrs, " ") }

func TestOneCollection(t *testing.T) {
	var step float64
	a := agent(t, testConfig(t), newWorld(t), readings(&step))
	b := batch{now: time.Unix(1_800_000_000, 0)}
	for range 2 { // utilization takes two
		b.points = nil
		for _, c := range a.collectors {
			if err := c.read(t.Context(), &b); err != nil {
				t.Fatal(err)
			}
		}
	}
	got := map[string]point{}
	for _, p := range b.points {
		if _, twice := got[key(p)]; twice {
			t.Errorf("%s is reported twice", key(p))
		}
		if (p.name == "system.cpu.utilization" || p.name == "system.process.count") && len(p.attrs) == 0 {
			t.Errorf("%s has a total among its parts", p.name)
		}
		got[key(p)] = p
	}
	fs := "system.device /dev/a system.filesystem.mountpoint / system.filesystem.type ext4 system.filesystem.mode ro"
	for _, want := range []struct {
		key, unit string
		kind      kind
		value     float64
	}{
		{"system.uptime ", "s", gauge, 4242},
		{"system.cpu.time cpu.mode user", "s", counter, 16},
		{"system.cpu.utilization cpu.mode user", "1", gauge, 0.3},
		{"system.cpu.utilization cpu.mode idle", "1", gauge, 0.5},
		{"system.cpu.utilization cpu.mode iowait", "1", gauge, 0.1},
		{"system.memory.usage system.memory.state used", "By", updown, 500},
		{"system.memory.utilization system.memory.state cached", "1", gauge, 0.2},
		{"system.paging.usage system.paging.state used", "By", updown, 25},
		{"system.paging.utilization system.paging.state used", "1", gauge, 0.25},
		{"system.paging.faults system.paging.type minor", "{fault}", counter, 6},
		{"system.cpu.load_average.5m ", "{thread}", gauge, 2},
		{"system.filesystem.usage " + fs + " system.filesystem.state reserved", "By", updown, 10},
		{"system.filesystem.utilization " + fs, "1", gauge, 0.3},
		{"system.disk.io system.device sda disk.io.direction read", "By", counter, 7},
		{"system.disk.operation_time system.device sda disk.io.direction write", "s", counter, 1.5},
		{"system.network.io network.interface.name eth0 network.io.direction receive", "By", counter, 9},
		{"system.network.errors network.interface.name eth0 network.io.direction transmit", "{error}", counter, 2},
		{"system.process.count process.state running", "{process}", updown, 2},
		{"system.process.count process.state other", "{process}", updown, 10},
		{"system.process.created ", "{process}", counter, 99},
	} {
		p, ok := got[want.key]
		if !ok {
			t.Errorf("%s is missing", want.key)
			continue
		}
		if p.unit != want.unit || p.kind != want.kind || p.value < want.value-1e-9 || p.value > want.value+1e-9 {
			t.Errorf("%s = %v %s (%s), want %v %s (%s)", want.key, p.value, p.unit, p.kind, want.value, want.unit, want.kind)
		}
	}
	for k := range got {
		if strings.Contains(k, "veth") || strings.Contains(k, "loop") || strings.Contains(k, "squashfs") || strings.Contains(k, "/usr") {
			t.Errorf("%s is excluded and reported", k)
		}
	}
}

func TestRecordsOfACollectionShareTimeAndSource(t *testing.T) {
	var step float64
	a := agent(t, testConfig(t), newWorld(t), readings(&step))
	now := time.Date(2026, 3, 4, 5, 6, 7, 123456789, time.UTC)
	for _, e := range a.collect(t.Context(), now) {
		var r record
		if err := json.Unmarshal(e, &r); err != nil {
			t.Fatal(err)
		}
		if r.Time != now.UnixMicro() || r.Service != "hostmetrics" || r.Host != "h1" || r.Datacenter != "dc1" || r.Tenant != "acme" {
			t.Errorf("common fields of %s", e)
		}
		if isCounter := r.Kind == counter; isCounter != (r.StartTime != nil) {
			t.Errorf("start time of %s", e)
		}
	}
}

func TestACounterThatGoesBackIsNoNegativeUtilization(t *testing.T) {
	n := 0
	c := cpuReader{times: func(context.Context, bool) ([]cpu.TimesStat, error) {
		n++
		return []cpu.TimesStat{{User: float64(100 - n), Idle: float64(10 * n)}}, nil
	}}
	for range 3 {
		b := batch{}
		if err := c.read(t.Context(), &b); err != nil {
			t.Fatal(err)
		}
		for _, p := range b.points {
			if p.name == "system.cpu.utilization" && (p.value < 0 || p.value > 1) {
				t.Errorf("%s = %v", key(p), p.value)
			}
		}
	}
}

func TestOneFailingCollectorDoesNotStopTheOthers(t *testing.T) {
	var step float64
	src := readings(&step)
	src.memory = func(context.Context) (*mem.VirtualMemoryStat, error) { return nil, errors.New("no /proc") }
	a := agent(t, testConfig(t), newWorld(t), src)
	for range 3 {
		if n := len(a.collect(t.Context(), time.Now())); n < 40 {
			t.Errorf("%d records", n)
		}
	}
	if n := value(t, a.m.failures.WithLabelValues("memory")); n != 3 {
		t.Errorf("%v failures counted, want 3", n)
	}
}

func TestAnOutageLosesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var step float64
		w := newWorld(t)
		w.down = true
		a := agent(t, testConfig(t), w, readings(&step))
		stop := start(t, a)
		time.Sleep(time.Hour)
		collected := value(t, a.m.records)
		w.set(func(w *world) { w.down = false })
		time.Sleep(time.Minute)
		stop()
		if collected < 360*40 || float64(len(w.seen)) != value(t, a.m.records) {
			t.Errorf("%d records arrived of %v, %v of them collected in the outage", len(w.seen), value(t, a.m.records), collected)
		}
		if n := value(t, a.m.dropped); n != 0 {
			t.Errorf("%v dropped", n)
		}
	})
}

func TestAfterAKillTheSameIDsAreSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var step float64
		cfg := testConfig(t)
		cfg.Drain = 0 // Kafka never answers the first run: stopping it leaves on disk what a kill does
		w := newWorld(t)
		w.silent = true
		a := agent(t, cfg, w, readings(&step))
		stop := start(t, a)
		time.Sleep(65 * time.Second)
		stop()
		sent := len(w.seen)
		if sent < 7*40 {
			t.Fatalf("%d records were sent", sent)
		}
		w.set(func(w *world) { w.silent = false })
		cfg.Interval, cfg.Drain = time.Hour, time.Second
		b := agent(t, cfg, w, readings(&step))
		stop = start(t, b)
		time.Sleep(time.Minute)
		stop()
		again := 0
		for _, n := range w.seen {
			if n == 2 {
				again++
			}
		}
		if again != sent {
			t.Errorf("%d of %d records came again with the same id", again, sent)
		}
		if n := value(t, b.m.waiting); n != 0 {
			t.Errorf("%v records are left in the spool", n)
		}
	})
}

func TestAFullSpoolDropsTheOldestAndCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var step float64
		cfg := testConfig(t)
		cfg.SpoolBytes = 1 << 20
		w := newWorld(t)
		w.silent = true
		a := agent(t, cfg, w, readings(&step))
		stop := start(t, a)
		time.Sleep(2 * time.Hour)
		stop()
		if n := value(t, a.m.dropped); n < 1000 {
			t.Errorf("%v dropped", n)
		}
	})
}

// TestThisMachine reads the real one.
func TestThisMachine(t *testing.T) {
	a, err := newAgent(testConfig(t), newWorld(t), machine(), telemetry.Discard())
	if err != nil {
		t.Fatal(err)
	}
	a.collect(t.Context(), time.Now())
	// Until the kernel's clock of CPU times has moved there is no utilization.
	deadline := time.Now().Add(5 * time.Second)
	seen := map[string]int{}
	for seen["system.cpu.utilization"] == 0 && time.Now().Before(deadline) {
		clear(seen)
		for _, e := range a.collect(t.Context(), time.Now()) {
			var r record
			if err := json.Unmarshal(e, &r); err != nil {
				t.Fatal(err)
			}
			seen[r.Name]++
			if r.Value < 0 {
				t.Errorf("%s is negative", e)
			}
			if strings.HasSuffix(r.Name, ".utilization") && r.Value > 1 {
				t.Errorf("%s is above 1", e)
			}
		}
	}
	for _, name := range []string{
		"system.uptime", "system.cpu.time", "system.cpu.utilization", "system.memory.usage", "system.memory.utilization",
		"system.paging.usage", "system.cpu.load_average.1m", "system.filesystem.usage", "system.filesystem.utilization",
		"system.network.io", "system.process.count",
	} {
		if seen[name] == 0 {
			t.Errorf("%s is missing; seen: %v", name, seen)
		}
	}
}

func TestConfigNamesEveryMistake(t *testing.T) {
	if err := Default().Validate(); err != nil {
		t.Error(err)
	}
	err := Config{Drain: -1, Exclude: Exclude{Devices: []string{"["}}}.Validate()
	for _, key := range []string{"interval", "service", "spool", "spool_bytes", "drain", "exclude.devices"} {
		if err == nil || !strings.Contains(err.Error(), "hostmetrics."+key) {
			t.Errorf("%s is not named in: %v", key, err)
		}
	}
}
