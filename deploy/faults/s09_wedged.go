package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"
)

// wedged has a call of a sink hang for ever, whatever its context says. It is named with its stack, readiness fails, the
// process ends itself with an exit code that is not 0, and another member takes its partitions over.
func wedged(ctx context.Context, e *env) (evidence, error) {
	const attempt, wedge = 3 * time.Second, 3 * time.Second
	e.set("stream.retry.attempt", attempt.String())
	e.set("stream.wedge", wedge.String())
	if err := e.provision(ctx); err != nil {
		return evidence{}, err
	}
	order := fmt.Sprintf("sink.write=%d:wedge", 5+e.rnd.IntN(pick(e, 30, 300)))
	p, err := e.consume("wedged", order)
	if err != nil {
		return evidence{}, err
	}
	if _, err := e.consume("other", ""); err != nil {
		return evidence{}, err
	}
	// A partition whose call hangs while it is being handed over has no member for some seconds, and is named as that.
	if err := e.awaitMembers(ctx, 2); err != nil {
		return evidence{}, err
	}
	w, err := e.produce(ctx, load{sources: 4, rate: pick(e, 800.0, 3000)})
	if err != nil {
		return evidence{}, err
	}
	p.ending.Store(true)
	said := ""
	if err := until(ctx, 2*time.Minute, "readiness that names the call", func(ctx context.Context) error {
		select {
		case <-p.done:
			return &finalError{errors.New("it has ended before")}
		default:
		}
		if _, err := p.get(ctx, "/-/ready"); err == nil || !strings.Contains(err.Error(), "does not come back") {
			return errors.Join(errors.New("it is not named"), err, e.health())
		} else {
			said = err.Error()
		}
		return nil
	}); err != nil {
		return evidence{}, err
	}
	named := time.Now()
	code, err := p.awaitFailed(ctx, time.Minute)
	if err != nil {
		return evidence{}, err
	}
	ended := time.Since(named)
	log, err := os.ReadFile(p.log)
	if err != nil {
		return evidence{}, err
	}
	stacks := int64(bytes.Count(log, []byte("failpoint.Hit")))
	end, committed, err := e.positions(ctx, "cassandra")
	if err != nil {
		return evidence{}, err
	}
	if err := w.awaitAcked(ctx, pick(e, int64(500), 5000), time.Minute); err != nil {
		return evidence{}, err
	}
	if err := w.stop(ctx); err != nil {
		return evidence{}, err
	}
	if err := e.awaitCaughtUp(ctx); err != nil {
		return evidence{}, fmt.Errorf("the other member: %w", err)
	}
	return evidence{
		Did: fmt.Sprintf("%s: named with its stack, exit code %d %.0f s later with %d records behind; the other member took over",
			order, code, ended.Seconds(), end-committed),
		Bites: map[string]int64{"exit code": int64(code), "stacks in the log": stacks},
		Notes: map[string]any{"readiness": said},
	}, nil
}

// awaitMembers waits until n members of each group have all partitions between them.
func (e *env) awaitMembers(ctx context.Context, n int) error {
	return until(ctx, time.Minute, fmt.Sprintf("%d members of each group have all partitions", n), func(ctx context.Context) error {
		for _, d := range destinationNames {
			described, err := e.world.adm.DescribeGroups(ctx, group(d))
			if err != nil {
				return err
			}
			g := described[group(d)]
			have := len(g.AssignedPartitions()[e.topic()])
			if g.Err != nil || g.State != "Stable" || len(g.Members) != n || have != e.typ.Topic.Partitions {
				return errors.Join(fmt.Errorf("the group %s is %s, with %d members and %d partitions", g.Group, g.State, len(g.Members), have), g.Err, e.health())
			}
		}
		return nil
	})
}
