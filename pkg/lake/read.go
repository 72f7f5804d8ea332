package lake

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/apache/iceberg-go"
	"github.com/apache/iceberg-go/table"
)

// ErrDeletes says that another engine has marked rows as deleted, in files beside those that hold them, and what to do.
var ErrDeletes = errors.New("rows are marked as deleted in a file that is not read here: rewrite the table with the engine that did it, " +
	"as Spark's CALL system.rewrite_data_files with the option delete-file-threshold 1, and set its write.delete.mode, write.update.mode and write.merge.mode to copy-on-write")

// ErrNoState says that a table has no state of the time or the snapshot that was asked for.
var ErrNoState = errors.New("there is no such state")

// AsOf chooses the state of a table that is read: that of a snapshot, that of a time, or, where both are zero, the
// current one.
type AsOf struct {
	Snapshot int64
	Time     time.Time
}

// ParseAsOf reads a snapshot's id or a time in RFC 3339; "" is the current state.
func ParseAsOf(s string) (AsOf, error) {
	if s == "" {
		return AsOf{}, nil
	}
	if id, err := strconv.ParseInt(s, 10, 64); err == nil && id > 0 {
		return AsOf{Snapshot: id}, nil
	}
	at, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		return AsOf{}, fmt.Errorf("%q is neither a snapshot's id nor a time in RFC 3339, as 2006-01-02T15:04:05Z", s)
	}
	return AsOf{Time: at.UTC()}, nil
}

// State is a table as one commit left it. Later commits do not change what it reads; the expiry of its snapshot ends it.
type State struct {
	name     string
	ice      *table.Table
	snapshot *table.Snapshot // nil: nothing was committed yet
	schema   *iceberg.Schema
	past     bool // asked for by name: read by the schema of its time
}

// At gives a state of the table, out of what was last read of it.
func (t *Table) At(asOf AsOf) (*State, error) {
	ice := t.state()
	s := &State{name: t.name, ice: ice, snapshot: ice.CurrentSnapshot(), schema: ice.Schema()}
	if asOf == (AsOf{}) {
		return s, nil
	}
	if asOf.Snapshot != 0 {
		if s.snapshot = ice.Metadata().SnapshotByID(asOf.Snapshot); s.snapshot == nil {
			return nil, fmt.Errorf("reading table %s as of snapshot %d: %w: it is another table's, or has expired (lake.snapshots)", t.name, asOf.Snapshot, ErrNoState)
		}
	} else if s.snapshot = ice.SnapshotAsOf(asOf.Time.UnixMilli(), true); s.snapshot == nil {
		return nil, fmt.Errorf("reading table %s as of %s: %w: %s", t.name, asOf.Time.Format(time.RFC3339Nano), ErrNoState, since(ice))
	}
	s.past = true
	if id := s.snapshot.SchemaID; id != nil {
		schemas := ice.Metadata().Schemas()
		i := slices.IndexFunc(schemas, func(sc *iceberg.Schema) bool { return sc.ID == *id })
		if i < 0 {
			return nil, fmt.Errorf("reading table %s as of snapshot %d: its schema %d is not in the table's metadata", t.name, s.snapshot.SnapshotID, *id)
		}
		s.schema = schemas[i]
	}
	return s, nil
}

// since says from when on a table has states, and why not from earlier.
func since(ice *table.Table) string {
	for e := range ice.Metadata().SnapshotLogs() {
		first := ice.Metadata().SnapshotByID(e.SnapshotID)
		if first == nil {
			continue
		}
		at := time.UnixMilli(e.TimestampMs).UTC().Format(time.RFC3339Nano)
		if first.ParentSnapshotID != nil {
			return "states before " + at + " have expired (lake.snapshots)"
		}
		return "the table's first commit was at " + at
	}
	return "nothing was committed to the table yet"
}

// Columns lists the columns by name, with the Iceberg type of each, in the schema's order.
func (s *State) Columns() []Column { return columnsOf(s.schema) }

// Snapshot gives the id and the time of the commit; ok is false where there was none yet.
func (s *State) Snapshot() (id int64, at time.Time, ok bool) {
	if s.snapshot == nil {
		return 0, time.Time{}, false
	}
	return s.snapshot.SnapshotID, time.UnixMilli(s.snapshot.TimestampMs).UTC(), true
}

// ValidThrough is the time up to which the state holds everything that was appended; zero where nothing is known.
// Another engine's commit does not say, so the newest one before it that does counts.
func (s *State) ValidThrough() time.Time {
	meta := s.ice.Metadata()
	for snapshot := s.snapshot; snapshot != nil; {
		if snapshot.Summary != nil {
			if at, err := time.Parse(time.RFC3339Nano, snapshot.Summary.Properties[keyThrough]); err == nil {
				return at
			}
		}
		if snapshot.ParentSnapshotID == nil {
			break
		}
		snapshot = meta.SnapshotByID(*snapshot.ParentSnapshotID)
	}
	return time.Time{}
}

// FileCount is how many data files the state has, as its commit counted them; ok is false where it did not.
func (s *State) FileCount() (n int, ok bool) {
	if s.snapshot == nil {
		return 0, true
	}
	if s.snapshot.Summary == nil {
		return 0, false
	}
	n, err := strconv.Atoi(s.snapshot.Summary.Properties["total-data-files"])
	return n, err == nil
}

// Folder is where the table's data files lie.
func (s *State) Folder() string {
	if p := s.ice.Properties()[table.WriteDataPathKey]; p != "" {
		return strings.TrimSuffix(p, "/")
	}
	return strings.TrimSuffix(s.ice.Location(), "/") + "/data"
}

// Files lists the data files that can hold rows for which filter is true, by location; nil lists all of them. Names in
// filter are those of Columns. ErrDeletes where one has rows that are marked as deleted.
func (s *State) Files(ctx context.Context, filter iceberg.BooleanExpression) ([]File, error) {
	if s.snapshot == nil {
		return nil, nil
	}
	options := []table.ScanOption{table.WithRowFilter(filter)}
	if s.past {
		options = append(options, table.WithSnapshotID(s.snapshot.SnapshotID))
	}
	tasks, err := s.bounded().Scan(options...).PlanFiles(ctx)
	if err != nil {
		return nil, fmt.Errorf("listing files of table %s: %w", s.name, err)
	}
	var files []File
	for _, task := range tasks {
		if err := undeleted(task); err != nil {
			return nil, fmt.Errorf("listing files of table %s: %w", s.name, err)
		}
		files = append(files, File{task.File.FilePath(), task.File.FileSizeBytes()})
	}
	slices.SortFunc(files, func(a, b File) int { return strings.Compare(a.Location, b.Location) })
	return slices.CompactFunc(files, func(a, b File) bool { return a.Location == b.Location }), nil
}

// undeleted is ErrDeletes for a data file that has rows which are marked as deleted.
func undeleted(task table.FileScanTask) error {
	deletes := slices.Concat(task.DeleteFiles, task.EqualityDeleteFiles, task.DeletionVectorFiles)
	if len(deletes) == 0 {
		return nil
	}
	return fmt.Errorf("%w (%s deletes rows of %s)", ErrDeletes, deletes[0].FilePath(), task.File.FilePath())
}
