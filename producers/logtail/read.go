package logtail

import (
	"fmt"
	"time"
)

// spanEvents bounds the events that are sent as one.
const spanEvents = 4096

// eventOverhead is what an event costs in memory beside its bytes.
const eventOverhead = 256

// read reads on in a file and sends what it finds. It says whether there was anything.
func (t *Tailer) read(f *file, now time.Time) (progress bool, err error) {
	if f.listed && f.fd == nil && f.size == f.next.at {
		return false, nil // nothing new: it need not be opened
	}
	if err := t.ensureOpen(f, now); err != nil {
		t.m.readErrors.Inc()
		return false, err
	}
	info, err := f.fd.Stat()
	if err != nil {
		t.m.readErrors.Inc()
		return false, fmt.Errorf("looking at %s: %w", f.path, err)
	}
	if size := info.Size(); size != f.size {
		f.size, f.grew = size, now
	}
	if f.size == f.next.at {
		t.retire(f, now)
		return false, nil
	}
	// The bytes before the position are read again together with the new ones, so that a file that was truncated and
	// has grown past the position is not taken for the one that was read.
	before := f.next.tail.N
	chunk := int(min(f.size-f.next.at, int64(max(256<<10, 4*int(t.cfg.MaxEvent)))))
	buf, err := readAt(f.fd, f.next.at-int64(before), before+chunk)
	if err != nil {
		t.m.readErrors.Inc()
		return false, err
	}
	if len(buf) < before || markOf(buf[:before]) != f.next.tail || !has(f.fd, int64(f.head.N), f.head) {
		t.replaced(f)
		return false, nil
	}
	return t.sendSome(f, buf, before, now), nil
}

// sendSome sends the whole events of buf, of which the first bytes lie before the position.
func (t *Tailer) sendSome(f *file, buf []byte, before int, now time.Time) bool {
	data := buf[before:]
	most := int(t.cfg.MaxEvent)
	pieces, used, mid := split(data, f.input.start, most, f.next.mid, false)
	if len(pieces) > spanEvents {
		used, mid = pieces[spanEvents-1].end, pieces[spanEvents-1].unended
	}
	if used == 0 {
		if used = t.rest(f, data, now); used == 0 {
			return false
		}
		_, _, mid = split(data[:used], f.input.start, most, f.next.mid, true)
	}
	data = data[:used]
	s := &span{
		f: f, start: f.next.at, mid: f.next.mid, read: now.UTC().Truncate(time.Microsecond), sum: contentSum(data), left: notSent,
		end: position{f.next.at + int64(used), mid, markOf(buf[max(0, before+used-tailLen) : before+used])},
	}
	notes := []note{s.note()}
	if f.head.N < headLen && f.size > int64(f.head.N) {
		if head, err := readAt(f.fd, 0, headLen); err == nil && len(head) >= f.head.N && markOf(head[:f.head.N]) == f.head {
			f.head = markOf(head)
			notes = append([]note{f.note()}, notes...)
		}
	}
	if !t.note(notes...) {
		return false // nothing is sent that the journal does not know
	}
	f.next = s.end
	f.spans = append(f.spans, s)
	t.send(s, data)
	return true
}

// rest says how much of the last event, which may still grow, is to be taken as it is: nothing, before it is idle for
// long enough. A character that is not whole yet stays, unless the file is at its end for good.
func (t *Tailer) rest(f *file, data []byte, now time.Time) int {
	idle := now.Sub(f.grew)
	switch {
	case len(data) == 0 || idle < t.cfg.Idle:
		return 0
	case !f.listed && idle >= t.cfg.Rotated:
		return len(data)
	}
	n := boundary(data)
	if n == len(data) && n < 4 && boundary(append([]byte{'.'}, data...)) == 1 {
		return 0 // nothing but the beginning of a character
	}
	return n
}

// send sends the events of a span. Its bytes are data; a span whose bytes are lost has none.
func (t *Tailer) send(s *span, data []byte) {
	t.m.bytes.Add(float64(len(data)))
	pieces, _, _ := split(data, s.f.input.start, int(t.cfg.MaxEvent), s.mid, true)
	var events [][]byte
	for _, p := range pieces {
		e := t.event(s.f, s.start+int64(p.start), p, data[p.start:p.end], s.read)
		if e == nil {
			continue
		}
		switch {
		case p.unended && p.end < len(data), p.unended && p.end-p.start >= int(t.cfg.MaxEvent)-3:
			t.m.cut.Inc()
		case p.unended:
			t.m.partial.Inc()
		}
		s.cost += int64(len(e)) + eventOverhead
		events = append(events, e)
	}
	t.unacked += s.cost
	s.left = len(events)
	if s.left == 0 {
		t.finish(s)
		return
	}
	for _, e := range events {
		t.put(e, func(refused error) { t.answered(s, refused) })
	}
}

// retire closes a file that was renamed away or deleted, once nothing comes any more.
func (t *Tailer) retire(f *file, now time.Time) {
	if f.listed || now.Sub(f.grew) < t.cfg.Rotated {
		return
	}
	t.closeFile(f)
	f.closed = true
}
