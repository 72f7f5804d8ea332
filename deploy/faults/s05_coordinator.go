package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// coordinatorKilled kills the broker that keeps the commits of a destination's group, and perhaps of others. Commits fail
// and come again under another coordinator; none of them goes backwards.
func coordinatorKilled(ctx context.Context, e *env) (evidence, error) {
	p, w, err := e.flow(ctx, load{sources: 4, rate: pick(e, 500.0, 4000)}, pick(e, int64(1000), 10_000))
	if err != nil {
		return evidence{}, err
	}
	var groups, waiting, moved int64
	// Where another coordinator is there within one look of the watcher's, the outage was none to be named: again, then.
	for tries := 0; tries < pick(e, 1, 4) || tries < 4 && !e.causeNamed(); tries++ {
		target := e.destinations[e.rnd.IntN(len(e.destinations))]
		gone, of, err := e.coordinator(ctx, target)
		if err != nil {
			return evidence{}, err
		}
		groups += of
		if err := gone.kill(ctx); err != nil {
			return evidence{}, err
		}
		end, committed, err := e.positionsSoon(ctx, target)
		if err != nil {
			return evidence{}, err
		}
		waiting += end - committed
		if err := until(ctx, time.Minute, "another coordinator", func(ctx context.Context) error {
			now, _, err := e.coordinator(ctx, target)
			if err == nil && now == gone {
				err = fmt.Errorf("it is %s still", gone)
			}
			return err
		}); err != nil {
			return evidence{}, err
		}
		moved++
		for _, d := range e.destinations {
			if err := e.awaitCommitted(ctx, d, pick(e, int64(500), 10_000), 2*time.Minute); err != nil {
				return evidence{}, fmt.Errorf("with another coordinator: %w", err)
			}
		}
		if err := e.world.cluster.heal(ctx, e.world.adm); err != nil {
			return evidence{}, err
		}
	}
	failures, err := p.metric(ctx, "millrace_stream_commit_errors_total")
	if err != nil {
		return evidence{}, err
	}
	return evidence{
		Did: fmt.Sprintf("killed the coordinator of %d groups in sum, with %d records not committed; %.0f commits failed", groups, waiting, failures),
		Bites: map[string]int64{
			"groups coordinated": groups, "records not committed": waiting, "coordinators that changed": moved,
		},
	}, w.awaitAcked(ctx, 300, time.Minute)
}

// coordinator gives the broker that coordinates a destination's group, and of how many of the groups it is that.
func (e *env) coordinator(ctx context.Context, destination string) (b *broker, groups int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	names := make([]string, len(e.destinations))
	for i, d := range e.destinations {
		names[i] = group(d)
	}
	found := e.world.adm.FindGroupCoordinators(ctx, names...)
	if err := found.Error(); err != nil {
		return nil, 0, fmt.Errorf("finding the coordinator of %s: %w", group(destination), err)
	}
	id := found[group(destination)].NodeID
	for _, f := range found {
		if f.NodeID == id {
			groups++
		}
	}
	if id < 1 {
		return nil, 0, errors.New("there is no coordinator of " + group(destination))
	}
	return e.world.cluster.broker(id), groups, nil
}

// positionsSoon is positions where a broker may be away.
func (e *env) positionsSoon(ctx context.Context, destination string) (end, committed int64, err error) {
	err = until(ctx, time.Minute, "the positions of "+destination, func(ctx context.Context) (err error) {
		end, committed, err = e.positions(ctx, destination)
		return err
	})
	return end, committed, err
}
