package lake

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/apache/iceberg-go/catalog"
	iceio "github.com/apache/iceberg-go/io"
	"github.com/apache/iceberg-go/table"
	"github.com/aws/smithy-go"
	"github.com/google/uuid"
)

// staging is a table's storage that notes what a commit creates beside the data files. iceberg-go leaves the manifests
// of a commit that fails where they are: tried again and again on a full disk, they would take what space is left.
type staging struct {
	iceio.WriteFileIO

	mu      sync.Mutex
	created []string
}

// table is a table that writes through s. It is for one transaction.
func (s *staging) table(base *table.Table, cat table.CatalogIO) *table.Table {
	open := func(context.Context) (iceio.IO, error) { return s, nil }
	return table.New(base.Identifier(), base.Metadata(), base.MetadataLocation(), open, cat)
}

// Create implements iceio.WriteFileIO.
func (s *staging) Create(name string) (iceio.FileWriter, error) {
	s.note(name)
	return s.WriteFileIO.Create(name)
}

// WriteFile implements iceio.WriteFileIO.
func (s *staging) WriteFile(name string, content []byte) error {
	s.note(name)
	return s.WriteFileIO.WriteFile(name, content)
}

func (s *staging) note(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.created = append(s.created, name)
}

func (s *staging) files() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.created)
}

// sweep removes what c's attempts have staged, c being known not to be in the table as it was last read. It leaves all of
// it where an attempt may still arrive. It cannot with the hadoop catalog: that is calls to this machine's file system,
// which are over when they return.
func (t *Table) sweep(c *Commit) {
	if t.cat.CatalogType() == catalog.Hadoop {
		c.Unknown = false
	}
	if c.Unknown || len(c.staged) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), requestTimeout)
	defer cancel()
	fs, err := t.files(ctx, t.state())
	if err != nil {
		return // they are tried again
	}
	for _, path := range c.staged {
		if err := fs.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.lake.tel.Log.Debug("leaving a file of a failed commit behind", "path", path, "err", err)
		}
	}
	c.staged = nil
}

// leftoverAge is after how long a file that a commit makes and removes within moments belongs to one that was killed.
const leftoverAge = time.Hour

// tidy removes what the hadoop catalog's commits leave in the metadata folder when they are killed, or when the disk is
// full: nobody else ever does.
func (t *Table) tidy() {
	local, ok := localPath(t.state().MetadataLocation())
	if !ok || t.cat.CatalogType() != catalog.Hadoop {
		return
	}
	entries, err := os.ReadDir(filepath.Dir(local))
	if err != nil {
		return
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || !isLeftover(e.Name()) || time.Since(info.ModTime()) < leftoverAge {
			continue
		}
		if err := os.Remove(filepath.Join(filepath.Dir(local), e.Name())); err != nil {
			t.lake.tel.Log.Debug("leaving a file of a commit that was killed behind", "path", e.Name(), "err", err)
		}
	}
}

// isLeftover knows the hadoop catalog's temporary files: metadata on its way to a version (<uuid>.metadata.json), the
// claim on a version, and a version hint on its way.
func isLeftover(name string) bool {
	if strings.HasSuffix(name, "-version-hint.temp") || strings.HasSuffix(name, ".metadata.json.claim") {
		return true
	}
	id, ok := strings.CutSuffix(name, ".metadata.json")
	return ok && uuid.Validate(id) == nil
}

// IsFull says that an error is about storage that has no room left. S3 itself has no such error; the names are those of
// Ceph and versitygw, and of MinIO.
func IsFull(err error) bool {
	if s3, ok := errors.AsType[smithy.APIError](err); ok {
		return slices.Contains([]string{"QuotaExceeded", "InsufficientStorage", "XMinioStorageFull"}, s3.ErrorCode())
	}
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}
