package lake

import (
	"context"
	"fmt"
	"maps"
	"strconv"

	"github.com/apache/iceberg-go"
	"github.com/apache/iceberg-go/table"
	"github.com/parquet-go/parquet-go"
)

// notRolledBack is for a change that copies where the table stands into its summary: with a table that was rolled back that
// would look as if it was not.
func notRolledBack(meta table.Metadata) error {
	accounts, err := accountsOf(meta)
	if err != nil {
		return err
	}
	for tp, a := range accounts {
		if a.rolledBack != nil {
			return fmt.Errorf("partition %d of %s: %w", tp.Partition, tp.Topic, a.rolledBack)
		}
	}
	return nil
}

// restate begins the commit with an id, pinned to its base, that advances no partition: it adds to the counts under a
// prefix. The summary is that of the snapshot to be made.
func restate(base *table.Table, id, prefix string, more map[TopicPartition]int64) (*table.Transaction, iceberg.Properties, error) {
	props := iceberg.Properties{}
	for tp, n := range more {
		before, err := countIn(base.Properties(), prefix, tp)
		if err != nil {
			return nil, nil, err
		}
		props[partitionKey(prefix, tp.Topic, tp.Partition)] = strconv.FormatInt(before+n, 10)
	}
	summary := offsetsOf(base.Properties())
	maps.Copy(summary, props)
	summary[keyCommit] = id
	if through := base.Properties()[keyThrough]; through != "" {
		summary[keyThrough] = through
	}
	tx := base.NewTransaction()
	if err := tx.AssertRefSnapshotID(""); err != nil {
		return nil, nil, err
	}
	return tx, summary, tx.SetProperties(props)
}

// commitChange makes a change durable. What it wrote is discarded where it is known not to be in the table.
func (t *Table) commitChange(ctx context.Context, c *Commit, discard func()) error {
	err := t.Commit(ctx, c)
	if err != nil {
		settling, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
		defer cancel()
		if in, serr := t.Settle(settling, c); !in && serr == nil {
			discard()
		}
	}
	return err
}

// unmapped takes the mapping of names back that iceberg-go adds: our files have field ids, and columns are renamed.
func unmapped(tx *table.Transaction, base *table.Table) error {
	if _, had := base.Properties()[table.DefaultNameMappingKey]; had {
		return nil
	}
	return tx.RemoveProperties([]string{table.DefaultNameMappingKey})
}

// output writes rows of one table partition that are in a layout's order.
type output struct {
	w         *Writer
	path      func() (string, error)
	spec      iceberg.PartitionSpec
	partition map[int]any
	sorted    *int  // the sort order that the rows are given in, if any
	rows      int   // of a row group at most
	memory    int64 // of it
	target    int64 // bytes of a file, after which another is begun; 0: never

	file  *fileWriter
	group []parquet.Row
	held  int64
	added []iceberg.DataFile
}

func (o *output) put(r parquet.Row) error {
	o.group = append(o.group, r)
	for _, v := range r {
		o.held += valueMemory(v)
	}
	if len(o.group) < o.rows && o.held < o.memory {
		return nil
	}
	return o.flush()
}

// flush writes a row group, and ends the file when it is large enough.
func (o *output) flush() error {
	if len(o.group) == 0 {
		return nil
	}
	if o.file == nil {
		path, err := o.path()
		if err != nil {
			return err
		}
		if o.file, err = newFileWriter(o.w.files, path, o.w.layout, o.w.sorted); err != nil {
			return err
		}
		o.w.paths = append(o.w.paths, path)
		o.file.sorted = o.sorted
	}
	if err := o.file.writeRows(o.group); err != nil {
		return err
	}
	clear(o.group)
	o.group, o.held = o.group[:0], 0
	if o.target == 0 || o.file.w.Size() < o.target {
		return nil
	}
	return o.end()
}

func (o *output) end() error {
	file := o.file
	o.file = nil
	if err := file.close(); err != nil {
		return err
	}
	df, err := file.dataFile(o.spec, o.partition)
	if err != nil {
		return err
	}
	o.added = append(o.added, df)
	return nil
}

func (o *output) finish() error {
	if err := o.flush(); err != nil || o.file == nil {
		return err
	}
	return o.end()
}

// abandon breaks off the file that is open.
func (o *output) abandon() {
	o.w.stop()
	if o.file != nil {
		o.file.abandon()
	}
}

// writeRows writes rows that are sorted already, and in the layout's order, as one row group.
func (f *fileWriter) writeRows(rows []parquet.Row) error {
	for _, r := range rows {
		for _, v := range r {
			if isNaN(v) {
				f.nans[f.layout.leaves[v.Column()].id]++
			}
		}
	}
	if _, err := f.w.WriteRows(rows); err != nil {
		return fmt.Errorf("writing rows of %s: %w", f.path, err)
	}
	if err := f.w.Flush(); err != nil {
		return fmt.Errorf("writing row group of %s: %w", f.path, err)
	}
	f.rows += int64(len(rows))
	return nil
}
