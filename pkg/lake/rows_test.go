package lake

import (
	"bytes"
	order "cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/parquet-go/parquet-go"
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
	}
	want := make([]int, len(records))
	for i := range want {
		want[i] = i
	}
	slices.SortFunc(want, func(i, j int) int { return compareRecords(typ, &records[i], &records[j]) })
	sorter := newGroupSorter(l, sortColumns(tb.ice))
	// Numbered are all words, none, and those from a row in the middle on.
	for _, from := range []int{0, len(records), len(records) / 2} {
		words := newWords(l, 0)
		buf := newRowBuffer(l, words)
		for i := range records {
			if i == from {
				words.most = 1 << 20
			}
			if _, err := buf.add(&records[i], p); err != nil {
				t.Fatal(err)
			}
		}
		for i, k := range sorter.sort(buf) { // its buffers are used again
			if int(k.row) != want[i] {
				t.Fatalf("with words from row %d on, row %d is that of record %d, want %d", from, i, k.row, want[i])
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
			c = order.Compare(truth(!x.IsNull()), truth(!y.IsNull()))
		case name == "maybe":
			c = order.Compare(x.Double(), y.Double())
		case name == "count" || name == "last":
			c = order.Compare(x.Long(), y.Long())
		default:
			c = bytes.Compare(x.Bytes(), y.Bytes())
		}
		if c != 0 {
			return c
		}
	}
	return order.Or(order.Compare(a.Source.Partition, b.Source.Partition), order.Compare(a.Source.Offset, b.Source.Offset))
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
	buf := newRowBuffer(l, newWords(l, 1<<20))
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
	if n, err := buf.add(&big, p); err != nil || n < 3*blockBytes || len(textAt(buf.at(0), l.cell(buf.at(0), columnOf(l, "body")))) != 3*blockBytes {
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
				cell := part.rows.at(int32(i))[l.nullBytes()+cellBytes*columnOf(l, "body"):]
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

// TestWordsAreBounded: those that repeat are numbered, up to a bound, and a column whose words do not is left alone.
func TestWordsAreBounded(t *testing.T) {
	s := newStore(t)
	l, p, err := s.open().prepare(t.Context(), s.typ)
	if err != nil {
		t.Fatal(err)
	}
	const most = 300 << 10 // less than all need
	words := newWords(l, wordShare*most)
	buf := newRowBuffer(l, words)
	records := logs(s.typ, 3*mostWords)
	for i := range records {
		if _, err := buf.add(&records[i], p); err != nil {
			t.Fatal(err)
		}
	}
	if words.size > most {
		t.Errorf("words take %d bytes, of %d", words.size, most)
	}
	for name, want := range map[string]bool{"service": true, "host": true, "severity": true, "body": false, "trace_id": false} {
		v := words.leaves[l.columns[columnOf(l, name)].leaf]
		row := buf.at(int32(len(buf.refs) - 1))
		if numbered := l.cell(row, columnOf(l, name))&wordCell != 0; numbered != want || v.closed == want || len(v.values) > mostWords {
			t.Errorf("%s: %d words, closed %t; the last row's is numbered: %t, want %t", name, len(v.values), v.closed, numbered, want)
		}
	}
	if v := words.leaves[l.columns[columnOf(l, "body")].leaf]; len(v.values) != fewWords {
		t.Errorf("%d bodies are numbered, want the first %d", len(v.values), fewWords)
	}
}

// logRow is what a reader without any of this package makes of a row.
type logRow struct {
	ID         string            `parquet:"id"`
	Time       int64             `parquet:"time,timestamp(microsecond)"`
	Service    string            `parquet:"service"`
	Severity   *string           `parquet:"severity"`
	Source     *string           `parquet:"source"`
	Body       string            `parquet:"body"`
	TraceID    *string           `parquet:"trace_id"`
	Attributes map[string]string `parquet:"attributes"`
	Topic      string            `parquet:"_topic"`
	Partition  int32             `parquet:"_topic_partition"`
	Offset     int64             `parquet:"_offset"`
}

func logRowOf(r *codec.Record) logRow {
	text := func(name string) *string {
		if v := r.Values[r.Type.Index(name)]; !v.IsNull() {
			return new(v.String())
		}
		return nil
	}
	row := logRow{
		ID: *text("id"), Time: r.TimeMicros(), Service: *text("service"), Severity: text("severity"), Source: text("source"),
		Body: *text("body"), TraceID: text("trace_id"), Attributes: map[string]string{},
		Topic: r.Source.Topic, Partition: r.Source.Partition, Offset: r.Source.Offset,
	}
	for k, v := range r.Values[r.Type.Index("attributes")].Pairs() {
		row.Attributes[string(k)] = string(v)
	}
	return row
}

// TestEachWordIsWritten reads back rows whose words are numbered, are not, and are in part: texts and maps, with nulls.
func TestEachWordIsWritten(t *testing.T) {
	for _, memory := range []int64{1 << 30, 1 << 20, 8} { // room for all words, for some, and for none
		s := newStore(t)
		w, err := s.open().NewWriter(t.Context(), WriterConfig{Memory: memory, GroupRows: 900})
		if err != nil {
			t.Fatal(err)
		}
		records := logs(s.typ, 2000)
		for i := range records {
			m := map[string]string{}
			for k := range i % 4 {
				m[fmt.Sprint("key-", k)] = fmt.Sprint("value-", i%(700*k+1))
			}
			records[i].Values[s.typ.Index("attributes")] = codec.MapValue(m)
			if i%3 == 0 {
				records[i].Values[s.typ.Index("severity")] = codec.Value{}
			}
			if i%7 == 0 {
				records[i].Values[s.typ.Index("source")] = codec.StringValue("")
			}
		}
		if memory == 8 {
			records = records[:50] // a row group each
		}
		want := map[string]logRow{}
		for i := range records {
			want[string(records[i].ID())] = logRowOf(&records[i])
		}
		if err := w.Add(t.Context(), s.typ, records); err != nil {
			t.Fatal(err)
		}
		files, err := w.Finish()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			rows, err := parquet.ReadFile[logRow](strings.TrimPrefix(f.FilePath(), "file://"))
			if err != nil {
				t.Fatal(err)
			}
			for _, got := range rows {
				if d := cmp.Diff(want[got.ID], got); d != "" {
					t.Fatalf("memory %d: -want +got\n%s", memory, d)
				}
				delete(want, got.ID)
			}
		}
		if len(want) != 0 {
			t.Errorf("memory %d: %d rows were not written", memory, len(want))
		}
	}
}
