package lakesql

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/millrace/millrace/pkg/diskcache"
	"github.com/millrace/millrace/pkg/lake"
)

// fetch has all files on this machine's disk, and says where. Those that are there are read in place.
func (s *session) fetch(ctx context.Context, reads []*reading) error {
	type place struct {
		read *reading
		file int
	}
	var places []place
	var wants []diskcache.Want
	for _, r := range reads {
		for i, f := range r.files {
			path, local := f.Local()
			if local {
				r.paths[i] = path
				continue
			}
			if s.remote == nil {
				return fmt.Errorf("reading %s: its data file %s is on an object store, and its table on a local disk: give the table one place", r.Type, f.Location)
			}
			r.Bytes += f.Bytes
			places = append(places, place{r, i})
			wants = append(wants, diskcache.Want{Key: f.Location, Bytes: f.Bytes, Open: func(ctx context.Context, n int64) (io.ReadCloser, error) {
				return r.state.Open(ctx, f, n)
			}})
		}
	}
	if len(wants) == 0 {
		return nil
	}
	taken, err := s.remote.Take(ctx, wants)
	switch {
	case errors.Is(err, diskcache.ErrTooLarge):
		return fmt.Errorf("reading the lake: %w (sql.cache.size): ask for less, as of a shorter time, or give the cache more", err)
	case lake.IsFull(err):
		return fmt.Errorf("fetching data files: the disk is full: make room on it, or give sql.cache another dir or a smaller size: %w", err)
	case err != nil:
		return fmt.Errorf("fetching data files: %w", err)
	}
	for i, p := range places {
		p.read.paths[p.file] = taken[i].Path
		p.read.Fetched += taken[i].Fetched
	}
	return nil
}
