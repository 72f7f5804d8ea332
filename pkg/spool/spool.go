// Package spool keeps what an agent has collected on disk until Kafka has acknowledged it, and sends it.
//
// A [Spool] is a bounded log of records in segment files: written before it is sent, read on from the last
// acknowledged record after a crash, the oldest dropped (and counted by the caller) when it is full. A [Sender]
// publishes records and tries each again until Kafka acknowledges it. [Frames] and [AppendFrame] are the file format:
// length, CRC-32C, payload; a torn tail is found and cut off.
//
// A spool survives the death of its process, at any instruction, without loss: the kernel holds what was written.
// It does not call fsync, so a power cut may cost the last seconds.
package spool

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// Entry is one record of a spool. Seq numbers the records of a spool from 0, over restarts.
type Entry struct {
	Seq  uint64
	Data []byte
}

// Spool is a bounded log of records on disk. It may be used by several goroutines.
type Spool struct {
	dir            string
	most, perSeg   int64
	lock, ack, out *os.File

	mu       sync.Mutex
	segs     []*segment // oldest first; the last one is written to
	next     uint64     // sequence number of the next record
	cursor   uint64     // of the next record that Next gives
	acked    uint64     // all before it are acknowledged
	early    map[uint64]struct{}
	in       *os.File // the segment the cursor is in, and
	inSeg    *segment // which one that is, and
	inOffset int64    // how far it was read
}

type segment struct {
	path  string
	first uint64
	count uint64
	bytes int64
}

const segmentEnd = ".seg"

// Open opens the spool in dir, which it makes, for at most that many bytes of records. Only one process at a time can
// have it open.
func Open(dir string, most int64) (*Spool, error) {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, fmt.Errorf("making the spool's directory: %w", err)
	}
	lock, err := Lock(dir)
	if err != nil {
		return nil, err
	}
	s := &Spool{dir: dir, most: most, perSeg: max(most/16, 4<<10), lock: lock, early: map[uint64]struct{}{}}
	if err := s.recover(); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// recover reads what an earlier process left: the segments, without a torn tail, and the acknowledged position.
func (s *Spool) recover() error {
	names, err := filepath.Glob(filepath.Join(s.dir, "*"+segmentEnd))
	if err != nil {
		return fmt.Errorf("listing segments: %w", err)
	}
	slices.Sort(names) // the names are numbers of equal length
	for _, name := range names {
		first, err := strconv.ParseUint(strings.TrimSuffix(filepath.Base(name), segmentEnd), 10, 64)
		if err != nil {
			continue // not ours
		}
		seg := &segment{path: name, first: first}
		f, err := os.Open(name) //nolint:gosec // it lies in the spool's directory
		if err != nil {
			return fmt.Errorf("opening segment: %w", err)
		}
		good, _, err := Frames(f, func([]byte) error { seg.count++; return nil })
		if err = errors.Join(err, f.Close()); err != nil {
			return fmt.Errorf("reading segment %s: %w", name, err)
		}
		seg.bytes = good
		s.segs = append(s.segs, seg)
		s.next = max(s.next, first+seg.count)
	}
	if s.ack, err = os.OpenFile(filepath.Join(s.dir, "acked"), os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return fmt.Errorf("opening the acknowledged position: %w", err)
	}
	s.acked = s.readAck()
	s.next = max(s.next, s.acked) // after a power cut the position can be ahead of what is left of the data
	if len(s.segs) > 0 {
		s.acked = max(s.acked, s.segs[0].first)
	} else {
		s.acked = s.next
	}
	s.cursor = s.acked
	return s.trim()
}

// Append writes records, to be given by Next later, and says how many of the oldest unacknowledged ones had to be
// dropped for them. After an error none of data is in the spool.
func (s *Spool) Append(data ...[]byte) (dropped int, err error) {
	var buf []byte
	for _, d := range data {
		buf = AppendFrame(buf, d)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if int64(len(buf)) > s.most {
		return 0, fmt.Errorf("appending %d bytes to a spool of %d: too large", len(buf), s.most)
	}
	if s.out == nil || s.last().bytes >= s.perSeg || s.last().first+s.last().count != s.next {
		if err := s.roll(); err != nil {
			return 0, err
		}
	}
	seg := s.last()
	if _, err := s.out.WriteAt(buf, seg.bytes); err != nil {
		// What was written in part lies after seg.bytes, where the next Append writes over it.
		return 0, fmt.Errorf("appending to segment: %w", errors.Join(err, s.out.Truncate(seg.bytes)))
	}
	seg.bytes += int64(len(buf))
	seg.count += uint64(len(data))
	s.next += uint64(len(data))
	return s.shed()
}

func (s *Spool) last() *segment { return s.segs[len(s.segs)-1] }

// roll starts a new segment. The one before is not written to again, so a torn tail in it stays at its end.
func (s *Spool) roll() error {
	path := filepath.Join(s.dir, fmt.Sprintf("%020d%s", s.next, segmentEnd))
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600) //nolint:gosec // it lies in the spool's directory
	if err != nil {
		return fmt.Errorf("starting segment: %w", err)
	}
	if s.out != nil {
		if err := s.out.Close(); err != nil {
			return fmt.Errorf("closing segment: %w", errors.Join(err, f.Close()))
		}
	}
	s.out = f
	if n := len(s.segs); n > 0 && s.segs[n-1].path == path {
		s.segs = s.segs[:n-1] // it was empty
	}
	s.segs = append(s.segs, &segment{path: path, first: s.next})
	return nil
}

// shed drops the oldest segments until the spool is within its bound, and counts what was never acknowledged.
func (s *Spool) shed() (dropped int, err error) {
	for len(s.segs) > 1 && s.size() > s.most {
		end := s.segs[1].first
		dropped += int(min(end-min(end, s.acked), s.segs[0].count)) //nolint:gosec // a count of records in one file
		for seq := range s.early {
			if seq < end {
				delete(s.early, seq)
				dropped--
			}
		}
		s.acked = max(s.acked, end)
		s.cursor = max(s.cursor, end)
		if err := s.trim(); err != nil {
			return dropped, err
		}
	}
	return dropped, nil
}

func (s *Spool) size() int64 {
	var n int64
	for _, seg := range s.segs {
		n += seg.bytes
	}
	return n
}

// Next gives the next records in order, at least one if there is any and otherwise as many as have up to bytes.
func (s *Spool) Next(bytes int) ([]Entry, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []Entry
	for n := 0; s.cursor < s.next && (len(out) == 0 || n < bytes); {
		data, err := s.readOne()
		if err != nil {
			return out, err
		}
		if data == nil {
			continue // the cursor went on to the next segment
		}
		out = append(out, Entry{Seq: s.cursor, Data: data})
		s.cursor++
		n += len(data)
	}
	return out, nil
}

// readOne reads the record at the cursor. It gives nil when there is none, after it has moved the cursor to the next.
func (s *Spool) readOne() ([]byte, error) {
	at, ok := s.find(s.cursor)
	if !ok {
		return nil, nil
	}
	if s.inSeg != at {
		if err := s.enter(at); err != nil {
			return nil, err
		}
	}
	data, err := readFrame(s.in, s.inOffset, at.bytes)
	if err != nil {
		// The bytes went bad after they were counted. Nothing after them in this segment can be found either.
		at.count, s.inSeg = s.cursor-at.first, nil
		return nil, fmt.Errorf("reading record %d of the spool: %w", s.cursor, err)
	}
	s.inOffset += frameHead + int64(len(data))
	return data, nil
}

// find gives the segment that holds the record, and moves the cursor over records that no segment holds.
func (s *Spool) find(seq uint64) (*segment, bool) {
	for _, seg := range s.segs {
		if seq < seg.first {
			s.skipTo(seg.first)
			return nil, false
		}
		if seq < seg.first+seg.count {
			return seg, true
		}
	}
	s.skipTo(s.next)
	return nil, false
}

// skipTo passes records that are gone: they count as acknowledged, or the position would wait for them for ever.
func (s *Spool) skipTo(seq uint64) {
	for ; s.cursor < seq; s.cursor++ {
		s.early[s.cursor] = struct{}{}
	}
}

// enter opens the segment and reads over the records before the cursor.
func (s *Spool) enter(seg *segment) error {
	f, err := os.Open(seg.path)
	if err != nil {
		return fmt.Errorf("opening segment: %w", err)
	}
	if s.in != nil {
		_ = s.in.Close() // it was only read
	}
	s.in, s.inSeg, s.inOffset = f, seg, 0
	for seq := seg.first; seq < s.cursor; seq++ {
		data, err := readFrame(f, s.inOffset, seg.bytes)
		if err != nil {
			return err
		}
		s.inOffset += frameHead + int64(len(data))
	}
	return nil
}

// Ack says that the record is published, or never will be. Records may be acknowledged in any order; the position that
// is remembered is the first that is not.
func (s *Spool) Ack(seq uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if seq < s.acked {
		return nil // dropped meanwhile
	}
	s.early[seq] = struct{}{}
	before := s.acked
	for {
		if _, ok := s.early[s.acked]; !ok {
			break
		}
		delete(s.early, s.acked)
		s.acked++
	}
	if s.acked == before {
		return nil
	}
	return s.trim()
}

// trim remembers the acknowledged position and deletes the segments before it.
func (s *Spool) trim() error {
	if err := s.writeAck(); err != nil {
		return err
	}
	for len(s.segs) > 0 {
		seg := s.segs[0]
		isOut := len(s.segs) == 1 && s.out != nil
		if isOut || seg.first+seg.count > s.acked {
			return nil
		}
		if err := os.Remove(seg.path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("deleting segment: %w", err)
		}
		s.segs = s.segs[1:]
	}
	return nil
}

// Waiting gives the number of records that are not acknowledged and their bytes on disk, with those of acknowledged
// records in the same files.
func (s *Spool) Waiting() (records, bytes int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return int64(s.next-s.acked) - int64(len(s.early)), s.size() //nolint:gosec // a count of records on this disk
}

// Close closes the files. The spool can be opened again.
func (s *Spool) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for _, f := range []*os.File{s.in, s.out, s.ack, s.lock} {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	s.in, s.out, s.ack, s.lock, s.inSeg = nil, nil, nil, nil, nil
	return errors.Join(errs...)
}

// The acknowledged position is 8 bytes and their CRC, written over each time by one short write.

func (s *Spool) writeAck() error {
	if s.ack == nil {
		return errors.New("writing the acknowledged position: the spool is closed")
	}
	var b [12]byte
	binary.BigEndian.PutUint64(b[:8], s.acked)
	binary.BigEndian.PutUint32(b[8:], crc32.Checksum(b[:8], castagnoli()))
	if _, err := s.ack.WriteAt(b[:], 0); err != nil {
		return fmt.Errorf("writing the acknowledged position: %w", err)
	}
	return nil
}

// readAck gives 0 when there is no position or a torn one: then all that is there is sent again, with the same ids.
func (s *Spool) readAck() uint64 {
	var b [12]byte
	if _, err := s.ack.ReadAt(b[:], 0); err != nil && !errors.Is(err, io.EOF) {
		return 0
	}
	if crc32.Checksum(b[:8], castagnoli()) != binary.BigEndian.Uint32(b[8:]) {
		return 0
	}
	return binary.BigEndian.Uint64(b[:8])
}
