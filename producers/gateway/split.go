package gateway

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
)

// A splitter cuts a body into its records' JSON, one at a time, in memory bounded by the longest record allowed. It
// looks only as deep as it must to find where a record ends; whether the record is valid JSON is the encoder's task.
type splitter struct {
	r     *bufio.Reader
	max   int
	buf   []byte
	lines bool // NDJSON
	state splitState
}

type splitState uint8

const (
	atStart splitState = iota
	inLines            // after the first line
	inArray            // after '[' or ','
	atEnd
)

// maxDepth is how deep a record may nest. One bit each: is it an object or an array.
const maxDepth = 64

// recordError is the fault of one record that could be cut out; the next one can be read.
type recordError struct {
	status int
	msg    string
}

func (e *recordError) Error() string { return e.msg }

// A bodyError is a fault after which nothing more can be read.
type bodyError struct {
	status int
	msg    string
}

func (e *bodyError) Error() string { return e.msg }

func malformed(msg string) error { return &bodyError{status: 400, msg: msg} }

func newSplitter(r io.Reader, lines bool, maxRecord int) *splitter {
	return &splitter{r: bufio.NewReaderSize(r, 32<<10), max: maxRecord, lines: lines}
}

// byteOrderMark is what some editors put before UTF-8. It means nothing.
const byteOrderMark = "\xef\xbb\xbf"

// skipMark passes over a byte order mark at the body's start.
func (s *splitter) skipMark() {
	if b, _ := s.r.Peek(len(byteOrderMark)); string(b) == byteOrderMark { // an error comes again with the next read
		_, _ = s.r.Discard(len(b)) // it is buffered
	}
}

// next gives the next record's JSON, which is good until the next call; io.EOF after the last. A *recordError counts
// as a record.
func (s *splitter) next() ([]byte, error) {
	if s.state == atStart {
		s.skipMark()
	}
	if s.lines {
		rec, err := s.line()
		if s.state == atStart && errors.Is(err, io.EOF) {
			return nil, malformed("the body is empty: send a JSON object per line")
		}
		s.state = inLines
		return rec, err
	}
	switch s.state {
	case atStart:
		return s.first()
	case inArray:
		return s.element(false)
	default:
		return nil, io.EOF
	}
}

func (s *splitter) tooLong() error {
	return &recordError{status: 413, msg: fmt.Sprintf("the record is longer than %d bytes", s.max)}
}

// line gives the next line that is not blank.
func (s *splitter) line() ([]byte, error) {
	for {
		s.buf = s.buf[:0]
		long := false
		var err error
		for {
			var part []byte
			part, err = s.r.ReadSlice('\n')
			long = long || len(s.buf)+len(part) > s.max+2 // its end is not part of it
			if !long {
				s.buf = append(s.buf, part...)
			}
			if !errors.Is(err, bufio.ErrBufferFull) {
				break
			}
		}
		// A line cut off by an error of the connection is not a record, however complete it looks.
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
		rec := trim(s.buf)
		if long || len(rec) > s.max {
			return nil, s.tooLong()
		}
		if len(rec) > 0 {
			return object(rec)
		}
		if err != nil {
			return nil, io.EOF
		}
	}
}

// first reads up to the first record of a JSON body: an array or a single object.
func (s *splitter) first() ([]byte, error) {
	c, err := s.skipSpace()
	switch {
	case errors.Is(err, io.EOF):
		return nil, malformed("the body is empty: send a JSON object or an array of objects")
	case err != nil:
		return nil, err
	case c == '{':
		s.state = atEnd
		return s.single()
	case c != '[':
		return nil, malformed("the body is neither a JSON object nor an array of objects")
	}
	if _, err := s.r.Discard(1); err != nil {
		return nil, err
	}
	s.state = inArray
	return s.element(true)
}

// single reads a lone object and makes sure that nothing follows it.
func (s *splitter) single() ([]byte, error) {
	rec, end, err := s.value()
	if err != nil {
		return nil, cutOff(err)
	}
	if end != 0 {
		return nil, malformed("there is more after the JSON object; records one per line are application/x-ndjson")
	}
	return rec()
}

// element reads one element and what ends it.
func (s *splitter) element(first bool) ([]byte, error) {
	c, err := s.skipSpace()
	if err != nil {
		return nil, cutOff(err)
	}
	if c == ']' && first {
		_, _ = s.r.Discard(1) // it was peeked at
		return nil, s.end()
	}
	if c == ']' || c == ',' {
		return nil, malformed("the array has an empty element")
	}
	rec, end, err := s.value()
	if err != nil {
		return nil, cutOff(err)
	}
	if end == 0 {
		return nil, cutOff(io.EOF)
	}
	if end == ']' {
		if err := s.end(); !errors.Is(err, io.EOF) {
			return nil, err
		}
	}
	return rec()
}

// end makes sure that nothing follows the array.
func (s *splitter) end() error {
	s.state = atEnd
	if _, err := s.skipSpace(); err == nil {
		return malformed("there is more after the JSON array")
	} else if !errors.Is(err, io.EOF) {
		return err
	}
	return io.EOF
}

// value reads to the ',' or ']' that ends a value at depth 0, or to the body's end (0). The record comes as a function
// because what follows it decides first whether the body can be trusted.
func (s *splitter) value() (rec func() ([]byte, error), end byte, err error) {
	s.buf = s.buf[:0]
	var sc scanner
	size := 0
	for {
		c, err := s.r.ReadByte()
		if errors.Is(err, io.EOF) && sc.depth == 0 && !sc.text {
			break
		}
		if err != nil {
			return nil, 0, err
		}
		if sc.depth == 0 && !sc.text && (c == ',' || c == ']') {
			end = c
			break
		}
		if err := sc.step(c); err != nil {
			return nil, 0, err
		}
		if size++; size <= s.max {
			s.buf = append(s.buf, c)
		}
	}
	if size > s.max {
		return func() ([]byte, error) { return nil, s.tooLong() }, end, nil
	}
	return func() ([]byte, error) { return object(trim(s.buf)) }, end, nil
}

// A scanner follows strings and brackets, byte by byte.
type scanner struct {
	depth   int
	arrays  uint64 // bit per level: is it an array
	text    bool   // inside of a string
	escaped bool
}

func (sc *scanner) step(c byte) error {
	switch {
	case sc.text && sc.escaped:
		sc.escaped = false
	case sc.text:
		sc.escaped = c == '\\'
		sc.text = c != '"'
	case c == '"':
		sc.text = true
	case c == '{' || c == '[':
		if sc.depth == maxDepth {
			return malformed(fmt.Sprintf("a record nests deeper than %d levels", maxDepth))
		}
		sc.arrays = sc.arrays<<1 | b2u(c == '[')
		sc.depth++
	case c == '}' || c == ']':
		if sc.depth == 0 || sc.arrays&1 != b2u(c == ']') {
			return malformed("brackets do not match")
		}
		sc.arrays >>= 1
		sc.depth--
	}
	return nil
}

func b2u(b bool) uint64 {
	if b {
		return 1
	}
	return 0
}

// cutOff names a body that ends inside of its array or object.
func cutOff(err error) error {
	if errors.Is(err, io.EOF) {
		return malformed("the body ends too early")
	}
	return err
}

func object(rec []byte) ([]byte, error) {
	if len(rec) < 2 || rec[0] != '{' || rec[len(rec)-1] != '}' {
		if closesEarly(rec) {
			return nil, &recordError{status: 400, msg: "there is more after the object"}
		}
		return nil, &recordError{status: 400, msg: "the record is not a JSON object"}
	}
	return rec, nil
}

// closesEarly says whether rec begins with a whole object and goes on after it.
func closesEarly(rec []byte) bool {
	var sc scanner
	for i, c := range rec {
		if (i == 0 && c != '{') || sc.step(c) != nil {
			return false
		}
		if sc.depth == 0 {
			return i < len(rec)-1
		}
	}
	return false
}

// skipSpace gives the next byte that is not JSON white space, and leaves it unread.
func (s *splitter) skipSpace() (byte, error) {
	for {
		c, err := s.r.ReadByte()
		if err != nil {
			return 0, err
		}
		if c != ' ' && c != '\t' && c != '\n' && c != '\r' {
			return c, s.r.UnreadByte()
		}
	}
}

func trim(b []byte) []byte { return bytes.Trim(b, " \t\r\n") }
