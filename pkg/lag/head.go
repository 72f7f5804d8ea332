package lag

import (
	"strconv"
	"strings"
	"time"
)

// Method is how a time was found.
type Method string

// The methods. What is exact names one stamp; a bracket says that the truth lies between two.
const (
	ByNothing    Method = ""            // there is no lag, and so no time to find
	ByReport     Method = "report"      // exact: the consumer holds the record, and says its stamp
	ByCommit     Method = "commit"      // exact: the consumer put the stamp into the commit
	ByAppendTime Method = "append_time" // bracket: searched in the log by time
	ByRecord     Method = "record"      // exact: the record was read
	ByHistory    Method = "history"     // bracket: between two looks
	Unknown      Method = "unknown"
)

// head is what is known of the record at one offset: when it was appended, in this machine's time.
type head struct {
	offset int64
	at     span
	method Method
	tried  bool // to read it
}

// slack is by how much two clocks may differ that are said to be right.
const slack = time.Second

// learn adds what was found by another method. What contradicts what is known, as the stamp of a producer whose clock is
// off, is not taken.
func (h *head) learn(at span, by Method) {
	both, ok := h.at.within(at)
	if !ok {
		near := span{h.at.low.Add(-slack), h.at.high.Add(slack)}
		if h.at.low.Equal(longAgo) {
			near.low = longAgo
		}
		if h.at.high.Equal(never) {
			near.high = never
		}
		if both, ok = near.within(at); !ok {
			return
		}
	}
	if both != h.at || h.method == Unknown {
		h.at, h.method = both, by
	}
}

// exactly is one time.
func exactly(at time.Time) span { return span{at, at} }

// HeadKey is what a commit's metadata has before the stamp, in milliseconds, of the first record that is not committed.
const HeadKey = "h="

// headOf reads the stamp of the first record after a commit from its metadata, where its consumer put it there.
func headOf(metadata string) (ms int64, ok bool) {
	for field := range strings.SplitSeq(metadata, ";") {
		if text, found := strings.CutPrefix(field, HeadKey); found {
			ms, err := strconv.ParseInt(text, 10, 64)
			return ms, err == nil
		}
	}
	return 0, false
}

// Seconds is how old the oldest record is that is not past a stage: between Low and High, by Method. Where the method is
// Unknown both are nil; High alone is nil where only a lower bound is known.
type Seconds struct {
	Low    *float64 `json:"low"`
	High   *float64 `json:"high"`
	Method Method   `json:"method,omitempty"`
}

// seconds is the age of a head.
func (h *head) seconds(now time.Time) Seconds {
	if h == nil || h.method == Unknown {
		return Seconds{Method: Unknown}
	}
	out := Seconds{Method: h.method}
	age := func(t time.Time) *float64 {
		s := max(0, now.Sub(t).Seconds()) // a clock that is behind makes nothing younger than new
		return &s
	}
	if h.at.high != never {
		out.Low = age(h.at.high)
	}
	if h.at.low != longAgo {
		out.High = age(h.at.low)
	}
	if out.Low == nil && out.High == nil {
		out.Method = Unknown
	}
	return out
}

var zero = 0.0

// noLag is the age where there is nothing unread.
func noLag() Seconds { return Seconds{Low: &zero, High: &zero} }
