package logtail

import (
	"strconv"
	"strings"
	"time"
)

// stamp is a time found in a line.
type stamp struct {
	t     time.Time
	zoned bool // the line names its time zone
}

// leadingTime finds a time at the beginning of a line and gives the length it takes. Taken are ISO 8601 and what is
// usual in its place: 2006-01-02T15:04:05.123Z, 2006-01-02 15:04:05,123 +0100, 2006/01/02 15:04:05.
func leadingTime(s string, loc *time.Location) (st stamp, n int, ok bool) {
	if len(s) < 19 || s[4] != s[7] || s[4] != '-' && s[4] != '/' || s[10] != 'T' && s[10] != ' ' || s[13] != ':' || s[16] != ':' {
		return stamp{}, 0, false
	}
	var f [6]int
	for i, at := range [6][2]int{{0, 4}, {5, 7}, {8, 10}, {11, 13}, {14, 16}, {17, 19}} {
		if f[i], ok = digits(s[at[0]:at[1]]); !ok {
			return stamp{}, 0, false
		}
	}
	n = 19
	nanos := 0
	if n < len(s) && (s[n] == '.' || s[n] == ',') {
		nanos, n = fraction(s, n)
	}
	zone, zoned, n := zoneAt(s, n)
	if !zoned {
		zone = loc
	}
	t := time.Date(f[0], time.Month(f[1]), f[2], f[3], f[4], f[5], nanos, zone)
	// time.Date takes the 31st of June for the 1st of July.
	if f[1] < 1 || f[1] > 12 || t.Day() != f[2] || f[3] > 23 || f[4] > 59 || f[5] > 60 {
		return stamp{}, 0, false
	}
	return stamp{t, zoned}, n, true
}

func digits(s string) (int, bool) {
	n := 0
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0, false
		}
		n = n*10 + int(s[i]-'0')
	}
	return n, len(s) > 0
}

// fraction reads the digits after the point at s[n], and gives them as nanoseconds and where they end.
func fraction(s string, n int) (nanos, end int) {
	start := n
	n++
	unit := 100_000_000
	for ; n < len(s) && s[n] >= '0' && s[n] <= '9'; n++ {
		nanos += int(s[n]-'0') * unit
		unit /= 10
	}
	if n == start+1 {
		return 0, start // a point and no digits: the end of a sentence
	}
	return nanos, n
}

// zoneAt reads a time zone at s[n]: Z, +01:00, +0100, or after a space +0100, UTC or GMT.
func zoneAt(s string, n int) (zone *time.Location, ok bool, end int) {
	rest := s[n:]
	if strings.HasPrefix(rest, "Z") {
		return time.UTC, true, n + 1
	}
	for _, name := range []string{" UTC", " GMT"} {
		if strings.HasPrefix(rest, name) && (len(rest) == 4 || !isWord(rest[4])) {
			return time.UTC, true, n + 4
		}
	}
	skip := 0
	if strings.HasPrefix(rest, " ") {
		skip = 1
	}
	rest = rest[skip:]
	if len(rest) < 5 || rest[0] != '+' && rest[0] != '-' {
		return nil, false, n
	}
	hours, ok1 := digits(rest[1:3])
	at := 3
	if rest[3] == ':' {
		at = 4
	}
	if len(rest) < at+2 {
		return nil, false, n
	}
	minutes, ok2 := digits(rest[at : at+2])
	if !ok1 || !ok2 || hours > 14 || minutes > 59 {
		return nil, false, n
	}
	offset := hours*3600 + minutes*60
	if rest[0] == '-' {
		offset = -offset
	}
	return time.FixedZone("", offset), true, n + skip + at + 2
}

func isWord(c byte) bool {
	return c == '_' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}

// bsdTime reads the time of RFC 3164 at the beginning of a line: "Jan  2 15:04:05". It names no year: the one is taken
// that brings it nearest to the time of reading without being more than a day after it.
func bsdTime(s string, read time.Time, loc *time.Location) (t time.Time, n int, ok bool) {
	const length = len("Jan  2 15:04:05")
	if len(s) < length {
		return time.Time{}, 0, false
	}
	// The leap day needs a leap year to be parsed at all.
	parsed, err := time.Parse("2006 Jan _2 15:04:05", "2000 "+s[:length])
	if err != nil {
		return time.Time{}, 0, false
	}
	year := read.In(loc).Year() + 1
	for range 9 { // to the last leap year
		t = time.Date(year, parsed.Month(), parsed.Day(), parsed.Hour(), parsed.Minute(), parsed.Second(), 0, loc)
		if t.Day() == parsed.Day() && !t.After(read.Add(24*time.Hour)) {
			return t, length, true
		}
		year--
	}
	return time.Time{}, 0, false
}

// webTime finds the time of a web server's access log: [02/Jan/2006:15:04:05 -0700].
func webTime(s string) (time.Time, bool) {
	const layout = "[02/Jan/2006:15:04:05 -0700]"
	i := strings.IndexByte(s[:min(len(s), 200)], '[')
	if i < 0 || len(s) < i+len(layout) {
		return time.Time{}, false
	}
	t, err := time.Parse(layout, s[i:i+len(layout)])
	return t, err == nil
}

// anyTime reads a time that is a field's whole value: text in one of the forms above, or seconds, milliseconds,
// microseconds or nanoseconds since 1970, told apart by their size.
func anyTime(s string, read time.Time, loc *time.Location) (time.Time, bool) {
	if st, n, ok := leadingTime(s, loc); ok && n == len(s) {
		return st.t, true
	}
	if t, n, ok := bsdTime(s, read, loc); ok && n == len(s) {
		return t, true
	}
	whole, frac, _ := strings.Cut(s, ".")
	n, err := strconv.ParseInt(whole, 10, 64)
	if err != nil || n <= 0 {
		return time.Time{}, false
	}
	switch {
	case n < 1e11:
		nanos, end := fraction("."+frac, 0)
		return time.Unix(n, int64(nanos)), frac == "" || end == len(frac)+1
	case n < 1e14:
		return time.UnixMilli(n), true
	case n < 1e17:
		return time.UnixMicro(n), true
	}
	return time.Unix(0, n), true
}
