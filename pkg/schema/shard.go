package schema

import (
	"encoding/binary"
	"iter"
	"math"
)

// ShardValue is what Shard needs of a field's value; codec.Value has it. The zero value is null.
type ShardValue interface {
	IsNull() bool
	Bool() bool
	Long() int64
	Double() float64
	Bytes() []byte
	Pairs() iter.Seq2[[]byte, []byte]
}

// Shard gives the shard that a record belongs to, from 0 to Cassandra.Shards-1, by a hash of its ShardBy fields. values
// are by the type's positions.
//
// The hash is part of the format of the tables and never changes. It is 64-bit FNV-1a over, per field in order: a byte
// 0 for null, or a byte 1 and the value. A boolean is one byte; numbers and times are 8 bytes, big endian, floats as
// doubles; strings, uuids and bytes are preceded by their length in 8 bytes. A map is 8 bytes: the sum, over its pairs,
// of FNV-1a over key and value, each with its length, so that the order of pairs does not matter. The sum of the final
// hash is mixed (murmur3's finalizer), for FNV's low bits alone spread badly, and taken modulo the number of shards.
func Shard[V ShardValue](t *Type, values []V) int {
	if t.Cassandra.Shards == 1 {
		return 0
	}
	h := fnvOffset
	for _, i := range t.Cassandra.ShardBy {
		v := values[i]
		if v.IsNull() {
			h = hashByte(h, 0)
			continue
		}
		h = hashByte(h, 1)
		switch t.Fields[i].Kind {
		case Bool:
			var b byte
			if v.Bool() {
				b = 1
			}
			h = hashByte(h, b)
		case Int, Long, Timestamp:
			h = hashNumber(h, uint64(v.Long())) //nolint:gosec // only the bits matter
		case Float, Double:
			h = hashNumber(h, math.Float64bits(v.Double()))
		case Map:
			var sum uint64
			for key, val := range v.Pairs() {
				sum += mix(hashText(hashText(fnvOffset, key), val))
			}
			h = hashNumber(h, sum)
		default:
			h = hashText(h, v.Bytes())
		}
	}
	return int(mix(h) % uint64(t.Cassandra.Shards)) //nolint:gosec // less than Shards, which is at most 1024
}

// hash/fnv would cost an allocation per record.
const (
	fnvOffset uint64 = 14695981039346656037
	fnvPrime  uint64 = 1099511628211
)

func hashByte(h uint64, b byte) uint64 { return (h ^ uint64(b)) * fnvPrime }

func hashNumber(h, n uint64) uint64 {
	var buf [8]byte
	binary.BigEndian.PutUint64(buf[:], n)
	for _, b := range buf {
		h = hashByte(h, b)
	}
	return h
}

func hashText(h uint64, text []byte) uint64 {
	h = hashNumber(h, uint64(len(text)))
	for _, b := range text {
		h = hashByte(h, b)
	}
	return h
}

func mix(h uint64) uint64 {
	h ^= h >> 33
	h *= 0xff51afd7ed558ccd
	h ^= h >> 33
	h *= 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}
