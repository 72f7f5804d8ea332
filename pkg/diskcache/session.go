package diskcache

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/millrace/millrace/pkg/config"
)

// atOnce is how many files a session fetches at once.
const atOnce = 4

// Session is a folder that has the files which were taken, and nothing else, until End. It is for one goroutine.
type Session struct {
	cache *Cache
	root  string
	dir   *os.File // locked
}

// Begin makes a session, and sweeps those of processes that are gone.
func (c *Cache) Begin(ctx context.Context) (*Session, error) {
	root, err := c.root()
	if err != nil {
		return nil, err
	}
	all, err := lock(ctx, root, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer func() { _ = all.Close() }()
	if err := sweep(filepath.Join(root, sessions)); err != nil {
		return nil, err
	}
	path, err := os.MkdirTemp(filepath.Join(root, sessions), "")
	if err != nil {
		return nil, fmt.Errorf("making a folder for files: %w", err)
	}
	dir, err := lock(ctx, path, os.O_RDONLY)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(path))
	}
	return &Session{cache: c, root: root, dir: dir}, nil
}

// sweep removes the folders that nobody holds the lock of.
func sweep(folder string) error {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return fmt.Errorf("looking for folders of dead sessions: %w", err)
	}
	for _, e := range entries {
		path := filepath.Join(folder, e.Name())
		f, err := os.Open(path) //nolint:gosec // a path of the cache's own
		if errors.Is(err, os.ErrNotExist) {
			continue // its session has just ended
		}
		if err != nil {
			return fmt.Errorf("looking for folders of dead sessions: %w", err)
		}
		dead, err := tryLock(f)
		if dead {
			err = os.RemoveAll(path)
		}
		if err := errors.Join(err, f.Close()); err != nil {
			return fmt.Errorf("removing the folder of a dead session: %w", err)
		}
	}
	return nil
}

// Dir is the session's folder.
func (s *Session) Dir() string { return s.dir.Name() }

// End gives the files back.
func (s *Session) End() error { return errors.Join(os.RemoveAll(s.Dir()), s.dir.Close()) }

// Taken is a file in a session's folder.
type Taken struct {
	Path    string
	Fetched int64 // of its bytes, those that this session has fetched
}

// Take puts files into the session's folder, in the order of wants. What is not in the cache is fetched, at most four
// files at once. It gives all of them or an error: ErrTooLarge, before anything is fetched, where they are more than the
// cache's size; while other sessions hold too much of it Take waits. Files that came whole before an error stay in the
// cache, and so do the first bytes of others.
func (s *Session) Take(ctx context.Context, wants []Want) ([]Taken, error) {
	var total int64
	for _, w := range wants {
		total += w.Bytes
	}
	if size := int64(s.cache.cfg.Size); total > size {
		return nil, fmt.Errorf("%w: %d files of %s, where it may hold %s", ErrTooLarge, len(wants), config.Bytes(total).Rounded(), config.Bytes(size).Rounded())
	}
	if err := s.reserve(ctx, wants); err != nil {
		return nil, err
	}
	taken := make([]Taken, len(wants))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(atOnce)
	for i, w := range wants {
		taken[i].Path = filepath.Join(s.Dir(), w.name())
		g.Go(func() (err error) {
			if gctx.Err() != nil {
				return context.Cause(gctx)
			}
			taken[i].Fetched, err = s.fill(gctx, w)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		var came int64
		for _, t := range taken {
			came += t.Fetched
		}
		return nil, fmt.Errorf("%w (the %s of %s that came are kept for the next time)", err, config.Bytes(came).Rounded(), config.Bytes(total).Rounded())
	}
	return taken, nil
}

// reserve makes room for files, and links them into the session's folder: those that are not whole as parts.
func (s *Session) reserve(ctx context.Context, wants []Want) error {
	for {
		ok, err := s.tryReserve(ctx, wants)
		if err == nil && !ok {
			err = pause(ctx)
		}
		if err != nil && ctx.Err() != nil {
			err = fmt.Errorf("waiting for other sessions to give back files, of which %s may hold %s: %w", s.root, s.cache.cfg.Size.Rounded(), err)
		}
		if ok || err != nil {
			return err
		}
	}
}

func (s *Session) tryReserve(ctx context.Context, wants []Want) (bool, error) {
	all, err := lock(ctx, s.root, os.O_RDONLY)
	if err != nil {
		return false, err
	}
	defer func() { _ = all.Close() }()
	wanted := map[string]bool{}
	for _, w := range wants {
		wanted[w.name()] = true
	}
	if ok, err := s.makeRoom(wanted); !ok || err != nil {
		return false, err
	}
	for name := range wanted {
		if err := s.link(name); err != nil {
			return false, fmt.Errorf("linking file into %s: %w", s.Dir(), err)
		}
	}
	return true, nil
}

// idleFile is one, whole or in part, that no session has a link to.
type idleFile struct {
	path  string
	bytes int64
	used  time.Time
}

// makeRoom removes files until those that are wanted fit in, the least recently used first. It is false, and removes
// nothing, where they do not fit beside those that are in use.
func (s *Session) makeRoom(wanted map[string]bool) (bool, error) {
	room := int64(s.cache.cfg.Size)
	for name := range wanted {
		n, _ := bytesOf(name)
		room -= n
	}
	var idle []idleFile
	for _, folder := range []string{files, parts} {
		more, used, err := s.look(folder, wanted)
		if err != nil {
			return false, fmt.Errorf("looking for room: %w", err)
		}
		idle, room = append(idle, more...), room-used
	}
	if room < 0 {
		return false, nil
	}
	for _, f := range idle {
		room -= f.bytes
	}
	slices.SortFunc(idle, func(a, b idleFile) int { return cmp.Or(a.used.Compare(b.used), cmp.Compare(a.path, b.path)) })
	for _, f := range idle {
		if room >= 0 {
			break
		}
		if err := os.Remove(f.path); err != nil {
			return false, fmt.Errorf("making room: %w", err)
		}
		room += f.bytes
	}
	return true, nil
}

// look lists what is idle in a folder and not wanted, and says how large what is in use is when it is whole. What cannot
// be a file of the cache, or is damaged, is removed.
func (s *Session) look(folder string, wanted map[string]bool) (idle []idleFile, used int64, err error) {
	entries, err := os.ReadDir(filepath.Join(s.root, folder))
	if err != nil {
		return nil, 0, err
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			return nil, 0, err
		}
		size, ok := bytesOf(e.Name())
		path := filepath.Join(s.root, folder, e.Name())
		switch {
		case !ok || info.Size() > size || folder == files && info.Size() < size:
			err = os.Remove(path)
		case wanted[e.Name()]: // counted already
		case inUse(info):
			used += size
		default:
			idle = append(idle, idleFile{path, info.Size(), info.ModTime()})
		}
		if err != nil {
			return nil, 0, err
		}
	}
	return idle, used, nil
}

// link has a file in the session's folder: the whole one, or else the part of it, which may be empty.
func (s *Session) link(name string) error {
	mine, whole, part := filepath.Join(s.Dir(), name), filepath.Join(s.root, files, name), filepath.Join(s.root, parts, name)
	err := os.Link(whole, mine)
	if err == nil {
		now := s.cache.now()
		return os.Chtimes(whole, now, now)
	}
	if errors.Is(err, os.ErrExist) { // taken before
		return nil
	}
	if !errors.Is(err, os.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(part, os.O_CREATE|os.O_WRONLY, 0o600) //nolint:gosec // a path of the cache's own
	if err != nil {
		return err
	}
	return errors.Join(f.Close(), os.Link(part, mine))
}

// fill fetches what a file lacks. Who comes second waits for the first, and goes on where that has failed.
func (s *Session) fill(ctx context.Context, w Want) (int64, error) {
	name := w.name()
	f, err := lock(ctx, filepath.Join(s.Dir(), name), os.O_RDWR)
	if err != nil {
		return 0, err
	}
	defer func() { _ = f.Close() }() // it was synced
	info, err := f.Stat()
	if err != nil {
		return 0, fmt.Errorf("fetching %s: %w", w.Key, err)
	}
	whole := filepath.Join(s.root, files, name)
	if there, err := os.Stat(whole); err == nil && os.SameFile(info, there) {
		return 0, nil
	}
	n, err := fetch(ctx, w, f, info.Size())
	if err != nil {
		return n, fmt.Errorf("fetching %s: %w", w.Key, err)
	}
	all, err := lock(ctx, s.root, os.O_RDONLY)
	if err != nil {
		return n, err
	}
	defer func() { _ = all.Close() }()
	now := s.cache.now()
	err = errors.Join(os.Chtimes(f.Name(), now, now), os.Rename(filepath.Join(s.root, parts, name), whole))
	if err != nil {
		return n, fmt.Errorf("keeping %s: %w", w.Key, err)
	}
	return n, nil
}

// fetch appends to a file what it lacks, and syncs it. A file system writes what is appended before it says that the file
// is longer, so that the bytes of one who was killed, or whose machine was, are those that were fetched.
func fetch(ctx context.Context, w Want, f *os.File, have int64) (n int64, err error) {
	if have > w.Bytes { // nobody writes more
		return 0, fmt.Errorf("the part has %d bytes, of %d", have, w.Bytes)
	}
	if _, err := f.Seek(have, io.SeekStart); err != nil {
		return 0, err
	}
	if have < w.Bytes {
		r, err := w.Open(ctx, have)
		if err != nil {
			return 0, err
		}
		n, err = io.Copy(f, io.LimitReader(r, w.Bytes-have))
		if err := errors.Join(err, r.Close()); err != nil {
			return n, err
		}
	}
	if have+n != w.Bytes {
		return n, fmt.Errorf("it ended after %d bytes, of %d", have+n, w.Bytes)
	}
	return n, f.Sync()
}
