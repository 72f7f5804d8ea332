package laketest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/apache/iceberg-go"
	iceio "github.com/apache/iceberg-go/io"
	"github.com/apache/iceberg-go/table"
	"github.com/parquet-go/parquet-go"
)

// The ways of Iceberg to mark rows as deleted in files beside those that hold them.
const (
	PositionDeletes = "position deletes"
	DeletionVectors = "deletion vectors" // the table becomes one of version 3
	EqualityDeletes = "equality deletes"
)

// Deletes are all of them.
func Deletes() []string { return []string{PositionDeletes, DeletionVectors, EqualityDeletes} }

// MarkDeleted marks the row with an id as deleted, as another engine does that merges on read.
func MarkDeleted(ctx context.Context, t *table.Table, way, id string) error {
	if err := markDeleted(ctx, t, way, id); err != nil {
		return fmt.Errorf("marking %s as deleted by %s: %w", id, way, err)
	}
	return nil
}

func markDeleted(ctx context.Context, t *table.Table, way, id string) error {
	tx := t.NewTransaction()
	if way == EqualityDeletes {
		file, err := equalityDelete(ctx, t, id)
		if err != nil {
			return err
		}
		if err := tx.NewRowDelta(nil).AddDeletes(file).Commit(ctx); err != nil {
			return err
		}
		_, err = tx.Commit(ctx)
		return err
	}
	err := tx.SetProperties(iceberg.Properties{table.WriteDeleteModeKey: table.WriteModeMergeOnRead})
	if err == nil && way == DeletionVectors {
		err = tx.UpgradeFormatVersion(3)
	}
	if err != nil {
		return err
	}
	if t, err = tx.Commit(ctx); err != nil {
		return err
	}
	tx = t.NewTransaction()
	if err := tx.Delete(ctx, iceberg.EqualTo(iceberg.Reference("id"), id), nil); err != nil {
		return err
	}
	_, err = tx.Commit(ctx)
	return err
}

// equalityDelete writes a file that deletes the rows with an id, in the table's first partition.
func equalityDelete(ctx context.Context, t *table.Table, id string) (iceberg.DataFile, error) {
	tasks, err := t.Scan().PlanFiles(ctx)
	if err != nil {
		return nil, err
	}
	if len(tasks) == 0 {
		return nil, errors.New("the table is empty")
	}
	data := slices.MinFunc(tasks, func(a, b table.FileScanTask) int { return strings.Compare(a.File.FilePath(), b.File.FilePath()) }).File
	column, ok := t.Schema().FindFieldByName("id")
	if !ok {
		return nil, errors.New("the table has no column id")
	}
	var out bytes.Buffer
	sc := parquet.NewSchema("delete", parquet.Group{"id": parquet.FieldID(parquet.String(), column.ID)})
	w := parquet.NewGenericWriter[any](&out, sc)
	if _, err := w.WriteRows([]parquet.Row{{parquet.ByteArrayValue([]byte(id)).Level(0, 0, 0)}}); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	fs, err := t.FS(ctx)
	if err != nil {
		return nil, err
	}
	path := strings.TrimSuffix(data.FilePath(), ".parquet") + "-deletes.parquet"
	storage, ok := fs.(iceio.WriteFileIO)
	if !ok {
		return nil, fmt.Errorf("a %T cannot be written to", fs)
	}
	if err := storage.WriteFile(path, out.Bytes()); err != nil {
		return nil, err
	}
	b, err := iceberg.NewDataFileBuilder(t.Spec(), iceberg.EntryContentEqDeletes, path, iceberg.ParquetFile,
		data.Partition(), nil, nil, 1, int64(out.Len()))
	if err != nil {
		return nil, err
	}
	return b.EqualityFieldIDs([]int{column.ID}).Build(), nil
}
