package lake

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/apache/iceberg-go"
	iceio "github.com/apache/iceberg-go/io"
	"github.com/apache/iceberg-go/table"
	"github.com/parquet-go/parquet-go"

	"github.com/millrace/millrace/pkg/schema"
)

// offsets is a condition on a row's offset.
type offsets struct {
	s  *store
	is func(int64) bool
}

func (offsets) Filter() iceberg.BooleanExpression { return nil }

func (o offsets) Rows(ctx context.Context, file File, each func(int64) error) error {
	row := int64(-1)
	return scanColumns(ctx, o.s.storage(), file.Location, []string{schema.LakeOffset}, func(columns [][]parquet.Value) error {
		for _, v := range columns[0] {
			if row++; o.is(v.Int64()) {
				if err := each(row); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

func (s *store) deletion(is func(int64) bool) Deletion {
	return Deletion{Where: offsets{s, is}, Reason: "asked for", Memory: 64 << 10, GroupRows: 50, Batch: 1 << 20}
}

func (s *store) delete(is func(int64) bool) Deleted {
	s.t.Helper()
	done, err := s.open().Delete(s.t.Context(), s.deletion(is))
	if err != nil {
		s.t.Fatal(err)
	}
	return done
}

func every(n int64) func(int64) bool { return func(o int64) bool { return o%n == 0 } }

// stays holds the table against what it was before, without the rows that are meant.
func (s *store) stays(before map[int64]parquet.Row, is func(int64) bool) {
	s.t.Helper()
	after := s.rows()
	for o, row := range before {
		if got, ok := after[o]; ok == is(o) || ok && !got.Equal(row) {
			s.t.Errorf("offset %d is there: %v; %v, was %v", o, ok, got, row)
		}
	}
	for o := range after {
		if _, ok := before[o]; !ok {
			s.t.Errorf("offset %d is new", o)
		}
	}
}

// noLitter says whether only files of the table are in its data folder, once earlier states are forgotten.
func (s *store) noLitter() {
	s.t.Helper()
	if _, _, err := s.open().ExpireNow(s.t.Context(), Snapshots{Age: time.Nanosecond, Keep: 1}, false); err != nil {
		s.t.Fatal(err)
	}
	found := 0
	err := s.storage().(iceio.ListableIO).WalkDir(s.open().ice.Location()+"/data", func(_ string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			found++
		}
		return err
	})
	live, lerr := s.open().Files(s.t.Context())
	if errors.Is(err, fs.ErrNotExist) && len(live) == 0 {
		return
	}
	if err != nil || lerr != nil || found != len(live) {
		s.t.Errorf("%d files are there, %d in the table (%v, %v)", found, len(live), err, lerr)
	}
}

// TestDeleteRemovesWhatIsMeant has files as the consumer wrote them, merged ones, and two days; all columns of all rows that
// stay are as they were.
func TestDeleteRemovesWhatIsMeant(t *testing.T) {
	s := newStore(t)
	repeats := s.scatter(20, 20)
	s.compact(small())
	for first := int64(400); first < 460; first += 10 {
		s.put(s.open(), first, first+10)
	}
	before, through, sorted := s.rows(), s.open().ValidThrough(), s.sortedFiles()
	is := func(o int64) bool { return o%3 == 0 || o >= 430 && o < 440 } // one file has nothing but such rows
	rows := int64(0)
	for o := range before {
		if is(o) {
			rows++
		}
	}
	dry := s.deletion(is)
	dry.DryRun, dry.Reason = true, ""
	would, err := s.open().Delete(t.Context(), dry)
	if err != nil || would.Rows != rows || would.Gone != 1 || s.total() != fmt.Sprint(len(before)) {
		t.Fatalf("a dry run: %+v (%v), want %d rows", would, err, rows)
	}
	done := s.delete(is)
	if done.Rows != rows || done.Files != would.Files || done.Gone != 1 || done.Commits != 1 || !maps.EqualFunc(done.Partitions, would.Partitions, func(a, b *DeletedIn) bool { return *a == *b }) {
		t.Errorf("%+v, a dry run said %+v", done, would)
	}
	if len(done.Partitions) != 2 || done.Complete.Snapshot != s.open().ice.CurrentSnapshot().SnapshotID || done.Complete.Next[TopicPartition{Topic: s.typ.Topic.Name}] != 460 {
		t.Errorf("complete up to %+v, in %v", done.Complete, done.Partitions)
	}
	s.stays(before, is)
	p := s.verified()
	if !p.OK() || p.Deleted != rows || p.Repeats != repeats || p.Rows != 460 || p.Found != 460-repeats-rows {
		t.Errorf("%+v", p)
	}
	if got := s.sortedFiles(); got != sorted || sorted == 0 {
		t.Errorf("%d files are sorted, %d were", got, sorted)
	}
	summary := s.open().ice.CurrentSnapshot().Summary
	if summary.Operation != table.OpOverwrite || summary.Properties[keyErased] != "asked for" || summary.Properties[keyErasedRows] != strconv.FormatInt(rows, 10) {
		t.Errorf("the summary is %v", summary)
	}
	tb := s.open()
	if got := s.position(); got.Err != nil || got.Next != 460 || !tb.ValidThrough().Equal(through) || tb.ice.Properties()[table.DefaultNameMappingKey] != "" {
		t.Errorf("stands at %+v, valid through %v", got, tb.ValidThrough())
	}
	if done := s.delete(is); done.Rows != 0 || done.Commits != 0 {
		t.Errorf("again: %+v", done)
	}
	s.put(tb, 460, 470)
	s.compact(small())
	if p := s.verified(); !p.OK() || p.Deleted != rows || p.Next != 470 {
		t.Errorf("after a commit and another merge: %+v", p)
	}
	s.noLitter()
}

// sortedFiles counts the files that are said to be sorted.
func (s *store) sortedFiles() (n int) {
	s.t.Helper()
	files, err := liveFiles(s.t.Context(), s.open().ice)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, f := range files {
		if id := f.SortOrderID(); id != nil && *id == 1 {
			n++
		}
	}
	return n
}

// TestDeleteKeepsRowGroups: the rows of an unsorted file are sorted within its row groups, and its bounds are those of what
// is left.
func TestDeleteKeepsRowGroups(t *testing.T) {
	s := newStore(t)
	s.put(s.open(), 100, 250) // row groups of 50
	cfg := s.deletion(func(o int64) bool { return o < 130 || o >= 160 && o < 170 || o == 249 })
	cfg.Memory = 1 << 20
	if _, err := s.open().Delete(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	files, err := liveFiles(t.Context(), s.open().ice)
	if err != nil || len(files) != 1 {
		t.Fatalf("%v (%v)", files, err)
	}
	file, closer, err := openParquet(s.storage(), files[0].FilePath())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = closer.Close() }()
	var groups []int64
	for _, g := range file.RowGroups() {
		groups = append(groups, g.NumRows())
	}
	if !slices.Equal(groups, []int64{20, 40, 49}) {
		t.Errorf("row groups of %v", groups)
	}
	id, _ := s.open().ice.Schema().FindFieldByName(schema.LakeOffset)
	lower, upper := files[0].LowerBoundValues()[id.ID], files[0].UpperBoundValues()[id.ID]
	if lower[0] != 130 || upper[0] != 248 || files[0].Count() != 109 {
		t.Errorf("offsets from %d to %d, %d rows", lower[0], upper[0], files[0].Count())
	}
}

func TestDeleteOfNothingAndOfAll(t *testing.T) {
	s := newStore(t)
	if done := s.delete(every(1)); done.Rows != 0 || done.Complete.Snapshot != 0 {
		t.Errorf("of an empty table: %+v", done)
	}
	s.scatter(4, 20)
	at := s.open().ice.CurrentSnapshot().SnapshotID
	if done := s.delete(func(int64) bool { return false }); done.Rows != 0 || done.Complete.Snapshot != at || s.open().ice.CurrentSnapshot().SnapshotID != at {
		t.Errorf("of nothing: %+v", done)
	}
	if done := s.delete(every(1)); done.Rows != 80 || done.Gone != done.Files {
		t.Errorf("of all: %+v", done)
	}
	if p := s.verified(); !p.OK() || p.Found != 0 || p.Deleted != 80 {
		t.Errorf("%+v", p)
	}
	s.put(s.open(), 80, 90)
	if p := s.verified(); !p.OK() || p.Found != 10 {
		t.Errorf("afterwards: %+v", p)
	}
	if _, err := s.open().Delete(t.Context(), Deletion{Where: offsets{s, every(1)}, Reason: " "}); err == nil || !strings.Contains(err.Error(), "no reason") {
		t.Errorf("without a reason: %v", err)
	}
}

// TestDeleteInBatches has a commit for each file.
func TestDeleteInBatches(t *testing.T) {
	s := newStore(t)
	for first := int64(0); first < 50; first += 10 {
		s.put(s.open(), 100+first, 110+first)
	}
	before, cfg := s.rows(), s.deletion(every(2))
	cfg.Batch = 1
	done, err := s.open().Delete(t.Context(), cfg)
	if err != nil || done.Commits != 5 || done.Files != 5 || done.Rows != 25 {
		t.Errorf("%+v (%v)", done, err)
	}
	s.stays(before, every(2))
	s.noLitter()
}

// TestDeleteBesideWriters has four writers and a compaction go on meanwhile: no row is lost, none is double, and none that is
// meant is left.
func TestDeleteBesideWriters(t *testing.T) {
	const writers, commits, size = 4, 6, 10
	s := newStore(t)
	is := every(3)
	var wg sync.WaitGroup
	for p := range int32(writers) {
		tb := s.open()
		wg.Go(func() {
			for i := range int64(commits) {
				w, err := tb.NewWriter(t.Context(), WriterConfig{Memory: 1 << 20, GroupRows: 50})
				if err != nil {
					t.Error(err)
					return
				}
				records := s.records(i*size, (i+1)*size)
				for i := range records {
					records[i].Source.Partition = p
				}
				if err := w.Add(t.Context(), s.typ, records); err != nil {
					t.Error(err)
				}
				c := &Commit{Sources: map[string]Source{s.typ.Topic.Name: here}}
				if c.Files, err = w.Finish(); err != nil {
					t.Error(err)
				}
				c.Spans = map[TopicPartition]Counts{{s.typ.Topic.Name, p}: {First: i * size, Next: (i + 1) * size, Rows: size}}
				if err := tb.Commit(t.Context(), c); err != nil {
					t.Errorf("partition %d: %v", p, err)
				}
			}
		})
	}
	wg.Go(func() { s.compactQuietly(t) })
	for range 3 {
		if _, err := s.open().Delete(t.Context(), s.deletion(is)); err != nil && !errors.Is(err, ErrLost) {
			t.Error(err)
		}
	}
	wg.Wait()
	s.delete(is)
	v, err := s.open().Verify(t.Context(), enough)
	if err != nil || !v.OK() || len(v.Partitions) != writers {
		t.Fatalf("%+v (%v)", v, err)
	}
	for _, p := range v.Partitions {
		// The same events come from four partitions: compaction keeps one of each.
		if p.Next != commits*size || p.Found+p.Deleted+p.Repeats != commits*size || p.Found > commits*size*2/3 {
			t.Errorf("%+v", p)
		}
	}
	for o := range s.rows() {
		if is(o) {
			t.Errorf("offset %d is still there", o)
		}
	}
	s.noLitter()
}

func (s *store) compactQuietly(t *testing.T) {
	for range 3 {
		if _, err := s.open().Compact(t.Context(), small()); err != nil {
			t.Error(err)
		}
	}
}

// between has something happen ahead of the commit of another, n times.
func (s *store) between(n int, f func() error) {
	var inside sync.Mutex
	s.cat.Before(func() error {
		if !inside.TryLock() {
			return nil
		}
		defer inside.Unlock()
		if n == 0 {
			return nil
		}
		n--
		return f()
	})
	s.t.Cleanup(func() { s.cat.Before(nil) })
}

// TestDeleteFindsWhatIsAppendedMeanwhile has a writer be faster, with rows that are meant.
func TestDeleteFindsWhatIsAppendedMeanwhile(t *testing.T) {
	s := newStore(t)
	s.scatter(3, 20)
	next := int64(60)
	s.between(3, func() error {
		tb := s.open()
		next += 10
		return tb.Commit(t.Context(), s.commit(tb, next-10, next))
	})
	done := s.delete(every(2))
	if next != 90 || done.Rows != next/2 || done.Complete.Next[TopicPartition{Topic: s.typ.Topic.Name}] != next {
		t.Errorf("up to %d: %+v", next, done)
	}
	if p := s.verified(); !p.OK() || p.Found != next/2 {
		t.Errorf("%+v", p)
	}
	s.noLitter()
}

// TestDeleteGivesWayToCompaction has the files merged by another just before the commit: what is left of it stands, and the
// rest is found again.
func TestDeleteGivesWayToCompaction(t *testing.T) {
	s := newStore(t)
	repeats := s.scatter(10, 20) // two days, of which one is merged meanwhile
	before := s.rows()
	cfg := small()
	cfg.Now = base.Add(time.Hour + time.Minute)
	s.between(1, func() error {
		done, err := s.open().Compact(t.Context(), cfg)
		if done.Partitions != 1 {
			return fmt.Errorf("merged %+v", done)
		}
		return err
	})
	done := s.delete(every(2))
	if done.Commits < 2 {
		t.Errorf("%+v", done)
	}
	after := s.rows()
	for o, row := range before {
		if got, ok := after[o]; ok && (o%2 == 0 || !got.Equal(row)) {
			t.Errorf("offset %d is %v", o, got)
		}
	}
	if p := s.verified(); !p.OK() || p.Deleted != done.Rows || p.Repeats > repeats || p.Found != int64(len(after)) {
		t.Errorf("%+v", p)
	}
	s.noLitter()
}

// TestCompactionGivesWayToDelete has a deletion be faster: no row comes back.
func TestCompactionGivesWayToDelete(t *testing.T) {
	s := newStore(t)
	s.scatter(10, 20)
	s.between(1, func() error {
		_, err := s.open().Delete(t.Context(), s.deletion(every(2)))
		return err
	})
	if done := s.compact(small()); done.Lost == 0 {
		t.Errorf("%+v", done)
	}
	for o := range s.rows() {
		if o%2 == 0 {
			t.Errorf("offset %d is back", o)
		}
	}
	if !s.verifiedOK() {
		t.Error("the table does not add up")
	}
	s.noLitter()
}

// TestDeleteThatFailsChangesNothing: the files are written, and the commit never comes through.
func TestDeleteThatFailsChangesNothing(t *testing.T) {
	s := newStore(t)
	s.scatter(3, 20)
	before, at := s.rows(), s.open().ice.CurrentSnapshot().SnapshotID
	ctx, cancel := context.WithCancel(t.Context())
	s.cat.Before(func() error {
		cancel()
		return fmt.Errorf("%w: somebody is always faster", table.ErrCommitFailed) // of an outcome that is not known, the files stay
	})
	_, err := s.open().Delete(ctx, s.deletion(every(2)))
	s.cat.Before(nil)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if got := s.open().ice.CurrentSnapshot().SnapshotID; got != at {
		t.Errorf("the table is at %d, was at %d", got, at)
	}
	s.stays(before, func(int64) bool { return false })
	s.noLitter()
}

// TestDeleteLooksUpALostAnswer has the catalog take the commit and hide it.
func TestDeleteLooksUpALostAnswer(t *testing.T) {
	s := newStore(t)
	s.scatter(3, 20)
	before := s.rows()
	hidden := 0
	s.cat.After(func() error {
		hidden++
		return errors.New("connection reset")
	})
	done := s.delete(every(2))
	s.cat.After(nil)
	if hidden != 1 || done.Commits != 1 || done.Rows != 30 {
		t.Errorf("%d answers hidden: %+v", hidden, done)
	}
	s.stays(before, every(2))
	if p := s.verified(); !p.OK() || p.Deleted != 30 {
		t.Errorf("%+v", p)
	}
	s.noLitter()
}

func TestDeleteOfARolledBackTable(t *testing.T) {
	s := newStore(t)
	s.scatter(5, 10)
	s.rollBack()
	for _, dry := range []bool{true, false} {
		cfg := s.deletion(every(2))
		cfg.DryRun = dry
		if _, err := s.open().Delete(t.Context(), cfg); !errors.Is(err, ErrRolledBack) {
			t.Errorf("dry %v: got %v", dry, err)
		}
	}
	if _, err := s.open().Purge(t.Context()); !errors.Is(err, ErrRolledBack) {
		t.Errorf("purge: %v", err)
	}
	s.adopt(logOf(here, 0, 50), false)
	s.put(s.open(), 40, 50)
	s.between(1, func() error {
		s.rollBack()
		return nil
	})
	if _, err := s.open().Delete(t.Context(), s.deletion(every(2))); !errors.Is(err, ErrRolledBack) {
		t.Errorf("rolled back ahead of the commit: %v", err)
	}
}

// lie is a condition whose answer is about other rows than there are.
type lie struct{ row int64 }

func (lie) Filter() iceberg.BooleanExpression { return nil }

func (l lie) Rows(_ context.Context, _ File, each func(int64) error) error { return each(l.row) }

// TestDeleteProvesWhatItWrote has a condition that means a row that is not there, and a file that lacks another row than it
// should.
func TestDeleteProvesWhatItWrote(t *testing.T) {
	s := newStore(t)
	s.put(s.open(), 100, 110)
	cfg := s.deletion(nil)
	cfg.Where = lie{row: 10}
	if _, err := s.open().Delete(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "has 11 rows, the table says 10") {
		t.Errorf("got %v", err)
	}
	tb := s.open()
	d, err := tb.newDeleting(t.Context(), cfg, &Deleted{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	files, err := liveFiles(t.Context(), tb.ice)
	if err != nil {
		t.Fatal(err)
	}
	w, err := tb.NewWriter(t.Context(), WriterConfig{})
	if err != nil {
		t.Fatal(err)
	}
	b := &batch{deleting: d}
	meant, other := newBitmap(&room{left: enough}), newBitmap(&room{left: enough})
	_, merr := meant.add(3)
	_, oerr := other.add(4)
	r := &rewritten{old: files[0], rows: 1, w: w, from: map[TopicPartition]int64{}}
	if r.fresh, err = b.rewrite(t.Context(), w, files[0], other); errors.Join(err, merr, oerr) != nil {
		t.Fatal(err, merr, oerr)
	}
	if err := b.prove(t.Context(), r, meant); err == nil || !strings.Contains(err.Error(), "nothing was changed") {
		t.Errorf("got %v", err)
	}
	w.Discard()
	s.noLitter()
}

// TestDeleteOverAnEvolvedTable has files of two schemas.
func TestDeleteOverAnEvolvedTable(t *testing.T) {
	s := newStore(t)
	s.scatter(6, 20)
	tx := s.open().ice.NewTransaction()
	err := tx.UpdateSchema(true, false).RenameColumn([]string{"host"}, "machine").DeleteColumn([]string{"span_id"}).
		AddColumn([]string{"weight"}, iceberg.PrimitiveTypes.Int64, "", false, nil).Commit()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	before := s.rows()
	if done := s.delete(every(7)); done.Rows != 18 {
		t.Errorf("%+v", done)
	}
	s.stays(before, every(7))
	if !s.verifiedOK() {
		t.Error("the table does not add up")
	}
}

// meddled is a condition that has another be faster once the rows of a file are known.
type meddled struct {
	offsets
	after func()
}

func (m meddled) Rows(ctx context.Context, file File, each func(int64) error) error {
	defer m.after()
	return m.offsets.Rows(ctx, file, each)
}

// TestDeleteThatAlwaysLoses has another replace one of two files in each pass: that is said, whatever came of the other.
func TestDeleteThatAlwaysLoses(t *testing.T) {
	s := newStore(t)
	s.put(s.open(), 100, 150)
	s.put(s.open(), 150, 170)
	taken, first := int64(0), false
	cfg := s.deletion(nil)
	cfg.Where = meddled{offsets{s, func(o int64) bool {
		first = first || o < 150
		return o%2 == 0
	}}, func() {
		if first {
			s.delete(func(o int64) bool { return o == 101+2*taken })
			taken, first = taken+1, false
		}
	}}
	done, err := s.open().Delete(t.Context(), cfg)
	if !errors.Is(err, ErrLost) || taken != deletePasses || done.Rows != 10 || done.Complete.Snapshot != 0 {
		t.Errorf("%d times: %+v (%v)", taken, done, err)
	}
	if done := s.delete(every(2)); done.Rows != 25 || !s.verifiedOK() {
		t.Errorf("again: %+v", done)
	}
	s.noLitter()
}

// TestARollBackTakesADeletionBack: the rows are there again, and the account says so.
func TestARollBackTakesADeletionBack(t *testing.T) {
	s := newStore(t)
	s.put(s.open(), 0, 10)
	s.delete(every(2))
	s.rollBack()
	s.adopt(logOf(here, 0, 30), false)
	if p := s.verified(); !p.OK() || p.Deleted != 0 || p.Found != 10 {
		t.Errorf("%+v", p)
	}
}
