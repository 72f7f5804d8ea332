package stream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime/pprof"
	"strconv"
	"strings"
	"time"

	"github.com/millrace/millrace/pkg/stream/ledger"
)

// maxStack bounds what a wedged call puts into the log.
const maxStack = 16 << 10

// call is one that is under way into the sink or the decoder. It is their duty to come back when its attempt's time is
// over, and nothing can make them: a goroutine cannot be ended from outside.
type call struct {
	part  *part // nil where it is for several partitions
	what  string
	begun time.Time
	named time.Time // when it was found wedged
}

func (cl *call) String() string {
	if cl.part == nil {
		return cl.what
	}
	return fmt.Sprintf("%s of partition %d of %s", cl.what, cl.part.key.Partition, cl.part.key.Topic)
}

// errWedged ends the process: what would not come back holds a goroutine, and whatever that one holds.
var errWedged = errors.New("did not come back, though its time was over and its context ended; the process gives its partitions up")

// enter notes a call until leave. What waits for an outage to end is not in a call: it is between two.
func (c *Consumer) enter(p *part, what string) (leave func()) {
	cl := &call{part: p, what: what, begun: time.Now()}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls[cl] = struct{}{}
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.calls, cl)
	}
}

// watch looks for calls that are over their time: past the attempt's by Config.Wedge. Such a partition is taken from the
// sink and starts again; if the call has not come back after as long again, fail ends the consumer.
func (c *Consumer) watch(ctx context.Context, fail func(error)) {
	tick := time.NewTicker(min(time.Second, c.cfg.Wedge/4+1))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := time.Now()
		c.sampleBlocked(now)
		fresh, lasting := c.overdue(now)
		for _, cl := range fresh {
			c.wedged(cl)
		}
		if lasting != nil {
			fail(fmt.Errorf("consumer %s: %s %w", c.name, lasting, errWedged))
			return
		}
	}
}

func (c *Consumer) overdue(now time.Time) (fresh []*call, lasting *call) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for p := range c.decoding {
		p.sample(now)
	}
	for cl := range c.calls {
		switch {
		case !cl.named.IsZero():
			if now.Sub(cl.named) > c.cfg.Wedge {
				lasting = cl
			}
		case now.Sub(cl.begun) > c.cfg.Retry.Attempt+c.cfg.Wedge:
			cl.named = now
			fresh = append(fresh, cl)
		}
	}
	return fresh, lasting
}

// sample sees whether the decoder is still at the record that it was at before. Every record passes there, so that is
// all that it costs: a count.
func (p *part) sample(now time.Time) {
	step := p.step.Load()
	if inside := step%2 == 1; inside && step == p.seen {
		return
	} else if p.stuck != nil {
		delete(p.c.calls, p.stuck)
		p.stuck = nil
	}
	p.seen = step
	if step%2 == 1 {
		p.stuck = &call{part: p, what: "decoding a record", begun: now}
		p.c.calls[p.stuck] = struct{}{}
	}
}

// watched counts what sample looks at, while f runs.
func (p *part) watched(f func()) {
	c := p.c
	c.mu.Lock()
	c.decoding[p] = struct{}{}
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.decoding, p)
		delete(c.calls, p.stuck)
	}()
	f()
}

// wedged names a call with where it hangs, and takes its partition from it.
func (c *Consumer) wedged(cl *call) {
	var k ledger.Key
	if cl.part != nil {
		k = cl.part.key
	}
	c.metrics.wedged.WithLabelValues(k.Topic).Inc()
	c.tel.Log.Error("a call does not come back, though its time is over; the process ends if it stays away",
		"call", cl, "began", cl.begun, "until", cl.named.Add(c.cfg.Wedge), "stack", c.stack(k))
	if cl.part != nil {
		c.restart(cl.part, fmt.Errorf("%s did not come back", cl.what))
	}
}

// labels mark the goroutines that work for a partition, and those that they start, in every profile.
func (c *Consumer) labels(k ledger.Key) pprof.LabelSet {
	return pprof.Labels("consumer", c.name, "topic", k.Topic, "partition", strconv.Itoa(int(k.Partition)))
}

// stack gives the goroutines of a partition; without one, those of the calls for several.
func (c *Consumer) stack(k ledger.Key) string {
	return Stacks("consumer", c.name, "topic", k.Topic, "partition", strconv.Itoa(int(k.Partition)))
}

// Stacks says, for the log, where the goroutines are that bear these labels of pprof, each a key and a value.
func Stacks(labels ...string) string {
	var all bytes.Buffer
	if err := pprof.Lookup("goroutine").WriteTo(&all, 1); err != nil {
		return err.Error()
	}
	var out strings.Builder
blocks:
	for block := range strings.SplitSeq(all.String(), "\n\n") {
		for i := 0; i+1 < len(labels); i += 2 {
			if !strings.Contains(block, fmt.Sprintf("%q:%q", labels[i], labels[i+1])) {
				continue blocks
			}
		}
		out.WriteString(block + "\n\n")
	}
	return bounded(strings.TrimSpace(out.String()), maxStack)
}
