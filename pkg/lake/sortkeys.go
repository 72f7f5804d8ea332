package lake

import (
	"bytes"
	"cmp"
	"math"
	"slices"

	"github.com/millrace/millrace/pkg/schema"
)

// keyColumns is how many sort columns are held in a sortKey. Of tables with more, the rest is looked up in the rows.
const keyColumns = 3

// sortKey is a row as far as it is sorted by: numbers next to each other.
type sortKey struct {
	columns   [keyColumns]uint64 // 0 is null
	offset    int64
	partition int32
	row       int32
}

// groupSorter puts the rows of a row group in order: by the table's sort columns, then by where they are from, so that the
// same rows make the same file. Its buffers are used again.
type groupSorter struct {
	columns []int // of the layout
	keys    []sortKey
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
	for i, ref := range b.refs {
		s.keys[i] = sortKey{offset: ref.offset, partition: ref.partition, row: int32(i)}
	}
	for k, c := range s.columns[:min(keyColumns, len(s.columns))] {
		s.fill(b, k, c)
	}
	slices.SortFunc(s.keys, func(x, y sortKey) int {
		for k := range x.columns {
			if x.columns[k] != y.columns[k] {
				return cmp.Compare(x.columns[k], y.columns[k])
			}
		}
		for k := keyColumns; k < len(s.columns); k++ {
			if c := b.layout.compare(b.row(x.row), b.row(y.row), s.columns[k]); c != 0 {
				return c
			}
		}
		return cmp.Or(cmp.Compare(x.partition, y.partition), cmp.Compare(x.offset, y.offset))
	})
	return s.keys
}

// fill makes the k-th part of the keys of a column. Words become their rank among those that there are.
func (s *groupSorter) fill(b *rowBuffer, k, column int) {
	l := b.layout
	words := isText(l.columns[column].kind)
	for i := range s.keys {
		row := b.row(int32(i))
		switch {
		case l.isNull(row, column):
		case words:
			s.keys[i].columns[k] = s.ranks.number(l.text(row, column))
		default:
			s.keys[i].columns[k] = l.ordinal(row, column)
		}
	}
	if !words {
		return
	}
	s.ranks.rank()
	for i := range s.keys {
		if n := &s.keys[i].columns[k]; *n != 0 {
			*n = s.ranks.of[*n-1]
		}
	}
	s.ranks.reset()
}

func isText(k schema.Kind) bool {
	return slices.Contains([]schema.Kind{schema.String, schema.Bytes, schema.UUID, schema.Map}, k)
}

// compare holds a column of two rows against each other: null comes first.
func (l *layout) compare(a, b []byte, column int) int {
	an, bn := l.isNull(a, column), l.isNull(b, column)
	switch {
	case an && bn:
		return 0
	case an:
		return -1
	case bn:
		return 1
	case isText(l.columns[column].kind):
		return bytes.Compare(l.text(a, column), l.text(b, column))
	}
	return cmp.Compare(l.ordinal(a, column), l.ordinal(b, column))
}

// ordinal is above 0 and keeps the order of the numbers of a column.
func (l *layout) ordinal(row []byte, column int) uint64 {
	n := l.number(row, column)
	switch l.columns[column].kind {
	case schema.Float, schema.Double:
		return ofDouble(math.Float64frombits(n))
	default:
		return ofLong(n)
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
	numbers map[string]uint64
	words   []string
	of      []uint64 // rank by number
	order   []int32
}

// number is 1 for the first word.
func (r *ranks) number(word []byte) uint64 {
	if n, ok := r.numbers[string(word)]; ok {
		return n
	}
	if r.numbers == nil {
		r.numbers = map[string]uint64{}
	}
	r.words = append(r.words, string(word))
	n := uint64(len(r.words))
	r.numbers[r.words[n-1]] = n
	return n
}

func (r *ranks) rank() {
	r.order = r.order[:0]
	for i := range r.words {
		r.order = append(r.order, int32(i))
	}
	slices.SortFunc(r.order, func(a, b int32) int { return cmp.Compare(r.words[a], r.words[b]) })
	r.of = slices.Grow(r.of[:0], len(r.words))[:len(r.words)]
	for rank, i := range r.order {
		r.of[i] = uint64(rank) + 1
	}
}

func (r *ranks) reset() {
	clear(r.numbers)
	clear(r.words)
	r.words = r.words[:0]
}
