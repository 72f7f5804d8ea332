package lake

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/millrace/millrace/pkg/lake"
	"github.com/millrace/millrace/pkg/schema"
)

// leastRound is how long a table may take at least; what is merged by then is merged.
const leastRound = time.Hour

// upkeep looks after the tables from time to time, until ctx ends. Several processes may: they give way to each other.
func (s *Sink) upkeep(ctx context.Context) {
	for {
		every := s.cfg.Upkeep.Every
		timer := time.NewTimer(every/2 + rand.N(every)) //nolint:gosec // jitter needs no secrecy
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
		for _, t := range s.types.All() {
			err := s.lookAfter(ctx, t, max(every, leastRound))
			if err != nil && ctx.Err() == nil {
				s.metrics.neglected.WithLabelValues(t.Lake.Table).Inc()
				s.tel.Log.Warn("looking after a table; it is tried again the next time", "table", t.Lake.Table, "err", err)
			}
		}
	}
}

// lookAfter does it for one table, by another handle than the commits': a merge takes long.
func (s *Sink) lookAfter(ctx context.Context, t *schema.Type, within time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	table, err := s.lake.Open(ctx, t)
	if errors.Is(err, lake.ErrNoTable) {
		return nil
	}
	if err != nil {
		return err
	}
	cfg := s.cfg.Table.Compact
	done, err := table.Compact(ctx, lake.Compaction{
		Target: int64(cfg.Target), Memory: int64(cfg.Memory), GroupRows: s.cfg.GroupRows, After: cfg.After, Now: time.Now(),
	})
	s.metrics.merged.WithLabelValues(t.Lake.Table).Add(float64(done.Before))
	s.metrics.repeats.WithLabelValues(t.Lake.Table).Add(float64(done.Repeats))
	if err != nil {
		return err
	}
	if err := table.Expire(ctx); err != nil {
		return err
	}
	if s.cfg.Upkeep.Orphans == 0 {
		return nil
	}
	found, err := table.Orphans(ctx, s.cfg.Upkeep.Orphans, false)
	if len(found.Files) > 0 {
		s.tel.Log.Info("removed files that no state of a table refers to", "table", t.Lake.Table, "files", len(found.Files), "bytes", found.Bytes)
	}
	if err != nil {
		return fmt.Errorf("after it was compacted: %w", err)
	}
	return nil
}
