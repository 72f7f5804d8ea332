package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// diskFull fills the lake's disk while it writes. Readiness says so, nothing is committed that is not in the table, and
// when there is room it goes on by itself.
func diskFull(ctx context.Context, e *env) (evidence, error) {
	e.destinations = []string{"lake"}
	e.set("lake.age", "500ms")
	e.set("lake.timeout", "5s")
	dir := filepath.Join(e.dir, "disk")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return evidence{}, err
	}
	const size = 64 << 20
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", size)); err != nil {
		return evidence{}, fmt.Errorf("mounting a small disk: %w", err)
	}
	e.onClose(func() error { return syscall.Unmount(dir, syscall.MNT_DETACH) })
	e.set("lake.warehouse", filepath.Join(dir, "lake"))
	p, w, err := e.flow(ctx, load{sources: 2, rate: pick(e, 600.0, 3000)}, pick(e, int64(800), 10_000))
	if err != nil {
		return evidence{}, err
	}
	failures := int64(0)
	said := ""
	for range pick(e, 1, 3) {
		ballast := filepath.Join(dir, "ballast")
		if err := fill(ballast, size); err != nil {
			return evidence{}, err
		}
		if err := until(ctx, time.Minute, "readiness says that the disk is full", func(ctx context.Context) error {
			_, err := p.get(ctx, "/-/ready")
			if err == nil || !strings.Contains(err.Error(), "the disk of the lake is full") {
				return errors.Join(fmt.Errorf("it says: %w", err), e.health())
			}
			said = err.Error()
			return nil
		}); err != nil {
			return evidence{}, err
		}
		if err := w.awaitAcked(ctx, pick(e, int64(1000), 30_000), time.Minute); err != nil {
			return evidence{}, err
		}
		if err := e.awaitCause(ctx); err != nil {
			return evidence{}, err
		}
		end, committed, err := e.positions(ctx, "lake")
		if err != nil {
			return evidence{}, err
		}
		failures += end - committed
		if err := os.Remove(ballast); err != nil {
			return evidence{}, err
		}
		if err := e.awaitCommitted(ctx, "lake", end-committed, time.Minute); err != nil {
			return evidence{}, fmt.Errorf("with room again: %w", err)
		}
		if err := p.ready(ctx, 30*time.Second); err != nil {
			return evidence{}, fmt.Errorf("with room again: %w", err)
		}
	}
	full := int64(0)
	if strings.Contains(said, "free some space") {
		full = 1
	}
	return evidence{
		Did:   fmt.Sprintf("filled the lake's disk of %d MiB: %d records waited", size>>20, failures),
		Bites: map[string]int64{"records that waited": failures, "sentences that say what to do": full},
	}, nil
}

// fill writes a file until there is no room left.
func fill(path string, most int64) error {
	f, err := os.Create(path) //nolint:gosec // ours
	if err != nil {
		return err
	}
	block := make([]byte, 64<<10)
	for n := int64(0); n < most; {
		k, err := f.Write(block)
		n += int64(k)
		if errors.Is(err, syscall.ENOSPC) {
			break
		}
		if err != nil {
			return errors.Join(err, f.Close())
		}
	}
	return f.Close()
}
