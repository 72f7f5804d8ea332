// Package codec turns Kafka records into typed values by position and back: Avro in the Confluent wire format, with
// schemas from a registry, and JSON on the way in.
//
// A decoded event is not a map. Each pair of writer's and reader's schema is compiled once into a decoder that fills
// positional values over the record's own bytes.
package codec

import (
	"iter"
	"math"
	"unsafe"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/pkg/schema"
)

// Value is one field's value. The zero Value is null. What its bits mean is said by the field's schema.Kind at the
// same position.
//
// It is two words, one of them a pointer: a consumer holds millions of values, which the collector has to look through.
type Value struct {
	data *byte  // the first of the bytes, or a mark; nil of null
	num  uint64 // a number, or how many bytes there are
}

// marks stand for the data of what has none.
var marks [2]byte

func mark(i int) *byte { return &marks[i] }

func numberOf(n uint64) Value { return Value{data: mark(0), num: n} }

// Constructors of values, one per kind.

// BoolValue makes a Bool.
func BoolValue(b bool) Value {
	if b {
		return numberOf(1)
	}
	return numberOf(0)
}

// LongValue makes an Int, a Long, or a Timestamp in microseconds.
func LongValue(n int64) Value { return numberOf(uint64(n)) } //nolint:gosec // the bits are kept as they are

// DoubleValue makes a Float or a Double.
func DoubleValue(f float64) Value { return numberOf(math.Float64bits(f)) }

// BytesValue makes a String, Bytes, a UUID in its text form, or a Map in Avro's encoding. It keeps b.
func BytesValue(b []byte) Value {
	if len(b) == 0 {
		return Value{data: mark(1)}
	}
	return Value{data: unsafe.SliceData(b), num: uint64(len(b))} //nolint:gosec // kept for Bytes to make the same of
}

// StringValue makes a String or a UUID.
func StringValue(s string) Value { return BytesValue([]byte(s)) }

// IsNull says whether there is no value.
func (v Value) IsNull() bool { return v.data == nil }

// Bool gives a Bool.
func (v Value) Bool() bool { return v.bits() != 0 }

// Long gives an Int, a Long, or a Timestamp in microseconds since 1970.
func (v Value) Long() int64 { return int64(v.bits()) } //nolint:gosec // the bits are kept as they are

// Double gives a Float or a Double.
func (v Value) Double() float64 { return math.Float64frombits(v.bits()) }

// bits gives those of a number, and 0 for all else.
func (v Value) bits() uint64 {
	if v.data != mark(0) {
		return 0
	}
	return v.num
}

// Bytes gives a String, Bytes or a UUID's text without a copy: it lies in the record's own bytes and is not to be
// changed. For a Map it is Avro's encoding; use Pairs. It is nil for all else.
func (v Value) Bytes() []byte {
	if v.data == nil || v.data == mark(0) {
		return nil
	}
	return unsafe.Slice(v.data, v.num) //nolint:gosec // what BytesValue was given
}

// String gives a copy of Bytes as a string.
func (v Value) String() string { return string(v.Bytes()) }

// Pairs walks a Map in the order it was written. Keys and values lie in the record's bytes.
func (v Value) Pairs() iter.Seq2[[]byte, []byte] {
	return func(yield func([]byte, []byte) bool) { walkMap(v.Bytes(), yield) }
}

// Record is one decoded record.
type Record struct {
	Source *kgo.Record  // where it is from: topic, partition, offset, append time, key, headers and raw value
	Type   *schema.Type // Values are by this type's positions
	Values []Value
}

// ID gives the event's id in its text form.
func (r *Record) ID() []byte { return r.Values[schema.ID].Bytes() }

// TimeMicros gives the event time in microseconds since 1970.
func (r *Record) TimeMicros() int64 { return r.Values[schema.Time].Long() }

// BadRecord is an error that is the record's own fault: it can never be decoded, however often it is tried.
type BadRecord struct { //nolint:errname // it says what the record is, and stands in every caller
	Reason string // a short constant for the dead letter and the counter: "malformed", "time_out_of_range", ...
	Err    error
}

func (e *BadRecord) Error() string { return e.Reason + ": " + e.Err.Error() }
func (e *BadRecord) Unwrap() error { return e.Err }
