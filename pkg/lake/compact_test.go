package lake

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/apache/iceberg-go"
	"github.com/apache/iceberg-go/table"
	"github.com/parquet-go/parquet-go"

	"github.com/millrace/millrace/pkg/codec"
	"github.com/millrace/millrace/pkg/schema"
)

// small merges into files of 64 KiB with hardly any memory, so that everything is spilled and merged in rounds.
func small() Compaction {
	return Compaction{Target: 64 << 10, Memory: 8 << 10, GroupRows: 100, After: time.Hour, Now: base.Add(72 * time.Hour)}
}

// scatter commits rows in many small files: of two days, unsorted, with every tenth event in two rows. It gives how many
// rows are repeats.
func (s *store) scatter(commits, each int64) (repeats int64) {
	s.t.Helper()
	tb := s.open()
	random := rand.New(rand.NewPCG(1, 2))
	for n := range commits {
		records := s.records(n*each, (n+1)*each)
		for i := range records {
			r := &records[i]
			r.Values[s.typ.Index("service")] = codec.StringValue(fmt.Sprint("service-", random.IntN(5)))
			if o := r.Source.Offset; o%10 == 9 && o >= each { // an event of an earlier commit again
				again := s.records(o-each-1, o-each)[0]
				r.Values[schema.ID], r.Values[schema.Time] = again.Values[schema.ID], again.Values[schema.Time]
				repeats++
			}
			r.Source.Timestamp = base.Add(time.Duration(r.Source.Offset) * time.Minute)
		}
		w, err := tb.NewWriter(s.t.Context(), WriterConfig{Memory: 1 << 20, GroupRows: 7})
		if err != nil {
			s.t.Fatal(err)
		}
		if err := w.Add(s.t.Context(), s.typ, records); err != nil {
			s.t.Fatal(err)
		}
		c := s.commit(tb, n*each, n*each)
		if c.Files, err = w.Finish(); err != nil {
			s.t.Fatal(err)
		}
		c.Spans[TopicPartition{Topic: s.typ.Topic.Name}] = Counts{First: n * each, Next: (n + 1) * each, Rows: each}
		if err := tb.Commit(s.t.Context(), c); err != nil {
			s.t.Fatal(err)
		}
	}
	return repeats
}

// rows reads the whole table, by offset. Each file is in order, if it says so.
func (s *store) rows() map[int64]parquet.Row {
	s.t.Helper()
	tb := s.open()
	order, err := newOrdering(tb.ice, tb.layout)
	if err != nil {
		s.t.Fatal(err)
	}
	files, err := liveFiles(s.t.Context(), tb.ice)
	if err != nil {
		s.t.Fatal(err)
	}
	fs, err := tb.files(s.t.Context(), tb.ice)
	if err != nil {
		s.t.Fatal(err)
	}
	all := map[int64]parquet.Row{}
	for _, f := range files {
		file, closer, err := openParquet(fs, f.FilePath())
		if err != nil {
			s.t.Fatal(err)
		}
		var last sortRow
		err = rowsOf(s.t.Context(), order, file, func(_ int64, r sortRow, _ int64) error {
			if sorted := f.SortOrderID(); sorted != nil && *sorted == 1 && last.row != nil && order.compare(&last, &r) > 0 {
				return fmt.Errorf("%s is not sorted", f.FilePath())
			}
			last = r
			all[r.keys[len(r.keys)-1].Int64()] = r.row
			return nil
		})
		if err := errors.Join(err, closer.Close()); err != nil {
			s.t.Fatal(err)
		}
	}
	return all
}

func (s *store) compact(cfg Compaction) Compacted {
	s.t.Helper()
	done, err := s.open().Compact(s.t.Context(), cfg)
	if err != nil {
		s.t.Fatal(err)
	}
	return done
}

// TestCompactKeepsEveryEventOnce compares all columns of all rows with what they were.
func TestCompactKeepsEveryEventOnce(t *testing.T) {
	s := newStore(t)
	repeats := s.scatter(40, 20)
	before := s.rows()
	through := s.open().ValidThrough()
	if done := s.compact(small()); done.Partitions != 2 || done.Repeats != repeats || done.After >= done.Before || done.Rows != 800-repeats || done.Lost != 0 {
		t.Errorf("%+v, want 2 partitions and %d repeats", done, repeats)
	}
	after := s.rows()
	for o, row := range before {
		again := o%10 == 9 && o >= 20
		if got, ok := after[o]; ok == again || ok && !got.Equal(row) {
			t.Errorf("offset %d is there: %v; %v, was %v", o, ok, got, row)
		}
	}
	p := s.verified()
	if !p.OK() || p.Repeats != repeats || p.Found != 800-repeats || p.Rows != 800 {
		t.Errorf("%+v", p)
	}
	tb := s.open()
	if got := s.position(); got.Err != nil || got.Next != 800 || !tb.ValidThrough().Equal(through) || tb.ice.Properties()["schema.name-mapping.default"] != "" {
		t.Errorf("stands at %+v, valid through %v", got, tb.ValidThrough())
	}
	files, err := liveFiles(t.Context(), tb.ice)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if id := f.SortOrderID(); id == nil || *id != 1 || f.FileSizeBytes() > 4*small().Target {
			t.Errorf("%s: sort order %v, %d bytes", f.FilePath(), id, f.FileSizeBytes())
		}
	}
	s.put(tb, 800, 810)
	if got := s.position(); got.Next != 810 || !s.verifiedOK() {
		t.Errorf("after another commit: %+v", got)
	}
}

func (s *store) verifiedOK() bool { p := s.verified(); return p.OK() }

// TestCompactComesToAnEnd: what is merged is not merged again and again, and the old files are gone with their states.
func TestCompactComesToAnEnd(t *testing.T) {
	s := newStore(t)
	s.scatter(30, 10)
	for range 10 {
		if s.compact(small()).Partitions == 0 {
			break
		}
	}
	if done := s.compact(small()); done != (Compacted{}) {
		t.Errorf("still something to merge: %+v", done)
	}
	if _, _, err := s.open().ExpireNow(t.Context(), Snapshots{Age: time.Nanosecond, Keep: 1}, false); err != nil {
		t.Fatal(err)
	}
	found, err := filepath.Glob(filepath.Join(s.open().ice.Location(), "data", "*", "*.parquet"))
	live, lerr := s.open().Files(t.Context())
	if err != nil || lerr != nil || len(found) != len(live) || !s.verifiedOK() {
		t.Errorf("%d files on disk, %d in the table (%v, %v)", len(found), len(live), err, lerr)
	}
}

func TestCompactLeavesOpenPartitions(t *testing.T) {
	s := newStore(t)
	s.scatter(6, 20) // from 23:59 on
	cfg := small()
	cfg.Now = base.Add(time.Hour) // the second day is not over, and the first not for an hour
	if done := s.compact(cfg); done.Partitions != 0 {
		t.Errorf("%+v", done)
	}
	cfg.Now = base.Add(time.Hour + time.Minute)
	cfg.DryRun = true
	if done := s.compact(cfg); done.Partitions != 1 || done.Before != 4 || s.open().state().CurrentSnapshot().SequenceNumber != 6 {
		t.Errorf("a dry run: %+v", done)
	}
	cfg.DryRun = false
	if done := s.compact(cfg); done.Partitions != 1 || done.Before != 4 || done.After != 1 {
		t.Errorf("%+v", done)
	}
}

// TestCompactBesideAWriter has a writer be faster again and again, and others who commit as they please.
func TestCompactBesideAWriter(t *testing.T) {
	s := newStore(t)
	repeats := s.scatter(20, 20)
	var inside sync.Mutex
	next := int64(400)
	s.cat.Before(func() error {
		if !inside.TryLock() {
			return nil // the writer's own
		}
		defer inside.Unlock()
		if next < 430 {
			tb := s.open()
			if err := tb.Commit(t.Context(), s.commit(tb, next, next+10)); err != nil {
				return err
			}
			next += 10
		}
		return nil
	})
	done := s.compact(small())
	s.cat.Before(nil)
	if done.Lost != 0 || done.Repeats != repeats || next < 410 {
		t.Errorf("%+v beside commits up to %d", done, next)
	}
	if p := s.verified(); !p.OK() || p.Next != next || p.Found != next-repeats {
		t.Errorf("%+v", p)
	}

	var wg sync.WaitGroup
	wg.Go(func() {
		for range 6 {
			tb := s.open()
			if err := tb.Commit(t.Context(), s.commit(tb, next, next+10)); err != nil {
				t.Error(err)
			}
			next += 10
		}
	})
	for range 3 {
		s.compact(small())
	}
	wg.Wait()
	if p := s.verified(); !p.OK() || p.Next != next || p.Found != next-repeats {
		t.Errorf("%+v", p)
	}
}

// TestCompactLosesToAnother has another process merge the same files in between.
func TestCompactLosesToAnother(t *testing.T) {
	s := newStore(t)
	s.scatter(10, 20)
	one := sync.OnceValue(func() error {
		_, err := s.open().Compact(t.Context(), small())
		return err
	})
	var inside sync.Mutex
	s.cat.Before(func() error {
		if !inside.TryLock() {
			return nil
		}
		defer inside.Unlock()
		return one()
	})
	done := s.compact(small())
	s.cat.Before(nil)
	if done.Lost != 2 || done.After != 0 {
		t.Errorf("%+v, want both partitions lost", done)
	}
	if p := s.verified(); !p.OK() {
		t.Errorf("%+v", p)
	}
	if _, _, err := s.open().ExpireNow(t.Context(), Snapshots{Age: time.Nanosecond, Keep: 1}, false); err != nil {
		t.Fatal(err)
	}
	found, err := filepath.Glob(filepath.Join(s.open().ice.Location(), "data", "*", "*.parquet"))
	live, lerr := s.open().Files(t.Context())
	if err != nil || lerr != nil || len(found) != len(live) {
		t.Errorf("%d files on disk, %d in the table (%v, %v)", len(found), len(live), err, lerr)
	}
}

// TestCompactOfARolledBackTable would have the table's history agree with its properties, and hide it.
func TestCompactOfARolledBackTable(t *testing.T) {
	s := newStore(t)
	s.scatter(5, 10)
	s.rollBack()
	if _, err := s.open().Compact(t.Context(), small()); !errors.Is(err, ErrRolledBack) {
		t.Errorf("got %v", err)
	}
	if got := s.position(); !errors.Is(got.Err, ErrRolledBack) {
		t.Errorf("the position says %v", got.Err)
	}
}

// TestCompactProvesWhatItMerged has a merge that loses a row.
func TestCompactProvesWhatItMerged(t *testing.T) {
	s := newStore(t)
	s.scatter(5, 10)
	tb := s.open()
	files, err := liveFiles(t.Context(), tb.ice)
	if err != nil {
		t.Fatal(err)
	}
	fs, err := tb.files(t.Context(), tb.ice)
	if err != nil {
		t.Fatal(err)
	}
	m := &merge{table: tb, cfg: small(), fs: fs, files: files, done: &Compacted{}}
	if m.repeats, err = findRepeats(t.Context(), fs, files, 1<<20); err != nil {
		t.Fatal(err)
	}
	err = m.prove(t.Context(), []int{0, 1}, files[1:2], &compaction{repeats: map[TopicPartition]int64{}})
	if err == nil || !strings.Contains(err.Error(), "nothing was changed") {
		t.Errorf("got %v", err)
	}
}

// TestCompactOverAnEvolvedTable merges files of two schemas: a column renamed, one added, one that may be null by now.
func TestCompactOverAnEvolvedTable(t *testing.T) {
	s := newStore(t)
	s.scatter(6, 20)
	tx := s.open().ice.NewTransaction()
	err := tx.UpdateSchema(true, false).RenameColumn([]string{"host"}, "machine").DeleteColumn([]string{"span_id"}).
		AddColumn([]string{"weight"}, iceberg.PrimitiveTypes.Int64, "", false, nil).
		UpdateColumn([]string{"attributes"}, table.ColumnUpdate{Required: iceberg.Optional[bool]{Valid: true}}).
		UpdateColumn([]string{"body"}, table.ColumnUpdate{Required: iceberg.Optional[bool]{Valid: true}}).Commit()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	before := s.rows()
	done := s.compact(small())
	after := s.rows()
	if len(before) != 120 || int64(len(after)) != 120-done.Repeats || done.Repeats == 0 {
		t.Errorf("%d rows became %d: %+v", len(before), len(after), done)
	}
	for o, row := range after {
		if !row.Equal(before[o]) {
			t.Errorf("offset %d: got %v, was %v", o, row, before[o])
		}
	}
	l := s.open().layout
	attributes, _ := l.parquet.Lookup("attributes", "key_value", "key")
	machine, _ := l.parquet.Lookup("machine")
	after[0].Range(func(i int, values []parquet.Value) bool {
		switch i {
		case attributes.ColumnIndex:
			if values[0].String() != "n" || values[0].DefinitionLevel() != 2 {
				t.Errorf("attributes are %+v", values)
			}
		case machine.ColumnIndex:
			if values[0].String() != "host" {
				t.Errorf("machine is %v", values)
			}
		}
		return true
	})
}
