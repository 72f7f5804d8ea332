// Package diskcache keeps files of a remote store on this machine's disk, bounded in bytes, for those who can only read a
// file by its path. A key stands for bytes that never change.
//
// All that is known is in the folder, so that any number of processes share it and any of them may be killed:
//
//	files/NAME         files that are whole; the time is that of the last use
//	parts/NAME         files that are being fetched, or that were as their fetcher ended: the first bytes of them
//	sessions/ID/NAME   hard links to what session ID reads
//
// NAME has the size that the file has when it is whole, so that what is promised counts before it is there. Whoever looks
// at the folder as a whole, or changes what is in it, holds the folder's lock (flock), and no longer than that takes. A
// session holds the lock of its own folder while it lives: one whose folder can be locked is dead, and is swept. A part is
// written by whoever holds the part's lock. What a session has a link to is never removed nor written again: its number
// of links says that it is in use, whichever process uses it.
package diskcache

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/millrace/millrace/pkg/config"
)

// ErrTooLarge says that what a session wants is more than the cache may hold.
var ErrTooLarge = errors.New("more than the cache may hold")

// Config says where the files are kept, and how many bytes of them.
type Config struct {
	// Dir is a folder on a local disk that has hard links; the cache makes a folder "millrace-files" in it. "" is the
	// user's cache folder, or, where there is none, that for temporary files.
	Dir  string       `yaml:"dir"`
	Size config.Bytes `yaml:"size"`
}

// Default holds a day of most lakes.
func Default() Config { return Config{Size: 10 << 30} }

// Cache is a folder with files.
type Cache struct {
	cfg Config
	now func() time.Time
}

// New makes a cache; the folder is made by the first session.
func New(cfg Config) *Cache { return &Cache{cfg: cfg, now: time.Now} }

// Want is a file that is asked for.
type Want struct {
	Key   string
	Bytes int64 // of the whole file
	// Open gives the file's bytes from the n-th on. It and what it gives obey ctx.
	Open func(ctx context.Context, n int64) (io.ReadCloser, error)
}

// name is under which a file is kept. The size is in it: bytes of another size are another file's.
func (w Want) name() string {
	sum := sha256.Sum256([]byte(w.Key))
	return hex.EncodeToString(sum[:16]) + "-" + strconv.FormatInt(w.Bytes, 10)
}

// bytesOf reads the size that is in a name.
func bytesOf(name string) (int64, bool) {
	_, size, _ := strings.Cut(name, "-")
	n, err := strconv.ParseInt(size, 10, 64)
	return n, err == nil && n >= 0
}

const (
	files    = "files"
	parts    = "parts"
	sessions = "sessions"
)

// root gives the cache's folder, with what is in it made. Files of others in it would be answers of others.
func (c *Cache) root() (string, error) {
	base := c.cfg.Dir
	if base == "" {
		base, _ = os.UserCacheDir() // none: as without a home
	}
	if base == "" {
		base = os.TempDir()
	}
	root, err := filepath.Abs(filepath.Join(base, "millrace-files"))
	if err != nil {
		return "", fmt.Errorf("finding the folder for files: %w", err)
	}
	if err := os.MkdirAll(root, 0o700); err != nil {
		return "", fmt.Errorf("making the folder for files: %w: say where else with dir", err)
	}
	info, err := os.Lstat(root)
	if err != nil {
		return "", fmt.Errorf("making the folder for files: %w", err)
	}
	if !info.IsDir() || info.Mode().Perm()&0o022 != 0 || owner(info) != os.Geteuid() {
		return "", fmt.Errorf("using %s for files: it is not a folder that only this user can write to: remove it, or say where else with dir", root)
	}
	for _, name := range []string{files, parts, sessions} {
		if err := os.MkdirAll(filepath.Join(root, name), 0o700); err != nil {
			return "", fmt.Errorf("making the folder for files: %w", err)
		}
	}
	return root, nil
}

func owner(info os.FileInfo) int {
	if s, ok := info.Sys().(*syscall.Stat_t); ok {
		return int(s.Uid)
	}
	return -1
}

// inUse says that a session has a link to a file of files or parts.
func inUse(info os.FileInfo) bool {
	s, ok := info.Sys().(*syscall.Stat_t)
	return !ok || s.Nlink > 1
}

// poll is how often a lock is tried. What it waits for is a look at a folder, or the download of a file.
const poll = 20 * time.Millisecond

// lock takes the lock of a file or a folder, which closing it releases, as the end of the process does.
func lock(ctx context.Context, path string, flag int) (*os.File, error) {
	f, err := os.OpenFile(path, flag, 0) //nolint:gosec // a path of the cache's own
	if err != nil {
		return nil, fmt.Errorf("locking %s: %w", path, err)
	}
	for {
		ok, err := tryLock(f)
		if err == nil && !ok {
			err = pause(ctx)
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("locking %s: %w", path, err), f.Close())
		}
		if ok {
			return f, nil
		}
	}
}

func tryLock(f *os.File) (bool, error) {
	switch err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); {
	case errors.Is(err, syscall.EWOULDBLOCK), errors.Is(err, syscall.EINTR):
		return false, nil
	case err != nil:
		return false, err
	}
	return true, nil
}

func pause(ctx context.Context) error {
	t := time.NewTimer(poll)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}
