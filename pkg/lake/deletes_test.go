package lake

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/apache/iceberg-go"

	"github.com/millrace/millrace/pkg/lake/laketest"
)

// markDeleted marks the row of an offset as deleted, behind our back.
func (s *store) markDeleted(way string, offset int64) {
	s.t.Helper()
	ice, err := s.cat.Catalog.LoadTable(s.t.Context(), s.lake.identifier(s.typ))
	if err != nil {
		s.t.Fatal(err)
	}
	if err := laketest.MarkDeleted(s.t.Context(), ice, way, fmt.Sprintf("018f0000-0000-7000-8000-%012d", offset)); err != nil {
		s.t.Fatal(err)
	}
}

// TestMarkedRowsAreNeverRead: whatever way another engine has marked them, all that reads rows says so, and what to do.
// What does not need the file goes on: earlier states, other days, and the consumer's commits.
func TestMarkedRowsAreNeverRead(t *testing.T) {
	for _, way := range laketest.Deletes() {
		t.Run(way, func(t *testing.T) {
			s := newStore(t)
			tb := s.open()
			for first := range int64(2) { // the first day has a minute, so that each file is of another
				if err := tb.Commit(t.Context(), s.commit(tb, first*60, first*60+60)); err != nil {
					t.Fatal(err)
				}
			}
			before, err := tb.At(AsOf{})
			if err != nil {
				t.Fatal(err)
			}
			id, _, _ := before.Snapshot()
			files, err := before.Files(t.Context(), nil)
			if err != nil || len(files) != 2 {
				t.Fatalf("%v (%v), want two files", files, err)
			}
			s.markDeleted(way, 7)
			tb = s.open()
			now, err := tb.At(AsOf{})
			if err != nil {
				t.Fatal(err)
			}
			if now.snapshot.SnapshotID == id {
				t.Fatal("nothing was deleted")
			}

			_, ferr := now.Files(t.Context(), nil)
			_, lerr := tb.Files(t.Context())
			_, verr := tb.Verify(t.Context(), 1<<20)
			_, cerr := tb.Compact(t.Context(), small())
			_, derr := tb.Delete(t.Context(), s.deletion(func(int64) bool { return true }))
			for what, err := range map[string]error{"files": ferr, "listing": lerr, "verify": verr, "compact": cerr, "delete": derr} {
				if !errors.Is(err, ErrDeletes) {
					t.Errorf("%s: %v", what, err)
					continue
				}
				named := slices.ContainsFunc(files, func(f File) bool { return strings.Contains(err.Error(), "rows of "+f.Location) })
				if !named || !strings.Contains(err.Error(), "rewrite_data_files") || !strings.Contains(err.Error(), "write.delete.mode") {
					t.Errorf("%s does not say where, or what to do: %v", what, err)
				}
			}
			past, err := tb.At(AsOf{Snapshot: id})
			if err != nil {
				t.Fatal(err)
			}
			if got, err := past.Files(t.Context(), nil); err != nil || !slices.Equal(got, files) {
				t.Errorf("the state before: %v (%v), want %v", got, err, files)
			}
			midnight := iceberg.Timestamp(base.Add(time.Minute).UnixMicro())
			other := iceberg.GreaterThanEqual(iceberg.Reference("time"), midnight)
			if got, err := now.Files(t.Context(), other); err != nil || len(got) != 1 || got[0] != files[1] {
				t.Errorf("the other day: %v (%v), want %v", got, err, files[1])
			}
			same := iceberg.LessThan(iceberg.Reference("time"), iceberg.Timestamp(base.Add(time.Second).UnixMicro()))
			if _, err := now.Files(t.Context(), same); !errors.Is(err, ErrDeletes) { // of rows beside the one that is marked
				t.Errorf("the same day: %v", err)
			}
			c := s.commit(tb, 120, 130)
			if way != laketest.DeletionVectors {
				if err := tb.Commit(t.Context(), c); err != nil {
					t.Errorf("the consumer: %v", err)
				}
				return
			}
			// The table is of version 3, which the writer cannot add to.
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			c.Failed = func(error) { cancel() }
			if err := tb.Commit(ctx, c); !errors.Is(err, errVersion) || len(c.staged) != 0 || c.Unknown {
				t.Errorf("the consumer: %v, with %d files staged, want %v", err, len(c.staged), errVersion)
			}
		})
	}
}

// TestRowsThatAreMarkedWhileTheyAreMerged: the merge is given up, and the mark stays.
func TestRowsThatAreMarkedWhileTheyAreMerged(t *testing.T) {
	for _, way := range laketest.Deletes() {
		t.Run(way, func(t *testing.T) {
			s := newStore(t)
			s.scatter(4, 40)
			s.cat.Before(func() error {
				s.cat.Before(nil)
				s.markDeleted(way, 7)
				return nil
			})
			done, err := s.open().Compact(t.Context(), small())
			if err != nil || done.Lost == 0 {
				t.Errorf("%+v, %v: the merge was not given up", done, err)
			}
			if _, err := s.open().Files(t.Context()); !errors.Is(err, ErrDeletes) {
				t.Errorf("the mark is gone: %v", err)
			}
		})
	}
}
