package logtail

import (
	"bytes"
	"regexp"
	"unicode/utf8"
)

// piece is the bytes of one event.
type piece struct {
	start, end int  // in the data that was split, with the line's end
	continued  bool // it begins in the middle of a line
	unended    bool // it ends in the middle of a line
}

// split cuts data into events: lines, or lines joined from one that matches start to the next that does. No event is
// longer than most; a longer line is cut between two characters.
//
// data begins where an event begins; mid says that this is in the middle of a line. Without final, an event that may
// still grow is left: used says how much was taken, and endMid whether that ends in the middle of a line. What was
// taken gives the same pieces when it is split again on its own, with final: that is how ids survive a restart.
func split(data []byte, start *regexp.Regexp, most int, mid, final bool) (pieces []piece, used int, endMid bool) {
	open, openMid := -1, false // the piece that may grow, and mid before it
	for pos := 0; pos < len(data); {
		next, ended, ok := lineEnd(data[pos:], most, final)
		if !ok {
			break
		}
		next += pos
		joins := open >= 0 && !mid && next-pieces[open].start <= most && !start.Match(line(data[pos:next]))
		if joins {
			pieces[open].end, pieces[open].unended = next, !ended
		} else {
			open = -1
			pieces = append(pieces, piece{start: pos, end: next, continued: mid, unended: !ended})
			if start != nil && !mid && ended {
				open, openMid = len(pieces)-1, mid
			}
		}
		if !ended {
			open = -1
		}
		mid, pos, used = !ended, next, next
	}
	if open >= 0 && !final {
		used, mid = pieces[open].start, openMid
		pieces = pieces[:open]
	}
	return pieces, used, mid
}

// lineEnd finds the end of the line at the beginning of data, or the place where it is to be cut. It gives !ok when
// neither is there yet.
func lineEnd(data []byte, most int, final bool) (next int, ended, ok bool) {
	if nl := bytes.IndexByte(data[:min(len(data), most)], '\n'); nl >= 0 {
		return nl + 1, true, true
	}
	if len(data) > most {
		return boundary(data[:most]), false, true
	}
	return len(data), false, final
}

// boundary gives the length of data without a character that is cut off at its end, where there is one.
func boundary(data []byte) int {
	for i := len(data) - 1; i >= 0 && i >= len(data)-utf8.UTFMax; i-- {
		if !utf8.RuneStart(data[i]) {
			continue
		}
		if !utf8.FullRune(data[i:]) && i > 0 {
			return i
		}
		break
	}
	return len(data)
}

// line gives the line without its end.
func line(b []byte) []byte { return bytes.TrimRight(b, "\r\n") }

// clean gives b as a string that is UTF-8 and without NUL, each bad byte replaced by U+FFFD, and how many there were.
func clean(b []byte) (text string, bad int) {
	if utf8.Valid(b) && bytes.IndexByte(b, 0) < 0 {
		return string(b), 0
	}
	out := make([]byte, 0, len(b)+64)
	for len(b) > 0 {
		r, n := utf8.DecodeRune(b)
		if r == 0 || r == utf8.RuneError && n == 1 {
			bad++
			r = utf8.RuneError
		}
		out = utf8.AppendRune(out, r)
		b = b[n:]
	}
	return string(out), bad
}

// magics are the beginnings of compressed files.
func magics() []string {
	return []string{"\x1f\x8b", "\xfd7zXZ\x00", "\x28\xb5\x2f\xfd", "BZh9", "PK\x03\x04"}
}

// isBinary says whether a file that begins with head is no text: compressed, or with NUL in it, or with more than a
// third of bytes that are neither UTF-8 nor printable.
func isBinary(head []byte) bool {
	for _, m := range magics() {
		if bytes.HasPrefix(head, []byte(m)) {
			return true
		}
	}
	if bytes.IndexByte(head, 0) >= 0 {
		return true
	}
	odd := 0
	for rest := head[:boundary(head)]; len(rest) > 0; {
		r, n := utf8.DecodeRune(rest)
		if r == utf8.RuneError && n == 1 || r < ' ' && r != '\t' && r != '\n' && r != '\r' && r != '\x1b' {
			odd++
		}
		rest = rest[n:]
	}
	// Latin-1 text has a few odd bytes in each line; it is text.
	return odd*3 > len(head)
}
