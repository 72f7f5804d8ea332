package lake

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/apache/iceberg-go"
	"github.com/google/uuid"
)

// tree lists all files of the table, and makes them as old as said.
func (s *store) tree(age time.Duration) []string {
	s.t.Helper()
	var files []string
	err := filepath.WalkDir(s.open().ice.Location(), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		files = append(files, path)
		at := time.Now().Add(-age)
		return os.Chtimes(path, at, at)
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return files
}

func (s *store) litter(name string) string {
	s.t.Helper()
	path := filepath.Join(s.open().ice.Location(), name)
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("nobody's"), 0o600); err != nil {
		s.t.Fatal(err)
	}
	return path
}

// TestOrphansAreOldAndNobodys has files of all kinds that nobody refers to, old and young, beside a table with a history.
func TestOrphansAreOldAndNobodys(t *testing.T) {
	s := newStore(t)
	tb := s.open()
	for first := int64(0); first < 30; first += 10 {
		s.put(tb, first, first+10)
	}
	s.rollBack() // the snapshot that is left is none of main's, and is kept all the same
	want := []string{
		s.litter("data/time_day=2026-03-01/01890000-0000-7000-8000-000000000000.parquet"),
		s.litter("metadata/01890000-0000-7000-8000-000000000000-m0.avro"),
		s.litter("metadata/snap-1-0-01890000-0000-7000-8000-000000000000.avro"),
	}
	young := s.litter("data/time_day=2026-03-01/01890000-0000-7000-8000-000000000001.parquet")
	before := s.tree(MinOrphanAge + time.Minute)
	if err := os.Chtimes(young, time.Now(), time.Now()); err != nil {
		t.Fatal(err)
	}
	for _, dry := range []bool{true, false} {
		found, err := s.open().Orphans(t.Context(), MinOrphanAge, dry)
		slices.Sort(found.Files)
		if err != nil || !slices.Equal(found.Files, want) || found.Bytes != int64(len(want)*len("nobody's")) {
			t.Fatalf("dry %v: got %+v, want %v (%v)", dry, found, want, err)
		}
	}
	for _, path := range before {
		_, err := os.Stat(path)
		if gone := errors.Is(err, os.ErrNotExist); gone != slices.Contains(want, path) {
			t.Errorf("%s is gone: %v", path, gone)
		}
	}
	s.adopt(logOf(here, 0, 30), false)
	s.put(s.open(), 20, 30)
	if p := s.verified(); !p.OK() || p.Found != 30 {
		t.Errorf("after the clean-up: %+v", p)
	}
}

func TestOrphansOfLessThanADayAreLeft(t *testing.T) {
	s := newStore(t)
	if _, err := s.open().Orphans(t.Context(), MinOrphanAge-1, false); err == nil || !strings.Contains(err.Error(), "24h0m0s") {
		t.Errorf("got %v", err)
	}
}

// TestNoCommitAddsAFileThatMayBeRemoved holds a commit back for as long as an outage may take: its rows come again.
func TestNoCommitAddsAFileThatMayBeRemoved(t *testing.T) {
	s := newStore(t)
	tb := s.open()
	for i, want := range []error{ErrReseek, nil} {
		age := maxFileAge + time.Minute - time.Duration(i)*2*time.Minute
		c := s.commit(tb, 0, 10)
		old := c.Files[0].FilePath()
		name := filepath.Join(filepath.Dir(old), begunAt(t, time.Now().Add(-age))+".parquet")
		if err := os.Rename(old, name); err != nil {
			t.Fatal(err)
		}
		c.Files[0] = renamedFile(t, tb.ice.Spec(), c.Files[0], name)
		if err := tb.Commit(t.Context(), c); !errors.Is(err, want) {
			t.Errorf("a file of %v: got %v, want %v", age, err, want)
		}
	}
}

// begunAt is the name of a file that was begun at a time.
func begunAt(t *testing.T, at time.Time) string {
	t.Helper()
	id, err := uuid.NewV7()
	if err != nil {
		t.Fatal(err)
	}
	ms := at.UnixMilli()
	for i := range 6 {
		id[i] = byte(ms >> (8 * (5 - i)))
	}
	return id.String()
}

func renamedFile(t *testing.T, spec iceberg.PartitionSpec, f iceberg.DataFile, name string) iceberg.DataFile {
	t.Helper()
	b, err := iceberg.NewDataFileBuilder(spec, iceberg.EntryContentData, name, iceberg.ParquetFile, f.Partition(), logicalTypes(spec), nil,
		f.Count(), f.FileSizeBytes())
	if err != nil {
		t.Fatal(err)
	}
	return b.Build()
}

func TestCommitsDoNotGrow(t *testing.T) { testCommitsDoNotGrow(t, 200) }

// testCommitsDoNotGrow weighs what each commit writes beside its data file. Merging manifests and forgetting states takes
// turns, so it is told over as many commits as are between two of them.
func testCommitsDoNotGrow(t *testing.T, commits int64) {
	const window = 50
	s := newStore(t)
	tb := s.open()
	folder := filepath.Dir(tb.MetadataLocation())
	known := map[string]bool{}
	var written, early int64
	for n := range commits {
		if n%window == 0 {
			written = 0
		}
		s.put(tb, n, n+1)
		if err := tb.ExpireDue(t.Context()); err != nil {
			t.Fatal(err)
		}
		entries, err := os.ReadDir(folder)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if info, err := e.Info(); err == nil && !known[e.Name()] {
				known[e.Name()] = true
				written += info.Size()
			}
		}
		if n == 99 {
			early = written
		}
	}
	t.Logf("bytes a commit: %d from the 51st to the 100th, %d in the last %d of %d", early/window, written/window, window, commits)
	if written > 2*early {
		t.Errorf("the last %d commits wrote %d bytes, those up to the 100th %d", window, written, early)
	}
	if n := len(s.open().ice.Metadata().Snapshots()); n > Default().Snapshots.Most+window {
		t.Errorf("%d states are kept", n)
	}
	if p := s.verified(); !p.OK() || p.Found != commits {
		t.Errorf("%+v", p)
	}
}

func TestExpireNow(t *testing.T) {
	s := newStore(t)
	tb := s.open()
	for first := int64(0); first < 50; first += 10 {
		s.put(tb, first, first+10)
	}
	if before, after, err := tb.ExpireNow(t.Context(), Snapshots{Age: time.Hour, Keep: 1, Most: 4}, true); before != 5 || after != 4 || err != nil {
		t.Errorf("at most 4: from %d to %d (%v)", before, after, err)
	}
	keep := Snapshots{Age: time.Nanosecond, Keep: 2}
	if before, after, err := s.open().ExpireNow(t.Context(), keep, true); before != 5 || after != 2 || err != nil {
		t.Errorf("dry: from %d to %d (%v)", before, after, err)
	}
	if n := len(s.open().ice.Metadata().Snapshots()); n != 5 {
		t.Errorf("a dry run left %d states", n)
	}
	late := s.open()
	s.put(tb, 50, 60) // faster than who expires
	before, after, err := late.ExpireNow(t.Context(), keep, false)
	if before != 6 || after != 2 || err != nil {
		t.Errorf("from %d to %d (%v)", before, after, err)
	}
	if p := s.verified(); !p.OK() || p.Found != 60 {
		t.Errorf("%+v", p)
	}
}
