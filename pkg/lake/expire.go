package lake

import (
	"context"
	"fmt"
	"path"
	"strings"
	"time"

	iceio "github.com/apache/iceberg-go/io"
	"github.com/apache/iceberg-go/table"
	"github.com/google/uuid"
)

// Files that no state of a table refers to are removed when they are old. No commit adds a file that is half as old: it
// is given up, and its rows are read again. So a file that is removed is never one that a commit may still add.
const (
	maxFileAge   = 12 * time.Hour
	MinOrphanAge = 2 * maxFileAge // below which no orphan is removed
)

// fresh says whether c's files are young enough to be added. They are named by when they were begun.
func (c *Commit) fresh() error {
	for _, f := range c.Files {
		if err := freshFile(f.FilePath()); err != nil {
			return err
		}
	}
	return nil
}

func freshFile(name string) error {
	if begun, ours := begun(name); ours && time.Since(begun) > maxFileAge {
		return fmt.Errorf("adding data file %s: %w: it was begun at %s, and may be taken for one that nobody wants",
			name, ErrReseek, begun.UTC().Format(time.RFC3339))
	}
	return nil
}

// begun is when one of our data files was, by its name.
func begun(name string) (at time.Time, ours bool) {
	id, err := uuid.Parse(strings.TrimSuffix(path.Base(name), path.Ext(name)))
	if err != nil || id.Version() != 7 {
		return at, false
	}
	return time.Unix(id.Time().UnixTime()), true
}

// Expire forgets the states of the table that are past their time, and removes what only they refer to. It leaves it to the
// next time where another writer is faster.
func (t *Table) Expire(ctx context.Context) error {
	_, err := t.expire(ctx, t.lake.cfg.Snapshots)
	return err
}

// expireBatch is how many states are past their time before a writer forgets them: that is a commit of its own.
const expireBatch = 50

// ExpireDue is Expire where there are enough states to forget.
func (t *Table) ExpireDue(ctx context.Context) error {
	if _, _, past := t.lake.cfg.Snapshots.of(t.state().Metadata(), time.Now()); past < expireBatch {
		return nil
	}
	return t.Expire(ctx)
}

// of says how old a state may be, as configured or less where Most are newer, how many are kept, and how many are not.
func (s Snapshots) of(meta table.Metadata, now time.Time) (age time.Duration, kept, past int) {
	var ages []time.Duration
	for snapshot := range ancestry(meta) {
		ages = append(ages, now.Sub(time.UnixMilli(snapshot.TimestampMs)))
	}
	age = s.Age
	if s.Most > 0 && len(ages) > s.Most {
		age = max(0, min(age, ages[s.Most-1]))
	}
	for i, a := range ages {
		if i < s.Keep || a <= age && (s.Most == 0 || i < s.Most) {
			kept = i + 1
		}
	}
	return age, kept, len(ages) - kept
}

// ExpireNow forgets states as keep says, and tries until it is faster than others. It says how many states there were
// and are. dry only counts.
func (t *Table) ExpireNow(ctx context.Context, keep Snapshots, dry bool) (before, after int, err error) {
	for pause := minPause; ; pause = min(2*pause, maxPause) {
		before = len(t.state().Metadata().Snapshots())
		if dry {
			after, err = t.afterExpiry(keep)
			return before, after, err
		}
		lost, err := t.expire(ctx, keep)
		if err != nil {
			return before, before, err
		}
		if !lost {
			return before, len(t.state().Metadata().Snapshots()), nil
		}
		if err := wait(ctx, pause); err != nil {
			return before, before, fmt.Errorf("expiring snapshots of table %s, which others change all the time: %w", t.name, err)
		}
		if err := t.Refresh(ctx); err != nil {
			return before, before, err
		}
	}
}

func (t *Table) afterExpiry(keep Snapshots) (int, error) {
	tx, err := expiry(t.state(), keep)
	if err != nil {
		return 0, fmt.Errorf("expiring snapshots of table %s: %w", t.name, err)
	}
	staged, err := tx.StagedTable()
	if err != nil {
		return 0, fmt.Errorf("expiring snapshots of table %s: %w", t.name, err)
	}
	return len(staged.Metadata().Snapshots()), nil
}

func expiry(ice *table.Table, keep Snapshots) (*table.Transaction, error) {
	age, kept, _ := keep.of(ice.Metadata(), time.Now())
	tx := ice.NewTransaction()
	return tx, tx.ExpireSnapshots(table.WithOlderThan(age), table.WithRetainLast(max(kept, 1)))
}

// expire does it once. lost says that another writer was faster.
func (t *Table) expire(ctx context.Context, keep Snapshots) (lost bool, err error) {
	if err := t.acquire(ctx); err != nil {
		return false, err
	}
	defer t.release()
	t.tidy()
	tx, err := expiry(t.state(), keep)
	if err != nil {
		return false, fmt.Errorf("expiring snapshots of table %s: %w", t.name, err)
	}
	ice, err := tx.Commit(ctx)
	switch {
	case err != nil && isConflict(err):
		return true, nil
	case err != nil && ice == nil:
		return false, fmt.Errorf("expiring snapshots of table %s: %w", t.name, err)
	case err != nil:
		t.lake.tel.Log.Warn("removing files of expired snapshots", "table", t.name, "err", err)
	}
	return false, t.set(ice)
}

// Orphans are files in a table's folder that none of its states refers to.
type Orphans struct {
	Files []string
	Bytes int64
}

// Orphans finds files that are older than a bound and that no state of the table refers to, its metadata files and
// manifests among them, and removes them unless dry.
func (t *Table) Orphans(ctx context.Context, olderThan time.Duration, dry bool) (Orphans, error) {
	if olderThan < MinOrphanAge {
		return Orphans{}, fmt.Errorf("looking for orphans of table %s: %v is too young: a commit under way may still add files of less than %v",
			t.name, olderThan, MinOrphanAge)
	}
	if err := t.acquire(ctx); err != nil {
		return Orphans{}, err
	}
	defer t.release()
	if err := t.Refresh(ctx); err != nil {
		return Orphans{}, err
	}
	ice := t.state()
	fs, err := t.files(ctx, ice)
	if err != nil {
		return Orphans{}, err
	}
	if _, ok := fs.(iceio.ListableIO); !ok {
		return Orphans{}, fmt.Errorf("looking for orphans of table %s: storage of the kind %T cannot be listed", t.name, fs)
	}
	plan, err := ice.PlanOrphanFiles(ctx, table.WithFilesOlderThan(olderThan))
	if err != nil {
		return Orphans{}, fmt.Errorf("looking for orphans of table %s: %w", t.name, err)
	}
	found := Orphans{Files: plan.Files(), Bytes: plan.TotalSizeBytes()}
	if dry || len(found.Files) == 0 {
		return found, nil
	}
	if _, err := ice.ExecuteOrphanCleanup(ctx, plan); err != nil {
		return found, fmt.Errorf("removing orphans of table %s: %w", t.name, err)
	}
	return found, nil
}
