package lake

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"sync"

	"github.com/google/uuid"
	"github.com/parquet-go/parquet-go"

	"github.com/millrace/millrace/pkg/codec"
	"github.com/millrace/millrace/pkg/schema"
)

// rowBuffer holds rows until they are a row group: copied out of their records, in blocks of memory without pointers. A row's
// values lie next to each other, where those of a decoded record are all over the memory, and the records, with the whole
// fetches that they are parts of, can be freed.
//
// A row is a bit for each column that is null, then 8 bytes for each column, then the bytes that those point at: of a
// number its bits, of text its place in the row and its length.
type rowBuffer struct {
	layout *layout
	blocks [][]byte
	refs   []rowRef
	size   int64 // memory of the rows
}

// rowRef is a row's place, and where it is from.
type rowRef struct {
	offset    int64
	partition int32
	block     int32
	at        int32
}

const (
	blockBytes = 1 << 20
	cellBytes  = 8
	// refCost is what a row takes beside its bytes: its place, and that when it is sorted.
	refCost = 24 + 48
)

func newRowBuffer(l *layout) *rowBuffer { return &rowBuffer{layout: l} }

// nullBytes is the size of a row's null bits.
func (l *layout) nullBytes() int { return (len(l.columns) + 7) / 8 }

// add copies a record's row and says what memory it takes.
func (b *rowBuffer) add(r *codec.Record, p *plan) (int64, error) {
	nulls := b.layout.nullBytes()
	size := nulls + cellBytes*len(p.from)
	for i, from := range p.from {
		size += sizeOf(r, from, b.layout.columns[i].kind)
	}
	if int64(size) > math.MaxInt32 {
		return 0, fmt.Errorf("holding a row: it has %d bytes, more than a row can have", size)
	}
	n := len(b.blocks) - 1
	if n < 0 || cap(b.blocks[n])-len(b.blocks[n]) < size {
		b.blocks = append(b.blocks, newBlock(size))
		n++
	}
	at := len(b.blocks[n])
	row := b.blocks[n][at : at+size]
	clear(row[:nulls])
	end := nulls + cellBytes*len(p.from)
	for i, from := range p.from {
		var err error
		if end, err = b.put(row, i, end, r, from); err != nil {
			return 0, err
		}
	}
	b.blocks[n] = b.blocks[n][:at+size]
	src := r.Source
	b.refs = append(b.refs, rowRef{offset: src.Offset, partition: src.Partition, block: int32(n), at: int32(at)}) //nolint:gosec // a block has a megabyte, or one row
	b.size += int64(size) + refCost
	return int64(size) + refCost, nil
}

// sizeOf is how many bytes a column needs beside its cell.
func sizeOf(r *codec.Record, from int, kind schema.Kind) int {
	switch {
	case from == fromTopic:
		return len(r.Source.Topic)
	case from < 0 || r.Values[from].IsNull():
		return 0
	case kind == schema.UUID:
		return len(uuid.UUID{})
	}
	return len(r.Values[from].Bytes())
}

// put writes one column of a row, whose bytes go to end, and gives where the next are to go.
func (b *rowBuffer) put(row []byte, i, end int, r *codec.Record, from int) (int, error) {
	c := &b.layout.columns[i]
	cell := row[b.layout.nullBytes()+cellBytes*i:]
	number := func(n uint64) (int, error) {
		binary.LittleEndian.PutUint64(cell, n)
		return end, nil
	}
	text := func(n int) (int, error) {
		binary.LittleEndian.PutUint64(cell, uint64(end)<<32|uint64(n)) //nolint:gosec // both within a row
		return end + n, nil
	}
	switch from {
	case fromTopic:
		return text(copy(row[end:], r.Source.Topic))
	case fromPartition:
		return number(uint64(r.Source.Partition)) //nolint:gosec // the bits as they are
	case fromOffset:
		return number(uint64(r.Source.Offset)) //nolint:gosec // the bits as they are
	case fromAppendTime:
		return number(uint64(r.Source.Timestamp.UnixMicro()))
	}
	if from == fromNothing || r.Values[from].IsNull() {
		if c.required {
			return end, fmt.Errorf("holding column %s: %w null", c.name, errNoColumn)
		}
		row[i/8] |= 1 << (i % 8)
		return end, nil
	}
	v := r.Values[from]
	switch c.kind {
	case schema.Bool, schema.Int, schema.Long, schema.Timestamp:
		return number(uint64(v.Long())) //nolint:gosec // the bits as they are
	case schema.Float, schema.Double:
		return number(math.Float64bits(v.Double()))
	case schema.UUID:
		id, err := uuid.ParseBytes(v.Bytes())
		if err != nil {
			return end, fmt.Errorf("reading id: %w", err)
		}
		return text(copy(row[end:], id[:]))
	default:
		return text(copy(row[end:], v.Bytes()))
	}
}

// row gives the bytes from a row's start on.
func (b *rowBuffer) row(i int32) []byte {
	ref := &b.refs[i]
	return b.blocks[ref.block][ref.at:]
}

func (l *layout) isNull(row []byte, column int) bool { return row[column/8]&(1<<(column%8)) != 0 }

// number gives the bits of a column that holds a number.
func (l *layout) number(row []byte, column int) uint64 {
	return binary.LittleEndian.Uint64(row[l.nullBytes()+cellBytes*column:])
}

// text gives the bytes of a column that holds some. They are good as long as the buffer.
func (l *layout) text(row []byte, column int) []byte { return textAt(row, l.number(row, column)) }

func textAt(row []byte, place uint64) []byte {
	at, n := place>>32, place&math.MaxUint32
	return row[at : at+n : at+n]
}

// value gives a column that is not null.
func (l *layout) value(row []byte, column int) parquet.Value {
	switch l.columns[column].kind {
	case schema.Bool:
		return parquet.BooleanValue(l.number(row, column) != 0)
	case schema.Int:
		return parquet.Int32Value(int32(l.number(row, column))) //nolint:gosec // an Avro int has 32 bits
	case schema.Long, schema.Timestamp:
		return parquet.Int64Value(int64(l.number(row, column))) //nolint:gosec // the bits as they are
	case schema.Float:
		return parquet.FloatValue(float32(math.Float64frombits(l.number(row, column))))
	case schema.Double:
		return parquet.DoubleValue(math.Float64frombits(l.number(row, column)))
	case schema.UUID:
		return parquet.FixedLenByteArrayValue(l.text(row, column))
	default:
		return parquet.ByteArrayValue(l.text(row, column))
	}
}

// forget drops the rows of a source partition. Their bytes stay until the rest has become a row group.
func (b *rowBuffer) forget(partition int32) {
	b.refs = slices.DeleteFunc(b.refs, func(r rowRef) bool { return r.partition == partition })
}

// reset drops all rows. The next ones, of any table, use the memory.
func (b *rowBuffer) reset() {
	for i, block := range b.blocks {
		if cap(block) == blockBytes {
			blocks.Put((*[blockBytes]byte)(block[:blockBytes]))
		}
		b.blocks[i] = nil
	}
	b.refs, b.blocks, b.size = b.refs[:0], b.blocks[:0], 0
}

// blocks are those that no row is in: a row group takes scores of them, and the next one as many.
var blocks = sync.Pool{New: func() any { return new([blockBytes]byte) }}

// newBlock has room for a row of so many bytes.
func newBlock(size int) []byte {
	if size > blockBytes {
		return make([]byte, 0, size)
	}
	return blocks.Get().(*[blockBytes]byte)[:0]
}
