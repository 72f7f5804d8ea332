package lake

import (
	"bufio"
	"container/heap"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/apache/iceberg-go"
	iceio "github.com/apache/iceberg-go/io"
	"github.com/apache/iceberg-go/table"
	"github.com/parquet-go/parquet-go"

	"github.com/millrace/millrace/pkg/schema"
)

// mostRuns are merged at once: each takes a page of every column.
const mostRuns = 32

// ordering is how rows of a layout are sorted: by leaves, and last by where they are from, so that the same rows make
// the same file.
type ordering struct {
	layout *layout
	leaves []int
	types  []parquet.Type
}

// newOrdering takes over a table's sort order.
func newOrdering(ice *table.Table, l *layout) (*ordering, error) {
	o := &ordering{layout: l}
	order := ice.SortOrder()
	for _, f := range order.Fields() {
		if f.Transform != (iceberg.IdentityTransform{}) || f.Direction != table.SortASC || f.NullOrder != table.NullsFirst {
			return nil, errors.New("the table's sort order is not one that a data type gives")
		}
		name, _ := ice.Schema().FindColumnName(f.SourceID())
		if err := o.by(name); err != nil {
			return nil, err
		}
	}
	return o, errors.Join(o.by(schema.LakePartition), o.by(schema.LakeOffset))
}

func (o *ordering) by(name string) error {
	leaf, ok := o.layout.parquet.Lookup(name)
	if !ok {
		return fmt.Errorf("the table is sorted by %q, which is not a plain column", name)
	}
	o.leaves = append(o.leaves, leaf.ColumnIndex)
	o.types = append(o.types, leaf.Node.Type())
	return nil
}

// sortRow is a row in a layout's order, and the values that it is sorted by.
type sortRow struct {
	row  parquet.Row
	keys []parquet.Value
}

func (o *ordering) compare(a, b *sortRow) int {
	for i, typ := range o.types {
		x, y := a.keys[i], b.keys[i]
		switch {
		case x.IsNull() && y.IsNull():
			continue
		case x.IsNull():
			return -1
		case y.IsNull():
			return 1
		}
		if c := typ.Compare(x, y); c != 0 {
			return c
		}
	}
	return 0
}

// adapter brings rows of one file into a layout.
type adapter struct {
	order *ordering
	from  []int // by leaf of the layout: the file's leaf, or -1
	raise []int // what is added to a definition level: 1 where the column was required once
	cols  [][]parquet.Value
}

// newAdapter matches leaves by field id.
func newAdapter(o *ordering, f *parquet.File) (*adapter, error) {
	a := &adapter{order: o, from: make([]int, len(o.layout.leaves)), raise: make([]int, len(o.layout.leaves))}
	byID := map[int]*parquet.Column{}
	var walk func(*parquet.Column)
	walk = func(c *parquet.Column) {
		if c.Leaf() {
			byID[c.ID()] = c
			a.cols = append(a.cols, nil)
		}
		for _, sub := range c.Columns() {
			walk(sub)
		}
	}
	walk(f.Root())
	for _, lf := range o.layout.leaves {
		name := o.layout.columns[lf.column].name
		c := byID[lf.id]
		if c == nil {
			if lf.required {
				return nil, fmt.Errorf("the file has no column %s", name)
			}
			a.from[lf.index] = -1
			continue
		}
		target, _ := o.layout.parquet.Lookup(o.layout.parquet.Columns()[lf.index]...)
		if c.Type().Kind() != target.Node.Type().Kind() || c.MaxRepetitionLevel() != target.MaxRepetitionLevel ||
			c.MaxDefinitionLevel() > lf.maxDef {
			return nil, fmt.Errorf("the file's column %s is of another type than the table's", name)
		}
		a.from[lf.index], a.raise[lf.index] = c.Index(), lf.maxDef-c.MaxDefinitionLevel()
	}
	return a, nil
}

// rowCost is what a row that is being sorted takes beside the bytes of its values.
const (
	rowCost   = 256
	valueCost = 40
)

// row copies a row. cost is its memory.
func (a *adapter) row(in parquet.Row) (out sortRow, cost int64) {
	in.Range(func(i int, values []parquet.Value) bool {
		a.cols[i] = values
		return true
	})
	out.row = make(parquet.Row, 0, len(in))
	at := make([]int, len(a.from))
	cost = rowCost
	for leaf, from := range a.from {
		at[leaf] = len(out.row)
		if from < 0 {
			out.row = append(out.row, parquet.NullValue().Level(0, 0, leaf))
			continue
		}
		for _, v := range a.cols[from] {
			cost += valueMemory(v)
			out.row = append(out.row, v.Clone().Level(v.RepetitionLevel(), v.DefinitionLevel()+a.raise[leaf], leaf))
		}
	}
	out.keys = a.order.keys(out.row, at)
	return out, cost
}

func valueMemory(v parquet.Value) int64 {
	if k := v.Kind(); k == parquet.ByteArray || k == parquet.FixedLenByteArray {
		return valueCost + int64(len(v.ByteArray()))
	}
	return valueCost
}

func (o *ordering) keys(row parquet.Row, at []int) []parquet.Value {
	keys := make([]parquet.Value, len(o.leaves))
	for i, leaf := range o.leaves {
		keys[i] = row[at[leaf]]
	}
	return keys
}

// rowsOf gives the rows of a file, in the layout of o, one after the other.
func rowsOf(ctx context.Context, o *ordering, f *parquet.File, each func(row int64, r sortRow, cost int64) error) error {
	a, err := newAdapter(o, f)
	if err != nil {
		return err
	}
	n := int64(0)
	buf := make([]parquet.Row, 64)
	for _, g := range f.RowGroups() {
		rows := g.Rows()
		for err == nil {
			var k int
			if err = context.Cause(ctx); err != nil {
				break
			}
			k, err = rows.ReadRows(buf)
			for _, in := range buf[:k] {
				r, cost := a.row(in)
				if eerr := each(n, r, cost); eerr != nil {
					return errors.Join(eerr, rows.Close())
				}
				n++
			}
		}
		if cerr := rows.Close(); !errors.Is(err, io.EOF) || cerr != nil {
			return errors.Join(err, cerr)
		}
		err = nil
	}
	return nil
}

// sorter sorts more rows than fit into memory: what it is given is written out as sorted runs, and merged.
type sorter struct {
	order  *ordering
	memory int64
	rows   []sortRow
	held   int64
	runs   []*os.File
}

func (s *sorter) add(r sortRow, cost int64) error {
	s.rows = append(s.rows, r)
	if s.held += cost; s.held < s.memory {
		return nil
	}
	return s.spill()
}

func (s *sorter) sort() {
	slices.SortFunc(s.rows, func(a, b sortRow) int { return s.order.compare(&a, &b) })
}

func (s *sorter) spill() error {
	s.sort()
	i := 0
	err := s.run(func(put func(parquet.Row) error) error {
		for ; i < len(s.rows); i++ {
			if err := put(s.rows[i].row); err != nil {
				return err
			}
		}
		return nil
	})
	clear(s.rows)
	s.rows, s.held = s.rows[:0], 0
	return err
}

// run writes one sorted run into a file without a name, which is gone when it is closed.
func (s *sorter) run(fill func(put func(parquet.Row) error) error) error {
	f, err := os.CreateTemp("", "millrace-compact-*")
	if err != nil {
		return fmt.Errorf("sorting rows: %w", err)
	}
	s.runs = append(s.runs, f)
	if err := os.Remove(f.Name()); err != nil {
		return fmt.Errorf("sorting rows: %w", err)
	}
	buf := bufio.NewWriterSize(f, 256<<10)
	w := parquet.NewGenericWriter[any](buf, s.order.layout.parquet, parquet.Compression(compression),
		parquet.PageBufferSize(32<<10), parquet.MaxRowsPerRowGroup(10_000))
	one := make([]parquet.Row, 1)
	err = fill(func(r parquet.Row) error {
		one[0] = r
		_, err := w.WriteRows(one)
		return err
	})
	if err := errors.Join(err, w.Close(), buf.Flush()); err != nil {
		return fmt.Errorf("sorting rows in %s: %w", os.TempDir(), err)
	}
	return nil
}

// each gives all rows in order.
func (s *sorter) each(ctx context.Context, put func(parquet.Row) error) error {
	if len(s.runs) == 0 {
		s.sort()
		for i := range s.rows {
			if err := errors.Join(context.Cause(ctx), put(s.rows[i].row)); err != nil {
				return err
			}
		}
		return nil
	}
	if len(s.rows) > 0 {
		if err := s.spill(); err != nil {
			return err
		}
	}
	for len(s.runs) > mostRuns {
		some := s.runs[:mostRuns]
		s.runs = slices.Clone(s.runs[mostRuns:])
		if err := s.run(func(put func(parquet.Row) error) error { return s.merge(ctx, some, put) }); err != nil {
			return errors.Join(err, closeAll(some))
		}
		if err := closeAll(some); err != nil {
			return err
		}
	}
	return s.merge(ctx, s.runs, put)
}

func (s *sorter) close() error { return closeAll(s.runs) }

func closeAll(files []*os.File) error {
	var errs []error
	for _, f := range files {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}

// cursor is the next row of a run.
type cursor struct {
	sortRow
	next func() (sortRow, bool)
}

type cursors struct {
	order *ordering
	all   []cursor
}

func (c *cursors) Len() int { return len(c.all) }
func (c *cursors) Less(i, j int) bool {
	return c.order.compare(&c.all[i].sortRow, &c.all[j].sortRow) < 0
}
func (c *cursors) Swap(i, j int) { c.all[i], c.all[j] = c.all[j], c.all[i] }
func (c *cursors) Push(x any)    { c.all = append(c.all, x.(cursor)) }
func (c *cursors) Pop() any {
	last := c.all[len(c.all)-1]
	c.all = c.all[:len(c.all)-1]
	return last
}

// merge gives the rows of sorted runs in order.
func (s *sorter) merge(ctx context.Context, runs []*os.File, put func(parquet.Row) error) error {
	h := &cursors{order: s.order}
	var failed error
	for _, f := range runs {
		next, stop := s.rowsOfRun(f, &failed)
		defer stop()
		if r, ok := next(); ok {
			h.all = append(h.all, cursor{r, next})
		}
	}
	heap.Init(h)
	for h.Len() > 0 && failed == nil {
		if err := errors.Join(context.Cause(ctx), put(h.all[0].row)); err != nil {
			return err
		}
		r, ok := h.all[0].next()
		if !ok {
			heap.Pop(h)
			continue
		}
		h.all[0].sortRow = r
		heap.Fix(h, 0)
	}
	return failed
}

// rowsOfRun reads a run row by row. What goes wrong is put into failed.
func (s *sorter) rowsOfRun(f *os.File, failed *error) (next func() (sortRow, bool), stop func()) {
	fail := func(err error) (func() (sortRow, bool), func()) {
		*failed = errors.Join(*failed, fmt.Errorf("reading a sorted run: %w", err))
		return func() (sortRow, bool) { return sortRow{}, false }, func() {}
	}
	info, err := f.Stat()
	if err != nil {
		return fail(err)
	}
	file, err := parquet.OpenFile(f, info.Size(), parquet.SkipPageIndex(true), parquet.SkipBloomFilters(true))
	if err != nil {
		return fail(err)
	}
	a, err := newAdapter(s.order, file)
	if err != nil {
		return fail(err)
	}
	groups := file.RowGroups()
	var rows parquet.Rows
	stop = func() {
		if rows != nil {
			_ = rows.Close()
		}
	}
	buf := make([]parquet.Row, 1)
	return func() (sortRow, bool) {
		for {
			if rows == nil {
				if len(groups) == 0 {
					return sortRow{}, false
				}
				rows, groups = groups[0].Rows(), groups[1:]
			}
			n, err := rows.ReadRows(buf)
			if n > 0 {
				r, _ := a.row(buf[0])
				return r, true
			}
			if err != nil && !errors.Is(err, io.EOF) {
				*failed = errors.Join(*failed, fmt.Errorf("reading a sorted run: %w", err))
				return sortRow{}, false
			}
			stop()
			rows = nil
		}
	}, stop
}

// readFile puts the rows of a data file, but for the dropped ones, into a sorter.
func (s *sorter) readFile(ctx context.Context, fs iceio.IO, path string, dropped func(int64) bool) (err error) {
	file, closer, err := openParquet(fs, path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closer.Close()) }()
	err = rowsOf(ctx, s.order, file, func(n int64, r sortRow, cost int64) error {
		if dropped(n) {
			return nil
		}
		return s.add(r, cost)
	})
	if err != nil {
		return fmt.Errorf("reading data file %s: %w", path, err)
	}
	return nil
}
