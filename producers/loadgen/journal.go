package loadgen

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"sync"
)

// The outcomes in a journal.
const (
	Intent  = "intent"  // about to be sent; the only line of a record means that nothing is known of it
	OK      = "ok"      // acknowledged by Kafka
	Failed  = "failed"  // certainly not written
	Unknown = "unknown" // perhaps written
)

// Entry is one line of a journal. A record has a line with its intent, written before it is sent, and one with its
// outcome: the last line of a (source, seq) holds.
type Entry struct {
	Type    string `json:"type"`
	Source  string `json:"source"`
	Seq     int64  `json:"seq"`
	ID      string `json:"id"`
	TimeUS  int64  `json:"time_us"`
	Hash    string `json:"hash"`
	Outcome string `json:"outcome"`
}

// journal appends entries to a file. Intents are in the file, if not on the disk, before the record is sent, so that
// they outlive kill -9. Each record's last line is its outcome: the end writes Unknown for those that have none.
type journal struct {
	mu     sync.Mutex
	f      *os.File
	w      *bufio.Writer
	open   map[int64]Entry // intents without an outcome, by sequence number
	err    error           // the first
	told   bool            // err was returned
	closed bool
}

func openJournal(path string) (*journal, error) {
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644) //nolint:gosec // the operator names it, and a checker reads it
	if err != nil {
		return nil, fmt.Errorf("opening journal: %w", err)
	}
	return &journal{f: f, w: bufio.NewWriterSize(f, 1<<16), open: map[int64]Entry{}}, nil
}

// intent writes that a record is about to be sent.
func (j *journal) intent(e Entry) error {
	if j == nil {
		return nil
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	e.Outcome = Intent
	j.write(&e)
	if j.err == nil {
		j.err = j.w.Flush()
	}
	j.open[e.Seq] = e
	return j.tell()
}

// outcome writes what became of a record. What comes after the end changes nothing: the last word is there already.
// An error is for the next intent, or the end, to tell.
func (j *journal) outcome(e *Entry) {
	if j == nil {
		return
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closed {
		return
	}
	delete(j.open, e.Seq)
	j.write(e)
}

func (j *journal) write(e *Entry) {
	if j.err != nil {
		return
	}
	line, err := json.Marshal(e)
	if err == nil {
		_, err = j.w.Write(append(line, '\n'))
	}
	j.err = err
}

// tell gives the first error, once.
func (j *journal) tell() error {
	if j.err == nil || j.told {
		return nil
	}
	j.told = true
	return fmt.Errorf("writing journal: %w", j.err)
}

// close writes the records without an outcome as unknown, in their order, and closes the file.
func (j *journal) close() error {
	if j == nil {
		return nil
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.closed = true
	for _, seq := range slices.Sorted(maps.Keys(j.open)) {
		e := j.open[seq]
		e.Outcome = Unknown
		j.write(&e)
	}
	if j.err == nil {
		j.err = j.w.Flush()
	}
	if j.err == nil {
		j.err = j.f.Sync()
	}
	if err := j.f.Close(); j.err == nil {
		j.err = err
	}
	return j.tell()
}

// ReadJournal gives each record's last entry, in the order in which the records were sent. Records that have only an
// intent come as Unknown. A line that was cut off at the end, by a kill, is passed over.
func ReadJournal(r io.Reader) ([]Entry, error) {
	type key struct {
		source string
		seq    int64
	}
	at := map[key]int{}
	var entries []Entry
	lines := bufio.NewReader(r)
	for n := 1; ; n++ {
		line, err := lines.ReadBytes('\n')
		if err == io.EOF {
			return entries, nil
		}
		if err != nil {
			return nil, fmt.Errorf("reading journal: %w", err)
		}
		var e Entry
		if err := json.Unmarshal(line, &e); err != nil {
			return nil, fmt.Errorf("reading journal line %d: %w", n, err)
		}
		if e.Outcome == Intent {
			e.Outcome = Unknown
		}
		k := key{e.Source, e.Seq}
		if i, ok := at[k]; ok {
			entries[i] = e
			continue
		}
		at[k] = len(entries)
		entries = append(entries, e)
	}
}
