package gateway

import (
	"context"
	"math"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// budget is a number of bytes that requests hold while Kafka has not acknowledged them.
type budget struct {
	mu    sync.Mutex
	max   int64
	used  int64
	freed chan struct{} // closed and replaced when bytes come back
}

func newBudget(n int64) *budget { return &budget{max: n, freed: make(chan struct{})} }

// acquire waits for n bytes. A request only waits for records that are already with Kafka, its own or others', so
// nobody waits for anybody in a circle.
func (b *budget) acquire(ctx context.Context, n int64) error {
	for {
		b.mu.Lock()
		if b.used+n <= b.max || b.used == 0 {
			b.used += n
			b.mu.Unlock()
			return nil
		}
		freed := b.freed
		b.mu.Unlock()
		select {
		case <-freed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (b *budget) release(n int64) {
	b.mu.Lock()
	b.used -= n
	close(b.freed)
	b.freed = make(chan struct{})
	b.mu.Unlock()
}

func (b *budget) inUse() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.used
}

// full says that a new request would only wait: the last tenth is kept for those under way.
func (b *budget) full() bool { return b.inUse() > b.max-b.max/10 }

// otherTenants is the name under which tenants beyond the bound are counted and limited together.
const otherTenants = "other"

// tenants keeps a token bucket and counters per tenant, for a bounded number of them.
type tenants struct {
	mu    sync.Mutex
	max   int
	rate  rate.Limit
	burst int
	by    map[string]*tenant
}

type tenant struct {
	name   string
	bucket *rate.Limiter // nil: no limit
	seen   time.Time

	// Since the last usage record.
	requests, records, bytes int64
}

func newTenants(maxTenants int, perSecond float64, burst int) *tenants {
	return &tenants{max: maxTenants, rate: rate.Limit(perSecond), burst: burst, by: map[string]*tenant{}}
}

func (ts *tenants) get(name string, now time.Time) *tenant {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	t := ts.by[name]
	if t == nil && len(ts.by) >= ts.max {
		name = otherTenants
		t = ts.by[name]
	}
	if t == nil {
		t = &tenant{name: name}
		if ts.rate > 0 {
			t.bucket = rate.NewLimiter(ts.rate, ts.burst)
		}
		ts.by[name] = t
	}
	t.seen = now
	return t
}

// take takes one record's token.
func (t *tenant) take(now time.Time) bool { return t.bucket == nil || t.bucket.AllowN(now, 1) }

// wait is how long until the tenant may send again; 0 is now.
func (t *tenant) wait(now time.Time) time.Duration {
	if t.bucket == nil {
		return 0
	}
	if missing := 1 - t.bucket.TokensAt(now); missing > 0 {
		return time.Duration(math.Ceil(missing / float64(t.bucket.Limit()) * float64(time.Second)))
	}
	return 0
}

func (ts *tenants) count(t *tenant, requests, records, bytes int64) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	t.requests += requests
	t.records += records
	t.bytes += bytes
}

// usage is what a tenant sent in one interval.
type usage struct {
	tenant                   string
	requests, records, bytes int64
}

// takeUsage gives what was counted since the last call, and forgets tenants that were not seen for a while and whose
// bucket is therefore full again.
func (ts *tenants) takeUsage(now time.Time) []usage {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	var out []usage
	for name, t := range ts.by {
		if t.requests > 0 || t.records > 0 || t.bytes > 0 {
			out = append(out, usage{t.name, t.requests, t.records, t.bytes})
			t.requests, t.records, t.bytes = 0, 0, 0
		} else if now.Sub(t.seen) > 10*time.Minute && t.wait(now) == 0 {
			delete(ts.by, name)
		}
	}
	return out
}

// validTenant accepts what is safe as a name everywhere; the empty name is the tenant of nobody in particular.
func validTenant(name string) bool {
	if len(name) > 128 {
		return false
	}
	for _, c := range []byte(name) {
		ok := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '.' || c == '_' || c == '-'
		if !ok {
			return false
		}
	}
	return true
}
