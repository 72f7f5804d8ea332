package lakesql

import (
	"bytes"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/pkg/lake"
	"github.com/millrace/millrace/pkg/schema"
	"github.com/millrace/millrace/pkg/schema/schematest"
	"github.com/millrace/millrace/pkg/serve"
)

// TestService asks a real lake over the API's routes.
func TestService(t *testing.T) {
	typ := schematest.Type(t, "usage")
	l := newLake(t, typ)
	store(t, l, typ, 0, record(typ, 0, base, nil))
	_, a := read(t, openWith(t, l, nil, typ), "from usage")
	storeThrough(t, l, typ, 1, base.Add(time.Hour), record(typ, 1, base.AddDate(0, 0, 1), nil))
	cfg := Default()
	cfg.Memory = 64 << 20
	api := &serve.API{SQL: NewService(cfg, l, []*schema.Type{typ}), Timeout: time.Minute, Now: time.Now}
	mux := http.NewServeMux()
	api.Register(mux)
	f := func(code int, want, statement string, options ...string) {
		t.Helper()
		v := url.Values{"q": {statement}}
		for i := 0; i+1 < len(options); i += 2 {
			v.Set(options[i], options[i+1])
		}
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/api/v1/sql?"+v.Encode(), nil))
		if w.Code != code || !strings.Contains(w.Body.String(), want) {
			t.Errorf("%s %v: %d %s, want %d with %s", statement, options, w.Code, w.Body, code, want)
		}
	}
	f(200, `"rows":[`+"\n"+`{"n":2}],"truncated":false,"tables":[{"type":"usage","snapshot":"`, "select count(*) as n from usage")
	f(200, `"valid_through":"2026-03-02T00:59:59.999Z","files":1,"of":2}]}`, "select count(*) as n from usage where time < '2026-03-02'")
	f(200, "n\n1\n", "select count(*) as n from usage", "as_of", a.Reads[0].Committed.Format(time.RFC3339Nano), "format", "csv")
	f(200, "{\"range\":0}\n{\"truncated\":true}\n", "from range(5)", "limit", "1", "format", "ndjson")
	f(200, "PAR1", "from usage", "format", "parquet")
	f(400, "there are more rows than the limit, which is 1", "from usage", "format", "parquet", "limit", "1")
	f(400, "only a single SELECT", "create table x (a int)")
	f(400, "Parser Error", "selec 1")
	f(400, "not found in FROM", "select nope from usage")
	f(400, "Conversion Error", "select cast(id as int) from usage")
	f(400, "Permission Error", "from read_csv('/etc/passwd')")
	f(400, "as_of: \\\"yesterday\\\" is neither", "from usage", "as_of", "yesterday")
	f(400, "first commit was at", "from usage", "as_of", "2001-01-01T00:00:00Z")
	f(400, "no table has it", "from usage", "as_of", "12345")
	f(400, "Out of Memory", "select list(range) from range(100000000)")
	// What a snapshot needs and is gone is not the caller's mistake.
	files, err := func() ([]string, error) {
		table, err := l.Open(t.Context(), typ)
		if err != nil {
			return nil, err
		}
		return table.Files(t.Context())
	}()
	if err != nil || len(files) != 2 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		if err := os.Remove(strings.TrimPrefix(file, "file://")); err != nil {
			t.Fatal(err)
		}
	}
	f(502, "IO Error", "from usage")
}

// TestAnOtherFolderOfTheDiskIsNotTheLake has a file beside the tables' data files, and one that only looks like one.
func TestAnOtherFolderOfTheDiskIsNotTheLake(t *testing.T) {
	typ := schematest.Type(t, "usage")
	l := newLake(t, typ)
	store(t, l, typ, 0, record(typ, 0, base, nil))
	table, err := l.Open(t.Context(), typ)
	if err != nil {
		t.Fatal(err)
	}
	state, err := table.At(lake.AsOf{})
	if err != nil {
		t.Fatal(err)
	}
	data := strings.TrimPrefix(state.Folder(), "file://")
	d := openWith(t, l, nil, typ)
	for _, path := range []string{data + "x", data + "/../metadata", data + "/../../secret"} {
		if err := os.MkdirAll(path, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path+"/f.csv", []byte("a\n1\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		if _, err := d.Query(t.Context(), Request{Statement: "from read_csv('" + path + "/f.csv')"}, &out, CSV); err == nil {
			t.Errorf("%s was read: %s", path, out.String())
		}
	}
	inside := data + "/out.csv"
	for _, statement := range []string{"copy usage to '" + inside + "'", "copy (from usage) to '" + inside + "'", "explain analyze copy usage to '" + inside + "'"} {
		if _, err := d.Query(t.Context(), Request{Statement: statement}, &bytes.Buffer{}, CSV); !errors.Is(err, ErrRefused) {
			t.Errorf("%s: %v", statement, err)
		}
	}
	if _, err := os.Stat(inside); !os.IsNotExist(err) {
		t.Errorf("something was written: %v", err)
	}
}
