package devstore

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/pkg/codec"
	"github.com/millrace/millrace/pkg/schema"
	"github.com/millrace/millrace/pkg/serve/servetest"
	"github.com/millrace/millrace/pkg/stream"
	"github.com/millrace/millrace/pkg/stream/sinktest"
	"github.com/millrace/millrace/pkg/telemetry"
)

func types(t testing.TB) *schema.Set {
	t.Helper()
	list, err := schema.Builtin()
	if err != nil {
		t.Fatal(err)
	}
	set, err := schema.NewSet(list...)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

func newStore(t testing.TB, path string) *Store {
	t.Helper()
	cfg := Default()
	cfg.Path = path
	s, err := New(cfg, types(t), telemetry.Discard())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// running starts a store; stop ends it and waits for it.
func running(t testing.TB, path string) (s *Store, stop func()) {
	t.Helper()
	s = newStore(t, path)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(stop)
	return s, stop
}

func scan(t testing.TB, s *Store, name string) [][]codec.Value {
	t.Helper()
	var rows [][]codec.Value
	if err := s.Scan(t.Context(), name, func(v []codec.Value) error { rows = append(rows, v); return nil }); err != nil {
		t.Fatal(err)
	}
	return rows
}

func write(t testing.TB, s *Store, b stream.Batch) {
	t.Helper()
	done := make(chan error, 1)
	if err := s.Write(t.Context(), b, func(err error) { done <- err }); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestSinkContract(t *testing.T) {
	for _, name := range []string{"log", "metric", "performance", "usage"} {
		t.Run(name, func(t *testing.T) {
			sinktest.Test(t, func(t *testing.T) sinktest.Harness {
				s, _ := running(t, filepath.Join(t.TempDir(), "store.duckdb"))
				return sinktest.Harness{
					Sink: s, Type: s.types.Get(name),
					Read: func(t *testing.T) [][]codec.Value { return scan(t, s, name) },
				}
			})
		})
	}
}

func TestServeContract(t *testing.T) {
	servetest.Test(t, func(t *testing.T) servetest.Harness {
		s, _ := running(t, filepath.Join(t.TempDir(), "store.duckdb"))
		return servetest.Harness{Types: s.types, Sinks: []stream.Sink{s}, Series: s, Search: s}
	})
}

func TestReopen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "deep", "store.duckdb")
	s, stop := running(t, path)
	m := sinktest.Maker{Type: s.types.Get("log"), Base: time.Now().Add(-time.Minute)}
	write(t, s, m.Batch(0, 0, 100))
	stop()
	if err := s.Write(t.Context(), m.Batch(0, 100, 101), func(error) { t.Error("done was called") }); !errors.Is(err, errClosed) {
		t.Errorf("a closed store answers %v", err)
	}
	s, _ = running(t, path)
	write(t, s, m.Batch(0, 50, 150))
	if n := len(scan(t, s, "log")); n != 150 {
		t.Errorf("%d rows, want 150", n)
	}
}

// TestKilled starts this test binary again as a process that stores batches and says so, kills it, and looks for what
// it said.
func TestKilled(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.duckdb")
	if p := os.Getenv("MILLRACE_TEST_KILLED"); p != "" {
		storeForEver(t, p)
		return
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestKilled$")
	cmd.Env = append(os.Environ(), "MILLRACE_TEST_KILLED="+path)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stored := 0
	for buf := make([]byte, 1); stored < 20; {
		if _, err := out.Read(buf); err != nil {
			t.Fatalf("the process ended by itself: %v", err)
		}
		stored += strings.Count(string(buf), ".")
	}
	if _, err := New(Config{}, nil, telemetry.Discard()); err == nil {
		t.Error("an empty configuration is accepted")
	}
	if err := newStore(t, path).Ping(t.Context()); err == nil || !strings.Contains(err.Error(), "another process has it open") {
		t.Errorf("a second process got %v", err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()         // killed
	s := newStore(t, path) // not running: it would delete these old rows
	rows := scan(t, s, "log")
	if len(rows) < stored*10 {
		t.Errorf("%d rows after a kill, %d were acknowledged", len(rows), stored*10)
	}
	m := sinktest.Maker{Type: s.types.Get("log"), Base: killedBase}
	write(t, s, m.Batch(0, 0, int64(len(rows))))
	if n := len(scan(t, s, "log")); n != len(rows) {
		t.Errorf("%d rows after the same came again, want %d", n, len(rows))
	}
	if err := s.close(t.Context()); err != nil {
		t.Error(err)
	}
}

var killedBase = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func storeForEver(t *testing.T, path string) {
	s := newStore(t, path)
	m := sinktest.Maker{Type: s.types.Get("log"), Base: killedBase}
	for o := int64(0); ; o += 10 {
		write(t, s, m.Batch(0, o, o+10))
		if _, err := os.Stdout.WriteString("."); err != nil {
			return
		}
	}
}

func TestRetention(t *testing.T) {
	s := newStore(t, filepath.Join(t.TempDir(), "store.duckdb"))
	typ := s.types.Get("log")
	keep := max(typ.Cassandra.Retention, typ.Elasticsearch.Retention)
	now := time.Now()
	write(t, s, sinktest.Maker{Type: typ, Seed: "old", Base: now.Add(-keep - time.Hour)}.Batch(0, 0, 10))
	write(t, s, sinktest.Maker{Type: typ, Seed: "new", Base: now.Add(-keep + time.Hour)}.Batch(0, 0, 10))
	if err := s.expire(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := len(scan(t, s, "log")); n != 10 {
		t.Errorf("%d rows, want the 10 that are not expired", n)
	}
	if err := s.close(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestEvolve(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.duckdb")
	s, stop := running(t, path)
	old := s.types.Get("log")
	write(t, s, sinktest.Maker{Type: old, Seed: "old", Base: time.Now()}.Batch(0, 0, 10))
	newer := evolved(t, old)
	write(t, s, sinktest.Maker{Type: newer, Seed: "new", Base: time.Now()}.Batch(0, 0, 10))
	write(t, s, sinktest.Maker{Type: old, Seed: "late", Base: time.Now()}.Batch(0, 0, 10))
	check := func() {
		t.Helper()
		typ, err := s.Type(t.Context(), "log")
		if err != nil {
			t.Fatal(err)
		}
		region, origin, withRegion, withOrigin := typ.Index("region"), typ.Index("origin"), 0, 0
		rows := scan(t, s, "log")
		for _, v := range rows {
			if region >= 0 && !v[region].IsNull() {
				withRegion++
			}
			if origin >= 0 && !v[origin].IsNull() {
				withOrigin++
			}
		}
		if len(rows) != 30 || withRegion == 0 || withRegion > 10 || withOrigin <= 16 {
			t.Errorf("%d rows, %d with a region, %d with an origin (renamed from source)", len(rows), withRegion, withOrigin)
		}
	}
	check()
	stop()
	s, _ = running(t, path) // the file's type is the old one again
	write(t, s, sinktest.Maker{Type: newer, Seed: "new", Base: time.Now()}.Batch(0, 0, 1))
}

// evolved is the log type with a new field and a renamed one.
func evolved(t *testing.T, old *schema.Type) *schema.Type {
	t.Helper()
	j := string(old.JSON)
	renamed := strings.Replace(j, `"name":"source"`, `"name":"origin","aliases":["source"]`, 1)
	i := strings.LastIndex(renamed, "]")
	renamed = renamed[:i] + `,{"name":"region","type":["null","string"],"default":null}` + renamed[i:]
	typ, err := schema.Parse([]byte(renamed))
	if err != nil {
		t.Fatalf("%v in %s", err, renamed)
	}
	return typ
}

func TestBatchesShareCommits(t *testing.T) {
	s, _ := running(t, filepath.Join(t.TempDir(), "store.duckdb"))
	if err := s.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	m := sinktest.Maker{Type: s.types.Get("log"), Base: time.Now()}
	s.writer <- struct{}{} // somebody is writing
	const writers = 50
	done := make(chan error, writers)
	returned := make(chan error, writers)
	for i := range int32(writers) {
		go func() { returned <- s.Write(t.Context(), m.Batch(i, 0, 2), func(err error) { done <- err }) }()
	}
	for n := 0; n < writers; {
		s.queue.mu.Lock()
		n = len(s.queue.waiting)
		s.queue.mu.Unlock()
	}
	<-s.writer
	for range writers {
		if err := errors.Join(<-done, <-returned); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(scan(t, s, "log")); n != 2*writers {
		t.Errorf("%d rows, want %d", n, 2*writers)
	}
}
