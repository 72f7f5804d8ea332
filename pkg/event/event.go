// Package event makes and reads event ids: UUIDv7, whose first 48 bits are the event's time in milliseconds.
//
// An id and its time are fixed together, once, by whoever makes the event. [NewID] is for events that happen now;
// [DeriveID] is for agents that read the same bytes again after a crash and must come to the same id.
package event

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"
)

// Len is the length of an id's text form.
const Len = 36

const hexDigits = "0123456789abcdef"

// dashes are the positions of the dashes in an id's text form.
var dashes = [...]int{8, 13, 18, 23}

// NewID makes an id for an event at t, unlike any other.
func NewID(t time.Time) string {
	var random [10]byte
	_, _ = rand.Read(random[:]) // crypto/rand never fails: it ends the process first
	return text(t, random)
}

// NewIDFrom makes an id for an event at t from the ten bytes that random gives. With a seeded reader the ids of a run
// are the same every time.
func NewIDFrom(t time.Time, random io.Reader) (string, error) {
	var b [10]byte
	if _, err := io.ReadFull(random, b[:]); err != nil {
		return "", fmt.Errorf("reading random bytes of an id: %w", err)
	}
	return text(t, b), nil
}

// DeriveID makes the id of the event at t that the seed stands for: the same t and seed always give the same id. The
// seed's parts are kept apart, so ("ab", "c") and ("a", "bc") differ. Two different seeds meet with a chance of
// 2^-74 within one millisecond.
func DeriveID(t time.Time, seed ...string) string {
	h := sha256.New()
	var n [8]byte
	for _, s := range seed {
		binary.BigEndian.PutUint64(n[:], uint64(len(s)))
		h.Write(n[:])
		_, _ = io.WriteString(h, s) // a hash never fails
	}
	var sum [sha256.Size]byte
	h.Sum(sum[:0])
	return text(t, [10]byte(sum[:10]))
}

// text lays out a UUIDv7: 48 bits of milliseconds, version, 12 bits, variant, 62 bits. A time that 48 bits cannot hold
// is moved to the nearest that they can.
func text(t time.Time, random [10]byte) string {
	const most = 1<<48 - 1
	ms := min(max(t.UnixMilli(), 0), most)
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], uint64(ms)<<16)
	copy(b[6:], random[:])
	b[6] = b[6]&0x0f | 0x70
	b[8] = b[8]&0x3f | 0x80

	var out [Len]byte
	w := 0
	for i, c := range b {
		if i == 4 || i == 6 || i == 8 || i == 10 {
			out[w] = '-'
			w++
		}
		out[w], out[w+1] = hexDigits[c>>4], hexDigits[c&0xf]
		w += 2
	}
	return string(out[:])
}

// Form is what [Check] finds of an id's text.
type Form uint8

// The forms of an id.
const (
	Invalid Form = iota // not a UUID in its 36-character form
	Upper               // a UUID with upper-case digits: Lower makes it canonical
	Lower               // a UUID in canonical form
)

// Check says whether id is the 36-character form of a UUID, of any version.
func Check[T string | []byte](id T) Form {
	if len(id) != Len {
		return Invalid
	}
	for _, i := range dashes {
		if id[i] != '-' {
			return Invalid
		}
	}
	form := Lower
	for i := range Len {
		switch c := digits[id[i]]; {
		case c < 16:
		case c == upper:
			form = Upper
		case c == dash && (i == 8 || i == 13 || i == 18 || i == 23):
		default:
			return Invalid
		}
	}
	return form
}

// Canonical copies id, of form Upper, into dst with lower-case digits.
func Canonical(dst *[Len]byte, id []byte) {
	for i, c := range id[:Len] {
		if c >= 'A' && c <= 'F' {
			c += 'a' - 'A'
		}
		dst[i] = c
	}
}

// ErrNotV7 says that an id carries no time: it is not a UUIDv7.
var ErrNotV7 = errors.New("not a UUIDv7")

// TimeOf gives the time inside a UUIDv7, to the millisecond, or ErrNotV7.
func TimeOf[T string | []byte](id T) (time.Time, error) {
	if Check(id) == Invalid || id[14] != '7' {
		return time.Time{}, ErrNotV7
	}
	var ms int64
	for i := range 13 {
		if i == 8 {
			continue
		}
		ms = ms<<4 | int64(value(id[i]))
	}
	return time.UnixMilli(ms).UTC(), nil
}

func value(c byte) byte {
	switch {
	case c >= 'a':
		return c - 'a' + 10
	case c >= 'A':
		return c - 'A' + 10
	default:
		return c - '0'
	}
}

// What digits says of a character beside the value of a lower-case hexadecimal digit.
const (
	upper = 0x80
	dash  = 0x81
	other = 0xff
)

// digits classifies characters, so that checking an id is one look-up per character.
var digits = func() (t [256]byte) {
	for i := range t {
		switch c := byte(i); {
		case c >= '0' && c <= '9', c >= 'a' && c <= 'f':
			t[i] = value(c)
		case c >= 'A' && c <= 'F':
			t[i] = upper
		case c == '-':
			t[i] = dash
		default:
			t[i] = other
		}
	}
	return t
}()
