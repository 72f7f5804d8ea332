package lake

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
)

// syncFolders makes the entries of the data files durable, on a local disk. The files themselves are synced as they
// are closed.
func (w *Writer) syncFolders() error {
	seen := map[string]bool{}
	for _, path := range w.paths {
		local, ok := localPath(path)
		if !ok {
			continue
		}
		for dir := filepath.Dir(local); !seen[dir] && filepath.Base(dir) != w.table.name; dir = filepath.Dir(dir) {
			seen[dir] = true
			if err := syncPath(dir); err != nil {
				return err
			}
		}
	}
	return nil
}

// localPath gives the path of a location on this machine's disk.
func localPath(location string) (string, bool) {
	for _, scheme := range []string{"file://", "file:"} { // Java's catalogs write the second
		if rest, ok := strings.CutPrefix(location, scheme); ok {
			return rest, true
		}
	}
	return location, filepath.IsAbs(location)
}

// syncPath makes a file's bytes or a folder's entries survive a loss of power.
func syncPath(path string) error {
	f, err := os.Open(path) //nolint:gosec // a path of the lake's own
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// syncMetadata makes the newest metadata of a table on a local disk durable: the metadata file, the snapshot's list of
// manifests, and the folder they are in.
func (t *Table) syncMetadata() error {
	ice := t.state()
	local, ok := localPath(ice.MetadataLocation())
	if !ok {
		return nil
	}
	errs := []error{syncPath(local)}
	if s := ice.CurrentSnapshot(); s != nil {
		if list, ok := localPath(s.ManifestList); ok {
			errs = append(errs, syncPath(list))
		}
	}
	return errors.Join(append(errs, syncPath(filepath.Dir(local)))...)
}
