package lake

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"math"
	"slices"

	"github.com/apache/iceberg-go"
	iceio "github.com/apache/iceberg-go/io"
	"github.com/parquet-go/parquet-go"
	"github.com/parquet-go/parquet-go/format"

	"github.com/millrace/millrace/pkg/failpoint"
	"github.com/millrace/millrace/pkg/schema"
)

const (
	chunkRows  = 1024      // rows handed to a column at once
	boundBytes = 16        // of a string that are kept in a file's bounds, as Iceberg's truncate(16)
	maxDict    = 512 << 10 // bytes of a dictionary before the column is written plain
)

// fileWriter writes one Parquet file of one table partition, row group by row group.
type fileWriter struct {
	path   string
	layout *layout
	out    iceio.FileWriter
	buf    *bufio.Writer
	w      *parquet.GenericWriter[any]
	rows   int64
	nans   map[int]int64 // by field id
	values []parquet.Value
	chunk  [][]byte // the rows that are being handed to the columns
	cells  []uint64 // theirs of one column
	sorter groupSorter
	sorted *int // the sort order that the whole file is in, if any
}

// creator is where files are made.
type creator interface {
	Create(name string) (iceio.FileWriter, error)
}

func newFileWriter(fs creator, path string, l *layout, sorted []string) (*fileWriter, error) {
	out, err := fs.Create(path)
	if err != nil {
		return nil, fmt.Errorf("creating data file %s: %w", path, err)
	}
	f := &fileWriter{path: path, layout: l, out: out, nans: map[int]int64{}, sorter: newGroupSorter(l, sorted)}
	f.buf = bufio.NewWriterSize(out, 256<<10)
	opts := []parquet.WriterOption{
		l.parquet,
		parquet.Compression(compression),
		parquet.CreatedBy("millrace", "1", "parquet-go"),
		parquet.PageBufferSize(64 << 10), // and what a chunk adds: mostly below the 128 KiB that are compressed as one block
		parquet.DictionaryMaxBytes(maxDict),
		parquet.DataPageStatistics(true),
		parquet.KeyValueMetadata("millrace.row-group-sort", fmt.Sprint(sorted)),
	}
	for _, lf := range l.leaves {
		if l.columns[lf.column].name == idColumn {
			opts = append(opts, parquet.BloomFilters(parquet.SplitBlockFilter(10, idColumn)))
		}
	}
	f.w = parquet.NewGenericWriter[any](f.buf, opts...)
	return f, nil
}

// writeGroup sorts rows and writes them as one row group.
func (f *fileWriter) writeGroup(b *rowBuffer) error {
	if len(b.refs) == 0 {
		return nil
	}
	order := f.sorter.sort(b)
	columns := f.w.ColumnWriters()
	// All columns of a few rows, and then of the next: these few stay in the cache.
	for chunk := range slices.Chunk(order, chunkRows) {
		f.chunk = f.chunk[:0]
		for _, k := range chunk {
			f.chunk = append(f.chunk, b.at(k.row))
		}
		for i := range f.layout.leaves {
			lf := &f.layout.leaves[i]
			f.gather(b.words, lf)
			f.countNaNs(lf)
			if _, err := columns[lf.index].WriteRowValues(f.values); err != nil {
				return fmt.Errorf("writing column %s of %s: %w", f.layout.columns[lf.column].name, f.path, err)
			}
		}
	}
	if err := f.w.Flush(); err != nil {
		return fmt.Errorf("writing row group of %s: %w", f.path, err)
	}
	f.rows += int64(len(b.refs))
	failpoint.Hit("lake.row_group")
	return nil
}

// gather makes f.values those that a leaf has in f.chunk.
func (f *fileWriter) gather(w *words, lf *leaf) {
	c := &f.layout.columns[lf.column]
	f.cells = f.cells[:0]
	for at, i := f.layout.nullBytes()+cellBytes*lf.column, 0; i < len(f.chunk); i++ {
		f.cells = append(f.cells, binary.LittleEndian.Uint64(f.chunk[i][at:]))
	}
	f.values = f.values[:0]
	if lf.mapKey || lf.mapValue {
		for i, row := range f.chunk {
			f.values = w.appendSide(f.values, lf, row, f.cells[i], f.layout.isNull(row, lf.column))
		}
		return
	}
	f.appendValues(w.leaves[lf.index], c.kind)
	if lf.maxDef == 0 {
		return
	}
	null := parquet.NullValue()
	for i, row := range f.chunk {
		if f.layout.isNull(row, lf.column) {
			f.values[i] = null
		} else {
			f.values[i].SetDefinitionLevel(lf.maxDef)
		}
	}
}

// appendValues makes a value of every cell. The cell of a null is 0.
func (f *fileWriter) appendValues(v *vocabulary, kind schema.Kind) {
	switch kind {
	case schema.Bool:
		for _, cell := range f.cells {
			f.values = append(f.values, parquet.BooleanValue(cell != 0))
		}
	case schema.Int:
		for _, cell := range f.cells {
			f.values = append(f.values, parquet.Int32Value(int32(cell))) //nolint:gosec // an Avro int has 32 bits
		}
	case schema.Long, schema.Timestamp:
		for _, cell := range f.cells {
			f.values = append(f.values, parquet.Int64Value(int64(cell))) //nolint:gosec // the bits as they are
		}
	case schema.Float:
		for _, cell := range f.cells {
			f.values = append(f.values, parquet.FloatValue(float32(math.Float64frombits(cell))))
		}
	case schema.Double:
		for _, cell := range f.cells {
			f.values = append(f.values, parquet.DoubleValue(math.Float64frombits(cell)))
		}
	case schema.UUID:
		for i, cell := range f.cells {
			f.values = append(f.values, parquet.FixedLenByteArrayValue(textAt(f.chunk[i], cell)))
		}
	default:
		for i, cell := range f.cells {
			if cell&wordCell != 0 {
				f.values = append(f.values, v.values[cell&^wordCell])
			} else {
				f.values = append(f.values, parquet.ByteArrayValue(textAt(f.chunk[i], cell)))
			}
		}
	}
}

// appendSide adds the keys or the values of a map: repetition level 0 opens the row, 1 goes on with it. An absent map and an
// empty one are told apart by the definition level.
func (w *words) appendSide(dst []parquet.Value, lf *leaf, row []byte, cell uint64, null bool) []parquet.Value {
	if null {
		return append(dst, parquet.NullValue())
	}
	entries, n := row[cell>>32:], int(cell&math.MaxUint32)
	if n == 0 {
		present := 1
		if lf.required {
			present = 0
		}
		return append(dst, parquet.NullValue().Level(0, present, lf.index))
	}
	if lf.mapValue {
		entries = entries[cellBytes:]
	}
	values := w.leaves[lf.index].values
	for i := range n {
		cell := binary.LittleEndian.Uint64(entries[2*cellBytes*i:])
		if cell&wordCell != 0 {
			dst = append(dst, values[cell&^wordCell])
		} else {
			dst = append(dst, lf.text(textAt(row, cell), min(i, 1)))
		}
		values = w.leaves[lf.index].later
	}
	return dst
}

func (f *fileWriter) countNaNs(lf *leaf) {
	if k := f.layout.columns[lf.column].kind; k != schema.Float && k != schema.Double {
		return
	}
	for _, v := range f.values {
		if isNaN(v) {
			f.nans[lf.id]++
		}
	}
}

func isNaN(v parquet.Value) bool {
	return v.Kind() == parquet.Double && math.IsNaN(v.Double()) || v.Kind() == parquet.Float && math.IsNaN(float64(v.Float()))
}

// close writes the footer and makes the file durable.
func (f *fileWriter) close() error {
	err := f.w.Close()
	if err == nil {
		failpoint.Hit("lake.footer") // all but the last of it is in the file
		err = f.buf.Flush()
	}
	if s, ok := f.out.(interface{ Sync() error }); ok && err == nil {
		err = s.Sync()
	}
	if cerr := f.out.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("closing data file %s: %w", f.path, err)
	}
	failpoint.Hit("lake.close")
	return nil
}

// abandon closes the file without finishing it.
func (f *fileWriter) abandon() { _ = f.out.Close() }

// dataFile describes the closed file to Iceberg from what the writer itself counted: nothing is read back.
func (f *fileWriter) dataFile(spec iceberg.PartitionSpec, partition map[int]any) (iceberg.DataFile, error) {
	view := f.w.File()
	meta := view.Metadata()
	b, err := iceberg.NewDataFileBuilder(spec, iceberg.EntryContentData, f.path, iceberg.ParquetFile,
		partition, logicalTypes(spec), nil, f.rows, view.Size())
	if err != nil {
		return nil, fmt.Errorf("describing data file %s: %w", f.path, err)
	}
	s := f.statistics(meta)
	b.ColumnSizes(s.sizes).ValueCounts(s.counts).NullValueCounts(s.nulls).NaNValueCounts(f.nans).
		LowerBoundValues(s.lower).UpperBoundValues(s.upper).SplitOffsets(s.splits)
	if f.sorted != nil {
		b.SortOrderID(*f.sorted)
	}
	return b.Build(), nil
}

// logicalTypes tells iceberg-go which partition values are dates.
func logicalTypes(spec iceberg.PartitionSpec) map[int]string {
	m := map[int]string{}
	for _, p := range spec.Fields() {
		if p.Transform.Equals(iceberg.DayTransform{}) {
			m[p.FieldID] = "date"
		}
	}
	return m
}

type statistics struct {
	sizes, counts, nulls map[int]int64
	lower, upper         map[int][]byte
	splits               []int64
}

func (f *fileWriter) statistics(meta *format.FileMetaData) statistics {
	s := statistics{
		sizes: map[int]int64{}, counts: map[int]int64{}, nulls: map[int]int64{},
		lower: map[int][]byte{}, upper: map[int][]byte{},
	}
	unbounded := map[int]bool{}
	for _, g := range meta.RowGroups {
		s.splits = append(s.splits, groupStart(g))
		for _, lf := range f.layout.leaves {
			c := g.Columns[lf.index].MetaData
			s.sizes[lf.id] += c.TotalCompressedSize
			if !lf.bounded {
				continue
			}
			s.counts[lf.id] += c.NumValues
			s.nulls[lf.id] += c.Statistics.NullCount
			if c.Statistics.NullCount == c.NumValues {
				continue
			}
			f.bound(&s, lf, c.Statistics, unbounded)
		}
	}
	for id := range unbounded {
		delete(s.lower, id)
		delete(s.upper, id)
	}
	return s
}

// groupStart is where a row group's bytes begin: its first column's dictionary, or page.
func groupStart(g format.RowGroup) int64 {
	start := int64(math.MaxInt64)
	for _, c := range g.Columns {
		start = min(start, c.MetaData.DataPageOffset)
		if c.MetaData.DictionaryPageOffset > 0 {
			start = min(start, c.MetaData.DictionaryPageOffset)
		}
	}
	return start
}

// bound widens the file's bounds of one column by those of a row group. Parquet's and Iceberg's forms of a value are
// the same bytes for every type in use here.
func (f *fileWriter) bound(s *statistics, lf leaf, st format.Statistics, unbounded map[int]bool) {
	kind := f.layout.columns[lf.column].kind
	if st.MinValue == nil || st.MaxValue == nil || f.nans[lf.id] > 0 {
		unbounded[lf.id] = true
		return
	}
	lower, upper := slices.Clone(st.MinValue), slices.Clone(st.MaxValue)
	if kind == schema.String || kind == schema.Bytes {
		lower = truncateLower(lower, kind)
		if upper = truncateUpper(upper, kind); upper == nil {
			unbounded[lf.id] = true
		}
	}
	if have, ok := s.lower[lf.id]; !ok || less(lower, have, kind) {
		s.lower[lf.id] = lower
	}
	if have, ok := s.upper[lf.id]; !ok || less(have, upper, kind) {
		s.upper[lf.id] = upper
	}
}
