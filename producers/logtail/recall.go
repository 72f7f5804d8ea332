package logtail

import (
	"io"
	"path/filepath"
	"slices"
	"time"
)

// recall takes one note of the journal.
func (t *Tailer) recall(n note) {
	f := t.files[n.Key]
	if f == nil {
		if n.Op != opFile {
			return
		}
		f = &file{key: n.Key}
		t.files[n.Key] = f
	}
	switch n.Op {
	case opFile:
		if old := t.byID[f.id]; old == f {
			delete(t.byID, f.id)
		}
		f.id = identity{n.Dev, n.Ino}
		f.source, f.path, f.dir = n.Source, n.Source, n.Dir
		f.seen = time.UnixMicro(n.Seen)
		if n.Head != nil {
			f.head = *n.Head
		}
		if other := t.byID[f.id]; other != nil {
			other.gone = true // a later generation has its place
		}
		t.byID[f.id] = f
		f.gone = false
	case opRange:
		if n.Start != f.next.at || n.End < n.Start || n.Tail == nil {
			return
		}
		s := &span{
			f: f, start: n.Start, mid: n.Mid, end: position{n.End, n.Over, *n.Tail},
			read: time.UnixMicro(n.Read).UTC(), sum: n.Sum, left: notSent,
		}
		f.spans = append(f.spans, s)
		f.next = s.end
	case opAck:
		if n.Tail == nil {
			return
		}
		f.acked = position{n.End, n.Mid, *n.Tail}
		f.spans = slices.DeleteFunc(f.spans, func(s *span) bool { return s.end.at <= n.End })
		if f.next.at < n.End {
			f.next = f.acked
		}
	case opGone:
		delete(t.files, n.Key)
		if t.byID[f.id] == f {
			delete(t.byID, f.id)
		}
	}
}

// snapshot gives the notes that recall the state.
func (t *Tailer) snapshot() []note {
	files := make([]*file, 0, len(t.files))
	for _, f := range t.files {
		files = append(files, f)
	}
	// The generation that has a file's place is recalled after those that had it.
	slices.SortFunc(files, func(a, b *file) int {
		switch last := t.byID[a.id] == a; {
		case last == (t.byID[b.id] == b):
			return 0
		case last:
			return 1
		}
		return -1
	})
	var notes []note
	for _, f := range files {
		notes = append(notes, f.note(), f.ackNote())
		for _, s := range f.spans {
			notes = append(notes, s.note())
		}
	}
	return notes
}

// resume sends again what the journal says was about to be sent, with the same read times.
func (t *Tailer) resume() {
	now := t.now()
	t.scan(now)
	for _, f := range t.files {
		f.input = t.inputOf(f.source)
		if len(f.spans) == 0 {
			continue
		}
		t.reopen(f, now)
		spans := f.spans // it shrinks while they are sent
		for _, s := range spans {
			data, ok := s.content()
			if !ok {
				t.m.lost.Add(float64(s.end.at - s.start))
				t.log.Error("a file vanished before its lines were acknowledged", "source", f.source, "bytes", s.end.at-s.start)
				data = nil
			}
			t.send(s, data)
		}
	}
}

// reopen opens a file that was followed before the restart: where it was, or wherever in that folder it is now, or
// its copy when it was truncated.
func (t *Tailer) reopen(f *file, now time.Time) {
	if !f.gone && t.ensureOpen(f, now) == nil {
		if info, err := f.fd.Stat(); err == nil && f.intact(f.fd, info.Size()) {
			return
		}
	}
	t.replaced(f)
}

// intact says whether an open file still has what was read of it.
func (f *file) intact(fd io.ReaderAt, size int64) bool {
	return size >= f.next.at && has(fd, int64(f.head.N), f.head) && has(fd, f.next.at, f.next.tail)
}

// inputOf finds the input that a path belongs to.
func (t *Tailer) inputOf(path string) *input {
	for _, in := range t.inputs {
		for _, p := range in.paths {
			if ok, err := filepath.Match(p, path); ok && err == nil {
				return in
			}
		}
	}
	return &input{format: formatAuto} // it was taken by an input that the configuration no longer has
}

// remember writes acknowledged positions to the journal and forgets files that are long gone.
func (t *Tailer) remember(now time.Time) {
	var notes []note
	for f := range t.changed {
		notes = append(notes, f.ackNote())
	}
	var forgotten []*file
	for _, f := range t.files {
		replaced := t.byID[f.id] != f && f.gone
		old := (f.gone || f.closed) && now.Sub(f.seen) > t.cfg.Forget
		if len(f.spans) == 0 && (replaced || old) {
			forgotten = append(forgotten, f)
			notes = append(notes, note{Op: opGone, Key: f.key})
		}
	}
	if len(notes) == 0 || !t.note(notes...) {
		return
	}
	clear(t.changed)
	for _, f := range forgotten {
		t.closeFile(f)
		delete(t.files, f.key)
		if t.byID[f.id] == f {
			delete(t.byID, f.id)
		}
	}
}

// note writes to the journal. Without it nothing new is read, since nothing may be sent that the journal does not know.
func (t *Tailer) note(notes ...note) bool {
	err := t.journal.add(t.snapshot, notes...)
	if err != nil {
		t.m.journalErrors.Inc()
	}
	if down := err != nil; down != t.down {
		t.down = down
		if down {
			t.log.Error("writing the journal fails; reading waits until it works", "err", err)
		} else {
			t.log.Info("writing the journal works again")
		}
	}
	return err == nil
}
