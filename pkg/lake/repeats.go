package lake

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"hash/maphash"

	"github.com/apache/iceberg-go"
	iceio "github.com/apache/iceberg-go/io"
	"github.com/parquet-go/parquet-go"

	"github.com/millrace/millrace/pkg/schema"
)

// identity are the columns that say which event a row is, and which record it is of.
var identity = []string{"id", "time", schema.LakeTopic, schema.LakePartition, schema.LakeOffset, schema.LakeAppendedAt}

// seeds make a hash that nobody can foresee. Two of 64 bits stand for an event: that two events of a table partition
// share both is less likely than that the memory fails.
type seeds [2]maphash.Seed

func newSeeds() seeds { return seeds{maphash.MakeSeed(), maphash.MakeSeed()} }

// event hashes a row's id and time: what is the same event.
func (s seeds) event(columns [][]parquet.Value, i int, buf []byte) (key [2]uint64, rest []byte) {
	buf = append(binary.LittleEndian.AppendUint64(buf[:0], uint64(columns[1][i].Int64())), columns[0][i].ByteArray()...) //nolint:gosec // the bits as they are
	return [2]uint64{maphash.Bytes(s[0], buf), maphash.Bytes(s[1], buf)}, buf
}

// copyOf is the first row of an event, as far as is known.
type copyOf struct {
	appended, offset int64
	partition        int32
	file             int32
	row              int64
}

// compare orders the rows of one event: by append time, then by where they are from.
func (c copyOf) compare(d copyOf) int {
	return cmp.Or(cmp.Compare(c.appended, d.appended), cmp.Compare(c.partition, d.partition), cmp.Compare(c.offset, d.offset))
}

// copyCost is what an event takes in the map of a pass.
const copyCost = 128

// repeats are the rows of some files whose event is there in another row already, which is kept: the first by append
// time, partition and offset.
type repeats struct {
	dropped *bitmap // of the rows of all files, counted through
	begins  []int64 // by file: the number of its first row
	counts  []int64 // by file
}

// findRepeats reads the files as often as its memory asks for: each pass looks at a share of the events.
func findRepeats(ctx context.Context, fs iceio.IO, files []iceberg.DataFile, memory int64) (*repeats, error) {
	r := &repeats{dropped: newBitmap(&room{left: memory}), counts: make([]int64, len(files))}
	rows := int64(0)
	for _, f := range files {
		r.begins = append(r.begins, rows)
		rows += f.Count()
	}
	passes := uint64(rows*copyCost/memory) + 1 //nolint:gosec // neither is below 0
	hashed := newSeeds()
	for pass := range passes {
		first := map[[2]uint64]copyOf{}
		for i, f := range files {
			row := int64(-1)
			var buf []byte
			err := scanColumns(ctx, fs, f.FilePath(), identity, func(columns [][]parquet.Value) error {
				for k := range columns[0] {
					row++
					var key [2]uint64
					if key, buf = hashed.event(columns, k, buf); key[0]%passes != pass {
						continue
					}
					c := copyOf{
						appended: columns[5][k].Int64(), offset: columns[4][k].Int64(), partition: columns[3][k].Int32(),
						file: int32(i), row: row, //nolint:gosec // a list of files
					}
					if err := r.meet(first, key, c); err != nil {
						return err
					}
				}
				return nil
			})
			if err != nil {
				return nil, err
			}
		}
	}
	return r, nil
}

// meet keeps the first of an event's rows, and drops the other.
func (r *repeats) meet(first map[[2]uint64]copyOf, key [2]uint64, c copyOf) error {
	have, again := first[key]
	if !again {
		first[key] = c
		return nil
	}
	if c.compare(have) < 0 {
		first[key], c = c, have
	}
	r.counts[c.file]++
	_, err := r.dropped.add(r.begins[c.file] + c.row)
	return err
}

// has says whether a row is dropped.
func (r *repeats) has(file int, row int64) bool {
	return r.dropped.has(r.begins[file] + row)
}

// checksum is the number of rows and the sum of a hash over which event, and which record, each is: the same for the same
// rows in any order.
type checksum struct {
	rows int64
	sum  uint64
}

// tally is what a file holds, without what is dropped of it: each is told of that.
func tally(ctx context.Context, fs iceio.IO, s seeds, path string, dropped func(row int64) bool, each func(TopicPartition)) (checksum, error) {
	var c checksum
	row := int64(-1)
	var buf []byte
	err := scanColumns(ctx, fs, path, identity, func(columns [][]parquet.Value) error {
		for i := range columns[0] {
			row++
			if dropped != nil && dropped(row) {
				each(TopicPartition{string(columns[2][i].ByteArray()), columns[3][i].Int32()})
				continue
			}
			_, buf = s.event(columns, i, buf)
			buf = append(buf, columns[2][i].ByteArray()...)
			buf = binary.LittleEndian.AppendUint32(buf, uint32(columns[3][i].Int32())) //nolint:gosec // the bits as they are
			buf = binary.LittleEndian.AppendUint64(buf, uint64(columns[4][i].Int64())) //nolint:gosec // the bits as they are
			c.rows, c.sum = c.rows+1, c.sum+maphash.Bytes(s[0], buf)
		}
		return nil
	})
	if err != nil {
		return c, fmt.Errorf("summing up %s: %w", path, err)
	}
	return c, nil
}

func (c checksum) plus(d checksum) checksum { return checksum{c.rows + d.rows, c.sum + d.sum} }
