package lake

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"

	"github.com/apache/iceberg-go"
	iceio "github.com/apache/iceberg-go/io"
	"github.com/apache/iceberg-go/table"
)

// Purged is what Purge has removed.
type Purged struct {
	States int // that were forgotten
	Files  int // data files, manifests and lists of manifests that only those had, all found to be gone
	// Strays are data files that no state refers to: of writers under way, and of processes that died. What is in them is
	// not known. -1: the storage cannot be listed.
	Strays int
}

// ErrPinned says that states of a table cannot be forgotten.
var ErrPinned = errors.New("earlier states of the table are pinned")

// Purgeable says whether all earlier states of the table can be forgotten: ErrPinned where a branch or a tag holds some, or
// the table's settings do.
func (t *Table) Purgeable() error {
	ice := t.state()
	var pins []string
	for name, ref := range ice.Metadata().Refs() {
		if name != table.MainBranch {
			pins = append(pins, fmt.Sprintf("the %s %s", ref.SnapshotRefType, name))
		} else if ref.MinSnapshotsToKeep != nil || ref.MaxSnapshotAgeMs != nil {
			pins = append(pins, "the retention of the branch "+name)
		}
	}
	if gc := ice.Properties()["gc.enabled"]; strings.EqualFold(gc, "false") {
		pins = append(pins, "the property gc.enabled=false")
	}
	if len(pins) == 0 {
		return nil
	}
	slices.Sort(pins)
	return fmt.Errorf("purging table %s: %w by %s: remove that with the engine that made it", t.name, ErrPinned, strings.Join(pins, ", "))
}

// Purge forgets all states of the table that are there when it begins but for the current one, whatever is configured, removes
// the files that only they had, and looks that they are gone. With them go the bounds of their columns, which manifests
// hold. Queries that read an earlier state break off. What is committed meanwhile stays.
func (t *Table) Purge(ctx context.Context) (Purged, error) {
	p := &purge{table: t, had: map[string]bool{}}
	err := p.run(ctx)
	if err != nil {
		return p.done, fmt.Errorf("purging table %s: %w", t.name, err)
	}
	return p.done, nil
}

// purge is under way.
type purge struct {
	table  *Table
	doomed []int64         // states to be forgotten; nil: it is not known yet
	had    map[string]bool // their files
	done   Purged
}

func (p *purge) run(ctx context.Context) error {
	var last error
	for pause := minPause; ; pause = min(2*pause, maxPause) {
		if err := p.table.Refresh(ctx); err != nil {
			return err
		}
		if err := errors.Join(p.table.Purgeable(), notRolledBack(p.table.state().Metadata())); err != nil {
			return err
		}
		var done bool
		if done, last = p.step(ctx, p.table.state()); done {
			if last = p.check(ctx); !errors.Is(last, fs.ErrNotExist) { // else somebody else forgets states as well
				return last
			}
		}
		if errors.Is(last, ErrRolledBack) {
			return last
		}
		if err := wait(ctx, pause); err != nil {
			return errors.Join(fmt.Errorf("%w: earlier states of it are still there; run it again", err), last)
		}
	}
}

// step does what is next. It may be done again after any error, as where another writer was faster.
func (p *purge) step(ctx context.Context, ice *table.Table) (done bool, err error) {
	current := ice.CurrentSnapshot()
	if current == nil {
		return true, nil
	}
	storage, err := p.table.files(ctx, ice)
	if err != nil {
		return false, err
	}
	if p.doomed == nil {
		_, removed, err := filesOf(storage, *current, nil)
		if err != nil {
			return false, err
		}
		if len(removed) > 0 { // its manifests describe files that are in it no more, with their columns' bounds
			return false, p.table.Commit(ctx, &Commit{change: seal{}})
		}
		p.doomed = []int64{}
		for _, s := range ice.Metadata().Snapshots() {
			if s.SnapshotID != current.SnapshotID {
				p.doomed = append(p.doomed, s.SnapshotID)
			}
		}
		p.done.States = len(p.doomed)
	}
	left := slices.DeleteFunc(slices.Clone(p.doomed), func(id int64) bool { return ice.Metadata().SnapshotByID(id) == nil })
	if len(left) == 0 {
		return true, nil
	}
	seen := map[string]bool{}
	for _, id := range left {
		live, removed, err := filesOf(storage, *ice.Metadata().SnapshotByID(id), seen)
		if err != nil {
			return false, err
		}
		maps.Copy(p.had, live)
		maps.Copy(p.had, removed)
	}
	_, err = p.table.expire(ctx, Snapshots{Age: 0, Keep: 1})
	return false, err
}

// check looks that the files are gone that no state has any more, and removes what is left of them.
func (p *purge) check(ctx context.Context) error {
	ice := p.table.state()
	storage, err := p.table.files(ctx, ice)
	if err != nil {
		return err
	}
	for _, s := range ice.Metadata().Snapshots() {
		live, _, err := filesOf(storage, s, nil)
		if err != nil {
			return err
		}
		for name := range live {
			delete(p.had, name)
		}
	}
	var left []string
	for _, name := range slices.Sorted(maps.Keys(p.had)) {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		if missing(storage, name) {
			continue
		}
		if err := storage.Remove(name); err != nil || !missing(storage, name) {
			left = append(left, name)
		}
	}
	if len(left) > 0 {
		return fmt.Errorf("%d files of earlier states are still there, as %s: remove them by hand", len(left), left[0])
	}
	p.done.Files, p.done.Strays = len(p.had), -1
	if _, ok := storage.(iceio.ListableIO); !ok {
		return nil
	}
	plan, err := ice.PlanOrphanFiles(ctx, table.WithFilesOlderThan(0))
	if err != nil {
		return fmt.Errorf("looking for files that no state refers to: %w", err)
	}
	p.done.Strays = 0
	for _, name := range plan.Files() {
		if strings.HasSuffix(name, ".parquet") {
			p.done.Strays++
		}
	}
	return nil
}

// filesOf lists what a state consists of: the files that are in it, and the data files that are in it no more, but are
// described by its manifests. Manifests that were seen are passed over.
func filesOf(storage iceio.IO, s table.Snapshot, seen map[string]bool) (live, removed map[string]bool, err error) {
	live, removed = map[string]bool{s.ManifestList: true}, map[string]bool{}
	manifests, err := s.Manifests(storage)
	if err != nil {
		return nil, nil, fmt.Errorf("reading manifests of snapshot %d: %w", s.SnapshotID, err)
	}
	for _, m := range manifests {
		if seen[m.FilePath()] {
			continue
		}
		if seen != nil {
			seen[m.FilePath()] = true
		}
		live[m.FilePath()] = true
		for e, err := range m.Entries(storage, false) {
			if err != nil {
				return nil, nil, fmt.Errorf("reading manifest %s: %w", m.FilePath(), err)
			}
			if e.Status() == iceberg.EntryStatusDELETED {
				removed[e.DataFile().FilePath()] = true
			} else {
				live[e.DataFile().FilePath()] = true
			}
		}
	}
	return live, removed, nil
}

// missing says that a file is not there. Others remove files as they forget states.
func missing(storage iceio.IO, name string) bool {
	f, err := storage.Open(name)
	if err != nil {
		return errors.Is(err, fs.ErrNotExist)
	}
	_ = f.Close()
	return false
}

// seal is a commit that changes no row. Its manifests describe the files of the table, and none that was removed from it.
type seal struct{}

// check implements change.
func (seal) check(meta table.Metadata) error { return notRolledBack(meta) }

// stage implements change.
func (seal) stage(ctx context.Context, base *table.Table, id string) (*table.Transaction, error) {
	tx, summary, err := restate(base, id, keyDeleted, nil)
	if err != nil {
		return nil, err
	}
	if err := tx.Delete(ctx, iceberg.AlwaysFalse{}, summary); err != nil {
		return nil, err
	}
	return tx, unmapped(tx, base)
}
