package lake

import (
	"bytes"
	"cmp"
	"math"
	"math/bits"
	"slices"

	"github.com/millrace/millrace/pkg/schema"
)

// sortKey is a row and the first bits of what it is sorted by.
type sortKey struct {
	prefix uint64
	row    int32
}

// groupSorter puts the rows of a row group in order: by the table's sort columns, then by where they are from, so that the
// same rows make the same file. Its buffers are used again.
type groupSorter struct {
	columns []int // of the layout
	keys    []sortKey
	parts   []uint64 // of one column, by row; 0 is null
	ranks   ranks
}

func newGroupSorter(l *layout, names []string) groupSorter {
	var s groupSorter
	for _, name := range names {
		if i := slices.IndexFunc(l.columns, func(c column) bool { return c.name == name }); i >= 0 {
			s.columns = append(s.columns, i)
		}
	}
	return s
}

// sort gives the rows in order. The slice is good until the next call.
func (s *groupSorter) sort(b *rowBuffer) []sortKey {
	s.keys = slices.Grow(s.keys[:0], len(b.refs))[:len(b.refs)]
	s.parts = slices.Grow(s.parts[:0], len(b.refs))[:len(b.refs)]
	for i := range s.keys {
		s.keys[i] = sortKey{row: int32(i)}
	}
	room, whole := 64, true
	for _, c := range s.columns {
		if room, whole = s.pack(b, c, room); !whole {
			break
		}
	}
	slices.SortFunc(s.keys, func(x, y sortKey) int {
		if x.prefix != y.prefix {
			return cmp.Compare(x.prefix, y.prefix)
		}
		if !whole {
			for _, c := range s.columns {
				if c := b.compare(b.at(x.row), b.at(y.row), c); c != 0 {
					return c
				}
			}
		}
		xr, yr := &b.refs[x.row], &b.refs[y.row]
		return cmp.Or(cmp.Compare(xr.partition, yr.partition), cmp.Compare(xr.offset, yr.offset))
	})
	return s.keys
}

// pack adds a column to the keys, in as many bits as its values differ in. It says how many bits are left then, and whether
// those that there were sufficed.
func (s *groupSorter) pack(b *rowBuffer, column, room int) (left int, whole bool) {
	s.fill(b, column)
	low, high := uint64(math.MaxUint64), uint64(0)
	for _, n := range s.parts {
		if n != 0 {
			low, high = min(low, n), max(high, n)
		}
	}
	width := 0
	if high != 0 {
		width = bits.Len64(high - low + 1)
	}
	take := min(width, room)
	for i, n := range s.parts {
		if n != 0 {
			n += 1 - low
		}
		s.keys[i].prefix = s.keys[i].prefix<<take | n>>(width-take)
	}
	return room - take, take == width
}

// fill makes the parts those of a column. Words become their rank among those that there are.
func (s *groupSorter) fill(b *rowBuffer, column int) {
	l := b.layout
	c := &l.columns[column]
	words := isText(c.kind)
	for i := range s.parts {
		row := b.at(int32(i))
		switch {
		case l.isNull(row, column):
			s.parts[i] = 0
		case words:
			s.parts[i] = s.ranks.number(b.words, c.leaf, row, l.cell(row, column))
		default:
			s.parts[i] = ordinal(c.kind, l.cell(row, column))
		}
	}
	if !words {
		return
	}
	s.ranks.rank()
	for i, n := range s.parts {
		if n != 0 {
			s.parts[i] = s.ranks.of[n-1]
		}
	}
	s.ranks.reset()
}

func isText(k schema.Kind) bool {
	return slices.Contains([]schema.Kind{schema.String, schema.Bytes, schema.UUID}, k)
}

// compare holds a column of two rows against each other: null comes first.
func (b *rowBuffer) compare(x, y []byte, column int) int {
	l := b.layout
	xn, yn := l.isNull(x, column), l.isNull(y, column)
	switch {
	case xn && yn:
		return 0
	case xn:
		return -1
	case yn:
		return 1
	}
	c := &l.columns[column]
	xc, yc := l.cell(x, column), l.cell(y, column)
	if isText(c.kind) {
		return bytes.Compare(b.words.textOf(x, c.leaf, xc), b.words.textOf(y, c.leaf, yc))
	}
	return cmp.Compare(ordinal(c.kind, xc), ordinal(c.kind, yc))
}

// ordinal is above 0 and keeps the order of numbers.
func ordinal(kind schema.Kind, cell uint64) uint64 {
	switch kind {
	case schema.Float, schema.Double:
		return ofDouble(math.Float64frombits(cell))
	default:
		return ofLong(cell)
	}
}

// ofLong takes the smallest two numbers for one, which no time, count or duration is.
func ofLong(n uint64) uint64 { return max(1, n^1<<63) }

// ofDouble has NaN before all numbers.
func ofDouble(f float64) uint64 {
	if f != f {
		return 1
	}
	n := math.Float64bits(f + 0) // -0 is 0
	if n>>63 == 1 {
		return ^n
	}
	return n | 1<<63
}

// ranks numbers words in the order in which they come, and then says which rank each has among all.
type ranks struct {
	known   []uint64 // by the number of a word that has one
	numbers map[string]uint64
	words   []string
	of      []uint64 // rank by number
	order   []int32
}

// number is 1 for the first word.
func (r *ranks) number(w *words, leaf int, row []byte, cell uint64) uint64 {
	if cell&wordCell != 0 {
		i := int(cell &^ wordCell) //nolint:gosec // an index
		for len(r.known) <= i {
			r.known = append(r.known, 0)
		}
		if r.known[i] == 0 {
			r.known[i] = r.add(w.textOf(row, leaf, cell))
		}
		return r.known[i]
	}
	word := textAt(row, cell)
	if n, ok := r.numbers[string(word)]; ok {
		return n
	}
	if r.numbers == nil {
		r.numbers = map[string]uint64{}
	}
	n := r.add(word)
	r.numbers[r.words[n-1]] = n
	return n
}

func (r *ranks) add(word []byte) uint64 {
	r.words = append(r.words, string(word))
	return uint64(len(r.words))
}

// rank gives words that are alike, of which one has a number and one has none, the same rank.
func (r *ranks) rank() {
	r.order = r.order[:0]
	for i := range r.words {
		r.order = append(r.order, int32(i))
	}
	slices.SortFunc(r.order, func(a, b int32) int { return cmp.Compare(r.words[a], r.words[b]) })
	r.of = slices.Grow(r.of[:0], len(r.words))[:len(r.words)]
	rank := uint64(0)
	for i, n := range r.order {
		if i == 0 || r.words[n] != r.words[r.order[i-1]] {
			rank++
		}
		r.of[n] = rank
	}
}

func (r *ranks) reset() {
	clear(r.numbers)
	clear(r.words)
	r.known, r.words = r.known[:0], r.words[:0]
}
