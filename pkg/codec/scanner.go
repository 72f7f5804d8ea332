package codec

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// scanner reads JSON, token by token, as RFC 8259 has it. It is our own because encoding/json makes a map, or a token
// on the heap, of every field, loses digits of whole numbers, takes the last of two equal keys and repairs invalid
// UTF-8 in silence. Strings without escapes stay where they lie; the others go to the arena.
type scanner struct {
	b     []byte
	pos   int
	arena []byte
}

// peek gives the first byte of the next token, or 0 at the end.
func (s *scanner) peek() byte {
	for s.pos < len(s.b) {
		switch c := s.b[s.pos]; c {
		case ' ', '\t', '\n', '\r':
			s.pos++
		default:
			return c
		}
	}
	return 0
}

func (s *scanner) bad(what string) error {
	if s.pos >= len(s.b) {
		return errors.New("is not JSON: it ends too soon")
	}
	return fmt.Errorf("is not JSON at byte %d: %s", s.pos, what)
}

// mustBe says that the next token is of another type than it should be.
func (s *scanner) mustBe(want string) error {
	var got string
	switch c := s.peek(); {
	case c == '"':
		got = "a string"
	case c == '{':
		got = "an object"
	case c == '[':
		got = "an array"
	case c == 't' || c == 'f':
		got = "a boolean"
	case isNumber(c):
		got = "a number"
	default:
		return s.bad("a value must stand here")
	}
	return fmt.Errorf("must be %s, not %s", want, got)
}

func isNumber(c byte) bool { return c == '-' || c >= '0' && c <= '9' }

// object reads an object whose '{' is next. member is called with each key, and reads the value.
func (s *scanner) object(member func(key []byte) error) error {
	s.pos++
	if s.peek() == '}' {
		s.pos++
		return nil
	}
	for {
		if s.peek() != '"' {
			return s.bad("a key in quotes must stand here")
		}
		key, err := s.str()
		if err != nil {
			return err
		}
		if s.peek() != ':' {
			return s.bad("a colon must stand here")
		}
		s.pos++
		if err := member(key); err != nil {
			return err
		}
		switch s.peek() {
		case ',':
			s.pos++
		case '}':
			s.pos++
			return nil
		default:
			return s.bad("a comma or the object's end must stand here")
		}
	}
}

func (s *scanner) literal(want string) error {
	if len(s.b)-s.pos < len(want) || string(s.b[s.pos:s.pos+len(want)]) != want {
		return s.bad("a value must stand here")
	}
	s.pos += len(want)
	return nil
}

var errControl = errors.New("has a control character that is not escaped")

// str reads a string whose quote is next.
func (s *scanner) str() ([]byte, error) {
	s.pos++
	start := s.pos
	for s.pos < len(s.b) {
		switch c := s.b[s.pos]; {
		case c == '"':
			out := s.b[start:s.pos:s.pos]
			s.pos++
			if !utf8.Valid(out) {
				return nil, errNotUTF8
			}
			return out, nil
		case c == '\\':
			return s.escaped(start)
		case c < 0x20:
			return nil, errControl
		}
		s.pos++
	}
	return nil, s.bad("")
}

// escaped reads the rest of a string from its first escape on, into the arena.
func (s *scanner) escaped(start int) ([]byte, error) {
	from := len(s.arena)
	s.arena = append(s.arena, s.b[start:s.pos]...)
	for s.pos < len(s.b) {
		c := s.b[s.pos]
		switch {
		case c == '"':
			s.pos++
			out := s.arena[from:len(s.arena):len(s.arena)]
			if !utf8.Valid(out) {
				return nil, errNotUTF8
			}
			return out, nil
		case c == '\\':
			if err := s.escape(); err != nil {
				return nil, err
			}
		case c < 0x20:
			return nil, errControl
		default:
			s.arena = append(s.arena, c)
			s.pos++
		}
	}
	return nil, s.bad("")
}

func (s *scanner) escape() error {
	s.pos++
	if s.pos >= len(s.b) {
		return s.bad("")
	}
	c := s.b[s.pos]
	switch c {
	case '"', '\\', '/':
	case 'b':
		c = '\b'
	case 'f':
		c = '\f'
	case 'n':
		c = '\n'
	case 'r':
		c = '\r'
	case 't':
		c = '\t'
	case 'u':
		return s.unicode()
	default:
		return s.bad("there is no such escape")
	}
	s.arena = append(s.arena, c)
	s.pos++
	return nil
}

var errSurrogate = errors.New("has half a surrogate pair, which is no character")

// unicode reads \uXXXX from its u on, and the second half of a pair.
func (s *scanner) unicode() error {
	r, err := s.hex4()
	if err != nil {
		return err
	}
	if utf16.IsSurrogate(r) {
		if len(s.b)-s.pos < 2 || s.b[s.pos] != '\\' || s.b[s.pos+1] != 'u' {
			return errSurrogate
		}
		s.pos++
		second, err := s.hex4()
		if err != nil {
			return err
		}
		if r = utf16.DecodeRune(r, second); r == utf8.RuneError {
			return errSurrogate
		}
	}
	s.arena = utf8.AppendRune(s.arena, r)
	return nil
}

// hex4 reads uXXXX.
func (s *scanner) hex4() (rune, error) {
	s.pos++
	var r rune
	for range 4 {
		if s.pos >= len(s.b) {
			return 0, s.bad("")
		}
		switch c := s.b[s.pos]; {
		case c >= '0' && c <= '9':
			r = r<<4 | rune(c-'0')
		case c >= 'a' && c <= 'f':
			r = r<<4 | rune(c-'a'+10)
		case c >= 'A' && c <= 'F':
			r = r<<4 | rune(c-'A'+10)
		default:
			return 0, s.bad("an escape has four hexadecimal digits")
		}
		s.pos++
	}
	return r, nil
}

// number is the parts of a number that was read.
type number struct {
	text     []byte // all of it
	negative bool
	whole    []byte // digits before the point
	frac     []byte // digits after it
	exp      int
}

func (s *scanner) digits() []byte {
	start := s.pos
	for s.pos < len(s.b) && s.b[s.pos] >= '0' && s.b[s.pos] <= '9' {
		s.pos++
	}
	return s.b[start:s.pos]
}

// number reads a number that is next.
func (s *scanner) number() (n number, err error) {
	start := s.pos
	if s.b[s.pos] == '-' {
		n.negative = true
		s.pos++
	}
	n.whole = s.digits()
	if len(n.whole) == 0 || len(n.whole) > 1 && n.whole[0] == '0' {
		return n, s.bad("a number must stand here, without leading zeros")
	}
	if s.at('.') {
		s.pos++
		if n.frac = s.digits(); len(n.frac) == 0 {
			return n, s.bad("a digit must follow the point")
		}
	}
	if s.at('e') || s.at('E') {
		s.pos++
		minus := s.at('-')
		if minus || s.at('+') {
			s.pos++
		}
		digits := s.digits()
		if len(digits) == 0 {
			return n, s.bad("a digit must follow the exponent's sign")
		}
		for _, d := range digits {
			n.exp = min(n.exp*10+int(d-'0'), math.MaxInt32) // beyond any number that fits
		}
		if minus {
			n.exp = -n.exp
		}
	}
	n.text = s.b[start:s.pos]
	return n, nil
}

func (s *scanner) at(c byte) bool { return s.pos < len(s.b) && s.b[s.pos] == c }

var (
	errNotWhole   = errors.New("must be a whole number")
	errRangeInt64 = errors.New("is more than 64 bits hold")
)

// integer reads a number that is whole and fits 64 bits, without ever going through a double.
func (s *scanner) integer() (int64, error) {
	n, err := s.number()
	if err != nil {
		return 0, err
	}
	// The value is 0.d1d2d3… times ten to the power of point.
	digits, point := n.whole, len(n.whole)+n.exp
	if len(n.frac) > 0 {
		digits = append(append(make([]byte, 0, len(n.whole)+len(n.frac)), n.whole...), n.frac...)
	}
	for len(digits) > 0 && digits[0] == '0' {
		digits, point = digits[1:], point-1
	}
	for len(digits) > 0 && digits[len(digits)-1] == '0' {
		digits = digits[:len(digits)-1]
	}
	switch {
	case len(digits) == 0:
		return 0, nil
	case point < len(digits):
		return 0, errNotWhole
	case point > 19:
		return 0, errRangeInt64
	}
	var u uint64 // 19 digits always fit
	for i := range point {
		u *= 10
		if i < len(digits) {
			u += uint64(digits[i] - '0')
		}
	}
	switch {
	case n.negative && u <= 1<<63:
		return int64(-u), nil //nolint:gosec // two's complement, also of the smallest
	case !n.negative && u < 1<<63:
		return int64(u), nil
	}
	return 0, errRangeInt64
}

// double reads a number as a double of that many bits: rounded, but never to infinity.
func (s *scanner) double(bits int) (float64, error) {
	n, err := s.number()
	if err != nil {
		return 0, err
	}
	f, err := strconv.ParseFloat(string(n.text), bits)
	if err != nil {
		if bits == 32 {
			return 0, errRangeFloat
		}
		return 0, errRange
	}
	return f, nil
}
