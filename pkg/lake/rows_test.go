package lake

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/pkg/codec"
	"github.com/millrace/millrace/pkg/schema"
)

const sortedType = `{"type": "record", "name": "sorted", "namespace": "millrace", "fields": [
	{"name": "id", "type": {"type": "string", "logicalType": "uuid"}},
	{"name": "time", "type": {"type": "long", "logicalType": "timestamp-micros"}},
	{"name": "service", "type": "string", "default": ""}, {"name": "host", "type": "string", "default": ""},
	{"name": "datacenter", "type": "string", "default": ""}, {"name": "tenant", "type": "string", "default": ""},
	{"name": "word", "type": "string"},
	{"name": "maybe", "type": ["null", "double"], "default": null},
	{"name": "count", "type": ["null", "long"], "default": null},
	{"name": "further", "type": ["null", "string"], "default": null},
	{"name": "last", "type": ["null", "int"], "default": null}],
	"millrace": {"lake": {"partition": "day(time)", "sort": ["word", "maybe", "count", "further", "last"]}}}`

// TestRowsAreSorted holds the order of random rows against one by comparing values: few different ones, so that there are
// ties in every column, with nulls, NaN, zeros of both signs and the ends of what an integer holds.
func TestRowsAreSorted(t *testing.T) {
	typ, err := schema.Parse([]byte(sortedType))
	if err != nil {
		t.Fatal(err)
	}
	s := newStore(t)
	s.typ = typ
	if err := s.lake.Create(t.Context(), typ); err != nil {
		t.Fatal(err)
	}
	tb := s.open()
	l, p, err := tb.prepare(t.Context(), typ)
	if err != nil {
		t.Fatal(err)
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	doubles := []float64{math.NaN(), math.Inf(-1), -1.5, math.Copysign(0, -1), 0, 1e-300, 2, math.Inf(1)}
	longs := []int64{math.MinInt64 + 1, -1, 0, 1, math.MaxInt64}
	var records []codec.Record
	buf := newRowBuffer(l)
	for i := range 3000 {
		values := make([]codec.Value, len(typ.Fields))
		set := func(name string, v codec.Value) {
			if rnd.IntN(5) > 0 || !typ.Fields[typ.Index(name)].Nullable {
				values[typ.Index(name)] = v
			}
		}
		for _, name := range []string{"service", "host", "datacenter", "tenant"} {
			set(name, codec.StringValue("x"))
		}
		values[schema.ID] = codec.StringValue(fmt.Sprintf("018f0000-0000-7000-8000-%012d", i))
		values[schema.Time] = codec.LongValue(base.UnixMicro())
		set("word", codec.StringValue([]string{"", "service-1", "service-10", "service-2", "\xff"}[rnd.IntN(5)]))
		set("maybe", codec.DoubleValue(doubles[rnd.IntN(len(doubles))]))
		set("count", codec.LongValue(longs[rnd.IntN(len(longs))]))
		set("further", codec.StringValue(fmt.Sprint("f", rnd.IntN(3))))
		set("last", codec.LongValue(int64(rnd.IntN(3)-1)))
		records = append(records, codec.Record{Type: typ, Values: values, Source: &kgo.Record{
			Topic: "topic", Partition: int32(rnd.IntN(3)), Offset: int64(i), Timestamp: base.Add(time.Second),
		}})
		if _, err := buf.add(&records[i], p); err != nil {
			t.Fatal(err)
		}
	}
	want := make([]int, len(records))
	for i := range want {
		want[i] = i
	}
	slices.SortFunc(want, func(i, j int) int { return compareRecords(typ, &records[i], &records[j]) })
	sorter := newGroupSorter(l, sortColumns(tb.ice))
	for range 2 { // its buffers are used again
		for i, k := range sorter.sort(buf) {
			if int(k.row) != want[i] {
				t.Fatalf("row %d is that of record %d, want %d", i, k.row, want[i])
			}
		}
	}
}

func compareRecords(typ *schema.Type, a, b *codec.Record) int {
	for _, name := range []string{"word", "maybe", "count", "further", "last"} {
		x, y := a.Values[typ.Index(name)], b.Values[typ.Index(name)]
		var c int
		switch {
		case x.IsNull() || y.IsNull():
			c = cmp.Compare(truth(!x.IsNull()), truth(!y.IsNull()))
		case name == "maybe":
			c = cmp.Compare(x.Double(), y.Double())
		case name == "count" || name == "last":
			c = cmp.Compare(x.Long(), y.Long())
		default:
			c = bytes.Compare(x.Bytes(), y.Bytes())
		}
		if c != 0 {
			return c
		}
	}
	return cmp.Or(cmp.Compare(a.Source.Partition, b.Source.Partition), cmp.Compare(a.Source.Offset, b.Source.Offset))
}

func truth(b bool) int {
	if b {
		return 1
	}
	return 0
}

// TestHeldRowsAreBounded: rows take no more memory than is said, and give it back.
func TestHeldRowsAreBounded(t *testing.T) {
	s := newStore(t)
	l, p, err := s.open().prepare(t.Context(), s.typ)
	if err != nil {
		t.Fatal(err)
	}
	buf := newRowBuffer(l)
	var said int64
	records := s.records(0, 20_000)
	for i := range records {
		n, err := buf.add(&records[i], p)
		if err != nil {
			t.Fatal(err)
		}
		said += n
	}
	var took int64
	for _, block := range buf.blocks {
		took += int64(cap(block))
	}
	took += int64(cap(buf.refs)) * 24
	if said != buf.size || took > said+2*blockBytes {
		t.Errorf("%d bytes are held in rows that are said to take %d", took, said)
	}
	buf.reset()
	if len(buf.blocks) != 0 || buf.size != 0 {
		t.Errorf("%d blocks and %d bytes are left", len(buf.blocks), buf.size)
	}
	big := s.records(0, 1)[0]
	big.Values[s.typ.Index("body")] = codec.StringValue(string(make([]byte, 3*blockBytes))) // more than a block
	if n, err := buf.add(&big, p); err != nil || n < 3*blockBytes || len(l.text(buf.row(0), columnOf(l, "body"))) != 3*blockBytes {
		t.Errorf("a large row takes %d (%v)", n, err)
	}
}

func columnOf(l *layout, name string) int {
	return slices.IndexFunc(l.columns, func(c column) bool { return c.name == name })
}

// TestRowsThatPanicWhenTheyAreWrittenAreFound has two held rows whose text is said to lie beyond what is there.
func TestRowsThatPanicWhenTheyAreWrittenAreFound(t *testing.T) {
	s := newStore(t)
	tb := s.open()
	w, err := tb.NewWriter(t.Context(), WriterConfig{Memory: 1 << 20, GroupRows: 1000})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Add(t.Context(), s.typ, s.records(0, 50)); err != nil { // of the minute before midnight
		t.Fatal(err)
	}
	for _, part := range w.open {
		l := part.rows.layout
		for i, ref := range part.rows.refs {
			if ref.offset == 3 || ref.offset == 40 {
				cell := part.rows.row(int32(i))[l.nullBytes()+cellBytes*columnOf(l, "body"):]
				binary.LittleEndian.PutUint64(cell, math.MaxUint64)
			}
		}
	}
	_, err = w.Finish()
	e, ok := errors.AsType[*PanicError](err)
	if !ok || len(e.Rows) != 2 || e.Rows[RowID{0, 3}] == nil || e.Rows[RowID{0, 40}] == nil {
		t.Fatalf("got %v, to blame are %v", err, e.Rows)
	}
	w.Discard()
}
