package codec

import (
	"bytes"
	"maps"
	"slices"
)

// MapValue makes a Map, with its keys in order.
func MapValue(m map[string]string) Value {
	if len(m) == 0 {
		return BytesValue(emptyMap[:])
	}
	buf := appendLong(nil, int64(len(m)))
	for _, k := range slices.Sorted(maps.Keys(m)) {
		buf = appendText(appendText(buf, k), m[k])
	}
	return BytesValue(append(buf, 0))
}

// PairsValue makes a Map of keys and values that follow each other, in their order. A last key without a value has the
// empty one. It is cheaper than MapValue; keys must differ, else encoding is refused.
func PairsValue(kv ...string) Value {
	if len(kv) == 0 {
		return BytesValue(emptyMap[:])
	}
	buf := appendLong(nil, int64(len(kv)+1)/2)
	for _, s := range kv {
		buf = appendText(buf, s)
	}
	if len(kv)%2 != 0 {
		buf = append(buf, 0)
	}
	return BytesValue(append(buf, 0))
}

// emptyMap is Avro's encoding of no entries.
var emptyMap = [1]byte{}

func appendText(dst []byte, s string) []byte {
	return append(appendLong(dst, int64(len(s))), s...)
}

// fewKeys is how many keys are compared each with each. More go through a table.
const fewKeys = 16

// mapCheck validates encoded maps. It keeps its table between maps.
type mapCheck struct {
	few  [fewKeys][]byte
	seen map[string]struct{}
}

// end checks the map at b[pos:] and gives where it ends. Keys and values are UTF-8, no key comes twice, and no count
// or size claims more than is there.
func (m *mapCheck) end(b []byte, pos int) (int, error) {
	total := 0
	for {
		count, blockEnd, p, err := block(b, pos, 2)
		if err != nil {
			return 0, err
		}
		pos = p
		if count == 0 {
			return pos, nil
		}
		for range count {
			ks, ke, err := text(b, pos)
			if err != nil {
				return 0, err
			}
			if !m.add(total, b[ks:ke]) {
				return 0, errMapKey
			}
			total++
			if _, pos, err = text(b, ke); err != nil {
				return 0, err
			}
		}
		if blockEnd >= 0 && pos != blockEnd {
			return 0, errMapSize
		}
	}
}

// block reads the head of a map's or an array's block, whose entries take at least `least` bytes each. blockEnd is -1
// where the block does not say its size.
func block(b []byte, pos int, least int64) (count int64, blockEnd, next int, err error) {
	count, pos = long(b, pos)
	if pos < 0 {
		return 0, 0, 0, failed(pos)
	}
	blockEnd = -1
	if count < 0 {
		var size int64
		if size, pos = long(b, pos); pos < 0 {
			return 0, 0, 0, failed(pos)
		}
		if size < 0 || size > int64(len(b)-pos) {
			return 0, 0, 0, errLength
		}
		count, blockEnd = -count, pos+int(size)
	}
	// -count of the smallest int64 is itself, hence the first test.
	if count < 0 || least > 0 && count > int64(len(b)-pos)/least {
		return 0, 0, 0, errMapCount
	}
	return count, blockEnd, pos, nil
}

// add remembers the n-th key of a map and says whether it is new.
func (m *mapCheck) add(n int, key []byte) bool {
	if n < fewKeys {
		for _, k := range m.few[:n] {
			if bytes.Equal(k, key) {
				return false
			}
		}
		m.few[n] = key
		return true
	}
	if n == fewKeys {
		if m.seen == nil {
			m.seen = make(map[string]struct{}, 4*fewKeys)
		}
		clear(m.seen)
		for _, k := range m.few {
			m.seen[string(k)] = struct{}{}
		}
	}
	if _, twice := m.seen[string(key)]; twice {
		return false
	}
	m.seen[string(key)] = struct{}{}
	return true
}

// walkMap gives the entries of an encoded map. It stops at whatever is not one: a map that was decoded is checked.
func walkMap(b []byte, yield func(k, v []byte) bool) {
	for pos := 0; ; {
		count, _, p, err := block(b, pos, 2)
		if err != nil || count == 0 {
			return
		}
		pos = p
		for range count {
			ks, ke, err := span(b, pos)
			if err != nil {
				return
			}
			vs, ve, err := span(b, ke)
			if err != nil {
				return
			}
			if !yield(b[ks:ke:ke], b[vs:ve:ve]) {
				return
			}
			pos = ve
		}
	}
}
