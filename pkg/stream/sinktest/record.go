package sinktest

import (
	"encoding/hex"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/pkg/codec"
	"github.com/millrace/millrace/pkg/event"
	"github.com/millrace/millrace/pkg/schema"
	"github.com/millrace/millrace/pkg/stream"
)

// Maker makes records of a type whose values follow from their partition and offset: the same ones make the same
// record. Between them the records hold nulls, empty strings, Unicode, and the limits of each kind.
type Maker struct {
	Type  *schema.Type
	Topic string    // "" is the type's
	Base  time.Time // the first event's time
	Seed  string    // makes the ids differ from those of another maker
}

func (m Maker) topic() string {
	if m.Topic != "" {
		return m.Topic
	}
	return "millrace." + m.Type.Name
}

// Record is the record at an offset.
func (m Maker) Record(partition int32, offset int64) codec.Record {
	at := m.Base.Add(time.Duration(offset) * 1_000_003 * time.Microsecond / 1000).Truncate(time.Microsecond)
	values := make([]codec.Value, len(m.Type.Fields))
	for i, f := range m.Type.Fields {
		values[i] = value(f, int(offset)+i+int(partition), i)
	}
	id := event.DeriveID(at, m.Seed, m.topic(), strconv.Itoa(int(partition)), strconv.FormatInt(offset, 10))
	values[schema.ID] = codec.StringValue(id)
	values[schema.Time] = codec.LongValue(at.UnixMicro())
	source := &kgo.Record{
		Topic: m.topic(), Partition: partition, Offset: offset, Timestamp: at.Add(time.Second).Truncate(time.Millisecond),
		Key: []byte("key"), Value: []byte("made by sinktest, not in wire format"),
	}
	return codec.Record{Source: source, Type: m.Type, Values: values}
}

// Batch is the records of [first, next).
func (m Maker) Batch(partition int32, first, next int64) stream.Batch {
	b := stream.Batch{Topic: m.topic(), Partition: partition, First: first, Next: next, Type: m.Type}
	for o := first; o < next; o++ {
		r := m.Record(partition, o)
		b.Records = append(b.Records, r)
		b.Bytes += len(r.Source.Key) + len(r.Source.Value)
	}
	return b
}

// value is the nth of the values that a field can have. Common fields are key columns here and there, so they stay
// short.
func value(f schema.Field, n, position int) codec.Value {
	if f.Nullable && n%5 == 0 {
		return codec.Value{}
	}
	switch f.Kind {
	case schema.Bool:
		return codec.BoolValue(n%2 == 0)
	case schema.Int:
		return codec.LongValue(pick[int64](n, 0, -1, math.MaxInt32, math.MinInt32, 42))
	case schema.Long:
		return codec.LongValue(pick[int64](n, 0, -1, math.MaxInt64, math.MinInt64, 1<<53+1))
	case schema.Timestamp:
		return codec.LongValue(pick[int64](n, 1_700_000_000_123_456, 0, 1_800_000_000_000_001))
	case schema.Float:
		return codec.DoubleValue(float64(pick(n, 0, 1.5, math.MaxFloat32, -math.SmallestNonzeroFloat32, float32(0.1))))
	case schema.Double:
		return codec.DoubleValue(pick(n, 0, 1.5, math.MaxFloat64, -math.SmallestNonzeroFloat64, 0.1))
	case schema.Bytes:
		return codec.BytesValue(pick(n, []byte{}, []byte{0, 0xff, 0x80}, []byte("bytes")))
	case schema.UUID:
		return codec.StringValue("018f0000-0000-7000-8000-00000000000" + strconv.Itoa(n%10))
	case schema.Map:
		return codec.MapValue(pick(n, nil, map[string]string{"k": ""}, map[string]string{"żółć": "東京", "a.b": "dotted"},
			map[string]string{"k": "v", "emoji": "🚀", "long": strings.Repeat("x", 300)}))
	case schema.String:
		if position < schema.Common {
			return codec.StringValue(pick(n, "billing", "", "Größe", "a/b c"))
		}
		return codec.StringValue(pick(n, "plain", "", "żółć 東京 🚀", "tab\t\"quote\" \\ line\nend", strings.Repeat("é", 300)))
	default:
		return codec.Value{}
	}
}

func pick[T any](n int, of ...T) T { return of[n%len(of)] }

// Text is a record's values, one per line, in a form that is equal when and only when the values are.
func Text(t *schema.Type, values []codec.Value) string {
	var b strings.Builder
	for i, f := range t.Fields {
		v := codec.Value{}
		if i < len(values) {
			v = values[i]
		}
		fmt.Fprintf(&b, "%s: %s\n", f.Name, text(f.Kind, v))
	}
	return b.String()
}

func text(k schema.Kind, v codec.Value) string {
	if v.IsNull() {
		return "null"
	}
	switch k {
	case schema.Bool:
		return strconv.FormatBool(v.Bool())
	case schema.Int, schema.Long, schema.Timestamp:
		return strconv.FormatInt(v.Long(), 10)
	case schema.Float:
		return strconv.FormatFloat(v.Double(), 'g', -1, 32)
	case schema.Double:
		return strconv.FormatFloat(v.Double(), 'g', -1, 64)
	case schema.Bytes:
		return hex.EncodeToString(v.Bytes())
	case schema.Map:
		pairs := map[string]string{}
		for key, val := range v.Pairs() {
			pairs[string(key)] = string(val)
		}
		var b strings.Builder
		for _, key := range slices.Sorted(maps.Keys(pairs)) {
			fmt.Fprintf(&b, "%q=%q ", key, pairs[key])
		}
		return "{" + b.String() + "}"
	default:
		return strconv.Quote(v.String())
	}
}
