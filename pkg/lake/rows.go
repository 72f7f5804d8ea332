package lake

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"sync"

	"github.com/google/uuid"

	"github.com/millrace/millrace/pkg/codec"
	"github.com/millrace/millrace/pkg/schema"
)

// rowBuffer holds rows until they are a row group: copied out of their records, in blocks of memory without pointers. A row's
// values lie next to each other, where those of a decoded record are all over the memory, and the records, with the whole
// fetches that they are parts of, can be freed.
//
// A row is a bit for each column that is null, then a cell for each column, then the bytes that those point at. The cell of
// a number is its bits, that of text the number of a word or the text's place in the row and its length, that of a map the
// place and the count of its entries, which are two cells of text each.
type rowBuffer struct {
	layout *layout
	words  *words
	blocks [][]byte
	refs   []rowRef
	size   int64 // memory of the rows

	// Of the row that is being added.
	row   []byte
	topic []byte
	pairs []uint64
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
	longRow    = 16 << 10
	// wordCell marks a cell that has a word's number, not a text's place.
	wordCell = 1 << 63
	// refCost is what a row takes beside its bytes: its place, and that when it is sorted.
	refCost = 24 + 24
)

func newRowBuffer(l *layout, w *words) *rowBuffer { return &rowBuffer{layout: l, words: w} }

// nullBytes is the size of a row's null bits.
func (l *layout) nullBytes() int { return (len(l.columns) + 7) / 8 }

// add copies a record's row and says what memory it takes.
func (b *rowBuffer) add(r *codec.Record, p *plan) (int64, error) {
	fixed := b.layout.nullBytes() + cellBytes*len(p.from)
	b.row = slices.Grow(b.row[:0], fixed)[:fixed]
	clear(b.row)
	for i, from := range p.from {
		if err := b.put(i, r, from); err != nil {
			return 0, err
		}
	}
	size := len(b.row)
	if size > math.MaxInt32 {
		return 0, fmt.Errorf("holding a row: it has %d bytes, more than a row can have", size)
	}
	n := len(b.blocks) - 1
	if n < 0 || cap(b.blocks[n])-len(b.blocks[n]) < size {
		b.blocks = append(b.blocks, newBlock(size))
		n++
	}
	at := len(b.blocks[n])
	b.blocks[n] = append(b.blocks[n], b.row...)
	if size > longRow {
		b.row = nil // one that is kept by each of many open partitions should be small
	}
	src := r.Source
	b.refs = append(b.refs, rowRef{offset: src.Offset, partition: src.Partition, block: int32(n), at: int32(at)}) //nolint:gosec // a block has a megabyte, or one row
	b.size += int64(size) + refCost
	return int64(size) + refCost, nil
}

// put writes one column of the row that is being added.
func (b *rowBuffer) put(i int, r *codec.Record, from int) error {
	c := &b.layout.columns[i]
	cell := b.layout.nullBytes() + cellBytes*i
	switch from {
	case fromTopic:
		b.topic = append(b.topic[:0], r.Source.Topic...)
		b.putCell(cell, b.text(c.leaf, b.topic))
		return nil
	case fromPartition:
		b.putCell(cell, uint64(r.Source.Partition)) //nolint:gosec // the bits as they are
		return nil
	case fromOffset:
		b.putCell(cell, uint64(r.Source.Offset)) //nolint:gosec // the bits as they are
		return nil
	case fromAppendTime:
		b.putCell(cell, uint64(r.Source.Timestamp.UnixMicro()))
		return nil
	}
	if from == fromNothing || r.Values[from].IsNull() {
		if c.required {
			return fmt.Errorf("holding column %s: %w null", c.name, errNoColumn)
		}
		b.row[i/8] |= 1 << (i % 8)
		return nil
	}
	v := r.Values[from]
	switch c.kind {
	case schema.Bool, schema.Int, schema.Long, schema.Timestamp:
		b.putCell(cell, uint64(v.Long())) //nolint:gosec // the bits as they are
	case schema.Float, schema.Double:
		b.putCell(cell, math.Float64bits(v.Double()))
	case schema.UUID:
		id, err := uuid.ParseBytes(v.Bytes())
		if err != nil {
			return fmt.Errorf("reading id: %w", err)
		}
		b.putCell(cell, b.text(c.leaf, id[:]))
	case schema.Map:
		b.putCell(cell, b.entries(c.leaf, v))
	default:
		b.putCell(cell, b.text(c.leaf, v.Bytes()))
	}
	return nil
}

func (b *rowBuffer) putCell(cell int, n uint64) { binary.LittleEndian.PutUint64(b.row[cell:], n) }

// text holds a text of a leaf and gives its cell: a word's number, or else the place behind all that the row has by now.
func (b *rowBuffer) text(leaf int, text []byte) uint64 {
	if n, ok := b.words.leaves[leaf].number(text); ok {
		return wordCell | uint64(n)
	}
	at := len(b.row)
	b.row = append(b.row, text...)
	return span(at, len(text))
}

// entries holds those of a map, of which two leaves follow each other: keys and values.
func (b *rowBuffer) entries(leaf int, m codec.Value) uint64 {
	b.pairs = b.pairs[:0]
	for k, v := range m.Pairs() {
		b.pairs = append(b.pairs, b.text(leaf, k), b.text(leaf+1, v))
	}
	at := len(b.row)
	for _, cell := range b.pairs {
		b.row = binary.LittleEndian.AppendUint64(b.row, cell)
	}
	return span(at, len(b.pairs)/2)
}

// span is a position in a row, and how much there is.
func span(at, n int) uint64 { return uint64(at)<<32 | uint64(n) } //nolint:gosec // both within a row

// at gives the bytes from a row's start on.
func (b *rowBuffer) at(i int32) []byte {
	ref := &b.refs[i]
	return b.blocks[ref.block][ref.at:]
}

func (l *layout) isNull(row []byte, column int) bool { return row[column/8]&(1<<(column%8)) != 0 }

// cell gives the cell of a column that is not null.
func (l *layout) cell(row []byte, column int) uint64 {
	return binary.LittleEndian.Uint64(row[l.nullBytes()+cellBytes*column:])
}

// textOf gives what a cell of a leaf stands for. It is good as long as the buffer.
func (w *words) textOf(row []byte, leaf int, cell uint64) []byte {
	if cell&wordCell != 0 {
		return w.leaves[leaf].values[cell&^wordCell].ByteArray()
	}
	return textAt(row, cell)
}

func textAt(row []byte, cell uint64) []byte {
	at, n := cell>>32, cell&math.MaxUint32
	return row[at : at+n : at+n]
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
