package lag

import (
	"maps"
	"sync"
	"time"

	"github.com/millrace/millrace/pkg/lag"
)

// counters are what the metrics count over views.
type counters struct {
	mu       sync.Mutex
	failures int64
	start    time.Time // until the first view nothing is known since then
	last     time.Time // of the last view that knew something
	flows    map[subject]count
}

func newCounters(now time.Time) *counters { return &counters{start: now, flows: map[subject]count{}} }

func (c *counters) fail() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failures++
}

func (c *counters) failed() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.failures
}

func (c *counters) of(group, topic string) count {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.flows[subject{group, topic, -1}]
}

// add counts the time since the view before. While the watcher is blind nothing is counted: that is an alert of its own, and
// no evidence against a flow.
func (c *counters) add(v *lag.View) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if v.Blind != "" || v.AsOf.IsZero() {
		c.last = time.Time{}
		return
	}
	dt := 0.0
	if !c.last.IsZero() {
		dt = max(0, v.AsOf.Sub(c.last).Seconds())
	}
	c.last = v.AsOf
	for i := range v.Flows {
		f := &v.Flows[i]
		k := subject{f.Group, f.Topic, -1}
		one, old := c.flows[k]
		one.seen = v.AsOf
		if old && f.Objective > 0 {
			bad := 0
			for j := range f.Rows {
				if r := &f.Rows[j]; r.Past || r.Age.Method == lag.Unknown {
					bad++
				}
			}
			one.watched += float64(f.Partitions) * dt
			one.bad += float64(bad) * dt
		}
		c.flows[k] = one
	}
	maps.DeleteFunc(c.flows, func(_ subject, one count) bool { return v.AsOf.Sub(one.seen) > time.Hour })
}
