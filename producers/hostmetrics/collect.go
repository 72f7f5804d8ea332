package hostmetrics

import (
	"context"
	"errors"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/shirou/gopsutil/v4/cpu"
	"github.com/shirou/gopsutil/v4/disk"
)

// kind is what a value means over time.
type kind string

// As OpenTelemetry's instruments. A counter only rises, but for a restart of the machine.
const (
	gauge   kind = "gauge"
	counter kind = "counter"
	updown  kind = "updowncounter"
)

// point is one measured value.
type point struct {
	name  string
	unit  string // UCUM
	kind  kind
	value float64
	attrs []string // name, value, name, value, …
}

// batch is one collection.
type batch struct {
	now    time.Time
	boot   time.Time // zero while it is not known
	points []point
}

// add appends a point. A value that is no number would be refused by every JSON reader after us.
func (b *batch) add(name, unit string, k kind, value float64, attrs ...string) {
	if math.IsNaN(value) || math.IsInf(value, 0) {
		return
	}
	b.points = append(b.points, point{name: name, unit: unit, kind: k, value: value, attrs: attrs})
}

// ratio appends part/whole, when there is a whole.
func (b *batch) ratio(name string, part, whole float64, attrs ...string) {
	if whole > 0 {
		b.add(name, "1", gauge, min(max(part/whole, 0), 1), attrs...)
	}
}

// collector reads one part of the machine. It may add points and give an error too.
type collector struct {
	name string
	read func(context.Context, *batch) error
}

func collectors(src source, ex Exclude) []collector {
	return []collector{
		{"uptime", src.readUptime}, // first: it says since when counters count
		{"cpu", (&cpuReader{times: src.cpus}).read},
		{"memory", src.readMemory},
		{"paging", src.readPaging},
		{"load", src.readLoad},
		{"filesystem", func(ctx context.Context, b *batch) error { return src.readFilesystems(ctx, b, ex.Filesystems) }},
		{"disk", func(ctx context.Context, b *batch) error { return src.readDisks(ctx, b, ex.Devices) }},
		{"network", func(ctx context.Context, b *batch) error { return src.readNetwork(ctx, b, ex.Interfaces) }},
		{"process", src.readProcesses},
	}
}

func (s source) readUptime(ctx context.Context, b *batch) error {
	boot, err := s.boot(ctx)
	if err == nil && boot > 0 && boot < 1<<40 {
		b.boot = time.Unix(int64(boot), 0).UTC()
	}
	up, err2 := s.uptime(ctx)
	if err2 == nil {
		b.add("system.uptime", "s", gauge, float64(up))
	}
	return errors.Join(wrap("the boot time", err), wrap("the uptime", err2))
}

// cpuReader remembers the last reading: utilization is the change between two.
type cpuReader struct {
	times func(ctx context.Context, each bool) ([]cpu.TimesStat, error)
	last  []float64
}

// cpuModes are the modes, in the order of modeTimes.
func cpuModes() []string {
	return []string{"user", "system", "idle", "nice", "iowait", "interrupt", "steal"}
}

// modeTimes gives the seconds per mode. A guest's time is in user and nice already.
func modeTimes(t cpu.TimesStat) []float64 {
	return []float64{t.User, t.System, t.Idle, t.Nice, t.Iowait, t.Irq + t.Softirq, t.Steal}
}

// read reports all CPUs together: a machine with 64 of them would else send 450 records more each time.
func (c *cpuReader) read(ctx context.Context, b *batch) error {
	times, err := c.times(ctx, false)
	if err != nil || len(times) == 0 {
		c.last = nil
		return wrap("CPU times", errors.Join(err, none(len(times))))
	}
	now := modeTimes(times[0])
	for i, mode := range cpuModes() {
		b.add("system.cpu.time", "s", counter, now[i], "cpu.mode", mode)
	}
	last := c.last
	c.last = now
	if last == nil {
		return nil
	}
	delta, total := make([]float64, len(now)), 0.0
	for i := range now {
		// Single modes are seen to go back by a tick (iowait, steal); that is no time.
		delta[i] = max(now[i]-last[i], 0)
		total += delta[i]
	}
	// Per mode only, as OpenTelemetry has it: a total under the same name would be counted among its parts. Busy is
	// 1 - idle - iowait.
	for i, mode := range cpuModes() {
		b.ratio("system.cpu.utilization", delta[i], total, "cpu.mode", mode)
	}
	return nil
}

func none(n int) error {
	if n == 0 {
		return errors.New("there are none")
	}
	return nil
}

func (s source) readMemory(ctx context.Context, b *batch) error {
	m, err := s.memory(ctx)
	if err != nil {
		return wrap("memory", err)
	}
	// Used is what is left after free, buffers and caches, so that the states sum up to the total.
	used := float64(m.Total) - float64(m.Free) - float64(m.Buffers) - float64(m.Cached)
	for _, state := range []struct {
		name  string
		bytes float64
	}{{"used", max(used, 0)}, {"free", float64(m.Free)}, {"buffers", float64(m.Buffers)}, {"cached", float64(m.Cached)}} {
		b.add("system.memory.usage", "By", updown, state.bytes, "system.memory.state", state.name)
		b.ratio("system.memory.utilization", state.bytes, float64(m.Total), "system.memory.state", state.name)
	}
	b.add("system.memory.limit", "By", updown, float64(m.Total))
	if m.Available > 0 {
		b.add("system.linux.memory.available", "By", updown, float64(m.Available))
	}
	return nil
}

func (s source) readPaging(ctx context.Context, b *batch) error {
	w, err := s.swap(ctx)
	if err != nil {
		return wrap("swap", err)
	}
	b.add("system.paging.usage", "By", updown, float64(w.Used), "system.paging.state", "used")
	b.add("system.paging.usage", "By", updown, float64(w.Free), "system.paging.state", "free")
	b.ratio("system.paging.utilization", float64(w.Used), float64(w.Total), "system.paging.state", "used")
	b.ratio("system.paging.utilization", float64(w.Free), float64(w.Total), "system.paging.state", "free")
	b.add("system.paging.faults", "{fault}", counter, float64(w.PgMajFault), "system.paging.type", "major")
	if w.PgFault >= w.PgMajFault { // the first counts both
		b.add("system.paging.faults", "{fault}", counter, float64(w.PgFault-w.PgMajFault), "system.paging.type", "minor")
	}
	return nil
}

func (s source) readLoad(ctx context.Context, b *batch) error {
	l, err := s.load(ctx)
	if err != nil {
		return wrap("the load", err)
	}
	b.add("system.cpu.load_average.1m", "{thread}", gauge, l.Load1)
	b.add("system.cpu.load_average.5m", "{thread}", gauge, l.Load5)
	b.add("system.cpu.load_average.15m", "{thread}", gauge, l.Load15)
	return nil
}

func (s source) readFilesystems(ctx context.Context, b *batch, exclude []string) error {
	parts, err := s.partitions(ctx, false)
	errs := []error{wrap("the file systems", err)}
	for _, p := range oncePerDevice(parts) {
		if matches(exclude, p.Fstype) {
			continue
		}
		u, err := s.usage(ctx, p.Mountpoint)
		if err != nil {
			errs = append(errs, wrap("the usage of "+p.Mountpoint, err))
			continue
		}
		mode := "rw"
		if slices.Contains(p.Opts, "ro") {
			mode = "ro"
		}
		attrs := []string{
			"system.device", p.Device, "system.filesystem.mountpoint", p.Mountpoint,
			"system.filesystem.type", p.Fstype, "system.filesystem.mode", mode,
		}
		with := func(state string) []string { return append(slices.Clone(attrs), "system.filesystem.state", state) }
		reserved := max(float64(u.Total)-float64(u.Used)-float64(u.Free), 0) // for root
		b.add("system.filesystem.usage", "By", updown, float64(u.Used), with("used")...)
		b.add("system.filesystem.usage", "By", updown, float64(u.Free), with("free")...)
		b.add("system.filesystem.usage", "By", updown, reserved, with("reserved")...)
		b.add("system.filesystem.limit", "By", updown, float64(u.Total), attrs...)
		b.ratio("system.filesystem.utilization", float64(u.Used), float64(u.Total), attrs...)
	}
	return errors.Join(errs...)
}

// oncePerDevice leaves out further mounts of a device, and files that are mounted: containers have many. The
// shortest path stays.
func oncePerDevice(parts []disk.PartitionStat) []disk.PartitionStat {
	parts = slices.Clone(parts)
	slices.SortStableFunc(parts, func(a, b disk.PartitionStat) int {
		if d := len(a.Mountpoint) - len(b.Mountpoint); d != 0 {
			return d
		}
		return strings.Compare(a.Mountpoint, b.Mountpoint)
	})
	seen := map[string]bool{}
	return slices.DeleteFunc(parts, func(p disk.PartitionStat) bool {
		if seen[p.Device] || !isDir(p.Mountpoint) {
			return true
		}
		seen[p.Device] = true
		return false
	})
}

func (s source) readDisks(ctx context.Context, b *batch, exclude []string) error {
	disks, err := s.disks(ctx)
	names := make([]string, 0, len(disks))
	for name := range disks {
		if !matches(exclude, name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		d := disks[name]
		read := []string{"system.device", name, "disk.io.direction", "read"}
		write := []string{"system.device", name, "disk.io.direction", "write"}
		b.add("system.disk.io", "By", counter, float64(d.ReadBytes), read...)
		b.add("system.disk.io", "By", counter, float64(d.WriteBytes), write...)
		b.add("system.disk.operations", "{operation}", counter, float64(d.ReadCount), read...)
		b.add("system.disk.operations", "{operation}", counter, float64(d.WriteCount), write...)
		b.add("system.disk.operation_time", "s", counter, float64(d.ReadTime)/1000, read...)
		b.add("system.disk.operation_time", "s", counter, float64(d.WriteTime)/1000, write...)
		b.add("system.disk.io_time", "s", counter, float64(d.IoTime)/1000, "system.device", name)
	}
	return wrap("disk counters", err)
}

func (s source) readNetwork(ctx context.Context, b *batch, exclude []string) error {
	nets, err := s.nets(ctx, true)
	for _, n := range nets {
		if matches(exclude, n.Name) {
			continue
		}
		in := []string{"network.interface.name", n.Name, "network.io.direction", "receive"}
		out := []string{"network.interface.name", n.Name, "network.io.direction", "transmit"}
		b.add("system.network.io", "By", counter, float64(n.BytesRecv), in...)
		b.add("system.network.io", "By", counter, float64(n.BytesSent), out...)
		b.add("system.network.packets", "{packet}", counter, float64(n.PacketsRecv), in...)
		b.add("system.network.packets", "{packet}", counter, float64(n.PacketsSent), out...)
		b.add("system.network.errors", "{error}", counter, float64(n.Errin), in...)
		b.add("system.network.errors", "{error}", counter, float64(n.Errout), out...)
		b.add("system.network.dropped", "{packet}", counter, float64(n.Dropin), in...)
		b.add("system.network.dropped", "{packet}", counter, float64(n.Dropout), out...)
	}
	return wrap("network counters", err)
}

func (s source) readProcesses(ctx context.Context, b *batch) error {
	p, err := s.processes(ctx)
	if err != nil {
		return wrap("processes", err)
	}
	// The kernel counts the running and the blocked only. With the rest the states sum up to the total.
	for _, state := range []struct {
		name  string
		count int
	}{{"running", p.ProcsRunning}, {"blocked", p.ProcsBlocked}, {"other", max(p.ProcsTotal-p.ProcsRunning-p.ProcsBlocked, 0)}} {
		b.add("system.process.count", "{process}", updown, float64(state.count), "process.state", state.name)
	}
	b.add("system.process.created", "{process}", counter, float64(p.ProcsCreated))
	return nil
}
