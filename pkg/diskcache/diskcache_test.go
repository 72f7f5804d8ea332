package diskcache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"github.com/millrace/millrace/pkg/config"
)

var base = time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)

// store is a remote store whose files have their name, repeated, in them.
type store struct {
	mu     sync.Mutex
	opened map[string]int
	atOnce int
	most   int
	from   []int64 // of each read, where it began

	hook func(ctx context.Context, key string, r io.Reader) io.Reader // what a read gives; nil: all of it
}

func content(key string, n int64) []byte {
	return bytes.Repeat([]byte(key+" "), int(n)/len(key)+1)[:n]
}

func (s *store) want(key string, n int64) Want {
	return Want{Key: key, Bytes: n, Open: func(ctx context.Context, from int64) (io.ReadCloser, error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.opened == nil {
			s.opened = map[string]int{}
		}
		s.opened[key]++
		s.atOnce++
		s.most = max(s.most, s.atOnce)
		s.from = append(s.from, from)
		var r io.Reader = bytes.NewReader(content(key, n)[from:])
		if s.hook != nil {
			r = s.hook(ctx, key, r)
		}
		return &reading{Reader: r, store: s}, nil
	}}
}

// reads says how often a file was opened.
func (s *store) reads(key string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.opened[key]
}

type reading struct {
	io.Reader
	store *store
}

func (r *reading) Close() error {
	r.store.mu.Lock()
	defer r.store.mu.Unlock()
	r.store.atOnce--
	return nil
}

func newCache(t *testing.T, size config.Bytes) *Cache {
	t.Helper()
	c := New(Config{Dir: t.TempDir(), Size: size})
	var seconds atomic.Int64
	c.now = func() time.Time { return base.Add(time.Duration(seconds.Add(1)) * time.Second) }
	return c
}

func begin(t *testing.T, c *Cache) *Session {
	t.Helper()
	s, err := c.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func end(t *testing.T, s *Session) {
	t.Helper()
	if err := s.End(); err != nil {
		t.Error(err)
	}
}

// take takes files and looks at what is in them.
func take(t *testing.T, s *Session, wants ...Want) (fetched int64) {
	t.Helper()
	taken, err := s.Take(t.Context(), wants)
	if err != nil {
		t.Fatal(err)
	}
	return check(t, s, wants, taken)
}

func check(t *testing.T, s *Session, wants []Want, taken []Taken) (fetched int64) {
	t.Helper()
	for i, w := range wants {
		fetched += taken[i].Fetched
		got, err := os.ReadFile(taken[i].Path)
		if err != nil || !bytes.Equal(got, content(w.Key, w.Bytes)) {
			t.Errorf("%s: %d bytes that are not the file's (%v)", w.Key, len(got), err)
		}
		if filepath.Dir(taken[i].Path) != s.Dir() {
			t.Errorf("%s is not in the session's folder", taken[i].Path)
		}
	}
	return fetched
}

// once takes files in a session of its own.
func once(t *testing.T, c *Cache, wants ...Want) int64 {
	t.Helper()
	s := begin(t, c)
	defer end(t, s)
	return take(t, s, wants...)
}

// disk is what a folder has on the disk, each file once.
func disk(t *testing.T, c *Cache) (n int64) {
	t.Helper()
	seen := map[uint64]bool{}
	err := filepath.Walk(c.cfg.Dir, func(_ string, info os.FileInfo, err error) error {
		if err == nil && info.Mode().IsRegular() && !seen[info.Sys().(*syscall.Stat_t).Ino] {
			seen[info.Sys().(*syscall.Stat_t).Ino] = true
			n += info.Size()
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func names(t *testing.T, c *Cache, folder string) (found []string) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(c.cfg.Dir, "millrace-files", folder))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		found = append(found, e.Name())
	}
	return found
}

func TestTheSecondTakeFetchesNothing(t *testing.T) {
	c, remote := newCache(t, 100), &store{}
	a, b := remote.want("a", 40), remote.want("b", 30)
	if n := once(t, c, a, b); n != 70 {
		t.Errorf("fetched %d bytes, want 70", n)
	}
	if n := once(t, New(c.cfg), b, a); n != 0 {
		t.Errorf("the second time, in another process: fetched %d bytes", n)
	}
	if n := once(t, c, remote.want("a", 41)); n != 41 { // another file
		t.Errorf("fetched %d bytes of a file of another size", n)
	}
	if left := names(t, c, sessions); len(left) != 0 {
		t.Errorf("sessions are left: %v", left)
	}
}

// TestTheLeastRecentlyUsedGoFirst, and what there is never is more than the bound.
func TestTheLeastRecentlyUsedGoFirst(t *testing.T) {
	c, remote := newCache(t, 100), &store{}
	for _, key := range []string{"a", "b", "c"} {
		once(t, c, remote.want(key, 30))
	}
	once(t, c, remote.want("a", 30)) // used again
	once(t, c, remote.want("d", 35))
	if n := disk(t, c); n != 95 {
		t.Errorf("%d bytes on disk, want 95: c, a, d", n)
	}
	if n := once(t, c, remote.want("a", 30), remote.want("c", 30)); n != 0 {
		t.Errorf("a and c were fetched again, %d bytes", n)
	}
	if n := once(t, c, remote.want("b", 30)); n != 30 {
		t.Errorf("b, the oldest, was still there")
	}
	for i := range 40 {
		once(t, c, remote.want(fmt.Sprint("n", i), int64(10+i)))
		if n := disk(t, c); n > 100 {
			t.Fatalf("%d bytes on disk, more than 100", n)
		}
	}
}

// TestWhatIsInUseStays: neither another session nor another process takes a file from under a reader.
func TestWhatIsInUseStays(t *testing.T) {
	c, remote := newCache(t, 100), &store{}
	reader := begin(t, c)
	a := remote.want("a", 60)
	taken, err := reader.Take(t.Context(), []Want{a})
	if err != nil {
		t.Fatal(err)
	}
	other := New(Config{Dir: c.cfg.Dir, Size: 100})
	once(t, other, remote.want("b", 40))
	once(t, other, remote.want("c", 40)) // in place of b
	check(t, reader, []Want{a}, taken)

	// What does not fit beside it waits for it.
	waiting := make(chan int64)
	s := begin(t, other)
	defer end(t, s)
	go func() {
		taken, err := s.Take(t.Context(), []Want{remote.want("d", 50)})
		if err != nil {
			t.Error(err)
		}
		waiting <- taken[0].Fetched
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 3*poll)
	defer cancel()
	tooEarly := begin(t, other)
	defer end(t, tooEarly)
	if _, err := tooEarly.Take(ctx, []Want{remote.want("d", 50)}); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "waiting for other sessions") {
		t.Errorf("a take that cannot be: %v", err)
	}
	select {
	case n := <-waiting:
		t.Errorf("%d bytes were taken while there was no room", n)
	default:
	}
	check(t, reader, []Want{a}, taken)
	if remote.reads("d") != 0 {
		t.Error("something was fetched without room for it")
	}
	end(t, reader)
	if n := <-waiting; n != 50 {
		t.Errorf("fetched %d bytes, want 50", n)
	}
	if n := disk(t, c); n > 100 {
		t.Errorf("%d bytes on disk, more than 100", n)
	}
}

func TestMoreThanTheCacheHoldsIsRefusedAtOnce(t *testing.T) {
	c, remote := newCache(t, 100), &store{}
	once(t, c, remote.want("a", 60))
	s := begin(t, c)
	defer end(t, s)
	_, err := s.Take(t.Context(), []Want{remote.want("b", 50), remote.want("c", 51)})
	if !errors.Is(err, ErrTooLarge) || !strings.Contains(err.Error(), "2 files of 101B, where it may hold 100B") {
		t.Errorf("got %v", err)
	}
	if remote.opened["b"]+remote.opened["c"] != 0 || once(t, c, remote.want("a", 60)) != 0 {
		t.Error("something was fetched, or removed, for nothing")
	}
}

// TestATornDownloadIsNeverUsed: it is an error, and the next one goes on where it ended.
func TestATornDownloadIsNeverUsed(t *testing.T) {
	broken := errors.New("connection reset")
	for name, c := range map[string]struct {
		hook func(context.Context, string, io.Reader) io.Reader
		want string
	}{
		"cut off": {func(_ context.Context, _ string, r io.Reader) io.Reader { return io.LimitReader(r, 7) }, "it ended after 7 bytes, of 40"},
		"reset": {func(_ context.Context, _ string, r io.Reader) io.Reader {
			return io.MultiReader(io.LimitReader(r, 7), iotest.ErrReader(broken))
		}, "connection reset"},
	} {
		t.Run(name, func(t *testing.T) {
			cache, remote := newCache(t, 100), &store{hook: c.hook}
			s := begin(t, cache)
			_, err := s.Take(t.Context(), []Want{remote.want("a", 40)})
			if err == nil || !strings.Contains(err.Error(), "fetching a: ") || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "the 7B of 40B that came") {
				t.Errorf("got %v", err)
			}
			end(t, s)
			if found := names(t, cache, files); len(found) != 0 {
				t.Errorf("a part is kept as the whole: %v", found)
			}
			remote.hook = nil
			if n := once(t, cache, remote.want("a", 40)); n != 33 || !slices.Equal(remote.from, []int64{0, 7}) {
				t.Errorf("the rest: %d bytes, read from %v", n, remote.from)
			}
			// What is damaged on the disk is not used, either.
			for _, folder := range []string{files, parts} {
				path := filepath.Join(cache.cfg.Dir, "millrace-files", folder, remote.want("a", 40).name())
				if err := os.WriteFile(path, make([]byte, map[string]int{files: 39, parts: 41}[folder]), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if n := once(t, cache, remote.want("a", 40)); n != 40 {
				t.Errorf("in place of a damaged file: %d bytes", n)
			}
		})
	}
}

// TestFewDownloadsAtOnce, and more than one.
func TestFewDownloadsAtOnce(t *testing.T) {
	c, remote := newCache(t, 1000), &store{}
	var all sync.WaitGroup
	all.Add(atOnce)
	remote.hook = func(_ context.Context, key string, r io.Reader) io.Reader {
		return io.MultiReader(readFunc(func([]byte) (int, error) {
			if key < "e" { // the first four meet, and give a fifth the time to come
				all.Done()
				all.Wait()
				rest(t)
			}
			return 0, io.EOF
		}), r)
	}
	var wants []Want
	for key := 'a'; key <= 't'; key++ {
		wants = append(wants, remote.want(string(key), 10))
	}
	once(t, c, wants...)
	if remote.most != atOnce || len(remote.opened) != 20 {
		t.Errorf("%d downloads at once, want %d; %d files of 20", remote.most, atOnce, len(remote.opened))
	}
}

type readFunc func([]byte) (int, error)

func (f readFunc) Read(p []byte) (int, error) { return f(p) }

// rest gives others the time to do what they should not.
func rest(t *testing.T) {
	for range 5 {
		if err := pause(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

// TestTheSameFileIsFetchedOnce by many sessions, of several processes, at once.
func TestTheSameFileIsFetchedOnce(t *testing.T) {
	const sessionsAtOnce = 8
	c, remote := newCache(t, 100), &store{}
	remote.hook = func(ctx context.Context, _ string, r io.Reader) io.Reader {
		return io.MultiReader(readFunc(func([]byte) (int, error) {
			for { // until all have it in their folders
				found, err := filepath.Glob(filepath.Join(c.cfg.Dir, "*", sessions, "*", remote.want("a", 40).name()))
				if err != nil {
					return 0, err
				}
				if len(found) == sessionsAtOnce {
					break
				}
				if err := pause(ctx); err != nil {
					return 0, err
				}
			}
			rest(t)
			return 0, io.EOF
		}), r)
	}
	var wg sync.WaitGroup
	for range sessionsAtOnce {
		s := begin(t, New(c.cfg))
		wg.Go(func() {
			defer end(t, s)
			wants := []Want{remote.want("a", 40), remote.want("b", 60)}
			taken, err := s.Take(t.Context(), wants)
			if err != nil {
				t.Error(err)
				return
			}
			check(t, s, wants, taken)
		})
	}
	wg.Wait()
	if remote.opened["a"] != 1 || remote.opened["b"] != 1 {
		t.Errorf("fetched %v times", remote.opened)
	}
}

// TestWhoWaitsGoesOnWhereTheFirstFails.
func TestWhoWaitsGoesOnWhereTheFirstFails(t *testing.T) {
	c, remote := newCache(t, 100), &store{}
	first, cancel := context.WithCancelCause(t.Context())
	begun := make(chan struct{})
	remote.hook = func(ctx context.Context, _ string, r io.Reader) io.Reader {
		if remote.opened["a"] > 1 {
			return r
		}
		return io.MultiReader(io.LimitReader(r, 10), readFunc(func([]byte) (int, error) {
			close(begun)
			<-ctx.Done() // a server that has stopped answering
			return 0, context.Cause(ctx)
		}))
	}
	a := remote.want("a", 40)
	s := begin(t, c)
	defer end(t, s)
	failed := make(chan error)
	go func() {
		_, err := s.Take(first, []Want{a})
		failed <- err
	}()
	<-begun
	second := begin(t, c)
	defer end(t, second)
	taken := make(chan error)
	go func() {
		files, err := second.Take(t.Context(), []Want{a})
		if err == nil && check(t, second, []Want{a}, files) != 30 {
			err = fmt.Errorf("fetched %d bytes, want the 30 that were missing", files[0].Fetched)
		}
		taken <- err
	}()
	cancel(errors.New("the statement took too long"))
	if err := <-failed; err == nil || !strings.Contains(err.Error(), "took too long (the 10B of 40B that came are kept") {
		t.Errorf("the first: %v", err)
	}
	if err := <-taken; err != nil {
		t.Errorf("the second: %v", err)
	}
}

// TestDeadSessionsAreSwept: those of a process that was killed, and none that lives.
func TestDeadSessionsAreSwept(t *testing.T) {
	if dir := os.Getenv("DISKCACHE_TEST_DIR"); dir != "" {
		s := begin(t, New(Config{Dir: dir, Size: 100}))
		take(t, s, (&store{}).want("a", 60))
		fmt.Println("taken")
		select {} // until it is killed
	}
	c, remote := newCache(t, 100), &store{}
	live := begin(t, c)
	take(t, live, remote.want("b", 30))
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestDeadSessionsAreSwept$")
	cmd.Env = append(os.Environ(), "DISKCACHE_TEST_DIR="+c.cfg.Dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := io.ReadAll(io.LimitReader(out, 5)); err != nil || string(line) != "taken" {
		t.Fatalf("the other process says %q, %v", line, err)
	}
	end(t, begin(t, c))
	if found := names(t, c, sessions); len(found) != 2 {
		t.Errorf("%d sessions while the other process lives, want 2", len(found))
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it says that it was killed
	s := begin(t, c)
	defer end(t, s)
	if found := names(t, c, sessions); len(found) != 2 {
		t.Errorf("sessions %v, want the one that lives and this one", found)
	}
	if n := take(t, s, remote.want("a", 60)); n != 0 { // what it fetched is good
		t.Errorf("fetched %d bytes", n)
	}
	end(t, live)
}

func TestAFolderOfOthersIsRefused(t *testing.T) {
	c := newCache(t, 100)
	if err := os.Mkdir(filepath.Join(c.cfg.Dir, "millrace-files"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(c.cfg.Dir, "millrace-files"), 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Begin(t.Context()); err == nil || !strings.Contains(err.Error(), "only this user can write to") {
		t.Errorf("got %v", err)
	}
	c.cfg.Dir = filepath.Join(c.cfg.Dir, "file")
	if err := os.WriteFile(c.cfg.Dir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Begin(t.Context()); err == nil || !strings.Contains(err.Error(), "making the folder for files") {
		t.Errorf("got %v", err)
	}
}
