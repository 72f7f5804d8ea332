package logtail

import (
	"bytes"
	"encoding/json"
	"strings"
	"time"
)

// The formats of lines. Auto tries JSON, then syslog, then takes the line as it is.
const (
	formatAuto   = "auto"
	formatPlain  = "plain"
	formatJSON   = "json"
	formatSyslog = "syslog"
)

// entry is what a line says. Empty strings are what it does not say.
type entry struct {
	time     time.Time // zero: the line says none
	severity string
	body     string
	service  string
	traceID  string
	spanID   string
	attrs    map[string]string
}

func (e *entry) attr(name, value string) {
	if value == "" {
		return
	}
	if e.attrs == nil {
		e.attrs = map[string]string{}
	}
	e.attrs[name] = value
}

// parse reads a line, or several joined, in a format. What it makes of the same text, read time and location is always
// the same.
func parse(format, text string, read time.Time, loc *time.Location) entry {
	if format == formatAuto || format == "" || format == formatJSON {
		if e, ok := parseJSON(text, read, loc); ok {
			return e
		}
	}
	if format == formatAuto || format == "" || format == formatSyslog {
		if e, ok := parseSyslog(text, read, loc); ok {
			return e
		}
	}
	return parsePlain(text, loc)
}

// parsePlain takes the line as the body, and a time and a severity where they are plain to see.
func parsePlain(text string, loc *time.Location) entry {
	e := entry{body: text, severity: marker(text)}
	head := strings.TrimLeft(text, "[")
	st, _, ok := leadingTime(head, loc)
	if !ok {
		if _, rest, found := strings.Cut(head, " "); found { // "name 2006-01-02 15:04:05: text"
			st, _, ok = leadingTime(strings.TrimLeft(rest, "["), loc)
		}
	}
	if ok {
		e.time = st.t
	} else if t, ok := webTime(text); ok {
		e.time = t
	}
	return e
}

// severityOf gives the usual word for a severity; others are kept as they come.
func severityOf(word string) string {
	if s, ok := knownSeverity(word); ok {
		return s
	}
	return word
}

func knownSeverity(word string) (string, bool) {
	switch strings.ToLower(word) {
	case "trace":
		return "TRACE", true
	case "debug":
		return "DEBUG", true
	case "info", "information", "informational", "notice":
		return "INFO", true
	case "warn", "warning":
		return "WARN", true
	case "error", "err":
		return "ERROR", true
	case "fatal", "crit", "critical", "alert", "emerg", "emergency", "panic":
		return "FATAL", true
	}
	return "", false
}

// levelNumber reads the numbers that some JSON loggers write as their level.
func levelNumber(n string) string {
	switch n {
	case "10":
		return "TRACE"
	case "20":
		return "DEBUG"
	case "30":
		return "INFO"
	case "40":
		return "WARN"
	case "50":
		return "ERROR"
	case "60":
		return "FATAL"
	}
	return n
}

// marker finds a severity that is marked as one in the first line's first words: upper case (ERROR, WARNING:), in
// brackets ([error]), or as level=error. An "error" in a sentence is none.
func marker(text string) string {
	head, _, _ := strings.Cut(text[:min(len(text), 160)], "\n")
	for range 8 {
		head = strings.TrimLeft(head, " \t")
		word, rest, _ := strings.Cut(head, " ")
		if s := markerIn(word); s != "" {
			return s
		}
		if rest == "" {
			return ""
		}
		head = rest
	}
	return ""
}

func markerIn(word string) string {
	for _, key := range []string{"level=", "lvl=", "severity="} {
		if v, ok := strings.CutPrefix(word, key); ok {
			s, _ := knownSeverity(strings.Trim(v, `"',;`))
			return s
		}
	}
	marked := false
	if in, ok := strings.CutPrefix(word, "["); ok {
		if in, ok = strings.CutSuffix(strings.TrimSuffix(in, ":"), "]"); ok {
			word, marked = in, true
		}
	}
	word = strings.Trim(word, "[]()<>|:,")
	if !marked && (word == "" || word != strings.ToUpper(word)) {
		return ""
	}
	s, _ := knownSeverity(word)
	return s
}

// parseJSON reads a line that is one JSON object. The fields that loggers name in a few ways find their place; all
// others become attributes, objects and arrays among them as JSON.
func parseJSON(text string, read time.Time, loc *time.Location) (entry, bool) {
	text = strings.TrimSpace(text)
	if !strings.HasPrefix(text, "{") || !strings.HasSuffix(text, "}") {
		return entry{}, false
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal([]byte(text), &fields); err != nil {
		return entry{}, false
	}
	e := entry{}
	used := map[string]bool{}
	take := func(names ...string) (string, json.RawMessage) {
		for _, name := range names {
			if raw, ok := fields[name]; ok && !used[name] {
				if s := scalar(raw); s != "" {
					used[name] = true
					return s, raw
				}
			}
		}
		return "", nil
	}
	if s, raw := take("severity", "level", "lvl", "loglevel", "log.level", "severity_text", "levelname"); s != "" {
		if e.severity = severityOf(s); raw[0] != '"' {
			e.severity = levelNumber(s)
		}
	}
	e.body, _ = take("msg", "message", "body", "MESSAGE", "text")
	if e.body == "" {
		e.body = text
	}
	for _, name := range []string{"time", "timestamp", "@timestamp", "ts", "datetime", "date"} {
		if t, ok := anyTime(scalar(fields[name]), read, loc); ok {
			e.time, used[name] = t, true
			break
		}
	}
	e.service, _ = take("service", "service.name", "service_name")
	e.traceID, _ = take("trace_id", "traceId", "trace.id", "traceid")
	e.spanID, _ = take("span_id", "spanId", "span.id", "spanid")
	for name, raw := range fields {
		if !used[name] {
			e.attr(name, attrText(raw))
		}
	}
	return e, true
}

// scalar gives a string's or number's text, and nothing for all else.
func scalar(raw json.RawMessage) string {
	if len(raw) == 0 {
		return ""
	}
	if raw[0] == '"' {
		var s string
		if json.Unmarshal(raw, &s) != nil {
			return ""
		}
		return strings.ReplaceAll(s, "\x00", "\uFFFD")
	}
	if raw[0] == '-' || raw[0] >= '0' && raw[0] <= '9' {
		return string(raw)
	}
	return ""
}

// attrText gives any value's text: nothing for null.
func attrText(raw json.RawMessage) string {
	if s := scalar(raw); s != "" {
		return s
	}
	if len(raw) == 0 || raw[0] == '"' || string(raw) == "null" {
		return ""
	}
	var b bytes.Buffer
	if json.Compact(&b, raw) != nil {
		return ""
	}
	return b.String()
}
