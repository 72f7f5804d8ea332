package lake

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/apache/iceberg-go"
	iceio "github.com/apache/iceberg-go/io"
	"github.com/apache/iceberg-go/table"
	"github.com/parquet-go/parquet-go"
)

// openParquet opens a data file. The caller closes the closer.
func openParquet(fs iceio.IO, name string) (*parquet.File, io.Closer, error) {
	f, err := fs.Open(name)
	if err != nil {
		return nil, nil, fmt.Errorf("opening data file %s: %w", name, err)
	}
	info, err := f.Stat()
	if err == nil {
		var file *parquet.File
		file, err = parquet.OpenFile(f, info.Size(), parquet.SkipPageIndex(true), parquet.SkipBloomFilters(true))
		if err == nil {
			return file, f, nil
		}
	}
	return nil, nil, errors.Join(fmt.Errorf("reading data file %s: %w", name, err), f.Close())
}

// flatColumn reads the values of one top-level column of a row group, page by page.
type flatColumn struct {
	pages  parquet.Pages
	page   parquet.Page
	values parquet.ValueReader
	left   int64 // values of the page that are not read
	buf    []parquet.Value
}

// fill makes sure that there is a page to read from.
func (c *flatColumn) fill() error {
	for c.left == 0 {
		if c.page != nil {
			parquet.Release(c.page)
			c.page = nil
		}
		page, err := c.pages.ReadPage()
		if err != nil {
			return err
		}
		c.page, c.values, c.left = page, page.Values(), page.NumValues()
	}
	return nil
}

// read reads n values, all of one page.
func (c *flatColumn) read(n int) error {
	for got := 0; got < n; {
		k, err := c.values.ReadValues(c.buf[got:n])
		got += k
		if got < n && (k == 0 || err != nil) {
			return errors.Join(err, io.ErrUnexpectedEOF)
		}
	}
	c.left -= int64(n)
	return nil
}

func (c *flatColumn) close() error {
	if c.page != nil {
		parquet.Release(c.page)
	}
	return c.pages.Close()
}

// scanColumns reads top-level columns of a data file side by side. What each is given is good until it returns; it is in
// the order of the names.
func scanColumns(ctx context.Context, fs iceio.IO, name string, names []string, each func([][]parquet.Value) error) (err error) {
	file, closer, err := openParquet(fs, name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closer.Close()) }()
	leaves := make([]int, len(names))
	for i, column := range names {
		leaf, ok := file.Schema().Lookup(column)
		if !ok {
			return fmt.Errorf("reading data file %s: it has no column %s", name, column)
		}
		leaves[i] = leaf.ColumnIndex
	}
	for _, g := range file.RowGroups() {
		if err := scanGroup(ctx, g, leaves, each); err != nil {
			return fmt.Errorf("reading data file %s: %w", name, err)
		}
	}
	return nil
}

func scanGroup(ctx context.Context, g parquet.RowGroup, leaves []int, each func([][]parquet.Value) error) (err error) {
	columns := make([]*flatColumn, len(leaves))
	defer func() {
		for _, c := range columns {
			err = errors.Join(err, c.close())
		}
	}()
	for i, leaf := range leaves {
		columns[i] = &flatColumn{pages: g.ColumnChunks()[leaf].Pages(), buf: make([]parquet.Value, chunkRows)}
	}
	out := make([][]parquet.Value, len(columns))
	for left := g.NumRows(); left > 0; {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		n := min(left, chunkRows)
		for _, c := range columns {
			if err := c.fill(); err != nil {
				return err
			}
			n = min(n, c.left)
		}
		for i, c := range columns {
			if err := c.read(int(n)); err != nil {
				return err
			}
			out[i] = c.buf[:n]
		}
		if err := each(out); err != nil {
			return err
		}
		left -= n
	}
	return nil
}

// liveFiles describes the data files of a state, or those of a filter, oldest first. ErrDeletes where rows of theirs are
// marked as deleted.
func liveFiles(ctx context.Context, ice *table.Table, filter ...table.ScanOption) ([]iceberg.DataFile, error) {
	byPath, marked, err := dataFiles(ctx, ice, filter...)
	if err != nil {
		return nil, err
	}
	if marked != nil {
		return nil, fmt.Errorf("listing files: %w", marked)
	}
	return slices.SortedFunc(maps.Values(byPath), func(a, b iceberg.DataFile) int {
		return strings.Compare(path.Base(a.FilePath()), path.Base(b.FilePath())) // named by when they were begun
	}), nil
}

// dataFiles gives the data files of a state by their path, without those that have rows marked as deleted, of one of which
// marked is the ErrDeletes.
func dataFiles(ctx context.Context, ice *table.Table, filter ...table.ScanOption) (byPath map[string]iceberg.DataFile, marked, err error) {
	if ice.CurrentSnapshot() == nil {
		return nil, nil, nil
	}
	tasks, err := ice.Scan(filter...).PlanFiles(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("listing files: %w", err)
	}
	byPath = map[string]iceberg.DataFile{}
	for _, task := range tasks {
		if err := undeleted(task); err != nil {
			marked = err
			continue
		}
		byPath[task.File.FilePath()] = task.File
	}
	return byPath, marked, nil
}
