package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"
)

// halfDead drops every packet from and to a broker that leads partitions, and leaves all sockets open: no error tells
// anybody. Time-outs find it, the others take over, records flow; then the packets pass again.
func halfDead(ctx context.Context, e *env) (evidence, error) {
	_, w, err := e.flow(ctx, load{sources: 4, rate: pick(e, 500.0, 4000)}, pick(e, int64(1000), 20_000))
	if err != nil {
		return evidence{}, err
	}
	gone, led, inFlight, err := e.aim(ctx, w)
	if err != nil {
		return evidence{}, err
	}
	cut := time.Now()
	if err := gone.isolate(ctx); err != nil {
		return evidence{}, err
	}
	open, err := established(gone.Port)
	if err != nil {
		return evidence{}, err
	}
	shrunk, err := e.world.awaitFailover(ctx, e.topic(), gone)
	if err != nil {
		return evidence{}, err
	}
	took := time.Since(cut)
	if err := e.awaitCause(ctx); err != nil {
		return evidence{}, err
	}
	if err := w.awaitAcked(ctx, pick(e, int64(1500), 60_000), 2*time.Minute); err != nil {
		return evidence{}, fmt.Errorf("while %s is cut off: %w", gone, err)
	}
	flowed := time.Since(cut)
	for _, d := range e.destinations {
		if err := e.awaitCommitted(ctx, d, 100, time.Minute); err != nil {
			return evidence{}, fmt.Errorf("while %s is cut off: %w", gone, err)
		}
	}
	if !gone.running() {
		return evidence{}, fmt.Errorf("%s has ended: its log is %s", gone, gone.file("broker.log"))
	}
	if err := e.world.cluster.heal(ctx, e.world.adm); err != nil {
		return evidence{}, err
	}
	return evidence{
		Did: fmt.Sprintf("cut off %s, which led %d partitions and had %d connections that stayed open, with %d records in flight; "+
			"other leaders after %.1f s, all flowed after %.1f s, %d requests timed out",
			gone, led, open, inFlight, took.Seconds(), flowed.Seconds(), w.failed.Load()),
		Bites: map[string]int64{
			"records in flight": inFlight, "partitions led": led, "connections that stayed open": open,
			"in-sync sets that shrank": shrunk, "produce requests that timed out": w.failed.Load(),
		},
	}, w.awaitAcked(ctx, 500, time.Minute)
}

// established counts the connections to a port of this machine that are open.
func established(port int) (n int64, err error) {
	const open = "01"
	for _, file := range []string{"/proc/net/tcp", "/proc/net/tcp6"} { // Java's sockets are of the second
		text, err := os.ReadFile(file) //nolint:gosec // one of two
		if err != nil {
			return 0, err
		}
		for line := range strings.Lines(string(text)) {
			f := strings.Fields(line)
			if len(f) > 3 && f[3] == open && strings.HasSuffix(f[1], fmt.Sprintf(":%04X", port)) {
				n++
			}
		}
	}
	return n, nil
}
