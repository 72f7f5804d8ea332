package logtail

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc64"
	"hash/fnv"
	"io"
	"os"
	"strconv"
	"syscall"
	"time"
)

// mark is a fingerprint of some bytes: how many and their hash.
type mark struct {
	N   int    `json:"n"`
	Sum uint64 `json:"h"`
}

func markOf(b []byte) mark {
	if len(b) == 0 {
		return mark{}
	}
	h := fnv.New64a()
	_, _ = h.Write(b) // a hash never fails
	return mark{len(b), h.Sum64()}
}

// How many bytes of a file's beginning, and before the position in it, are held to be its own.
const (
	headLen = 1024
	tailLen = 256
)

// identity names a file whatever its path is.
type identity struct{ dev, ino uint64 }

func identityOf(info os.FileInfo) identity {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return identity{}
	}
	return identity{uint64(st.Dev), st.Ino} //nolint:unconvert // Dev is an int32 on some systems
}

// file is one file that is followed: one generation of it, where it is truncated and written anew.
type file struct {
	key    string // names the generation in the journal and in ids
	id     identity
	source string // the path where it was first seen: what the events say
	dir    string // the folder that lies in, without links: where it is looked for when it was renamed
	path   string // where it is now
	head   mark
	input  *input
	fd     *os.File
	used   time.Time // when fd was last needed

	acked position // Kafka has everything before it
	next  position // read up to here
	spans []*span  // between the two, in order

	size     int64     // when last looked at
	modified int64     // when it was last listed; nanoseconds since 1970
	grew     time.Time // when size last changed
	seen     time.Time // when last listed
	listed   bool      // at one of the paths that are followed
	gone     bool      // its bytes can no longer be read
	failed   bool      // reading fails: said once
	closed   bool      // read to its end after it was renamed away
}

// position is a place in a file.
type position struct {
	at   int64
	mid  bool // in the middle of a line
	tail mark // of the bytes before it
}

// span is a range of a file whose events are sent.
type span struct {
	f     *file
	start int64
	mid   bool
	end   position
	read  time.Time
	sum   uint64
	left  int // events that Kafka has not acknowledged, or notSent
	cost  int64
}

// notSent marks a span that was recalled from the journal and not sent yet.
const notSent = -1

// content reads the span's bytes again, if they are still there.
func (s *span) content() ([]byte, bool) {
	if s.f.fd == nil {
		return nil, false
	}
	n := s.end.at - s.start
	data, err := readAt(s.f.fd, s.start, int(n))
	return data, err == nil && int64(len(data)) == n && contentSum(data) == s.sum
}

func (s *span) note() note {
	return note{
		Op: opRange, Key: s.f.key, Start: s.start, End: s.end.at, Mid: s.mid, Over: s.end.mid,
		Read: s.read.UnixMicro(), Sum: s.sum, Tail: &s.end.tail,
	}
}

func (f *file) note() note {
	return note{
		Op: opFile, Key: f.key, Dev: f.id.dev, Ino: f.id.ino, Source: f.source, Dir: f.dir, Head: &f.head, Seen: f.seen.UnixMicro(),
	}
}

func (f *file) ackNote() note {
	return note{Op: opAck, Key: f.key, End: f.acked.at, Mid: f.acked.mid, Tail: &f.acked.tail}
}

func contentSum(b []byte) uint64 { return crc64.Checksum(b, crc64.MakeTable(crc64.ECMA)) }

// keyOf names a generation of a file. The same bytes on the same host, found again with the journal lost, have the
// same name.
func keyOf(host string, id identity, head []byte, generation int) string {
	h := sha256.New()
	fmt.Fprintf(h, "%d %s %d %d %d ", len(host), host, id.dev, id.ino, generation)
	_, _ = h.Write(head) // a hash never fails
	return hex.EncodeToString(h.Sum(nil)[:12])
}

// openFile opens a regular file. It does not hang on a pipe that has taken the file's place.
func openFile(path string) (*os.File, os.FileInfo, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) //nolint:gosec // the operator names the paths
	if err != nil {
		return nil, nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("is not a regular file")
	}
	if err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	return f, info, nil
}

// readAt reads up to n bytes.
func readAt(f io.ReaderAt, at int64, n int) ([]byte, error) {
	b := make([]byte, n)
	got, err := f.ReadAt(b, at)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("reading at %s: %w", strconv.FormatInt(at, 10), err)
	}
	return b[:got], nil
}

// has says whether the file's bytes before a place have the fingerprint.
func has(f io.ReaderAt, end int64, p mark) bool {
	if p.N == 0 {
		return true
	}
	b, err := readAt(f, end-int64(p.N), p.N)
	return err == nil && len(b) == p.N && markOf(b) == p
}

// isCopy says whether an open file begins with the bytes of f, as far as f was read.
func (f *file) isCopy(fd io.ReaderAt, size int64) bool {
	return f.next.at > 0 && size >= f.next.at && has(fd, int64(f.head.N), f.head) && has(fd, f.next.at, f.next.tail)
}
