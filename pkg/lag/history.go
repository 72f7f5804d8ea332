package lag

import (
	"math"
	"slices"
	"time"
)

// maxSamples bounds what is remembered of one partition's ends. Every second one of the older half goes when there are
// more: what is long ago is known less exactly, and never wrongly.
const maxSamples = 256

// sample is the end of a log as one look saw it: at some time from begun to ended, in milliseconds.
type sample struct{ begun, ended, end int64 }

// ends is what is remembered of a log's ends, oldest first.
type ends []sample

func (e ends) point(i int) point { return point{e[i].ended, e[i].end} }

// add remembers one more look. While a log stands still its last two looks are enough.
func (e ends) add(s sample) ends {
	if n := len(e); n >= 2 && e[n-1].end == s.end && e[n-2].end == s.end {
		e[n-1] = s
		return e
	}
	e = append(grown(e, maxSamples+1), s)
	if len(e) > maxSamples {
		kept := e[:0]
		for i, s := range e {
			if i >= maxSamples/2 || i%2 == 0 {
				kept = append(kept, s)
			}
		}
		e = kept
	}
	return e
}

// grown makes room for one more, and never for more than most: what append would reserve adds up over many partitions.
func grown[S ~[]E, E any](s S, most int) S {
	if len(s) < cap(s) {
		return s
	}
	return append(make(S, 0, min(most, max(4, 2*len(s)))), s...)
}

// span is when something happened: not before low and not after high.
type span struct{ low, high time.Time }

// before and after everything: what is not known.
var (
	longAgo = time.UnixMilli(math.MinInt64 / 4)
	never   = time.UnixMilli(math.MaxInt64 / 4)
)

func (s span) known() bool { return s.low != longAgo && s.high != never }

func (s span) width() time.Duration {
	if !s.known() {
		return math.MaxInt64
	}
	return s.high.Sub(s.low)
}

// within is what both say. It is false where they contradict each other.
func (s span) within(o span) (span, bool) {
	if o.low.After(s.low) {
		s.low = o.low
	}
	if o.high.Before(s.high) {
		s.high = o.high
	}
	return s, !s.low.After(s.high)
}

// appended is when the record at an offset was: after the last look that did not see it, and before the first that did.
func (e ends) appended(offset int64) span {
	i, _ := slices.BinarySearchFunc(e, offset, func(s sample, offset int64) int {
		if s.end > offset {
			return 1
		}
		return -1
	})
	out := span{longAgo, never}
	if i > 0 {
		out.low = time.UnixMilli(e[i-1].begun)
	}
	if i < len(e) {
		out.high = time.UnixMilli(e[i].ended)
	}
	return out
}

// rate is by how much a position moves, per second, over the last window: the median of the slopes between all pairs of
// maxSlopePoints points at about equal distances in time (Theil-Sen), which a burst or a pause does not throw off. Of the n
// points two are enough for a time in which the position stood still.
func rate(n int, get func(int) point, now time.Time, window time.Duration) (perSecond float64, ok bool) {
	if n < 2 {
		return 0, false
	}
	end := get(n - 1).at
	begin := max(get(0).at, min(now.Add(-window).UnixMilli(), get(n-2).at)) // two points at least
	if end <= begin {
		return 0, false
	}
	var points [maxSlopePoints]point
	next := 0
	for i := range points {
		t := begin + (end-begin)*int64(i)/(maxSlopePoints-1)
		for next < n && get(next).at <= t {
			next++
		}
		points[i] = get(max(0, next-1))
		if next > 0 && next < n && get(next).offset == points[i].offset {
			points[i].at = t // it stood still
		}
	}
	var all [maxSlopePoints * (maxSlopePoints - 1) / 2]float64
	slopes := all[:0]
	for i := range points {
		for j := i + 1; j < len(points); j++ {
			if dt := points[j].at - points[i].at; dt > 0 {
				slopes = append(slopes, float64(points[j].offset-points[i].offset)/float64(dt)*1000)
			}
		}
	}
	if len(slopes) == 0 {
		return 0, false
	}
	slices.Sort(slopes)
	return (slopes[(len(slopes)-1)/2] + slopes[len(slopes)/2]) / 2, true
}

// slope is by how much a position moved per second over the last window, from its first point to its last.
func slope(n int, get func(int) point, window time.Duration) *float64 {
	if n < 2 {
		return nil
	}
	last := get(n - 1)
	first := get(0)
	for i := n - 2; i >= 0; i-- {
		if first = get(i); last.at-first.at >= window.Milliseconds() {
			break
		}
	}
	if last.at == first.at {
		return nil
	}
	return new(float64(last.offset-first.offset) / float64(last.at-first.at) * 1000)
}

const maxSlopePoints = 16

// point is a position at a time in milliseconds.
type point struct{ at, offset int64 }
