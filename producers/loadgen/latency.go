package loadgen

import (
	"math/bits"
	"sync/atomic"
	"time"
)

// latencies counts durations in buckets that are at most 1/32 wide of their value, so that percentiles over any number
// of records cost nothing to keep.
type latencies struct {
	counts [64 * 32]atomic.Int64
	max    atomic.Int64
}

func bucketOf(us uint64) int {
	if us < 32 {
		return int(us)
	}
	e := bits.Len64(us) - 6           // so that us>>e is in [32, 64)
	return (e+1)*32 + int(us>>e) - 32 //nolint:gosec // under 64
}

// lower is the least value of a bucket.
func lower(b int) uint64 {
	if b < 64 {
		return uint64(b) //nolint:gosec // an index
	}
	e := b/32 - 1
	return uint64(b%32+32) << e
}

func (l *latencies) add(d time.Duration) {
	us := max(d.Microseconds(), 0)
	l.counts[bucketOf(uint64(us))].Add(1)
	for {
		m := l.max.Load()
		if us <= m || l.max.CompareAndSwap(m, us) {
			return
		}
	}
}

// quantile gives the duration that a share q of all durations does not exceed, or 0 where there are none.
func (l *latencies) quantile(q float64) time.Duration {
	var total int64
	for i := range l.counts {
		total += l.counts[i].Load()
	}
	if total == 0 {
		return 0
	}
	rank := int64(q * float64(total))
	var seen int64
	for i := range l.counts {
		if seen += l.counts[i].Load(); seen > rank {
			upper := time.Duration(lower(i+1)) * time.Microsecond //nolint:gosec // under 2^63
			return min(upper, l.longest())
		}
	}
	return l.longest()
}

func (l *latencies) longest() time.Duration { return time.Duration(l.max.Load()) * time.Microsecond }
