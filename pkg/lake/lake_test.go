package lake

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	iceio "github.com/apache/iceberg-go/io"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/pkg/codec"
	"github.com/millrace/millrace/pkg/lake/laketest"
	"github.com/millrace/millrace/pkg/schema"
	"github.com/millrace/millrace/pkg/schema/schematest"
	"github.com/millrace/millrace/pkg/telemetry"
)

var (
	base = time.Date(2026, 3, 1, 23, 59, 0, 0, time.UTC)
	here = Source{Cluster: "cluster", TopicID: "topic"}
)

// store is a lake with one table on a catalog with faults.
type store struct {
	t    *testing.T
	typ  *schema.Type
	cat  *laketest.Catalog
	lake *Lake
}

func newStore(t *testing.T) *store {
	t.Helper()
	cfg := place(t)
	inner, err := openCatalog(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	cat := laketest.On(inner)
	l, err := NewOn(cfg, telemetry.Discard(), cat.Open)
	if err != nil {
		t.Fatal(err)
	}
	typ := schematest.Type(t, "log")
	if err := l.Create(t.Context(), typ); err != nil {
		t.Fatal(err)
	}
	return &store{t: t, typ: typ, cat: cat, lake: l}
}

// place gives the lake that tests run on: TestOnServers runs them on others.
var place = func(t *testing.T) Config {
	cfg := Default()
	cfg.Warehouse = t.TempDir()
	return cfg
}

func (s *store) open() *Table {
	s.t.Helper()
	tb, err := s.lake.Open(s.t.Context(), s.typ)
	if err != nil {
		s.t.Fatal(err)
	}
	return tb
}

// records are rows of partition 0, one second apart.
func (s *store) records(first, next int64) []codec.Record {
	var out []codec.Record
	for o := first; o < next; o++ {
		at := base.Add(time.Duration(o) * time.Second)
		values := make([]codec.Value, len(s.typ.Fields))
		for i, f := range s.typ.Fields {
			switch {
			case f.Kind == schema.Map:
				values[i] = codec.MapValue(map[string]string{"n": strconv.FormatInt(o, 10)})
			case !f.Nullable:
				values[i] = codec.StringValue(f.Name)
			}
		}
		values[schema.ID] = codec.StringValue(fmt.Sprintf("018f0000-0000-7000-8000-%012d", o))
		values[schema.Time] = codec.LongValue(at.UnixMicro())
		out = append(out, codec.Record{
			Type: s.typ, Values: values,
			Source: &kgo.Record{Topic: s.typ.Topic.Name, Offset: o, Timestamp: at.Add(time.Second)},
		})
	}
	return out
}

// commit makes a commit of rows [first, next), not yet submitted.
func (s *store) commit(tb *Table, first, next int64) *Commit {
	s.t.Helper()
	w, err := tb.NewWriter(s.t.Context(), WriterConfig{Memory: 1 << 20, GroupRows: 50})
	if err != nil {
		s.t.Fatal(err)
	}
	if err := w.Add(s.t.Context(), s.typ, s.records(first, next)); err != nil {
		s.t.Fatal(err)
	}
	files, err := w.Finish()
	if err != nil {
		s.t.Fatal(err)
	}
	through := base.Add(time.Duration(next) * time.Second).UnixMicro()
	return &Commit{Files: files, Sources: map[string]Source{s.typ.Topic.Name: here}, Spans: map[TopicPartition]Counts{
		{Topic: s.typ.Topic.Name}: {First: first, Next: next, Rows: next - first, Through: through},
	}}
}

func (s *store) position() Position {
	s.t.Helper()
	at, err := s.open().Positions(s.typ.Topic.Name)
	if err != nil {
		s.t.Fatal(err)
	}
	return at.Partitions[0]
}

func (s *store) storage() iceio.WriteFileIO {
	s.t.Helper()
	tb := s.open()
	fs, err := tb.files(s.t.Context(), tb.state())
	if err != nil {
		s.t.Fatal(err)
	}
	return fs
}

func (s *store) exists(path string) bool {
	s.t.Helper()
	f, err := s.storage().Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return false
	}
	if err != nil {
		s.t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		s.t.Fatal(err)
	}
	return true
}

func (s *store) metadataFiles() (n int) {
	s.t.Helper()
	err := s.storage().(iceio.ListableIO).WalkDir(s.open().ice.Location()+"/metadata", func(path string, _ fs.DirEntry, err error) error {
		if strings.HasSuffix(path, ".metadata.json") {
			n++
		}
		return err
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return n
}

// total is the number of rows that the current snapshot says it has.
func (s *store) total() string {
	return s.open().ice.CurrentSnapshot().Summary.Properties["total-records"]
}

func TestCommitKeepsOffsetsWithTheRows(t *testing.T) {
	s := newStore(t)
	tb := s.open()
	for first := int64(0); first < 300; first += 100 {
		if err := tb.Commit(t.Context(), s.commit(tb, first, first+100)); err != nil {
			t.Fatal(err)
		}
	}
	through := base.Add(300 * time.Second)
	want := Position{Next: 300, Counts: Counts{Next: 300, Rows: 300, Through: through.UnixMicro()}}
	if got := s.position(); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got := s.open().ValidThrough(); !got.Equal(through) {
		t.Errorf("valid through %v, want %v", got, through)
	}
	summary := s.open().ice.CurrentSnapshot().Summary.Properties
	if got := summary["millrace.offsets.millrace.log.0"]; got != "300" || s.total() != "300" {
		t.Errorf("the summary says offset %s, %s rows", got, s.total())
	}
	if got := summary["millrace.span.millrace.log.0"]; !strings.HasPrefix(got, `{"first":200,"next":300,"rows":100`) {
		t.Errorf("the summary says of this commit %s", got)
	}
}

// TestAnAdvanceWithoutRowsIsASnapshot: dead letters and control records move a partition too.
func TestAnAdvanceWithoutRowsIsASnapshot(t *testing.T) {
	s := newStore(t)
	tb := s.open()
	for range 2 {
		before := s.position().Next
		c := s.commit(tb, before, before)
		c.Spans[TopicPartition{Topic: s.typ.Topic.Name}] = Counts{First: before, Next: before + 3, Dead: 2, Skipped: 1}
		if err := tb.Commit(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := s.position(), (Position{Next: 6, Counts: Counts{Next: 6, Dead: 4, Skipped: 2}}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if n := len(s.open().ice.Metadata().Snapshots()); n != 2 {
		t.Errorf("%d snapshots, want 2", n)
	}
}

// TestStaleBaseIsRefused commits from a state that another has moved past; also where there was no snapshot yet.
func TestStaleBaseIsRefused(t *testing.T) {
	s := newStore(t)
	for first := int64(0); first < 20; first += 10 {
		a, b := s.open(), s.open()
		ca, cb := s.commit(a, first, first+10), s.commit(b, first, first+5)
		if err := a.Commit(t.Context(), ca); err != nil {
			t.Fatal(err)
		}
		if err := b.Commit(t.Context(), cb); !errors.Is(err, ErrReseek) {
			t.Fatalf("the second commit gave %v, want ErrReseek", err)
		}
		if cb.Unknown || cb.Conflicts != 1 {
			t.Errorf("unknown %v after %d conflicts, want false after 1", cb.Unknown, cb.Conflicts)
		}
		if got := s.position().Next; got != first+10 || s.total() != strconv.FormatInt(first+10, 10) {
			t.Errorf("the table stands at %d with %s rows", got, s.total())
		}
	}
}

// TestWritersOfDifferentPartitionsMakeProgress races four of them.
func TestWritersOfDifferentPartitionsMakeProgress(t *testing.T) {
	const writers, commits, size = 4, 5, 10
	s := newStore(t)
	var wg sync.WaitGroup
	for p := range int32(writers) {
		tb := s.open()
		wg.Go(func() {
			for i := range int64(commits) {
				c := s.commit(tb, i*size, (i+1)*size)
				c.Spans = map[TopicPartition]Counts{{s.typ.Topic.Name, p}: {First: i * size, Next: (i + 1) * size, Rows: size}}
				if err := tb.Commit(t.Context(), c); err != nil {
					t.Errorf("partition %d: %v", p, err)
				}
			}
		})
	}
	wg.Wait()
	at, err := s.open().Positions(s.typ.Topic.Name)
	if err != nil {
		t.Fatal(err)
	}
	for p := range int32(writers) {
		if got := at.Partitions[p]; got.Next != commits*size || got.Counts.Rows != commits*size {
			t.Errorf("partition %d: %+v", p, got)
		}
	}
	if got, want := s.total(), strconv.Itoa(writers*commits*size); got != want {
		t.Errorf("%s rows, want %s", got, want)
	}
}

// TestALostAnswerIsLookedUp has the catalog take a commit and hide it: the rows are in once, and the commit knows.
func TestALostAnswerIsLookedUp(t *testing.T) {
	s := newStore(t)
	tb := s.open()
	c := s.commit(tb, 0, 10)
	s.cat.After(func() error { return errors.New("connection reset") })
	if err := tb.Commit(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if !c.Unknown || s.total() != "10" || s.position().Next != 10 {
		t.Errorf("unknown %v, %s rows, at %d", c.Unknown, s.total(), s.position().Next)
	}
	s.cat.After(nil)
	if err := tb.Commit(t.Context(), c); err != nil || s.total() != "10" {
		t.Errorf("the same commit again gave %v and %s rows", err, s.total())
	}
}

// TestAnOutageEndsWithTheContext: nothing is known then, and a later try succeeds.
func TestAnOutageEndsWithTheContext(t *testing.T) {
	s := newStore(t)
	tb := s.open()
	c := s.commit(tb, 0, 10)
	down := errors.New("catalog is down")
	s.cat.Before(func() error { return down })
	s.cat.Load(func() error { return down })
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if err := tb.Commit(ctx, c); !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, down) {
		t.Errorf("got %v, want the deadline and the cause", err)
	}
	s.cat.Before(nil)
	s.cat.Load(nil)
	if err := tb.Commit(t.Context(), c); err != nil || s.total() != "10" {
		t.Errorf("after the outage: %v, %s rows", err, s.total())
	}
}

func TestOtherSourceIsRefused(t *testing.T) {
	s := newStore(t)
	tb := s.open()
	if err := tb.Commit(t.Context(), s.commit(tb, 0, 10)); err != nil {
		t.Fatal(err)
	}
	c := s.commit(tb, 10, 20)
	c.Sources[s.typ.Topic.Name] = Source{Cluster: "cluster", TopicID: "another"}
	if err := tb.Commit(t.Context(), c); !errors.Is(err, ErrOtherSource) {
		t.Errorf("got %v, want ErrOtherSource", err)
	}
}

// TestRollbackIsSeen rolls the table back under an open writer.
func TestRollbackIsSeen(t *testing.T) {
	s := newStore(t)
	tb := s.open()
	for first := int64(0); first < 20; first += 10 {
		if err := tb.Commit(t.Context(), s.commit(tb, first, first+10)); err != nil {
			t.Fatal(err)
		}
	}
	c := s.commit(tb, 20, 30)
	tx := s.open().ice.NewTransaction()
	if err := tx.RollbackToSnapshot(*tb.ice.CurrentSnapshot().ParentSnapshotID); err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := tb.Commit(t.Context(), c); !errors.Is(err, ErrRolledBack) {
		t.Errorf("got %v, want ErrRolledBack", err)
	}
	if got := s.position(); !errors.Is(got.Err, ErrRolledBack) {
		t.Errorf("the position says %v", got.Err)
	}
}

// TestExpiryKeepsTheOffsets makes many commits, and forgets all but the newest states.
func TestExpiryKeepsTheOffsets(t *testing.T) {
	s := newStore(t)
	s.lake.cfg.Snapshots = Snapshots{Age: time.Nanosecond, Keep: 3}
	tb := s.open()
	for first := range int64(60) {
		if err := tb.Commit(t.Context(), s.commit(tb, first, first+1)); err != nil {
			t.Fatal(err)
		}
	}
	if err := tb.Expire(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := s.position(); got.Err != nil || got.Next != 60 || s.total() != "60" {
		t.Errorf("got %+v, %s rows", got, s.total())
	}
	if n := len(s.open().ice.Metadata().Snapshots()); n != 3 {
		t.Errorf("%d snapshots, want 3", n)
	}
	if n := s.metadataFiles(); n < 3 || n > 25 {
		t.Errorf("%d metadata files, want at most 25", n)
	}
	if err := tb.Commit(t.Context(), s.commit(tb, 60, 61)); err != nil {
		t.Fatal(err)
	}
	if found, err := s.open().Files(t.Context()); err != nil || len(found) != 61 {
		t.Errorf("%d files (%v), want 61", len(found), err)
	}
}

// TestStatistics reads back what a file's bounds and counts say.
func TestStatistics(t *testing.T) {
	s := newStore(t)
	c := s.commit(s.open(), 0, 120) // crosses midnight; two row groups in the second file
	if len(c.Files) != 2 {
		t.Fatalf("%d files, want one per day", len(c.Files))
	}
	f := c.Files[1]
	if f.Count() != 60 || f.ValueCounts()[2] != 60 || f.NullValueCounts()[7] != 60 || f.ColumnSizes()[12] != 0 || f.ColumnSizes()[13] == 0 {
		t.Errorf("rows %d, values %v, nulls %v, sizes %v", f.Count(), f.ValueCounts(), f.NullValueCounts(), f.ColumnSizes())
	}
	if n := len(f.SplitOffsets()); n != 2 || f.SplitOffsets()[0] != 4 {
		t.Errorf("row groups begin at %v", f.SplitOffsets())
	}
	if got := string(f.LowerBoundValues()[1]); got != "018f0000-0000-70" {
		t.Errorf("lower bound of id is %q", got)
	}
	if got := string(f.UpperBoundValues()[1]); got != "018f0000-0000-71" {
		t.Errorf("upper bound of id is %q", got)
	}
	if _, ok := f.UpperBoundValues()[7]; ok {
		t.Error("a column of nulls has a bound")
	}
	info, err := os.Stat(f.FilePath())
	if err != nil || info.Size() != f.FileSizeBytes() {
		t.Errorf("size %d is not that of the file (%v)", f.FileSizeBytes(), err)
	}
}

func TestDiscardRemovesTheFiles(t *testing.T) {
	s := newStore(t)
	w, err := s.open().NewWriter(t.Context(), WriterConfig{Memory: 1, GroupRows: 5})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Add(t.Context(), s.typ, s.records(50, 70)); err != nil {
		t.Fatal(err)
	}
	paths := slices.Clone(w.paths)
	w.Discard()
	if len(paths) != 2 {
		t.Errorf("%d files were begun, want 2", len(paths))
	}
	for _, p := range paths {
		if s.exists(p) {
			t.Errorf("%s is still there", p)
		}
	}
}

func TestForget(t *testing.T) {
	s := newStore(t)
	w, err := s.open().NewWriter(t.Context(), WriterConfig{Memory: 1 << 20, GroupRows: 8})
	if err != nil {
		t.Fatal(err)
	}
	records := s.records(0, 9)
	for i := range records {
		records[i].Source.Partition = int32(i % 2)
	}
	if err := w.Add(t.Context(), s.typ, records[:6]); err != nil {
		t.Fatal(err)
	}
	if !w.Forget(0) {
		t.Error("rows in memory could not be taken out")
	}
	if err := w.Add(t.Context(), s.typ, records[6:]); err != nil {
		t.Fatal(err)
	}
	files, err := w.Finish()
	if err != nil || len(files) != 1 || files[0].Count() != 6 {
		t.Fatalf("%v (%v), want 6 rows", files, err)
	}
	if w.Forget(1) {
		t.Error("rows in a row group were taken out")
	}
}

func TestPlanMakesAndEvolves(t *testing.T) {
	l, err := New(place(t), telemetry.Discard())
	if err != nil {
		t.Fatal(err)
	}
	types := []*schema.Type{schematest.Type(t, "log"), schematest.Type(t, "usage")}
	for _, want := range []int{2, 0} {
		changes, err := l.Planner(types).Plan(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if len(changes) != want {
			t.Fatalf("%d changes, want %d: %v", len(changes), want, changes)
		}
		for _, c := range changes {
			if err := c.Apply(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	tb, err := l.Open(t.Context(), types[0])
	if err != nil {
		t.Fatal(err)
	}
	tx := tb.ice.NewTransaction()
	if err := tx.UpdateSchema(true, false).DeleteColumn([]string{"span_id"}).RenameColumn([]string{"source"}, "origin").Commit(); err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	changes, err := l.Planner(types).Plan(t.Context())
	if err != nil || len(changes) != 1 || changes[0].Detail != "add column source string\nadd column span_id string" {
		t.Fatalf("got %v (%v)", changes, err)
	}
	if err := changes[0].Apply(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestBounds(t *testing.T) {
	for _, c := range []struct {
		in, lower, upper string
		kind             schema.Kind
	}{
		{"short", "short", "short", schema.String},
		{"exactly 16 bytes", "exactly 16 bytes", "exactly 16 bytes", schema.String},
		{"0123456789abcdefXYZ", "0123456789abcdef", "0123456789abcdeg", schema.String},
		{"0123456789abcdeżółć", "0123456789abcde", "0123456789abcdf", schema.String},
		{"0123456789abcd" + "\u07ff" + "x", "0123456789abcd\u07ff", "0123456789abcd\u0800", schema.String},
		{"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", strings.Repeat("\xff", 16), "", schema.Bytes},
		{"0123456789abcde\xff\xff", "0123456789abcde\xff", "0123456789abcdf", schema.Bytes},
		{strings.Repeat("\U0010ffff", 5), strings.Repeat("\U0010ffff", 4), "", schema.String},
	} {
		if got := string(truncateLower([]byte(c.in), c.kind)); got != c.lower {
			t.Errorf("lower bound of %q is %q, want %q", c.in, got, c.lower)
		}
		if got := string(truncateUpper([]byte(c.in), c.kind)); got != c.upper {
			t.Errorf("upper bound of %q is %q, want %q", c.in, got, c.upper)
		}
	}
}

func TestPartitionOfATimeBefore1970(t *testing.T) {
	p := partitioner{unit: (24 * time.Hour).Microseconds(), day: true, name: "time_day"}
	for micros, want := range map[int64]string{-1: "time_day=1969-12-31", 0: "time_day=1970-01-01", 86_400_000_000: "time_day=1970-01-02"} {
		if got := p.folder(p.of(micros)); got != want {
			t.Errorf("%d is in %s, want %s", micros, got, want)
		}
	}
}

func TestValidateReportsEverything(t *testing.T) {
	err := Config{Catalog: "hive"}.Validate()
	for _, key := range []string{"catalog", "warehouse", "namespace", "snapshots.age", "snapshots.keep"} {
		if err == nil || !strings.Contains(err.Error(), "lake."+key) {
			t.Errorf("%v does not name lake.%s", err, key)
		}
	}
	if err := Default().Validate(); err != nil {
		t.Error(err)
	}
}

// Iceberg keeps some names for itself: Spark refuses every table with a column of one of them, whatever else reads it.
func TestNoColumnHasAReservedName(t *testing.T) {
	reserved := []string{"_file", "_pos", "_deleted", "_spec_id", "_partition", "_row_id", "_last_updated_sequence_number", "_change_type", "_change_ordinal", "_commit_snapshot_id"}
	columns, err := ColumnsOf(schematest.Type(t, "log"))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range columns {
		if slices.Contains(reserved, c.Name) {
			t.Errorf("column %s has a name that is reserved", c.Name)
		}
	}
}
