package cassandra

import (
	"encoding/binary"
	"fmt"
	"sync"

	"github.com/millrace/millrace/pkg/codec"
	"github.com/millrace/millrace/pkg/schema"
)

// Arguments in wire form follow their lengths, as a frame has them. What is unset has this for its length and no bytes:
// a null that is bound would be a tombstone.
const (
	lengthBytes = 4
	unset       = -2
)

// encoder brings records into wire form.
type encoder struct {
	insert *insert
	typ    *schema.Type
	wire   []byte
}

// row adds a record's row, or nothing if it fails.
func (e *encoder) row(r *codec.Record, ttl int) (row, error) {
	one := row{at: len(e.wire)}
	for j := range e.insert.arguments {
		if j == e.insert.key {
			one.key = len(e.wire) - one.at
		}
		if err := e.argument(&e.insert.arguments[j], r, ttl); err != nil {
			e.wire = e.wire[:one.at]
			return row{}, err
		}
	}
	one.size = len(e.wire) - one.at
	return one, nil
}

func (e *encoder) argument(a *argument, r *codec.Record, ttl int) error {
	switch a.field {
	case schema.BucketColumn:
		e.long(e.typ.Bucket(r.TimeMicros()).UnixMilli())
	case schema.ShardColumn:
		e.int(schema.Shard(e.typ, r.Values))
	case ttlArgument:
		e.int(ttl)
	case writeTimeArgument:
		e.long(writeTime(r))
	default:
		v := &r.Values[a.field]
		if v.IsNull() {
			e.wire = append(e.wire, 0xff, 0xff, 0xff, 0xfe) // unset
			return nil
		}
		return e.value(a, v)
	}
	return nil
}

func (e *encoder) value(a *argument, v *codec.Value) error {
	at := len(e.wire)
	wire, err := appendCell(append(e.wire, 0, 0, 0, 0), a.kind, v)
	if err != nil {
		return fmt.Errorf("field %s: %w", e.typ.Fields[a.field].Name, err)
	}
	binary.BigEndian.PutUint32(wire[at:], uint32(len(wire)-at-lengthBytes)) //nolint:gosec // bounded by the record's size
	e.wire = wire
	return nil
}

func (e *encoder) long(n int64) {
	e.wire = binary.BigEndian.AppendUint64(append(e.wire, 0, 0, 0, 8), uint64(n)) //nolint:gosec // the bits are kept as they are
}

func (e *encoder) int(n int) {
	e.wire = binary.BigEndian.AppendUint32(append(e.wire, 0, 0, 0, 4), uint32(n)) //nolint:gosec // shards and times to live fit
}

// writeTime is the row's write timestamp: the same for every replay, and later for a later record.
func writeTime(r *codec.Record) int64 { return r.Source.Timestamp.UnixMicro() + r.Source.Offset%1000 }

// wires keeps the memory of batches in wire form between batches.
type wires struct{ idle sync.Pool }

const (
	// keepWire is the most bytes that are kept: what a batch of huge records took is left to the collector.
	keepWire = 8 << 20
	// wireOverhead is about what a row takes besides its record and the lengths, in lengths.
	wireOverhead = 16
)

// take gives memory that is empty, with room for about n bytes.
func (w *wires) take(n int) []byte {
	if b, ok := w.idle.Get().(*[]byte); ok && cap(*b) >= n {
		return (*b)[:0]
	}
	return make([]byte, 0, n)
}

// give takes it back.
func (w *wires) give(b *[]byte) {
	if b != nil && cap(*b) <= keepWire {
		w.idle.Put(b)
	}
}
