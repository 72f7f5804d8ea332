package lag

import (
	"encoding/binary"
	"slices"
)

// The fields of a point. vKnown has a bit for each of the others that is known.
const (
	vKnown = iota
	vRecords
	vApplied
	vLow
	vHigh
	vIn
	vOut
	vHeadroom
	vStatus
	vCause
	fields
)

type values [fields]int64

func hourOf(ms int64) int64 { return ms / 3_600_000 }

// chunk is the points of one hour, each as its differences from the one before: which fields differ, a bit each, then the
// differences, all as varints. The first differs from 0.
type chunk struct {
	hour int64
	at   int64 // of the last point; 0 while there is none
	last values
	buf  []byte
}

// encode adds a point and gives its bytes. It adds none that is not after the last: a clock was set back.
func (c *chunk) encode(at int64, v values) []byte {
	if at <= c.at {
		return nil
	}
	begin := len(c.buf)
	c.buf = binary.AppendUvarint(c.buf, uint64(at-c.at)) //nolint:gosec // after the last
	mask := uint64(0)
	for i := range v {
		if v[i] != c.last[i] {
			mask |= 1 << i
		}
	}
	c.buf = binary.AppendUvarint(c.buf, mask)
	for i := range v {
		if mask&(1<<i) != 0 {
			c.buf = binary.AppendVarint(c.buf, v[i]-c.last[i])
		}
	}
	c.at, c.last = at, v
	return c.buf[begin:]
}

// append adds a point by its bytes.
func (c *chunk) append(b []byte) error {
	at, v, n := decode(b, c.at, c.last)
	if n != len(b) || hourOf(at) != c.hour {
		return errDamaged
	}
	c.at, c.last, c.buf = at, v, append(c.buf, b...)
	return nil
}

func (c *chunk) each(fn func(at int64, v values)) {
	var (
		at int64
		v  values
	)
	for b := c.buf; len(b) > 0; {
		var n int
		if at, v, n = decode(b, at, v); n <= 0 {
			return // append has checked it
		}
		fn(at, v)
		b = b[n:]
	}
}

// decode reads the point after another one, and how many bytes it takes: 0 where they are damaged.
func decode(b []byte, at int64, v values) (int64, values, int) {
	whole := len(b)
	delta, n := binary.Uvarint(b)
	if n <= 0 || delta == 0 || delta > 1<<62 {
		return 0, v, 0
	}
	b = b[n:]
	mask, n := binary.Uvarint(b)
	if n <= 0 || mask >= 1<<fields {
		return 0, v, 0
	}
	b = b[n:]
	for i := range v {
		if mask&(1<<i) != 0 {
			d, n := binary.Varint(b)
			if n <= 0 {
				return 0, v, 0
			}
			v[i] += d
			b = b[n:]
		}
	}
	return at + int64(delta), v, whole - len(b)
}

// entry is a point of one subject as it lies on disk.
type entry struct {
	subject subject
	bytes   []byte
}

// appendFrame writes the points of one look. ids are the numbers that subjects have in the file: a subject that has none yet
// gets one, and its name is written with it.
func appendFrame(b []byte, at int64, all []entry, ids map[subject]uint64) []byte {
	b = binary.AppendUvarint(b, uint64(at)) //nolint:gosec // after 1970
	b = binary.AppendUvarint(b, uint64(len(all)))
	for _, e := range all {
		id, ok := ids[e.subject]
		if !ok {
			id = uint64(len(ids))
			ids[e.subject] = id
		}
		b = binary.AppendUvarint(b, id)
		if !ok {
			b = appendText(b, e.subject.group)
			b = appendText(b, e.subject.topic)
			b = binary.AppendVarint(b, int64(e.subject.partition))
		}
		b = append(binary.AppendUvarint(b, uint64(len(e.bytes))), e.bytes...)
	}
	return b
}

func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// frameReader reads one frame.
type frameReader struct {
	b      []byte
	failed bool
}

func (r *frameReader) number() uint64 { return take(r, binary.Uvarint) }
func (r *frameReader) signed() int64  { return take(r, binary.Varint) }

// take reads one varint of either kind.
func take[N uint64 | int64](r *frameReader, varint func([]byte) (N, int)) N {
	n, size := varint(r.b)
	if size <= 0 {
		r.failed = true
		return 0
	}
	r.b = r.b[size:]
	return n
}

func (r *frameReader) bytes() []byte {
	n := r.number()
	if n > uint64(len(r.b)) {
		r.failed = true
		return nil
	}
	out := r.b[:n]
	r.b = r.b[n:]
	return out
}

// readFrame gives the points of one frame. names are the subjects of the file by their numbers, and grow.
func readFrame(b []byte, names *[]subject, fn func(s subject, at int64, b []byte) error) error {
	r := &frameReader{b: b}
	at := int64(r.number()) //nolint:gosec // hourOf of nonsense is refused by the chunk
	for range r.number() {
		id := r.number()
		if id > uint64(len(*names)) || r.failed {
			return errDamaged
		}
		if id == uint64(len(*names)) {
			s := subject{group: string(r.bytes()), topic: string(r.bytes())}
			s.partition = int32(r.signed()) //nolint:gosec // as it was written
			*names = append(*names, s)
		}
		point := r.bytes()
		if r.failed {
			return errDamaged
		}
		if err := fn((*names)[id], at, slices.Clip(point)); err != nil {
			return err
		}
	}
	if r.failed || len(r.b) > 0 {
		return errDamaged
	}
	return nil
}
