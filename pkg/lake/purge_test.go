package lake

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"path"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/apache/iceberg-go"
	iceio "github.com/apache/iceberg-go/io"
	"github.com/apache/iceberg-go/table"
	"github.com/parquet-go/parquet-go"

	"github.com/millrace/millrace/pkg/codec"
)

const marker = "zzmarkerzz" // the greatest of its column, and short: a column's bounds hold it whole

// mark commits rows of which every tenth is of a tenant that is to be forgotten.
func (s *store) mark(first, next int64) {
	s.t.Helper()
	tb := s.open()
	w, err := tb.NewWriter(s.t.Context(), WriterConfig{Memory: 1 << 20, GroupRows: 50})
	if err != nil {
		s.t.Fatal(err)
	}
	records := s.records(first, next)
	for i := range records {
		if marked(records[i].Source.Offset) {
			records[i].Values[s.typ.Index("service")] = codec.StringValue(marker)
		}
	}
	if err := w.Add(s.t.Context(), s.typ, records); err != nil {
		s.t.Fatal(err)
	}
	c := s.commit(tb, first, first)
	if c.Files, err = w.Finish(); err != nil {
		s.t.Fatal(err)
	}
	c.Spans = map[TopicPartition]Counts{{Topic: s.typ.Topic.Name}: {First: first, Next: next, Rows: next - first}}
	if err := tb.Commit(s.t.Context(), c); err != nil {
		s.t.Fatal(err)
	}
}

func marked(o int64) bool { return o%10 == 0 }

// traces lists the files in the table's folder, whatever refers to them, that hold the marker: in their bytes, in the values
// of a Parquet file, in the entries of a manifest.
func (s *store) traces() (found []string) {
	s.t.Helper()
	storage := s.storage()
	err := storage.(iceio.ListableIO).WalkDir(s.open().ice.Location(), func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		f, err := storage.Open(name)
		if err != nil {
			return err
		}
		raw, err := io.ReadAll(f)
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
		in := bytes.Contains(raw, []byte(marker))
		switch {
		case strings.HasSuffix(name, ".parquet"):
			file, err := parquet.OpenFile(bytes.NewReader(raw), int64(len(raw)))
			if err != nil {
				return err
			}
			in = in || holds(s.t, file)
		case strings.HasSuffix(name, ".avro") && !strings.HasPrefix(path.Base(name), "snap-"):
			described, err := describes(name, raw)
			if err != nil {
				return err
			}
			in = in || described
		}
		if in {
			found = append(found, name)
		}
		return nil
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return found
}

func holds(t *testing.T, file *parquet.File) bool {
	t.Helper()
	for _, g := range file.RowGroups() {
		rows := g.Rows()
		buf := make([]parquet.Row, 16)
		for {
			n, err := rows.ReadRows(buf)
			for _, r := range buf[:n] {
				for _, v := range r {
					if v.Kind() == parquet.ByteArray && strings.Contains(string(v.ByteArray()), marker) {
						return true
					}
				}
			}
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if err := rows.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return false
}

// describes says whether the bounds of a file in a manifest hold the marker, be the file in the table or not.
func describes(name string, raw []byte) (bool, error) {
	m := iceberg.NewManifestFile(2, name, int64(len(raw)), 0, 0).Build()
	entries, err := iceberg.ReadManifest(m, bytes.NewReader(raw), false)
	if err != nil {
		return false, err
	}
	for _, e := range entries {
		for _, bounds := range []map[int][]byte{e.DataFile().LowerBoundValues(), e.DataFile().UpperBoundValues()} {
			for _, b := range bounds {
				if bytes.Contains(b, []byte(marker)) {
					return true, nil
				}
			}
		}
	}
	return false, nil
}

// TestPurgeLeavesNoTrace looks at every byte in the table's folder.
func TestPurgeLeavesNoTrace(t *testing.T) {
	s := newStore(t)
	for first := int64(0); first < 200; first += 20 {
		s.mark(first, first+20)
	}
	past := s.open().ice.CurrentSnapshot().SnapshotID
	s.compact(small()) // files that were merged are in states of their own
	s.mark(200, 220)
	if s.traces() == nil {
		t.Fatal("the marker is not found where it is")
	}
	done := s.delete(marked)
	if done.Rows != 22 || s.traces() == nil {
		t.Fatalf("%+v; without a purge the files of earlier states stay", done)
	}
	states := len(s.open().ice.Metadata().Snapshots())
	p, err := s.open().Purge(t.Context())
	if err != nil || p.States < states || p.Files == 0 || p.Strays != 0 {
		t.Errorf("%+v of %d states (%v)", p, states, err)
	}
	if found := s.traces(); found != nil {
		t.Errorf("the marker is still in %v", found)
	}
	if _, err := s.open().At(AsOf{Snapshot: past}); !errors.Is(err, ErrNoState) {
		t.Errorf("as of an earlier state: %v", err)
	}
	if v := s.verified(); !v.OK() || v.Found != 198 || v.Deleted != 22 {
		t.Errorf("%+v", v)
	}
	if at := s.position(); at.Err != nil || at.Next != 220 {
		t.Errorf("stands at %+v", at)
	}
	s.mark(220, 221)
	if p, err := s.open().Purge(t.Context()); err != nil || p.States != 1 {
		t.Errorf("again: %+v (%v)", p, err)
	}
	s.noLitter()
}

// TestPurgeOfATableWithoutRows: nothing is left of a table of one tenant.
func TestPurgeOfATableWithoutRows(t *testing.T) {
	s := newStore(t)
	if p, err := s.open().Purge(t.Context()); err != nil || p.States != 0 {
		t.Errorf("of a new table: %+v (%v)", p, err)
	}
	s.mark(0, 1)
	s.delete(marked)
	if p, err := s.open().Purge(t.Context()); err != nil || p.States == 0 {
		t.Errorf("%+v (%v)", p, err)
	}
	if found := s.traces(); found != nil {
		t.Errorf("the marker is still in %v", found)
	}
	s.mark(1, 5)
	if v := s.verified(); !v.OK() || v.Found != 4 {
		t.Errorf("%+v", v)
	}
}

// TestPurgeBesideAWriter: commits come all the time, and none is lost.
func TestPurgeBesideAWriter(t *testing.T) {
	s := newStore(t)
	s.mark(0, 100)
	s.delete(marked)
	past := s.open().ice.Metadata().Snapshots()
	stop := make(chan struct{})
	next := int64(101) // no row after it is meant
	var wg sync.WaitGroup
	s.mark(100, 101)
	s.delete(marked)
	wg.Go(func() {
		tb := s.open()
		for range 25 {
			select {
			case <-stop:
				return
			default:
			}
			if err := tb.Commit(t.Context(), s.commit(tb, next, next+1)); err != nil {
				t.Error(err)
				return
			}
			next++
		}
	})
	_, err := s.open().Purge(t.Context())
	close(stop)
	wg.Wait()
	if err != nil {
		t.Fatal(err)
	}
	for _, snapshot := range past {
		if s.open().ice.Metadata().SnapshotByID(snapshot.SnapshotID) != nil {
			t.Errorf("snapshot %d is still there", snapshot.SnapshotID)
		}
	}
	if found := s.traces(); found != nil {
		t.Errorf("the marker is still in %v", found)
	}
	if v := s.verified(); !v.OK() || v.Found != next-11 {
		t.Errorf("%+v, written up to %d", v, next)
	}
}

// TestPurgeRemovesWhatExpiryLeft has the answer to the expiry be lost, with which iceberg-go's own clean-up is.
func TestPurgeRemovesWhatExpiryLeft(t *testing.T) {
	s := newStore(t)
	s.mark(0, 20)
	s.delete(marked)
	lost := 0
	s.cat.After(func() error {
		lost++
		return errors.New("connection reset")
	})
	p, err := s.open().Purge(t.Context())
	s.cat.After(nil)
	if err != nil || lost < 2 || p.Files == 0 {
		t.Errorf("%+v after %d lost answers (%v)", p, lost, err)
	}
	if found := s.traces(); found != nil {
		t.Errorf("the marker is still in %v", found)
	}
	s.noLitter()
}

// TestPurgeOfAPinnedTable has a tag hold a state, and a branch's own retention.
func TestPurgeOfAPinnedTable(t *testing.T) {
	for name, c := range map[string]struct {
		update func(id int64) table.Update
		want   string
	}{
		"a tag": {func(id int64) table.Update {
			return table.NewSetSnapshotRefUpdate("audit", id, table.TagRef, 0, 0, 0)
		}, "the tag audit"},
		"main's retention": {func(id int64) table.Update {
			return table.NewSetSnapshotRefUpdate("main", id, table.BranchRef, 0, 0, 5)
		}, "the retention of the branch main"},
		"no garbage collection": {func(int64) table.Update {
			return table.NewSetPropertiesUpdate(iceberg.Properties{"gc.enabled": "false"})
		}, "gc.enabled=false"},
	} {
		s := newStore(t)
		s.mark(0, 20)
		tb := s.open()
		_, _, err := s.cat.CommitTable(t.Context(), tb.ice.Identifier(), nil, []table.Update{c.update(tb.ice.CurrentSnapshot().SnapshotID)})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.open().Purge(t.Context()); !errors.Is(err, ErrPinned) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestPurgeSaysWhatItDoesNotKnow: a file that a process left behind may hold the rows.
func TestPurgeSaysWhatItDoesNotKnow(t *testing.T) {
	s := newStore(t)
	s.mark(0, 20)
	s.litter("data/time_day=2026-03-01/01890000-0000-7000-8000-000000000000.parquet")
	s.tree(time.Minute)
	s.delete(marked)
	if p, err := s.open().Purge(t.Context()); err != nil || p.Strays != 1 {
		t.Errorf("%+v (%v)", p, err)
	}
}
