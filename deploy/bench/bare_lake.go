package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/parquet-go/parquet-go"
	"github.com/parquet-go/parquet-go/compress/zstd"
	"github.com/twmb/avro"
	"github.com/twmb/franz-go/pkg/kgo"
)

// The bare loop to Parquet: franz-go, twmb/avro into a struct and parquet-go's typed writer, with the encodings of the
// lake's tables. It sorts nothing, keeps no offsets in any table and commits once to the group, at its end: the limit for a
// Go consumer with these libraries, not a consumer to run.
const (
	bareGroupRows = 100_000
	bareFileRows  = 400_000 // about what the lake puts into a file here
)

// bareLakeRecord is a row of the log's table.
type bareLakeRecord struct {
	ID             string            `parquet:"id,plain"`
	Time           int64             `parquet:"time,delta,timestamp(microsecond)"`
	Service        string            `parquet:"service,dict"`
	Host           string            `parquet:"host,dict"`
	Datacenter     string            `parquet:"datacenter,dict"`
	Tenant         string            `parquet:"tenant,dict"`
	Severity       *string           `parquet:"severity,dict"`
	Body           string            `parquet:"body,dict"`
	Source         *string           `parquet:"source,dict"`
	TraceID        *string           `parquet:"trace_id,dict"`
	SpanID         *string           `parquet:"span_id,dict"`
	Attributes     map[string]string `parquet:"attributes" parquet-key:",dict" parquet-value:",dict"`
	Topic          string            `parquet:"_topic,dict"`
	TopicPartition int32             `parquet:"_topic_partition,dict"`
	Offset         int64             `parquet:"_offset,delta"`
	AppendedAt     int64             `parquet:"_appended_at,delta,timestamp(microsecond)"`
}

func (r *bareLakeRecord) take(s *avro.Schema, record *kgo.Record) error {
	var l bareLog
	if _, err := s.Decode(record.Value[5:], &l); err != nil {
		return err
	}
	*r = bareLakeRecord{
		ID: l.ID, Time: l.Time, Service: l.Service, Host: l.Host, Datacenter: l.Datacenter, Tenant: l.Tenant, Severity: l.Severity,
		Body: l.Body, Source: l.Source, TraceID: l.TraceID, SpanID: l.SpanID, Attributes: l.Attributes,
		Topic: record.Topic, TopicPartition: record.Partition, Offset: record.Offset, AppendedAt: record.Timestamp.UnixMicro(),
	}
	return nil
}

// bareFile is the file that is being written.
type bareFile struct {
	folder string
	n      int
	file   *os.File
	w      *parquet.GenericWriter[bareLakeRecord]
	rows   int
}

func (f *bareFile) write(rows []bareLakeRecord) error {
	if f.file == nil {
		var err error
		if f.file, err = os.Create(filepath.Join(f.folder, fmt.Sprintf("%d.parquet", f.n))); err != nil {
			return err
		}
		f.n++
		f.w = parquet.NewGenericWriter[bareLakeRecord](f.file,
			parquet.Compression(&zstd.Codec{Level: zstd.SpeedFastest}), parquet.MaxRowsPerRowGroup(bareGroupRows),
			parquet.PageBufferSize(64<<10), parquet.DictionaryMaxBytes(512<<10), parquet.DataPageStatistics(true),
			parquet.BloomFilters(parquet.SplitBlockFilter(10, "id")))
	}
	if _, err := f.w.Write(rows); err != nil {
		return err
	}
	if f.rows += len(rows); f.rows < bareFileRows {
		return nil
	}
	return f.close()
}

func (f *bareFile) close() error {
	if f.file == nil {
		return nil
	}
	if err := f.w.Close(); err != nil {
		return err
	}
	if err := f.file.Sync(); err != nil {
		return err
	}
	err := f.file.Close()
	f.file, f.rows = nil, 0
	return err
}

func bareLakeRow(ctx context.Context, b *bench, count int) error {
	folder := filepath.Join(os.TempDir(), b.run, "bare-lake-"+strconv.Itoa(b.round)) // beside the lake
	if err := os.MkdirAll(folder, 0o750); err != nil {
		return err
	}
	consumer, group, err := b.bareConsumer("bare-lake")
	if err != nil {
		return err
	}
	defer consumer.Close()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	file := &bareFile{folder: folder}
	var rows []bareLakeRecord
	b.clock.start()
	for n := 0; n < count; {
		fetches := consumer.PollRecords(ctx, 10_000)
		if err := fetches.Err(); err != nil {
			return err
		}
		rows = rows[:0]
		for it := fetches.RecordIter(); !it.Done(); n++ {
			rows = append(rows, bareLakeRecord{})
			if err := rows[len(rows)-1].take(b.typ.Avro, it.Next()); err != nil {
				return err
			}
		}
		if err := file.write(rows); err != nil {
			return err
		}
	}
	if err := file.close(); err != nil {
		return err
	}
	if err := consumer.CommitUncommittedOffsets(ctx); err != nil {
		return err
	}
	b.clock.stop()
	b.disk, err = sizeOf(folder)
	return errors.Join(err, b.committed(ctx, group, count))
}
