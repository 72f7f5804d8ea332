package lake

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/millrace/millrace/pkg/lake"
	"github.com/millrace/millrace/pkg/stream"
)

// trouble is why nothing enters a table. The rows given up with files that could not be written are read again from the
// log: without a rest in between, a full disk would have the whole backlog read over and over.
type trouble struct {
	err   error
	since time.Time
	last  time.Time
	fails int       // files given up since the last commit
	rest  time.Time // until when nothing is taken on
}

const (
	minRest = 200 * time.Millisecond
	maxRest = 20 * time.Second
)

func (t *trouble) add(err error) {
	t.err, t.last = err, time.Now()
	if t.since.IsZero() {
		t.since = t.last
	}
}

func (t *trouble) pause() {
	d := maxRest
	if t.fails < 10 {
		d = min(d, minRest<<t.fails)
	}
	t.fails++
	t.rest = time.Now().Add(d/2 + rand.N(d/2)) //nolint:gosec // jitter needs no secrecy
}

// failed notes a try that failed and comes again.
func (c *committer) failed(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.trouble.add(err)
}

// ready says whether rows enter the table. What has not failed again for long is over, or another process's by now.
func (c *committer) ready(now time.Time) error {
	c.mu.Lock()
	t, hung, begun := c.trouble, c.hung, c.begun
	c.mu.Unlock()
	if hung {
		return fmt.Errorf("a commit to table %s, begun at %s, does not come back", c.name, begun.UTC().Format(time.RFC3339))
	}
	if t.err == nil || now.Sub(t.last) > 2*(c.sink.cfg.Age+c.sink.cfg.Timeout) {
		return nil
	}
	since := t.since.UTC().Format(time.RFC3339)
	if lake.IsFull(t.err) {
		return fmt.Errorf("the disk of the lake is full: table %s has taken nothing since %s; free some space, and it goes on by itself, nothing is lost: %w",
			c.name, since, t.err)
	}
	return fmt.Errorf("table %s has taken nothing since %s; it is tried again, nothing is lost: %w", c.name, since, t.err)
}

// tableLabel marks the goroutines that commit to a table, in every profile.
const tableLabel = "table"

// committing notes that a commit begins, or with no time that it is over.
func (c *committer) committing(begun time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.begun, c.hung = begun, false
}

// watch looks at the commit under way. One that goes on after twice its time, though its context has ended, is named with
// its stack; after three times it is the error.
func (c *committer) watch(now time.Time) error {
	c.mu.Lock()
	begun, took := c.begun, now.Sub(c.begun)
	hangs := !begun.IsZero() && took > 2*c.sink.cfg.Timeout
	fresh := hangs && !c.hung
	c.hung = hangs
	c.mu.Unlock()
	if fresh {
		c.sink.metrics.wedged.WithLabelValues(c.name).Inc()
		c.sink.tel.Log.Error("a commit does not come back, though its time is over; the process ends if it stays away",
			"table", c.name, "began", begun, "until", begun.Add(3*c.sink.cfg.Timeout), "stack", stream.Stacks(tableLabel, c.name))
	}
	if hangs && took > 3*c.sink.cfg.Timeout {
		return fmt.Errorf("a commit to table %s did not come back within three times lake.timeout, though its context ended; the process gives its partitions up", c.name)
	}
	return nil
}

// Ready says whether what is read enters the tables: the error names those that take nothing, and why.
func (s *Sink) Ready() error {
	var errs []error
	for _, c := range s.committers() {
		errs = append(errs, c.ready(time.Now()), c.halted())
	}
	return errors.Join(errs...)
}

// halted names the partitions that wait for an operator, and what to do.
func (c *committer) halted() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.stopping) == 0 {
		return nil
	}
	return fmt.Errorf("partitions %v of table %s have stopped (%s): %s", slices.Sorted(maps.Keys(c.stopping)), c.name,
		strings.Join(slices.Compact(slices.Sorted(maps.Values(c.stopping))), ", "), c.decision())
}

// decision is what an operator is to do about partitions that have stopped.
func (c *committer) decision() string {
	return "see and decide with `millrace lake adopt " + c.typ.Name + "`; they go on by themselves after that"
}

// settle gives up a commit that never went through, with its files. By then nothing else is under way.
func (c *committer) settle(ctx context.Context) {
	c.mu.Lock()
	h := c.leaving
	c.mu.Unlock()
	if h == nil {
		return
	}
	if h.commit != nil {
		in, err := c.table.Settle(ctx, h.commit)
		if err != nil {
			c.sink.tel.Log.Warn("leaving files of a commit behind", "table", c.name, "err", err)
		}
		if in || err != nil {
			return
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.leaving = nil
	c.giveUp(h)
}
