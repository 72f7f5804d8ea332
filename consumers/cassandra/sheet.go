package cassandra

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/millrace/millrace/pkg/codec"
	"github.com/millrace/millrace/pkg/schema"
)

// A sheet is a batch in the wire form of the insert's arguments, grouped by Cassandra's partitions. Its memory is used
// again: it is as large as the batch.
type sheet struct {
	insert *insert
	typ    *schema.Type

	wire    []byte           // all rows, argument by argument, each after its length as a frame has it
	found   []row            // in the order of the records
	rows    []row            // bundle by bundle
	of      map[string]int32 // the bundle of a partition's key
	bundles []bundle
}

// A row is one record in wire form.
type row struct {
	record int32
	bundle int32
	at     int // where it begins in the sheet's wire
	size   int
}

// A bundle is the rows of one partition.
type bundle struct {
	key   string // of the partition, in wire form: what its rows begin with
	rows  []row
	bytes int
	n     int
}

const (
	lengthBytes = 4
	// unset is the length of what has no value: a null that is bound would be a tombstone.
	unset = -2
	// maxIdle is the most bytes of an idle sheet: what a batch of huge records took is left to the collector.
	maxIdle = 8 << 20
	// rowBytes is about what a row takes besides its record and the lengths.
	rowBytes = 64
)

// takeSheet gives one that is empty.
func (s *Store) takeSheet() *sheet {
	if out, ok := s.sheets.Get().(*sheet); ok {
		return out
	}
	return &sheet{of: map[string]int32{}}
}

// giveSheet takes it back when no request reads it any more.
func (s *Store) giveSheet(sh *sheet) {
	if cap(sh.wire) <= maxIdle {
		sh.reset()
		s.sheets.Put(sh)
	}
}

// fill brings all records into wire form, in the order in which they lie in memory. It leaves out those that are past
// their retention, which it counts, and those that it cannot encode, which it refuses.
func (s *sheet) fill(records []codec.Record, bytes int, now time.Time, refuse func(record int, err error)) (expired int) {
	if want := bytes + len(records)*(rowBytes+lengthBytes*len(s.insert.arguments)); cap(s.wire) < want {
		s.wire = make([]byte, 0, want)
	}
	if cap(s.found) < len(records) {
		s.found, s.rows = make([]row, 0, len(records)), make([]row, 0, len(records))
	}
	micros := now.UnixMicro()
	for i := range records {
		ttl, ok := timeToLive(records[i].TimeMicros(), s.typ.Cassandra.Retention, micros)
		if !ok {
			expired++
			continue
		}
		one, err := s.encode(&records[i], ttl)
		if err != nil {
			refuse(i, err)
			continue
		}
		one.record = int32(i)
		s.found = append(s.found, one)
	}
	s.sort()
	return expired
}

// sort puts the rows of each bundle together, in the order that they had.
func (s *sheet) sort() {
	s.rows = s.rows[:len(s.found)]
	at := 0
	for i := range s.bundles {
		g := &s.bundles[i]
		g.rows = s.rows[at : at : at+g.n]
		at += g.n
	}
	for i := range s.found {
		g := &s.bundles[s.found[i].bundle]
		g.rows = append(g.rows, s.found[i])
	}
}

// reset makes it empty.
func (s *sheet) reset() {
	s.wire, s.found, s.rows, s.bundles = s.wire[:0], s.found[:0], s.rows[:0], s.bundles[:0]
	clear(s.of)
}

// encode adds a record's row, or nothing if it fails.
func (s *sheet) encode(r *codec.Record, ttl int) (row, error) {
	one := row{at: len(s.wire)}
	key := 0
	for j := range s.insert.arguments {
		if j == s.insert.key {
			key = len(s.wire)
		}
		if err := s.argument(&s.insert.arguments[j], r, ttl); err != nil {
			s.wire = s.wire[:one.at]
			return row{}, err
		}
	}
	one.size = len(s.wire) - one.at
	one.bundle = s.bundleOf(s.wire[one.at:key])
	g := &s.bundles[one.bundle]
	g.n++
	g.bytes += one.size
	return one, nil
}

func (s *sheet) bundleOf(key []byte) int32 {
	g, known := s.of[string(key)]
	if !known {
		g = int32(len(s.bundles)) //nolint:gosec // no more than rows
		text := string(key)
		s.of[text] = g
		s.bundles = append(s.bundles, bundle{key: text})
	}
	return g
}

func (s *sheet) argument(a *argument, r *codec.Record, ttl int) error {
	switch a.field {
	case schema.BucketColumn:
		s.long(s.typ.Bucket(r.TimeMicros()).UnixMilli())
	case schema.ShardColumn:
		s.int(schema.Shard(s.typ, r.Values))
	case ttlArgument:
		s.int(ttl)
	case writeTimeArgument:
		s.long(writeTime(r))
	default:
		v := &r.Values[a.field]
		if v.IsNull() {
			s.wire = append(s.wire, 0xff, 0xff, 0xff, 0xfe) // unset
			return nil
		}
		return s.value(a, v)
	}
	return nil
}

func (s *sheet) value(a *argument, v *codec.Value) error {
	at := len(s.wire)
	wire, err := appendCell(append(s.wire, 0, 0, 0, 0), a.kind, v)
	if err != nil {
		return fmt.Errorf("field %s: %w", s.typ.Fields[a.field].Name, err)
	}
	binary.BigEndian.PutUint32(wire[at:], uint32(len(wire)-at-lengthBytes)) //nolint:gosec // bounded by the record's size
	s.wire = wire
	return nil
}

func (s *sheet) long(n int64) {
	s.wire = binary.BigEndian.AppendUint64(append(s.wire, 0, 0, 0, 8), uint64(n)) //nolint:gosec // the bits are kept as they are
}

func (s *sheet) int(n int) {
	s.wire = binary.BigEndian.AppendUint32(append(s.wire, 0, 0, 0, 4), uint32(n)) //nolint:gosec // shards and times to live fit
}

// writeTime is the row's write timestamp: the same for every replay, and later for a later record.
func writeTime(r *codec.Record) int64 { return r.Source.Timestamp.UnixMicro() + r.Source.Offset%1000 }

// timeToLive is what remains at now of the retention since the event's time, both in microseconds, in whole seconds,
// rounded up: a replay a moment later then ends at the same second, or one before. It is false when nothing remains.
func timeToLive(micros int64, retention time.Duration, now int64) (int, bool) {
	if retention <= 0 {
		return 0, true
	}
	left := micros + retention.Microseconds() - now
	if left <= 0 {
		return 0, false // and never a time to live of 0, which is for ever
	}
	const second = int64(time.Second / time.Microsecond)
	return int((min(left, maxTTL.Microseconds()) + second - 1) / second), true
}
