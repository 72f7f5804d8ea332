package lake

import (
	"bytes"

	"github.com/parquet-go/parquet-go"

	"github.com/millrace/millrace/pkg/schema"
)

const (
	mostWords = 8192 // of a leaf that are numbered
	longWord  = 512  // bytes from which on a word is not numbered
	// fewWords is how many words a leaf may have before it must be seen that they repeat: each comes twice on average.
	fewWords  = 512
	wordShare = 8 // the part of a writer's memory that the words of its rows may take
	// wordCost is what a word takes beside its bytes, which are held twice.
	wordCost = 128
)

// words numbers the words of a writer's columns, so that a row holds a word's number, and the word is in one place however many
// rows have it. It is for one layout, and grows up to a bound.
type words struct {
	leaves []*vocabulary // by the leaf's index; nil of what has no words
	size   int64         // memory of all
	most   int64
}

// newWords has room for a share of a writer's memory.
func newWords(l *layout, memory int64) *words {
	w := &words{leaves: make([]*vocabulary, len(l.leaves)), most: memory / wordShare}
	for _, lf := range l.leaves {
		c := &l.columns[lf.column]
		if lf.mapKey || lf.mapValue || c.kind == schema.String && c.name != idColumn {
			w.leaves[lf.index] = &vocabulary{all: w, leaf: lf}
		}
	}
	return w
}

// vocabulary is the words of one leaf: as they are handed to Parquet, at the places that are their numbers.
type vocabulary struct {
	all     *words
	leaf    leaf
	numbers map[string]uint32
	values  []parquet.Value
	later   []parquet.Value // the same where they are not the first in their row's map
	last    uint32          // the number that was asked for last: words often come in rows
	asked   int
	missed  int  // of those asked for, the ones that had no number
	closed  bool // words hardly ever repeat
}

// number gives a word's number. It reports false for a word that has none, which is to be held where it is.
func (v *vocabulary) number(word []byte) (uint32, bool) {
	if v == nil || v.closed {
		return 0, false
	}
	v.asked++
	if int(v.last) < len(v.values) && bytes.Equal(v.values[v.last].ByteArray(), word) {
		return v.last, true
	}
	n, ok := v.numbers[string(word)]
	if !ok {
		if n, ok = v.add(word); !ok {
			return 0, false
		}
	}
	v.last = n
	return n, true
}

func (v *vocabulary) add(word []byte) (uint32, bool) {
	if v.missed++; v.missed > fewWords && v.asked < 2*v.missed {
		v.closed = true
		return 0, false
	}
	n, size := len(v.values), wordCost+2*int64(len(word))
	if n == mostWords || len(word) > longWord || v.all.size+size > v.all.most {
		return 0, false
	}
	if v.numbers == nil {
		v.numbers = map[string]uint32{}
	}
	v.all.size += size
	number := uint32(n) //nolint:gosec // below mostWords
	v.numbers[string(word)] = number
	v.values = append(v.values, v.leaf.text(bytes.Clone(word), 0))
	if v.leaf.mapKey || v.leaf.mapValue {
		v.later = append(v.later, v.leaf.text(v.values[n].ByteArray(), 1))
	}
	return number, true
}

// text is a value of a leaf that holds some. It keeps the bytes.
func (lf *leaf) text(b []byte, repetition int) parquet.Value {
	return parquet.ByteArrayValue(b).Level(repetition, lf.maxDef, lf.index)
}
