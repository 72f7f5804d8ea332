package logtail

import (
	"bytes"
	"encoding/json"
	"strconv"
	"strings"
	"time"

	"github.com/millrace/millrace/pkg/event"
)

// record is a record of type log as JSON. Times are microseconds since 1970.
type record struct {
	ID         string            `json:"id"`
	Time       int64             `json:"time"`
	Service    string            `json:"service"`
	Host       string            `json:"host"`
	Datacenter string            `json:"datacenter"`
	Tenant     string            `json:"tenant"`
	Severity   string            `json:"severity,omitempty"`
	Body       string            `json:"body"`
	Source     string            `json:"source"`
	TraceID    string            `json:"trace_id,omitempty"`
	SpanID     string            `json:"span_id,omitempty"`
	Attributes map[string]string `json:"attributes,omitempty"`
}

// Attributes that say what was done to a line.
const (
	attrContinued = "log.continued"     // it begins in the middle of a line
	attrUnended   = "log.unended"       // it ends in the middle of a line
	attrTime      = "log.original_time" // the line's own time, too far off to be the event's
)

// event makes the event of a piece. The same piece of the same file, read at the same time, gives the same event.
// An empty line gives none.
func (t *Tailer) event(f *file, at int64, p piece, raw []byte, read time.Time) []byte {
	// A hole at the beginning of a line is what is left where a writer went on at its old position after a truncation.
	text, bad := clean(bytes.TrimLeft(line(raw), "\x00"))
	if strings.TrimSpace(text) == "" {
		return nil
	}
	t.m.invalid.Add(float64(bad))
	e := parse(f.input.format, text, read, t.loc)
	r := record{
		Host: t.host, Datacenter: t.cfg.Datacenter, Tenant: t.cfg.Tenant,
		Severity: e.severity, Body: e.body, Source: f.source, TraceID: e.traceID, SpanID: e.spanID,
	}
	when := read
	if ok := !e.time.IsZero(); ok && !e.time.Before(read.Add(-t.cfg.MaxAge)) && !e.time.After(read.Add(t.cfg.MaxAhead)) {
		when = e.time
	} else if ok {
		e.attr(attrTime, e.time.Format(time.RFC3339Nano))
	}
	when = when.Truncate(time.Microsecond)
	r.Time = when.UnixMicro()
	switch {
	case f.input.service != "":
		r.Service = f.input.service
	case e.service != "":
		r.Service = e.service
	default:
		r.Service = "logtail"
	}
	if p.continued {
		e.attr(attrContinued, "true")
	}
	if p.unended {
		e.attr(attrUnended, "true")
	}
	r.Attributes = e.attrs
	r.ID = event.DeriveID(when, f.key, strconv.FormatInt(at, 10), string(raw))
	b, err := json.Marshal(r)
	if err != nil {
		t.log.Error("encoding an event fails", "source", f.source, "err", err) // strings and numbers always can be
		return nil
	}
	return b
}
