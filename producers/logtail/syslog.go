package logtail

import (
	"strconv"
	"strings"
	"time"
)

// parseSyslog reads a line of RFC 5424 or RFC 3164, with or without the priority, and what rsyslog writes today:
// RFC 3164 with a full time stamp.
func parseSyslog(text string, read time.Time, loc *time.Location) (entry, bool) {
	e := entry{}
	pri, rest := priority(text)
	if pri >= 0 {
		e.severity = []string{"FATAL", "FATAL", "FATAL", "ERROR", "WARN", "INFO", "INFO", "DEBUG"}[pri&7]
		e.attr("syslog.facility", strconv.Itoa(pri>>3))
		if body, ok := strings.CutPrefix(rest, "1 "); ok {
			return parse5424(e, body, loc)
		}
	}
	if t, n, ok := bsdTime(rest, read, loc); ok {
		e.time, rest = t, rest[n:]
	} else if st, n, ok := leadingTime(rest, loc); ok && st.zoned && rest[10] == 'T' {
		e.time, rest = st.t, rest[n:]
	} else {
		return entry{}, false
	}
	rest, ok := strings.CutPrefix(rest, " ")
	if !ok {
		return entry{}, false
	}
	host, rest, ok := strings.Cut(strings.TrimLeft(rest, " "), " ")
	if !ok || !isHost(host) {
		return entry{}, false
	}
	e.attr("syslog.hostname", host)
	if !tag(&e, rest) {
		return entry{}, false
	}
	if e.severity == "" {
		e.severity = marker(e.body)
	}
	return e, true
}

// priority reads <PRI>, and gives -1 where there is none.
func priority(s string) (pri int, rest string) {
	end := strings.IndexByte(s[:min(len(s), 5)], '>')
	if end < 2 || s[0] != '<' {
		return -1, s
	}
	n, ok := digits(s[1:end])
	if !ok || n > 191 {
		return -1, s
	}
	return n, s[end+1:]
}

// isHost says whether a word can be a host's name or address, and not the level of a line that only looks like syslog.
func isHost(s string) bool {
	if s == "" || len(s) > 255 {
		return false
	}
	for i := range len(s) {
		if c := s[i]; !isWord(c) && c != '.' && c != '-' && c != ':' {
			return false
		}
	}
	_, isLevel := knownSeverity(s)
	return !isLevel && s[len(s)-1] != ':'
}

// tag reads "program[pid]: message".
func tag(e *entry, s string) bool {
	head, body, ok := strings.Cut(s, ": ")
	if !ok {
		if head, ok = strings.CutSuffix(s, ":"); !ok {
			return false
		}
	}
	name, pid, hasPID := strings.Cut(head, "[")
	if hasPID {
		if pid, ok = strings.CutSuffix(pid, "]"); !ok {
			return false
		}
		e.attr("process.pid", pid)
	}
	if name == "" || len(name) > 128 || strings.ContainsAny(name, " \t\"{}=") {
		return false
	}
	e.service, e.body = name, body
	return true
}

// parse5424 reads what follows "<PRI>1 ": TIMESTAMP HOST APP PROCID MSGID STRUCTURED-DATA [MSG].
func parse5424(e entry, s string, loc *time.Location) (entry, bool) {
	var field [5]string
	for i := range field {
		var ok bool
		if field[i], s, ok = strings.Cut(s, " "); !ok || field[i] == "" {
			return entry{}, false
		}
		if field[i] == "-" {
			field[i] = ""
		}
	}
	if field[0] != "" {
		st, n, ok := leadingTime(field[0], loc)
		if !ok || n != len(field[0]) {
			return entry{}, false
		}
		e.time = st.t
	}
	e.attr("syslog.hostname", field[1])
	e.service = field[2]
	e.attr("process.pid", field[3])
	e.attr("syslog.msgid", field[4])
	rest, ok := structuredData(&e, s)
	if !ok {
		return entry{}, false
	}
	e.body = strings.TrimPrefix(strings.TrimPrefix(rest, " "), "\uFEFF")
	return e, true
}

// structuredData reads "-" or [id name="value" …]…; each value becomes the attribute id.name.
func structuredData(e *entry, s string) (rest string, ok bool) {
	if rest, ok = strings.CutPrefix(s, "-"); ok {
		return rest, rest == "" || rest[0] == ' '
	}
	if !strings.HasPrefix(s, "[") {
		return "", false
	}
	for strings.HasPrefix(s, "[") {
		end := strings.IndexAny(s, " ]")
		if end < 2 {
			return "", false
		}
		id := s[1:end]
		s = s[end:]
		for strings.HasPrefix(s, " ") {
			var name, value string
			if name, s, ok = strings.Cut(strings.TrimLeft(s, " "), `="`); !ok || strings.ContainsAny(name, ` ]"`) || name == "" {
				return "", false
			}
			if value, s, ok = quoted(s); !ok {
				return "", false
			}
			e.attr(id+"."+name, value)
		}
		if s, ok = strings.CutPrefix(s, "]"); !ok {
			return "", false
		}
	}
	return s, s == "" || s[0] == ' '
}

// quoted reads up to the closing quote; a backslash protects a quote, a backslash and a bracket.
func quoted(s string) (value, rest string, ok bool) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '"':
			return b.String(), s[i+1:], true
		case s[i] == '\\' && i+1 < len(s) && strings.IndexByte(`"\]`, s[i+1]) >= 0:
			i++
		}
		b.WriteByte(s[i])
	}
	return "", "", false
}
