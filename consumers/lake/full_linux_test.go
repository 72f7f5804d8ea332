package lake

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/apache/iceberg-go/table"

	"github.com/millrace/millrace/pkg/lake"
	"github.com/millrace/millrace/pkg/lake/laketest"
	"github.com/millrace/millrace/pkg/schema/schematest"
	"github.com/millrace/millrace/pkg/stream"
	"github.com/millrace/millrace/pkg/stream/sinktest"
)

// smallDisk is a warehouse on a disk of its own.
type smallDisk struct {
	*bench
	dir   string
	topic string
	maker sinktest.Maker
	next  int64 // the log's offset up to which all is in the table
}

// asRoot says whether this process may mount a disk. If not, the test runs once more where it may: as root of
// namespaces of its own.
func asRoot(t *testing.T) bool {
	t.Helper()
	if os.Geteuid() == 0 {
		return true
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("in namespaces of its own (this wants root, or a kernel that gives them to users): %v\n%s", err, out)
	}
	return false
}

func newSmallDisk(t *testing.T, change func(*Config)) *smallDisk {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=8m"); err != nil {
		t.Fatalf("mounting a tmpfs of 8 MiB: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Errorf("unmounting %s: %v", dir, err)
		}
	})
	b := newBench(t, schematest.Type(t, "log"))
	b.cfg.Table.Warehouse = filepath.Join(dir, "lake")
	change(&b.cfg)
	b.sink = b.newSink()
	b.apply(b.sink)
	return &smallDisk{
		bench: b, dir: dir, topic: b.typ.Topic.Name,
		// Midnight is within each batch, so that each commit has two files.
		maker: sinktest.Maker{Type: b.typ, Base: time.Date(2026, 3, 1, 23, 59, 59, 999_900_000, time.UTC), Seed: "x"},
	}
}

// leave fills the disk up to a number of free pages.
func (d *smallDisk) leave(pages int) {
	d.t.Helper()
	var s syscall.Statfs_t
	if err := syscall.Statfs(d.dir, &s); err != nil {
		d.t.Fatal(err)
	}
	if err := os.WriteFile(d.ballast(), make([]byte, (int64(s.Bavail)-int64(pages))*s.Bsize), 0o600); err != nil {
		d.t.Fatal(err)
	}
}

func (d *smallDisk) ballast() string { return filepath.Join(d.dir, "ballast") }

func (d *smallDisk) free() {
	d.t.Helper()
	if err := os.Remove(d.ballast()); err != nil {
		d.t.Fatal(err)
	}
}

// hold has the sink start at the table's offset and take rows up to an offset.
func (d *smallDisk) hold(next int64, done func(error)) error {
	d.t.Helper()
	at, err := d.sink.Assigned(d.t.Context(), d.topic, []int32{0})
	if err != nil {
		d.t.Fatal(err)
	}
	if at[0] != d.next {
		d.t.Fatalf("the table stands at %d, want %d", at[0], d.next)
	}
	return d.sink.Write(d.t.Context(), d.maker.Batch(0, d.next, next), done)
}

// flushOnce commits what is held, and gives up once a try has failed.
func (d *smallDisk) flushOnce() error {
	ctx, cancel := context.WithCancel(d.t.Context())
	var watch sync.WaitGroup
	watch.Go(func() {
		defer cancel()
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for ctx.Err() == nil && d.sink.Ready() == nil {
			select {
			case <-tick.C:
			case <-ctx.Done():
			}
		}
	})
	err := d.sink.committers()[0].flush(ctx)
	cancel()
	watch.Wait()
	return err
}

// files lists all files of the warehouse.
func (d *smallDisk) files() []string {
	d.t.Helper()
	var all []string
	err := filepath.WalkDir(d.cfg.Table.Warehouse, func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			all = append(all, path)
		}
		return err
	})
	if err != nil {
		d.t.Fatal(err)
	}
	return all
}

// known lists the files that the table has a use for.
func (d *smallDisk) known() map[string]bool {
	d.t.Helper()
	cat, err := laketest.New(d.cfg.Table.Warehouse)
	if err != nil {
		d.t.Fatal(err)
	}
	ice, err := cat.LoadTable(d.t.Context(), table.Identifier{d.cfg.Table.Namespace, d.typ.Lake.Table})
	if err != nil {
		d.t.Fatal(err)
	}
	known := map[string]bool{
		ice.MetadataLocation(): true,
		filepath.Join(filepath.Dir(ice.MetadataLocation()), "version-hint.text"): true,
	}
	for old := range ice.Metadata().PreviousFiles() {
		known[old.MetadataFile] = true
	}
	storage, err := ice.FS(d.t.Context())
	if err != nil {
		d.t.Fatal(err)
	}
	for _, s := range ice.Metadata().Snapshots() {
		known[s.ManifestList] = true
		manifests, err := s.Manifests(storage)
		if err != nil {
			d.t.Fatal(err)
		}
		for _, m := range manifests {
			known[m.FilePath()] = true
			for e, err := range m.Entries(storage, true) {
				if err != nil {
					d.t.Fatal(err)
				}
				known[e.DataFile().FilePath()] = true
			}
		}
	}
	return known
}

// unknown lists the files that nothing refers to.
func (d *smallDisk) unknown() []string {
	known := d.known()
	return slices.DeleteFunc(d.files(), func(path string) bool { return known[path] })
}

// strikes names where in a commit the disk was full.
func strikes(err error) string {
	for _, s := range [][2]string{
		{"finishing files", "data file"},
		{"-m", "manifest"},
		{"snap-", "manifest list"},
		{"table metadata", "metadata"},
	} {
		if strings.Contains(err.Error(), s[0]) {
			return s[1]
		}
	}
	return err.Error()
}

// TestDiskFullAtEveryPage commits with no page free, with one, with two, until there is enough room: wherever the
// disk's end strikes, the table stays as it was, says so, keeps its disk clean, and goes on when there is room.
func TestDiskFullAtEveryPage(t *testing.T) {
	if !asRoot(t) {
		return
	}
	const each = 400
	d := newSmallDisk(t, func(*Config) {})
	struck := map[string]int{}
	for pages := 0; ; pages++ {
		d.leave(pages)
		var dones []error
		if err := d.hold(d.next+each, func(err error) { dones = append(dones, err) }); err != nil {
			t.Fatal(err)
		}
		err := d.flushOnce()
		if err == nil {
			d.free()
			d.next += each
			break
		}
		struck[strikes(err)]++
		if ready := d.sink.Ready(); !lake.IsFull(err) || ready == nil || !strings.Contains(ready.Error(), "the disk of the lake is full") {
			t.Fatalf("%d pages: the commit gave %v, ready says %v", pages, err, ready)
		}
		if slices.Contains(dones, nil) {
			t.Fatalf("%d pages: rows were told to be durable", pages)
		}
		if n := int64(d.count(t)); n != d.next {
			t.Fatalf("%d pages: readers see %d rows, want %d", pages, n, d.next)
		}
		// Either all is given up, or the data files wait for the commit to be tried again.
		wantFiles := 0
		if h := d.sink.committers()[0].leaving; h != nil {
			wantFiles = len(h.commit.Files)
		}
		if (len(dones) > 0) == (wantFiles > 0) {
			t.Fatalf("%d pages: %d batches given up, %d files wait", pages, len(dones), wantFiles)
		}
		left := d.unknown()
		if strikes(err) == "metadata" { // the manifest and the list of the last try go with the next one, which looks first
			left = slices.DeleteFunc(left, func(p string) bool { return strings.HasSuffix(p, ".avro") })
		}
		if len(left) != wantFiles || slices.ContainsFunc(left, func(p string) bool { return !strings.HasSuffix(p, ".parquet") }) {
			t.Fatalf("%d pages (%s): %d files wanted beside the table's, there are %q", pages, strikes(err), wantFiles, left)
		}
		d.free()
		if len(dones) > 0 {
			d.sink.Lost(d.topic, []int32{0})
			if err := d.hold(d.next+each, func(err error) { dones = append(dones, err) }); err != nil {
				t.Fatal(err)
			}
		}
		if err := d.flush(d.sink); err != nil {
			t.Fatal(err)
		}
		d.next += each
		if ready := d.sink.Ready(); ready != nil || dones[len(dones)-1] != nil {
			t.Fatalf("%d pages, with room: ready says %v, dones got %v", pages, ready, dones)
		}
		if left := d.unknown(); len(left) != 0 {
			t.Fatalf("%d pages, with room: left behind: %q", pages, left)
		}
	}
	if n := int64(d.count(t)); n != d.next {
		t.Errorf("%d rows, want %d", n, d.next)
	}
	if want := []string{"data file", "manifest", "manifest list", "metadata"}; !slices.Equal(slices.Sorted(maps.Keys(struck)), want) {
		t.Errorf("the disk was full at %v, want each of %v", struck, want)
	}
	// The last one found room for all but the hint, which is for other engines: they look for newer versions from there.
	d.tidies()
}

// tidies has the time pass after which files of a version hint that found no room are removed.
func (d *smallDisk) tidies() {
	d.t.Helper()
	left := d.unknown()
	old := time.Now().Add(-2 * time.Hour)
	for _, path := range left {
		if !strings.HasSuffix(path, "-version-hint.temp") {
			d.t.Errorf("%s is nobody's", path)
		}
		if err := os.Chtimes(path, old, old); err != nil {
			d.t.Fatal(err)
		}
	}
	if len(left) == 0 {
		d.t.Error("the version hint found room")
	}
	if err := d.sink.committers()[0].table.Expire(d.t.Context()); err != nil {
		d.t.Fatal(err)
	}
	if left := d.unknown(); len(left) != 0 {
		d.t.Errorf("left behind: %q", left)
	}
}

// TestDiskFullAtARowGroup fills the disk while rows are still being taken: what is held is given up with its files, what
// comes next waits, and all of it is read again.
func TestDiskFullAtARowGroup(t *testing.T) {
	if !asRoot(t) {
		return
	}
	d := newSmallDisk(t, func(c *Config) { c.GroupRows = 500 })
	d.leave(100)
	var dones []error
	done := func(err error) { dones = append(dones, err) }
	err := d.hold(500, done)
	end := int64(500)
	for ; err == nil; end += 500 {
		err = d.sink.Write(t.Context(), d.maker.Batch(0, end, end+500), done)
	}
	if !lake.IsFull(err) || slices.Contains(dones, nil) || len(dones) == 0 {
		t.Fatalf("writing gave %v, dones got %v", err, dones)
	}
	if ready := d.sink.Ready(); ready == nil || !strings.Contains(ready.Error(), "the disk of the lake is full") {
		t.Errorf("ready says %v", ready)
	}
	if left := d.unknown(); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
	if err := d.sink.Write(t.Context(), d.maker.Batch(0, end, end+1), done); !errors.Is(err, stream.ErrReseek) {
		t.Errorf("writing on gave %v, want stream.ErrReseek", err)
	}
	d.free()
	d.sink.Lost(d.topic, []int32{0})
	if err := d.hold(end, done); err != nil {
		t.Fatal(err)
	}
	if err := d.flush(d.sink); err != nil {
		t.Fatal(err)
	}
	if n := int64(d.count(t)); n != end {
		t.Errorf("%d rows, want %d", n, end)
	}
	if ready := d.sink.Ready(); ready != nil {
		t.Errorf("with room, ready says %v", ready)
	}
}

// TestAStopOnAFullDiskLeavesNothing ends the sink while its commit finds no room.
func TestAStopOnAFullDiskLeavesNothing(t *testing.T) {
	if !asRoot(t) {
		return
	}
	d := newSmallDisk(t, func(c *Config) { c.Age = 10 * time.Millisecond })
	if err := d.hold(400, func(error) {}); err != nil {
		t.Fatal(err)
	}
	// The files find room, the metadata does not.
	c := d.sink.committers()[0]
	if err := c.close(c.take()); err != nil {
		t.Fatal(err)
	}
	d.leave(0)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- d.sink.Run(ctx) }()
	for d.sink.Ready() == nil {
		select {
		case <-time.After(time.Millisecond):
		case <-t.Context().Done():
			t.Fatal("the commit did not fail")
		}
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if left := d.unknown(); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
	d.free()
	d.sink = d.newSink()
	if err := d.hold(400, func(error) {}); err != nil {
		t.Fatal(err)
	}
	if err := d.flush(d.sink); err != nil {
		t.Fatal(err)
	}
	if n := d.count(t); n != 400 {
		t.Errorf("%d rows, want 400", n)
	}
}
