package schema

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

const day = 24 * time.Hour

// ParseDuration is time.ParseDuration with days: 7d, 1d12h, 90m. A negative one is refused.
func ParseDuration(s string) (time.Duration, error) {
	head, rest, found := strings.Cut(s, "d")
	var d time.Duration
	if found {
		n, err := strconv.ParseUint(head, 10, 32)
		if err != nil || n > math.MaxInt64/uint64(day) {
			return 0, fmt.Errorf("parsing duration %q: bad number of days", s)
		}
		d = time.Duration(n) * day
		if rest == "" {
			return d, nil
		}
		s = rest
	}
	more, err := time.ParseDuration(s)
	if err != nil {
		return 0, fmt.Errorf("parsing duration: %w", err)
	}
	if more < 0 || d > math.MaxInt64-more {
		return 0, fmt.Errorf("parsing duration %q: out of range", s)
	}
	return d + more, nil
}

// FormatDuration writes what ParseDuration reads, for messages: 30d, not 720h0m0s.
func FormatDuration(d time.Duration) string { return formatDuration(d) }

// formatDuration writes what ParseDuration reads, without zero parts: 7d, 1h, 1d12h.
func formatDuration(d time.Duration) string {
	if d == 0 {
		return "0s"
	}
	var out strings.Builder
	for _, unit := range []struct {
		size time.Duration
		name string
	}{{day, "d"}, {time.Hour, "h"}, {time.Minute, "m"}} {
		if d >= unit.size {
			fmt.Fprintf(&out, "%d%s", d/unit.size, unit.name)
			d %= unit.size
		}
	}
	if d > 0 {
		out.WriteString(d.String())
	}
	return out.String()
}
