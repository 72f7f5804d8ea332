package logtail

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/millrace/millrace/pkg/spool"
)

// note is one line of the journal.
type note struct {
	Op  string `json:"op"`
	Key string `json:"k"` // of the file

	// file: it is followed. Said again when it is found elsewhere, or its beginning is known further.
	Dev    uint64 `json:"dev,omitempty"`
	Ino    uint64 `json:"ino,omitempty"`
	Source string `json:"src,omitempty"`
	Dir    string `json:"dir,omitempty"`
	Head   *mark  `json:"head,omitempty"`
	Seen   int64  `json:"seen,omitempty"` // microseconds since 1970

	// range: these bytes are about to be sent as events, all read at Read.
	// ack: Kafka has everything before End.
	Start int64  `json:"s,omitempty"`
	End   int64  `json:"e,omitempty"`
	Mid   bool   `json:"mid,omitempty"` // a range that starts, a position that is, in the middle of a line
	Over  bool   `json:"over,omitempty"`
	Read  int64  `json:"t,omitempty"` // microseconds since 1970
	Sum   uint64 `json:"sum,omitempty"`
	Tail  *mark  `json:"tail,omitempty"`
}

// The kinds of notes.
const (
	opFile  = "file"
	opRange = "range"
	opAck   = "ack"
	opGone  = "gone" // the file is forgotten
)

// journal is the log that says what was read and what Kafka has. It is written before anything is sent, and rewritten
// as a snapshot when it has grown. After an error it is rewritten before it is written to again, since what lies
// behind a torn note cannot be read.
type journal struct {
	path  string
	f     *os.File
	size  int64
	base  int64 // size of the last snapshot
	dirty bool

	// The disk, or a test.
	write   func(f *os.File, b []byte, at int64) error // returns when it is durable
	syncDir func(dir string)                           // makes a rename durable
}

const journalMost = 4 << 20

func writeAt(f *os.File, b []byte, at int64) error {
	if _, err := f.WriteAt(b, at); err != nil {
		return err
	}
	return f.Sync()
}

// load reads the notes that are there, without a torn tail.
func (j *journal) load(each func(note)) error {
	b, err := os.ReadFile(j.path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading the journal: %w", err)
	}
	_, _, err = spool.Frames(bytes.NewReader(b), func(p []byte) error {
		var n note
		if err := json.Unmarshal(p, &n); err != nil {
			return fmt.Errorf("reading a note of the journal: %w", err)
		}
		each(n)
		return nil
	})
	return err
}

func frame(notes []note) ([]byte, error) {
	var b []byte
	for _, n := range notes {
		p, err := json.Marshal(n)
		if err != nil {
			return nil, fmt.Errorf("encoding a note of the journal: %w", err)
		}
		b = spool.AppendFrame(b, p)
	}
	return b, nil
}

// add makes notes durable. snapshot gives the state without them.
func (j *journal) add(snapshot func() []note, notes ...note) error {
	if j.f == nil || j.dirty || j.size > max(journalMost, 2*j.base) {
		if err := j.rewrite(snapshot()); err != nil {
			return err
		}
	}
	b, err := frame(notes)
	if err != nil {
		return err
	}
	if err := j.write(j.f, b, j.size); err != nil {
		j.dirty = true
		return fmt.Errorf("writing the journal: %w", err)
	}
	j.size += int64(len(b))
	return nil
}

// rewrite puts a snapshot in the journal's place.
func (j *journal) rewrite(state []note) error {
	b, err := frame(state)
	if err != nil {
		return err
	}
	next := j.path + ".new"
	f, err := os.OpenFile(next, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600) //nolint:gosec // it lies in the state directory
	if err != nil {
		return fmt.Errorf("rewriting the journal: %w", err)
	}
	if err := j.write(f, b, 0); err != nil {
		return fmt.Errorf("rewriting the journal: %w", errors.Join(err, f.Close()))
	}
	if err := os.Rename(next, j.path); err != nil {
		return fmt.Errorf("rewriting the journal: %w", errors.Join(err, f.Close()))
	}
	j.syncDir(filepath.Dir(j.path))
	if j.f != nil {
		_ = j.f.Close() // it is replaced
	}
	j.f, j.size, j.base, j.dirty = f, int64(len(b)), int64(len(b)), false
	return nil
}

// syncDir makes a rename durable. Where a file system cannot, the rename still survives the process.
func syncDir(dir string) {
	d, err := os.Open(dir) //nolint:gosec // it is the state directory
	if err != nil {
		return
	}
	_ = d.Sync()
	_ = d.Close()
}

func (j *journal) close() error {
	if j.f == nil {
		return nil
	}
	f := j.f
	j.f = nil
	return f.Close()
}
