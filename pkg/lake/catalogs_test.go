package lake

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/apache/iceberg-go/catalog/rest"
	iceio "github.com/apache/iceberg-go/io"
	"github.com/apache/iceberg-go/io/gocloud/blobfs"
	icetable "github.com/apache/iceberg-go/table"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/millrace/millrace/pkg/codec"
	"github.com/millrace/millrace/pkg/config"
	"github.com/millrace/millrace/pkg/schema"
	"github.com/millrace/millrace/pkg/schema/schematest"
	"github.com/millrace/millrace/pkg/telemetry"
)

func TestCatalogsAreValidated(t *testing.T) {
	with := func(change func(*Config)) Config {
		c := Default()
		change(&c)
		return c
	}
	pg := func(c *Config) {
		c.Catalog, c.URI, c.Warehouse = SQL, "postgres://millrace@db:5432/lake", "s3://lake/tables"
	}
	server := func(c *Config) { c.Catalog, c.URI, c.Warehouse = REST, "https://catalog:8181", "" }
	for name, c := range map[string]struct {
		cfg  Config
		want []string // none: it is right
	}{
		"sql on S3":      {cfg: with(pg)},
		"sql on a disk":  {cfg: with(func(c *Config) { pg(c); c.Warehouse = "/srv/lake" })},
		"rest":           {cfg: with(server)},
		"rest by name":   {cfg: with(func(c *Config) { server(c); c.Warehouse, c.Credential, c.Scope = "prod", "id:secret", "all" })},
		"hadoop, file":   {cfg: with(func(c *Config) { c.Warehouse = "file:///srv/lake" })},
		"hadoop on S3":   {with(func(c *Config) { c.Warehouse = "s3://lake" }), []string{"lake.warehouse", "no renames"}},
		"hadoop, unused": {with(func(c *Config) { c.URI, c.Token = "x", "y" }), []string{"lake.uri is set", "lake.token is set"}},
		"sql, password in the URI": {
			with(func(c *Config) { pg(c); c.URI = "postgres://millrace:hunter2@db/lake" }),
			[]string{"lake.uri holds a password", "lake.credential"},
		},
		"sql, password in the query": {
			with(func(c *Config) { pg(c); c.URI = "postgres://db/lake?password=hunter2" }), []string{"lake.uri holds a password"},
		},
		"sql, no URI": {
			with(func(c *Config) { pg(c); c.URI = "postgres://u:hunter2@[db/lake" }), []string{"lake.uri is not the URI of a PostgreSQL database"},
		},
		"sql, no database":     {with(func(c *Config) { pg(c); c.URI = "postgres://db:5432" }), []string{"lake.uri is not"}},
		"sql, relative folder": {with(func(c *Config) { pg(c); c.Warehouse = "data/lake" }), []string{"lake.warehouse", "whole path"}},
		"sql, other storage":   {with(func(c *Config) { pg(c); c.Warehouse = "hdfs://n/lake" }), []string{"storage hdfs is not in this binary"}},
		"rest, no URL":         {with(func(c *Config) { server(c); c.URI = "catalog:8181" }), []string{"lake.uri is not the URL"}},
		"rest, user in URL":    {with(func(c *Config) { server(c); c.URI = "https://u:hunter2@c" }), []string{"lake.uri holds a user"}},
		"rest, no colon":       {with(func(c *Config) { server(c); c.Credential = "hunter2" }), []string{"lake.credential has no colon"}},
		"rest, both":           {with(func(c *Config) { server(c); c.Credential, c.Token = "a:hunter2", "b" }), []string{"both set"}},
		"rest, scope alone":    {with(func(c *Config) { server(c); c.Scope = "all" }), []string{"lake.scope"}},
		"rest, default folder": {with(func(c *Config) { server(c); c.Warehouse = "data/lake" }), []string{"lake.warehouse"}},
		"mistyped property": {
			with(func(c *Config) { pg(c); c.Storage = Storage{"s3.endpont": "http://hunter2"} }), []string{`"s3.endpont"`, "s3.endpoint"},
		},
		"half a key": {
			with(func(c *Config) { pg(c); c.Storage = Storage{"s3.secret-access-key": "hunter2"} }), []string{"s3.access-key-id", "give both"},
		},
	} {
		err := c.cfg.Validate()
		if len(c.want) == 0 && err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for _, want := range c.want {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v does not say %q", name, err, want)
			}
		}
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: a secret is printed: %v", name, err)
		}
	}
}

func TestSecretsOfTheLakeAreNeverPrinted(t *testing.T) {
	c := Default()
	c.Credential, c.Token = "hunter2", "hunter2"
	c.Storage = Storage{"s3.secret-access-key": "hunter2", "s3.session-token": "hunter2", "s3.proxy-uri": "http://u:hunter2@p", "s3.region": "eu-west-1"}
	var out bytes.Buffer
	if err := config.Print(&out, c); err != nil {
		t.Fatal(err)
	}
	slog.New(slog.NewJSONHandler(&out, nil)).Info("m", "storage", c.Storage)
	fmt.Fprintf(&out, "%v %+v %#v %s", c, c, c, c.Storage)
	if s := out.String(); strings.Contains(s, "hunter2") || !strings.Contains(s, "s3.secret-access-key: '***'") || !strings.Contains(s, "eu-west-1") {
		t.Errorf("printed:\n%s", s)
	}
}

// TestConflictsOfEachCatalog: everything else is an attempt whose end is not known.
func TestConflictsOfEachCatalog(t *testing.T) {
	for _, c := range []struct {
		err  error
		want bool
	}{
		{fmt.Errorf("table a.b: %w: metadata-location moved underneath us", icetable.ErrCommitFailed), true},
		{rest.ErrCommitFailed, true},
		{errors.New("requirement failed: branch main has changed: expected 1, found 2"), true},
		{errors.New("Requirement failed: current schema id has changed: expected 1, found 2"), true},
		{fmt.Errorf("%w: explicit ref requirement failed", icetable.ErrCommitFailed), true},
		{fmt.Errorf("error updating table information: %w", &pgconn.PgError{Code: "40001"}), true},
		{&pgconn.PgError{Code: "40P01"}, true},
		{&pgconn.PgError{Code: "57P01", Message: "terminating connection; requirement failed"}, false},
		{fmt.Errorf("%w: requirement failed to be read", rest.ErrCommitStateUnknown), false},
		{rest.ErrServerError, false},
		{context.DeadlineExceeded, false},
		{errors.New("connection reset"), false},
	} {
		if got := isConflict(c.err); got != c.want {
			t.Errorf("%v: %v, want %v", c.err, got, c.want)
		}
	}
}

// objects is an S3 that answers everything with one error.
func objects(t *testing.T, status int, code string) *Config {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		fmt.Fprintf(w, "<Error><Code>%s</Code><Message>no</Message></Error>", code)
	}))
	t.Cleanup(server.Close)
	c := Default()
	c.Catalog, c.Warehouse = SQL, "s3://lake/tables"
	c.Storage = Storage{"s3.endpoint": server.URL, "s3.region": "us-east-1", "s3.access-key-id": "a", "s3.secret-access-key": "b"}
	return &c
}

// TestAFullStoreIsKnown: what the object store says as an upload ends.
func TestAFullStoreIsKnown(t *testing.T) {
	for _, c := range []struct {
		status int
		code   string
		want   bool
	}{
		{http.StatusInsufficientStorage, "InsufficientStorage", true},
		{http.StatusForbidden, "QuotaExceeded", true},
		{http.StatusForbidden, "AccessDenied", false},
	} {
		files, _, stop := uploads(t.Context(), s3FS(t, objects(t, c.status, c.code)))
		f, err := files.Create("s3://lake/tables/a")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err == nil || IsFull(err) != c.want {
			t.Errorf("%s: full is %v, want %v: %v", c.code, IsFull(err), c.want, err)
		}
		stop()
	}
	if !IsFull(fmt.Errorf("writing: %w", syscall.ENOSPC)) {
		t.Error("a full disk is not known")
	}
}

// s3FS is the storage of a configuration, on S3.
func s3FS(t *testing.T, c *Config) *blobfs.FileIO {
	t.Helper()
	client, err := c.s3Client(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	fs, err := iceio.LoadFS((&served{client: client}).with(t.Context()), c.Storage, c.Warehouse)
	if err != nil {
		t.Fatal(err)
	}
	return fs.(*blobfs.FileIO)
}

// TestAnUploadOutlivesTheCallThatBeganIt, and is broken off by nothing but stop.
func TestAnUploadOutlivesTheCallThatBeganIt(t *testing.T) {
	var put bool
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { put = put || r.Method == http.MethodPut }))
	defer server.Close()
	cfg := objects(t, http.StatusOK, "")
	cfg.Storage["s3.endpoint"] = server.URL
	for _, stopped := range []bool{false, true} {
		put = false
		ctx, cancel := context.WithCancel(t.Context())
		files, remote, stop := uploads(ctx, s3FS(t, cfg))
		f, err := files.Create("s3://lake/tables/a")
		if err != nil || !remote {
			t.Fatalf("remote %v, %v", remote, err)
		}
		cancel()
		if _, err := f.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if stopped {
			stop()
		}
		if err := f.Close(); put == stopped || (err == nil) == stopped {
			t.Errorf("stopped %v: put %v (%v)", stopped, put, err)
		}
		stop()
	}
}

// TestFilesOfManyDays: on an object store there is a bound of files that are open at once; no row is lost to it.
func TestFilesOfManyDays(t *testing.T) {
	const days = maxUploads + 3
	s := newStore(t)
	tb := s.open()
	w, err := tb.NewWriter(t.Context(), WriterConfig{Memory: 1 << 20, GroupRows: 2})
	if err != nil {
		t.Fatal(err)
	}
	for round := range int64(2) {
		for day := range int64(days) {
			records := s.records(round*2*days+day*2, round*2*days+day*2+2)
			for i := range records {
				at := base.AddDate(0, 0, int(day))
				records[i].Values[schema.Time] = codec.LongValue(at.UnixMicro())
			}
			if err := w.Add(t.Context(), s.typ, records); err != nil {
				t.Fatal(err)
			}
			open := 0
			for _, part := range w.open {
				if part.file != nil {
					open++
				}
			}
			if w.remote && open > maxUploads {
				t.Fatalf("%d files are open, want at most %d", open, maxUploads)
			}
		}
	}
	files, err := w.Finish()
	if err != nil {
		t.Fatal(err)
	}
	if !w.remote && len(files) != days {
		t.Errorf("%d files on a local disk, want one a day", len(files))
	}
	c := s.commit(tb, 0, 0)
	c.Files = files
	c.Spans[TopicPartition{Topic: s.typ.Topic.Name}] = Counts{Next: 4 * days, Rows: 4 * days}
	if err := tb.Commit(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if got, want := s.total(), fmt.Sprint(4*days); got != want {
		t.Errorf("%s rows, want %s", got, want)
	}
}

// TestALargeFile writes one that goes to an object store in parts: it is there whole, once it is closed, or not at all.
func TestALargeFile(t *testing.T) {
	s := newStore(t)
	tb := s.open()
	write := func() *Writer {
		w, err := tb.NewWriter(t.Context(), WriterConfig{Memory: 64 << 20, GroupRows: 200})
		if err != nil {
			t.Fatal(err)
		}
		noise := rand.NewChaCha8([32]byte{})
		for first := int64(100); first < 1900; first += 200 {
			records := s.records(first, first+200)
			for i := range records {
				body := make([]byte, 12<<10)
				_, _ = noise.Read(body) // never fails
				records[i].Values[s.typ.Index("body")] = codec.StringValue(fmt.Sprintf("%x", body))
			}
			if err := w.Add(t.Context(), s.typ, records); err != nil {
				t.Fatal(err)
			}
		}
		return w
	}
	half := write()
	path := half.paths[0]
	if _, local := localPath(path); half.remote == local {
		t.Errorf("an upload: %v, of %s", half.remote, path)
	}
	if half.remote && s.exists(path) {
		t.Error("a file is there before it is closed")
	}
	half.Discard()
	if s.exists(path) {
		t.Error("a file is there that was broken off")
	}
	files, err := write().Finish()
	if err != nil || len(files) != 1 || files[0].FileSizeBytes() < 20<<20 {
		t.Fatalf("%v (%v), want one file of more than 20 MiB", files, err)
	}
	f, err := s.storage().Open(files[0].FilePath())
	if err != nil {
		t.Fatal(err)
	}
	info, err := f.Stat()
	if err := errors.Join(err, f.Close()); err != nil || info.Size() != files[0].FileSizeBytes() {
		t.Errorf("it has %d bytes, want %d (%v)", info.Size(), files[0].FileSizeBytes(), err)
	}
}

// TestEvolvingAtOnce: whoever comes second finds nothing to do, whatever words the catalog refuses it with.
func TestEvolvingAtOnce(t *testing.T) {
	s := newStore(t)
	tx := s.open().ice.NewTransaction()
	if err := tx.UpdateSchema(true, false).DeleteColumn([]string{"span_id"}).Commit(); err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 4 {
		tb := s.open()
		wg.Go(func() {
			if err := tb.evolve(t.Context(), s.typ); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if _, ok := s.open().ice.Schema().FindFieldByName("span_id"); !ok {
		t.Error("the column is not back")
	}
}

// TestCreatingAtOnce makes the same namespace and table from four processes.
func TestCreatingAtOnce(t *testing.T) {
	cfg := place(t)
	typ := schematest.Type(t, "log")
	var wg sync.WaitGroup
	for range 4 {
		l, err := New(cfg, telemetry.Discard())
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			if err := l.Create(t.Context(), typ); err != nil {
				t.Error(err)
			}
			if _, err := l.Open(t.Context(), typ); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

// TestACatalogThatIsOut is an error that says which, within its time, and without the password.
func TestACatalogThatIsOut(t *testing.T) {
	for _, cfg := range []Config{
		{Catalog: SQL, URI: "postgres://millrace@127.0.0.1:1/lake", Credential: "hunter2", Warehouse: "s3://lake"},
		{Catalog: REST, URI: "http://127.0.0.1:1", Credential: "id:hunter2"},
	} {
		cfg.Namespace, cfg.Snapshots, cfg.Compact, cfg.Storage = "millrace", Default().Snapshots, Default().Compact, Storage{"s3.region": "us-east-1"}
		l, err := New(cfg, telemetry.Discard())
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		err = l.Ping(ctx)
		if err == nil || !strings.Contains(err.Error(), "opening catalog "+cfg.Catalog) || !strings.Contains(err.Error(), "127.0.0.1") {
			t.Errorf("got %v", err)
		}
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("a secret is printed: %v", err)
		}
	}
}
