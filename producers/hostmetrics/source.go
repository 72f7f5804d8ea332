package hostmetrics

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/shirou/gopsutil/v4/cpu"
	"github.com/shirou/gopsutil/v4/disk"
	"github.com/shirou/gopsutil/v4/host"
	"github.com/shirou/gopsutil/v4/load"
	"github.com/shirou/gopsutil/v4/mem"
	"github.com/shirou/gopsutil/v4/net"
)

// source is where readings come from: the machine, or a test.
type source struct {
	boot       func(context.Context) (uint64, error) // seconds since 1970
	uptime     func(context.Context) (uint64, error)
	cpus       func(ctx context.Context, each bool) ([]cpu.TimesStat, error)
	memory     func(context.Context) (*mem.VirtualMemoryStat, error)
	swap       func(context.Context) (*mem.SwapMemoryStat, error)
	load       func(context.Context) (*load.AvgStat, error)
	partitions func(ctx context.Context, all bool) ([]disk.PartitionStat, error)
	usage      func(context.Context, string) (*disk.UsageStat, error)
	disks      func(context.Context, ...string) (map[string]disk.IOCountersStat, error)
	nets       func(ctx context.Context, each bool) ([]net.IOCountersStat, error)
	processes  func(context.Context) (*load.MiscStat, error)
}

// machine reads the machine that this runs on.
func machine() source {
	return source{
		boot: host.BootTimeWithContext, uptime: host.UptimeWithContext,
		cpus: cpu.TimesWithContext, memory: mem.VirtualMemoryWithContext, swap: swap, load: load.AvgWithContext,
		partitions: partitions, usage: disk.UsageWithContext, disks: disk.IOCountersWithContext,
		nets: net.IOCountersWithContext, processes: load.MiscWithContext,
	}
}

func swap(ctx context.Context) (*mem.SwapMemoryStat, error) { return mem.SwapMemoryWithContext(ctx) }

// partitions gives the real file systems. In a container the root is none of them, and there it is the one that fills
// up, so it is added.
func partitions(ctx context.Context, all bool) ([]disk.PartitionStat, error) {
	parts, err := disk.PartitionsWithContext(ctx, all)
	for _, p := range parts {
		if p.Mountpoint == "/" {
			return parts, err
		}
	}
	every, err2 := disk.PartitionsWithContext(ctx, true)
	for _, p := range every {
		if p.Mountpoint == "/" {
			return append(parts, p), err
		}
	}
	return parts, errors.Join(err, err2)
}

// isDir tells a mounted file system from a single file that a container has mounted.
func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

func wrap(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("reading %s: %w", what, err)
}
