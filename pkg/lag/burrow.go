package lag

import "time"

// Status is how a group does on a partition, in the words of LinkedIn's Burrow.
type Status string

// The statuses, from good to bad.
const (
	OK     Status = "OK"
	Warn   Status = "WARN"   // the lag only grows
	Rewind Status = "REWIND" // the commit went back
	Stall  Status = "STALL"  // there is lag, members are there, and the commit stands still
	Stop   Status = "STOP"   // there is lag, the commit stands still, and nobody is there to move it
	Err    Status = "ERR"    // of a group: some partition is at STALL, STOP or REWIND
)

var severity = map[Status]int{OK: 0, Warn: 1, Rewind: 2, Stall: 3, Stop: 4, Err: 5}

// mark is where a group's commit was at one look, in milliseconds, and the lag then.
type mark struct{ at, offset, lag int64 }

const (
	// The window is over how many looks and for how long at least a status is told. Burrow takes ten commits; a watcher that
	// sees offsets and not commits takes time.
	windowLooks = 5
	minWindow   = 30 * time.Second
	maxMarks    = 40
	// recent is for how long something that happened once is named.
	recent = 10 * time.Minute
)

// track is what is remembered of where a group's commit was on a partition.
type track struct {
	marks   []mark // of the last looks, oldest first
	begun   int64  // the first look, in milliseconds
	moved   int64  // the look at which the commit had moved last, or the first
	clear   int64  // the last look without lag
	rhythm  int64  // how long the commit stands still before lag until it moves on, at most, as far as was seen
	top     int64  // the highest commit
	rewound int64  // the look at which the commit had gone back last
	rewinds int64
}

// add remembers one more look. A commit that stands still before a lag that does, too, needs only two.
func (t *track) add(one mark) {
	if len(t.marks) > 0 && one.at < t.last().at { // the clock was set back: what was seen before has no time any more
		t.marks = t.marks[:0]
	}
	if len(t.marks) == 0 {
		t.begun, t.moved = one.at, one.at
	} else if last := t.last(); one.offset != last.offset {
		if one.offset < last.offset {
			t.rewound = one.at
			t.rewinds++
		}
		if t.moved != t.begun && t.moved > t.clear {
			// A rhythm that has become faster is forgotten slowly.
			t.rhythm = max(one.at-t.moved, t.rhythm*9/10)
		}
		t.moved = one.at
	}
	t.top = max(t.top, one.offset)
	if one.lag <= 0 {
		t.clear = one.at
	}
	if n := len(t.marks); n >= 2 && t.marks[n-1] == (mark{t.marks[n-1].at, one.offset, one.lag}) && t.marks[n-2] == (mark{t.marks[n-2].at, one.offset, one.lag}) {
		t.marks[n-1] = one
		return
	}
	t.marks = append(grown(t.marks, maxMarks+1), one)
	if n := len(t.marks); n > maxMarks {
		t.marks = t.marks[:copy(t.marks, t.marks[n-maxMarks:])]
	}
}

func (t *track) last() mark { return t.marks[len(t.marks)-1] }

// window is the marks of the last while: one at or before its start, so that it is covered.
func (t *track) window(length time.Duration) []mark {
	from := t.last().at - length.Milliseconds()
	i := 0
	for i < len(t.marks)-1 && t.marks[i+1].at <= from {
		i++
	}
	return t.marks[i:]
}

// evaluate gives the status in the sense of Burrow's rules (evaluator/caching.go of linkedin/Burrow). It differs where
// Burrow's ten commits are the consumer's to choose: a window is of time, so that a commit that stands still is told within
// it, and a group that commits now and then stalls when it has missed two of its own commits.
func (t *track) evaluate(window time.Duration, alive bool) Status {
	if len(t.marks) == 0 || t.last().lag <= 0 {
		return OK
	}
	now := t.last().at
	if t.rewound != 0 && now-t.rewound < recent.Milliseconds() && t.last().offset < t.top { // not recovered yet
		return Rewind
	}
	still := now - max(t.moved, t.clear)
	if !alive && still >= window.Milliseconds() {
		return Stop
	}
	if alive && still >= max(window.Milliseconds(), 2*t.rhythm) {
		return Stall
	}
	w := t.window(window)
	if now-w[0].at < window.Milliseconds() || w[0].lag <= 0 {
		return OK
	}
	for i := 1; i < len(w); i++ {
		if w[i].lag < w[i-1].lag || w[i].lag <= 0 {
			return OK
		}
	}
	if t.last().lag > w[0].lag {
		return Warn
	}
	return OK
}

// stands says whether the last two looks saw the same.
func (t *track) stands() bool {
	n := len(t.marks)
	return n >= 2 && t.marks[n-2].offset == t.marks[n-1].offset && t.marks[n-2].lag == t.marks[n-1].lag
}

// still is since when the commit has not moved.
func (t *track) still() time.Time { return time.UnixMilli(t.moved) }

// out is how fast the commit moves.
func (t *track) out(now time.Time) *float64 {
	if out, ok := rate(len(t.marks), t.point, now, rateWindow); ok {
		return &out
	}
	return nil
}

// outLately is the same over the last window alone.
func (t *track) outLately(window time.Duration) *float64 {
	return slope(len(t.marks), t.point, window)
}

func (t *track) point(i int) point { return point{t.marks[i].at, t.marks[i].offset} }
