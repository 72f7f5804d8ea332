package logtail

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// found is a file at one of the paths that are followed.
type found struct {
	path  string
	id    identity
	size  int64
	input *input

	modified int64 // nanoseconds since 1970
}

// discover lists the files of all inputs. A file that several paths lead to is listed once.
func (t *Tailer) discover() []found {
	var out []found
	seen := map[identity]bool{}
	for _, in := range t.inputs {
		for _, pattern := range in.paths {
			paths, err := filepath.Glob(pattern)
			if err != nil {
				continue // Validate refused it
			}
			for _, path := range paths {
				if t.excluded(path) {
					continue
				}
				info, err := os.Stat(path) // through links
				if err != nil || !info.Mode().IsRegular() {
					continue
				}
				id := identityOf(info)
				if seen[id] {
					continue
				}
				seen[id] = true
				out = append(out, found{path, id, info.Size(), in, info.ModTime().UnixNano()})
			}
		}
	}
	return out
}

func (t *Tailer) excluded(path string) bool {
	for _, p := range t.cfg.Exclude {
		if ok, err := filepath.Match(p, filepath.Base(path)); ok && err == nil {
			return true
		}
	}
	return false
}

// scan finds out which files are there. Files that are known are looked at before new ones: a new one may be the copy
// of one that was truncated.
func (t *Tailer) scan(now time.Time) {
	list := t.discover()
	listed := map[identity]bool{}
	for _, s := range list {
		listed[s.id] = true
	}
	for _, of := range []map[identity]bool{t.binary, t.text, t.refused} {
		maps.DeleteFunc(of, func(id identity, _ bool) bool { return !listed[id] })
	}
	for _, f := range t.files {
		f.listed = false
	}
	for _, s := range list {
		f := t.byID[s.id]
		if f == nil {
			continue
		}
		// This is checked while reading is stopped too, or a copy could no longer be told for what it is.
		if s.size < f.next.at || s.modified != f.modified && !t.isStill(f, s) {
			t.replaced(f)
			continue
		}
		t.listedAt(f, s, now)
	}
	for _, s := range list {
		if t.byID[s.id] != nil || t.binary[s.id] || s.size == 0 {
			continue
		}
		if err := t.take(s, now); err != nil {
			t.m.readErrors.Inc() // it is tried again at the next scan
			if !t.refused[s.id] {
				t.refused[s.id] = true
				t.log.Warn("a file cannot be followed; trying again", "path", s.path, "err", err)
			}
		}
	}
	for _, f := range t.byID {
		if !f.listed && !f.gone && !f.closed && f.fd == nil {
			if err := t.ensureOpen(f, now); err != nil {
				f.gone = true
			}
		}
	}
}

func (t *Tailer) listedAt(f *file, s found, now time.Time) {
	f.listed, f.closed, f.gone, f.path, f.seen = true, false, false, s.path, now
	f.modified = s.modified
	if f.input == nil {
		f.input = t.inputOf(f.source)
	}
	if f.size != s.size {
		f.size, f.grew = s.size, now
	}
}

// isStill says whether a file that has changed still holds what was read of it.
func (t *Tailer) isStill(f *file, s found) bool {
	fd := f.fd
	if fd == nil {
		opened, info, err := openFile(s.path)
		if err != nil {
			return true // read will say
		}
		defer opened.Close()
		if identityOf(info) != f.id {
			return true // replaced since it was listed: the next scan will tell
		}
		fd = opened
	}
	return f.intact(fd, s.size)
}

// take starts to follow a new file, unless it is binary, or the copy of one that is still there.
func (t *Tailer) take(s found, now time.Time) error {
	fd, info, err := openFile(s.path)
	if err != nil {
		return fmt.Errorf("opening %s: %w", s.path, err)
	}
	keep := false
	defer func() {
		if !keep {
			_ = fd.Close() // it was only read
		}
	}()
	if identityOf(info) != s.id {
		return nil // replaced since it was listed
	}
	head, err := readAt(fd, 0, headLen)
	if err != nil || len(head) == 0 {
		return err
	}
	if f := t.moved(s, fd, info.Size()); f != nil {
		delete(t.byID, f.id)
		f.id = s.id
		t.byID[s.id] = f
		t.listedAt(f, s, now)
		t.note(f.note())
		return nil
	}
	if f := t.original(s.path, fd, info.Size()); f != nil {
		if f.gone {
			keep = t.adopt(f, s.path, s.id, fd, info.Size(), now)
		}
		return nil // while the original is there, what is new is read from it
	}
	if !t.text[s.id] && isBinary(head) {
		t.binary[s.id] = true
		t.m.binary.Inc()
		t.log.Info("skipping a file that is not text", "path", s.path)
		return nil
	}
	f := &file{id: s.id, source: s.path, dir: realDir(s.path), head: markOf(head), input: s.input}
	for generation := 0; f.key == "" || t.files[f.key] != nil; generation++ {
		f.key = keyOf(t.host, s.id, head[:min(len(head), tailLen)], generation)
	}
	t.listedAt(f, s, now)
	if !t.note(f.note()) {
		return errors.New("the journal cannot be written")
	}
	delete(t.text, s.id)
	t.files[f.key], t.byID[s.id] = f, f
	return nil
}

// moved finds a known file that has the same inode and path on what is now another device: device numbers can change
// with a restart of the machine.
func (t *Tailer) moved(s found, fd *os.File, size int64) *file {
	for _, f := range t.byID {
		if !f.listed && f.fd == nil && f.id.ino == s.id.ino && f.path == s.path && f.intact(fd, size) && f.next.at > 0 {
			return f
		}
	}
	return nil
}

// original finds the file that the one at path is a copy of: by name (app.log.1, app-20260131.log are of app.log) and
// by content.
func (t *Tailer) original(path string, fd *os.File, size int64) *file {
	for _, f := range t.files {
		// Who copies a log to truncate it leaves it in its place. A job that writes the same each time, into a new
		// file of the same name, does not.
		if path == f.source || !isCopyName(f.source, path) || !f.isCopy(fd, size) {
			continue
		}
		if info, err := os.Stat(f.source); err == nil && identityOf(info) == f.id {
			return f
		}
	}
	return nil
}

// realDir gives the folder that a path leads to.
func realDir(path string) string {
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target
	}
	return filepath.Dir(path)
}

func isCopyName(original, path string) bool {
	from, name := filepath.Base(original), filepath.Base(path)
	if strings.HasPrefix(name, from) {
		return true
	}
	ext := filepath.Ext(from)
	stem := strings.TrimSuffix(from, ext)
	return stem != "" && ext != "" && strings.HasPrefix(name, stem) && strings.HasSuffix(name, ext)
}

// replaced is called when a file no longer holds what was read of it. What of it is not read yet may be in a copy;
// the file itself is taken as a new one by the next scan.
func (t *Tailer) replaced(f *file) {
	if !f.gone {
		t.m.replaced.Inc()
	}
	t.closeFile(f)
	if t.byID[f.id] == f {
		delete(t.byID, f.id)
		t.text[f.id] = true
	}
	f.gone = true
	paths, err := filepath.Glob(filepath.Join(globEscape(f.dir), "*"))
	if err != nil {
		return
	}
	for _, path := range paths {
		if path == f.path || !isCopyName(f.source, path) {
			continue
		}
		fd, info, err := openFile(path)
		if err != nil {
			continue
		}
		id := identityOf(info)
		if t.byID[id] == nil && id != f.id && f.isCopy(fd, info.Size()) && t.adopt(f, path, id, fd, info.Size(), t.now()) {
			return
		}
		_ = fd.Close() // it was only read
	}
}

// adopt lets f go on in its copy.
func (t *Tailer) adopt(f *file, path string, id identity, fd *os.File, size int64, now time.Time) bool {
	old := f.id
	f.id = id
	if !t.note(f.note()) {
		f.id = old
		return false
	}
	if t.byID[old] == f {
		delete(t.byID, old)
	}
	t.closeFile(f)
	t.makeRoom(f)
	t.byID[id] = f
	f.gone, f.closed, f.path, f.fd, f.used, f.size, f.grew, f.seen = false, false, path, fd, now, size, now, now
	t.open++
	return true
}

// globEscape protects what filepath.Glob would take for a pattern.
func globEscape(s string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(s)
}

// ensureOpen opens a file where it was last seen, or under another name in that folder.
func (t *Tailer) ensureOpen(f *file, now time.Time) error {
	f.used = now
	if f.fd != nil {
		return nil
	}
	fd, info, err := openFile(f.path)
	if err == nil && identityOf(info) != f.id {
		err = errors.Join(os.ErrNotExist, fd.Close())
	}
	if err != nil {
		if fd, info, err = t.search(f); err != nil {
			return err
		}
	}
	t.makeRoom(f)
	f.fd = fd
	t.open++
	if f.size != info.Size() {
		f.size, f.grew = info.Size(), now
	}
	return nil
}

// search looks for a file's inode in the folder where it was first seen.
func (t *Tailer) search(f *file) (*os.File, os.FileInfo, error) {
	dir := f.dir
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, nil, fmt.Errorf("listing %s: %w", dir, err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || !info.Mode().IsRegular() || identityOf(info) != f.id {
			continue
		}
		path := filepath.Join(dir, e.Name())
		fd, info, err := openFile(path)
		if err != nil {
			return nil, nil, fmt.Errorf("opening %s: %w", path, err)
		}
		f.path = path
		return fd, info, nil
	}
	return nil, nil, fmt.Errorf("looking for %s under another name: %w", f.source, os.ErrNotExist)
}

// makeRoom closes the file that was not needed for longest, when too many are open. One that is still listed can be
// opened again.
func (t *Tailer) makeRoom(but *file) {
	for t.open >= t.cfg.MaxOpen {
		var oldest *file
		for _, f := range t.byID {
			if f == but || f.fd == nil {
				continue
			}
			if oldest == nil || f.listed && !oldest.listed || f.listed == oldest.listed && f.used.Before(oldest.used) {
				oldest = f
			}
		}
		if oldest == nil {
			return
		}
		t.closeFile(oldest)
	}
}

func (t *Tailer) closeFile(f *file) {
	if f.fd != nil {
		_ = f.fd.Close() // it was only read
		f.fd = nil
		t.open--
	}
}
