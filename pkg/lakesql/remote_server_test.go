package lakesql

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace/millrace/pkg/codec"
	"github.com/millrace/millrace/pkg/config"
	"github.com/millrace/millrace/pkg/diskcache"
	"github.com/millrace/millrace/pkg/lake"
	"github.com/millrace/millrace/pkg/schema"
	"github.com/millrace/millrace/pkg/schema/schematest"
	"github.com/millrace/millrace/pkg/serve"
	"github.com/millrace/millrace/pkg/servertest"
	"github.com/millrace/millrace/pkg/telemetry"
)

// store3 is the S3 of the servers behind a proxy that counts the data files which are read, and can stop answering.
type store3 struct {
	*httptest.Server
	files  atomic.Int64 // requests for data files
	silent atomic.Value // the end of the names of objects that stop in the middle, with nothing more
	over   chan struct{}
}

const nothing = "nothing"

func newStore3(t *testing.T, target string) *store3 {
	t.Helper()
	to, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	s := &store3{over: make(chan struct{})}
	s.silent.Store(nothing)
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(to)
		r.Out.Host = r.In.Host // it is signed
	}}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, ".parquet") {
			s.files.Add(1)
		}
		if r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, s.silent.Load().(string)) {
			w = &half{w, s.over, r.Context().Done()}
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(func() {
		close(s.over)
		s.Close()
	})
	return s
}

// half passes the first bytes of an answer on, and then nothing, until the caller goes.
type half struct {
	http.ResponseWriter
	over chan struct{}
	gone <-chan struct{}
}

func (h *half) Write(p []byte) (int, error) {
	if _, err := h.ResponseWriter.Write(p[:len(p)/2]); err != nil {
		return 0, err
	}
	if err := http.NewResponseController(h.ResponseWriter).Flush(); err != nil {
		return 0, err
	}
	select {
	case <-h.gone:
	case <-h.over:
	}
	return 0, net.ErrClosed
}

// onServers runs a test with each catalog that is a server, on S3.
func onServers(t *testing.T, test func(t *testing.T, s3 *store3, cfg lake.Config)) {
	servers, ok := servertest.RequireLake(t)
	if !ok {
		return
	}
	for _, catalog := range []string{lake.SQL, lake.REST} {
		t.Run(catalog, func(t *testing.T) {
			s3, cfg := newStore3(t, servers.S3), lake.Default()
			cfg.Catalog, cfg.Namespace = catalog, servertest.Name(t)
			cfg.URI, cfg.Credential, cfg.Warehouse = servers.SQL, config.Secret(servers.Password), "s3://lake/sql"
			if catalog == lake.REST {
				cfg.URI, cfg.Credential, cfg.Warehouse = servers.REST, "", ""
			}
			cfg.Storage = lake.Storage{
				"s3.endpoint": s3.URL, "s3.region": "us-east-1",
				"s3.access-key-id": servers.AccessKey, "s3.secret-access-key": servers.SecretKey,
			}
			test(t, s3, cfg)
		})
	}
}

func lakeOf(t *testing.T, cfg lake.Config) *lake.Lake {
	t.Helper()
	l, err := lake.New(cfg, telemetry.Discard())
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// fill makes six files of as many days, written with two versions of the type.
func fill(t *testing.T, l *lake.Lake) *schema.Type {
	t.Helper()
	old := schematest.Type(t, "log")
	newer, err := schema.Parse([]byte(evolved))
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Create(t.Context(), old); err != nil {
		t.Fatal(err)
	}
	for day := range 6 {
		typ, level := old, "severity"
		if day%2 == 1 {
			typ, level = newer, "level"
		}
		var records []codec.Record
		for n := range 50 {
			records = append(records, record(typ, int64(day*50+n), base.AddDate(0, 0, day).Add(time.Duration(n)*time.Microsecond), map[string]codec.Value{
				level: codec.StringValue(fmt.Sprint(day)), "service": codec.StringValue(words[n%len(words)]),
				"attributes": codec.MapValue(map[string]string{"n": fmt.Sprint(n)}),
			}))
		}
		store(t, l, typ, int64(day*50), records...)
	}
	return newer
}

// openCached opens a lake with a cache.
func openCached(t *testing.T, l *lake.Lake, cache diskcache.Config, typ *schema.Type) *DB {
	t.Helper()
	cfg := Default()
	cfg.Deduplicate, cfg.Cache = nil, cache
	d, err := Open(t.Context(), cfg, l, []*schema.Type{typ}, lake.AsOf{})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// TestOnAnObjectStoreOnServers has the rows of a local disk there: each statement gives the same answer, fetches the files
// that it needs, and fetches none the second time.
func TestOnAnObjectStoreOnServers(t *testing.T) {
	onServers(t, func(t *testing.T, s3 *store3, cfg lake.Config) {
		there, here := lakeOf(t, cfg), newLake(t)
		typ := fill(t, there)
		fill(t, here)
		cache := diskcache.Config{Dir: t.TempDir(), Size: 1 << 30}
		d, local := openCached(t, there, cache, typ), openCached(t, here, cache, typ)
		total := int64(0)
		for _, c := range []struct {
			statement string
			fetched   int64
		}{
			{"select count(*), max(body) from log where time < '2026-03-02'", 1},
			{"from log where time < '2026-03-03' order by _offset", 1}, // the other is there
			{"select level, service, attributes, count(*) from log group by all order by all", 4},
			{"select a.id, b.level from log a join log b using (id) where a.level = '3' order by 1", 0},
			{"select 1", 0},
		} {
			want, _ := read(t, local, c.statement)
			for round, fetched := range []int64{c.fetched, 0} {
				before := s3.files.Load()
				got, a := read(t, d, c.statement)
				if got != want {
					t.Errorf("%s: got\n%s\nwant\n%s", c.statement, got, want)
				}
				if n := s3.files.Load() - before; n != fetched {
					t.Errorf("%s: fetched %d files in round %d, want %d", c.statement, n, round, fetched)
				}
				if len(a.Reads) == 0 {
					continue
				}
				r := a.Reads[0]
				if (r.Fetched > 0) != (fetched > 0) || r.Bytes <= 0 || r.Fetched > r.Bytes || r.Of != 6 {
					t.Errorf("%s: says %+v in round %d", c.statement, r, round)
				}
				total += r.Fetched
			}
		}
		if onDisk := bytesIn(t, cache.Dir); onDisk != total {
			t.Errorf("%d bytes in the cache, %d were fetched", onDisk, total)
		}
	})
}

func bytesIn(t *testing.T, dir string) (n int64) {
	t.Helper()
	err := filepath.Walk(dir, func(_ string, info os.FileInfo, err error) error {
		if err == nil && info.Mode().IsRegular() {
			n += info.Size()
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestTheCacheIsNotReadFromSQLOnServers: a statement can read the files that were chosen for it, as its views do, and
// nothing else of the cache or the disk; it can write nowhere.
func TestTheCacheIsNotReadFromSQLOnServers(t *testing.T) {
	onServers(t, func(t *testing.T, _ *store3, cfg lake.Config) {
		l := lakeOf(t, cfg)
		typ := fill(t, l)
		cache := diskcache.Config{Dir: t.TempDir(), Size: 1 << 30}
		d := openCached(t, l, cache, typ)
		read(t, d, "from log")
		other, err := d.cache.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = other.End() }()
		theirs := other.Dir() + "/f.csv"
		if err := os.WriteFile(theirs, []byte("a\n1\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		kept, err := filepath.Glob(cache.Dir + "/*/files/*")
		if err != nil || len(kept) != 6 {
			t.Fatalf("%v (%v), want six files", kept, err)
		}
		refused := []string{
			"from read_parquet('" + kept[0] + "')", "from '" + kept[0] + "'", "from parquet_metadata('" + kept[0] + "')",
			"from read_blob('" + kept[0] + "')", "from read_csv('" + theirs + "')", "from read_csv('/etc/passwd')",
			"from glob('" + cache.Dir + "/*/*/*')", "from glob('" + cache.Dir + "/*/sessions/*/*')",
			"from read_parquet('" + cache.Dir + "/*/sessions/*/*')", "from read_parquet('s3://lake/sql/*')",
			"attach '" + cache.Dir + "/x.db'", "set enable_external_access = true", "install httpfs",
		}
		for _, to := range []string{kept[0], filepath.Dir(kept[0]) + "/x", other.Dir() + "/x", cache.Dir + "/x"} {
			refused = append(refused, "copy log to '"+to+"'", "copy (from log) to '"+to+"' (format parquet)", "explain analyze copy log to '"+to+"'")
		}
		size := bytesIn(t, cache.Dir)
		for _, statement := range refused {
			var out bytes.Buffer
			if _, err := d.Query(t.Context(), Request{Statement: statement}, &out, CSV); err == nil {
				t.Errorf("%q ran: %s", statement, out.String())
			}
		}
		if n := bytesIn(t, cache.Dir); n != size {
			t.Errorf("the cache has %d bytes, and had %d", n, size)
		}
		// Its own folder has its own files: here those of one day.
		s, err := d.begin(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = s.end() }()
		if _, err := s.show(t.Context(), "from log where time < '2026-03-02'"); err != nil {
			t.Fatal(err)
		}
		for path, want := range map[string]bool{s.remote.Dir() + "/*": true, other.Dir() + "/*": false, s.remote.Dir() + "/../../files/*": false} {
			var n int
			err := s.conn.QueryRowContext(t.Context(), "select count(*) from glob("+literal(path)+")").Scan(&n)
			if want != (err == nil && n == 1) {
				t.Errorf("%s: %d files, %v", path, n, err)
			}
		}
	})
}

// TestMoreThanTheCacheOnServers is refused before a file is fetched, over HTTP as the caller's mistake.
func TestMoreThanTheCacheOnServers(t *testing.T) {
	onServers(t, func(t *testing.T, s3 *store3, cfg lake.Config) {
		l := lakeOf(t, cfg)
		typ := fill(t, l)
		cache := diskcache.Config{Dir: t.TempDir(), Size: 1 << 30}
		_, a := read(t, openCached(t, l, cache, typ), "from log")
		cache.Dir, cache.Size = t.TempDir(), config.Bytes(a.Reads[0].Bytes-1)
		d := openCached(t, l, diskcache.Config{Dir: cache.Dir, Size: 1 << 20}, typ)
		d.cache = diskcache.New(cache) // smaller than a configuration may have it
		before := s3.files.Load()
		_, err := d.Query(t.Context(), Request{Statement: "from log"}, &bytes.Buffer{}, CSV)
		if !errors.Is(err, diskcache.ErrTooLarge) || !callers(err) || !strings.Contains(err.Error(), "6 files of ") || !strings.Contains(err.Error(), "sql.cache.size") {
			t.Errorf("got %v", err)
		}
		if n := s3.files.Load() - before; n != 0 {
			t.Errorf("%d files were fetched", n)
		}
		for day := range 6 { // day by day it goes, one in place of another
			from := base.AddDate(0, 0, day).Format(time.DateOnly)
			if got, _ := read(t, d, "select count(*) as n from log where date_trunc('day', time) = '"+from+"'"); got != "n\n50\n" {
				t.Errorf("%s: %q", from, got)
			}
		}
		if n := bytesIn(t, cache.Dir); n > int64(cache.Size) {
			t.Errorf("%d bytes in a cache of %d", n, cache.Size)
		}
	})
}

// TestASilentStoreOnServers: an S3 that stops answering in the middle of a file is an error when the statement's time is
// over, nothing of it is taken for a file, and the next statement reads it.
func TestASilentStoreOnServers(t *testing.T) {
	onServers(t, func(t *testing.T, s3 *store3, cfg lake.Config) {
		l := lakeOf(t, cfg)
		typ := fill(t, l)
		cache := diskcache.Config{Dir: t.TempDir(), Size: 1 << 30}
		d := openCached(t, l, cache, typ)
		d.cfg.Timeout = 2 * time.Second
		for end, want := range map[string][]string{".avro": nil, ".parquet": {"fetching data files", "are kept for the next time"}} {
			s3.silent.Store(end)
			begun := time.Now()
			_, err := d.Query(t.Context(), Request{Statement: "from log"}, &bytes.Buffer{}, CSV)
			if took := time.Since(begun); took > 20*time.Second || !errors.Is(err, serve.ErrTooLong) {
				t.Errorf("%s: after %v: %v", end, took, err)
			}
			for _, w := range want {
				if err == nil || !strings.Contains(err.Error(), w) {
					t.Errorf("%s: %v does not say %q", end, err, w)
				}
			}
		}
		if kept, err := filepath.Glob(cache.Dir + "/*/files/*"); err != nil || len(kept) != 0 {
			t.Errorf("kept %v (%v)", kept, err)
		}
		s3.silent.Store(nothing)
		d.cfg.Timeout = time.Minute
		if got, a := read(t, d, "select count(*) as n, count(distinct id) as ids from log"); got != "n,ids\n300,300\n" || a.Reads[0].Fetched >= a.Reads[0].Bytes {
			t.Errorf("got %q from %+v: the first bytes were there", got, a.Reads)
		}
	})
}

// TestDeletingOnAnObjectStoreOnServers: files are fetched one after the other, and each gives its room back to the cache.
func TestDeletingOnAnObjectStoreOnServers(t *testing.T) {
	onServers(t, func(t *testing.T, _ *store3, cfg lake.Config) {
		l := lakeOf(t, cfg)
		typ := fill(t, l)
		table, err := l.Open(t.Context(), typ)
		if err != nil {
			t.Fatal(err)
		}
		state, err := table.At(lake.AsOf{})
		if err != nil {
			t.Fatal(err)
		}
		files, err := state.Files(t.Context(), nil)
		if err != nil || len(files) != 6 {
			t.Fatalf("%v (%v), want six files", files, err)
		}
		query := Default()
		query.Cache = diskcache.Config{Dir: t.TempDir(), Size: 1 << 20}
		w, err := OpenWhere(t.Context(), query, typ.Name, state, "service = 'a' and attributes['n'] < '3'")
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := w.Close(); err != nil {
				t.Error(err)
			}
		}()
		want := count(t, openCached(t, l, diskcache.Config{Dir: t.TempDir(), Size: 1 << 30}, typ), typ.Name, "service = 'a' and attributes['n'] < '3'")
		done, err := table.Delete(t.Context(), lake.Deletion{Where: w, Reason: "r", Memory: 1 << 20, GroupRows: 100})
		if err != nil || done.Rows != want || want == 0 {
			t.Fatalf("%+v (%v), want %d rows", done, err, want)
		}
		if held, err := os.ReadDir(w.session.remote.Dir()); err != nil || len(held) != 0 {
			t.Errorf("%v are held (%v), want none", held, err)
		}
		d := openCached(t, l, diskcache.Config{Dir: t.TempDir(), Size: 1 << 30}, typ)
		if left, all := count(t, d, typ.Name, "service = 'a' and attributes['n'] < '3'"), count(t, d, typ.Name, "true"); left != 0 || all != 300-want {
			t.Errorf("%d of %d rows are left, want none of %d", left, all, 300-want)
		}
	})
}

func count(t *testing.T, d *DB, typ, where string) (n int64) {
	t.Helper()
	var out bytes.Buffer
	if _, err := d.Query(t.Context(), Request{Statement: "select count(*) as n from " + typ + " where " + where}, &out, CSV); err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Sscanf(out.String(), "n\n%d\n", &n); err != nil {
		t.Fatalf("%q: %v", out.String(), err)
	}
	return n
}
