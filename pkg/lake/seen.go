package lake

import (
	"errors"
	"maps"
	"math/bits"
	"slices"
)

// Range is the offsets [First, Next).
type Range struct {
	First int64 `json:"first"`
	Next  int64 `json:"next"`
}

// Ranges are the first of many, and how many offsets all of them are.
type Ranges struct {
	Count  int64   `json:"count"`
	Ranges []Range `json:"ranges,omitempty"`
	More   bool    `json:"more,omitempty"` // than are listed
}

// mostRanges are listed.
const mostRanges = 1000

func (r *Ranges) add(first, next int64) {
	if first >= next {
		return
	}
	r.Count += next - first
	if n := len(r.Ranges); n > 0 && r.Ranges[n-1].Next == first && !r.More {
		r.Ranges[n-1].Next = next
		return
	}
	if len(r.Ranges) == mostRanges {
		r.More = true
		return
	}
	r.Ranges = append(r.Ranges, Range{first, next})
}

const (
	pageBits = 1 << 16 // offsets of a page
	pageCost = pageBits / 8
)

// errMemory says that a bitmap would take more than its bound.
var errMemory = errors.New("more memory is needed than allowed")

// room is the memory that several bitmaps may take together.
type room struct{ left int64 }

// A bitmap is a set of offsets, a bit each; pages that are full take nothing. Offsets come nearly in order, so that at
// most a few pages are not full, but for those with offsets that are no rows.
type bitmap struct {
	room *room
	full map[int64]bool
	part map[int64]*bitPage
}

type bitPage struct {
	n     int
	words [pageBits / 64]uint64
}

func newBitmap(r *room) *bitmap {
	return &bitmap{room: r, full: map[int64]bool{}, part: map[int64]*bitPage{}}
}

// add puts an offset in; fresh says that it was not there.
func (b *bitmap) add(o int64) (fresh bool, err error) {
	key, bit := o/pageBits, uint64(o%pageBits) //nolint:gosec // an offset is not below 0
	if b.full[key] {
		return false, nil
	}
	p := b.part[key]
	if p == nil {
		if b.room.left < pageCost {
			return false, errMemory
		}
		b.room.left -= pageCost
		p = &bitPage{}
		b.part[key] = p
	}
	if p.words[bit/64]&(1<<(bit%64)) != 0 {
		return false, nil
	}
	p.words[bit/64] |= 1 << (bit % 64)
	if p.n++; p.n == pageBits {
		delete(b.part, key)
		b.full[key] = true
		b.room.left += pageCost
	}
	return true, nil
}

// absent adds the offsets of [first, next) that are not in.
func (b *bitmap) absent(first, next int64, out *Ranges) {
	for o := first; o < next; {
		key := o / pageBits
		end := min((key+1)*pageBits, next)
		switch p := b.part[key]; {
		case b.full[key]:
		case p == nil:
			out.add(o, end)
		default:
			p.clear(o, end, out)
		}
		o = end
	}
}

// clear adds the offsets of [first, next), all of this page, whose bit is not set.
func (p *bitPage) clear(first, next int64, out *Ranges) {
	for o := first; o < next; {
		w := ^p.words[o%pageBits/64] >> (o % 64)
		if w == 0 {
			o += 64 - o%64
			continue
		}
		o += int64(bits.TrailingZeros64(w))
		run := int64(bits.TrailingZeros64(^(w >> bits.TrailingZeros64(w))))
		end := min(o+run, next, o-o%64+64)
		out.add(o, end)
		o = end
	}
}

// present adds all that are in.
func (b *bitmap) present(out *Ranges) {
	keys := slices.AppendSeq(slices.Collect(maps.Keys(b.full)), maps.Keys(b.part))
	slices.Sort(keys)
	for _, key := range keys {
		base := key * pageBits
		p := b.part[key]
		if p == nil {
			out.add(base, base+pageBits)
			continue
		}
		for i, w := range p.words {
			for ; w != 0; w &= w - 1 {
				o := base + int64(64*i+bits.TrailingZeros64(w))
				out.add(o, o+1)
			}
		}
	}
}

// has says whether an offset is in.
func (b *bitmap) has(o int64) bool {
	key, bit := o/pageBits, uint64(o%pageBits) //nolint:gosec // an offset is not below 0
	p := b.part[key]
	return b.full[key] || p != nil && p.words[bit/64]&(1<<(bit%64)) != 0
}
