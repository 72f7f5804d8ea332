package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/millrace/millrace/pkg/servertest/esproxy"
)

// storm has members join, leave and be killed every few seconds while Elasticsearch is slow and some of its
// acknowledgements are seen seconds late, as by a process that was paused: the partition is another's then. They are void,
// no commit goes back, and records get through all the while.
func storm(ctx context.Context, e *env) (evidence, error) {
	e.destinations = []string{"elasticsearch", "lake"}
	e.set("stream.drain", "500ms")
	e.set("stream.batch.records", 100)
	proxy, err := e.elasticsearchProxy()
	if err != nil {
		return evidence{}, err
	}
	if err := e.provision(ctx); err != nil {
		return evidence{}, err
	}
	base, err := e.consume("consumers", lateAcknowledgements)
	if err != nil {
		return evidence{}, err
	}
	w, err := e.produce(ctx, load{sources: 2, rate: pick(e, 200.0, 300)})
	if err != nil {
		return evidence{}, err
	}
	if err := w.awaitAcked(ctx, 200, time.Minute); err != nil {
		return evidence{}, err
	}
	if err := proxy.Set(esproxy.Faults{Delay: 300 * time.Millisecond}); err != nil {
		return evidence{}, err
	}
	s := stormy{env: e}
	_, committed, err := e.positions(ctx, "elasticsearch")
	if err != nil {
		return evidence{}, err
	}
	for end := time.Now().Add(pick(e, 35*time.Second, 5*time.Minute)); time.Now().Before(end); {
		if err := s.turn(ctx); err != nil {
			return evidence{}, err
		}
		if err := sleep(ctx, time.Duration(2+e.rnd.IntN(3))*time.Second); err != nil {
			return evidence{}, err
		}
		if err := e.health(); err != nil {
			return evidence{}, err
		}
	}
	_, after, err := e.positions(ctx, "elasticsearch")
	if err != nil {
		return evidence{}, err
	}
	if err := proxy.Set(esproxy.Faults{}); err != nil {
		return evidence{}, err
	}
	late, err := base.metric(ctx, "millrace_stream_late_acknowledgements_total")
	if err != nil {
		return evidence{}, err
	}
	rebalances, err := base.metric(ctx, "millrace_stream_rebalances_total")
	if err != nil {
		return evidence{}, err
	}
	repeated, err := base.metric(ctx, "millrace_stream_redelivered_records_total", `consumer="elasticsearch"`)
	if err != nil {
		return evidence{}, err
	}
	return evidence{
		Did: fmt.Sprintf("%d members joined, %d left, %d were killed; the one that stayed saw %.0f rebalances, %.0f late acknowledgements, "+
			"%.0f records again; %d records committed meanwhile", s.joined, s.left, s.killed, rebalances, late, repeated, after-committed),
		Bites: map[string]int64{
			"members joined": s.joined, "members left or killed": s.left + s.killed, "rebalances": int64(rebalances),
			"late acknowledgements": int64(late), "records committed meanwhile": after - committed,
		},
	}, w.awaitAcked(ctx, 100, time.Minute)
}

// lateAcknowledgements is the failpoint by which each third acknowledgement is seen late.
const lateAcknowledgements = "stream.acked.elasticsearch=3:stall"

// stormy is the members that come and go.
type stormy struct {
	*env

	members              []*process
	joined, left, killed int64
}

// turn has a member come or go.
func (s *stormy) turn(ctx context.Context) error {
	if n := len(s.members); n > 0 && (n == 3 || s.rnd.IntN(2) == 0) {
		i := s.rnd.IntN(n)
		p := s.members[i]
		s.members = slices.Delete(s.members, i, i+1)
		if s.rnd.IntN(3) == 0 {
			s.killed++
			p.kill()
			return nil
		}
		s.left++
		return p.stop(ctx)
	}
	s.joined++
	p, err := s.consume(fmt.Sprintf("member-%d", s.joined), lateAcknowledgements)
	s.members = append(s.members, p)
	return err
}
