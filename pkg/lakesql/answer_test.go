package lakesql

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/parquet-go/parquet-go"
)

// TestParquet reads the file back with a reader that is not DuckDB's.
func TestParquet(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	d := open(t, newLake(t))
	type row struct {
		N int32    `parquet:"n,optional"`
		S string   `parquet:"s,optional"`
		L []string `parquet:"l,list"`
	}
	var out bytes.Buffer
	a, err := d.Query(t.Context(), Request{Statement: "select range::int as n, 'żółć' as s from range(3) -- all"}, &out, Parquet)
	if err != nil || a.Rows != 3 {
		t.Fatalf("%+v, %v", a, err)
	}
	rows, err := parquet.Read[row](bytes.NewReader(out.Bytes()), int64(out.Len()))
	if err != nil || len(rows) != 3 || rows[2].N != 2 || rows[2].S != "żółć" {
		t.Errorf("%+v, %v", rows, err)
	}
	out.Reset()
	if _, err := d.Query(t.Context(), Request{Statement: "from range(3)", Limit: 2}, &out, Parquet); !errors.Is(err, ErrCut) || out.Len() > 0 {
		t.Errorf("cut: %v, %d bytes", err, out.Len())
	}
	for _, statement := range []string{"explain select 1", "copy (select 1) to 'x'", "select 1) to 'x'; --", "select 1; select 2"} {
		if _, err := d.Query(t.Context(), Request{Statement: statement}, &out, Parquet); err == nil {
			t.Errorf("%q ran", statement)
		}
	}
	if left, err := filepath.Glob(os.TempDir() + "/millrace-sql-*"); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestALimitIsMarked(t *testing.T) {
	d := open(t, newLake(t))
	for format, want := range map[string][2]string{
		CSV:   {"n\n2\n1\n# cut off after 2 rows: there are more\n", "n\n2\n1\n0\n"},
		JSON:  {"{\"n\":2}\n{\"n\":1}\n{\"truncated\":true}\n", "{\"n\":2}\n{\"n\":1}\n{\"n\":0}\n"},
		Table: {"n\n-\n2\n1\n(cut off after 2 rows: there are more)\n", "n\n-\n2\n1\n0\n(3 rows)\n"},
		Document: {
			`{"columns":[{"name":"n","type":"BIGINT"}],"rows":[` + "\n" + `{"n":2},` + "\n" + `{"n":1}],"truncated":true,"tables":[]}` + "\n",
			`{"columns":[{"name":"n","type":"BIGINT"}],"rows":[` + "\n" + `{"n":2},` + "\n" + `{"n":1},` + "\n" + `{"n":0}],"truncated":false,"tables":[]}` + "\n",
		},
	} {
		for i, limit := range []int{2, 3} {
			for _, statement := range []string{"select range as n from range(3) order by n desc", "select range as n from range(3) order by n desc; -- done"} {
				var out bytes.Buffer
				a, err := d.Query(t.Context(), Request{Statement: statement, Limit: limit}, &out, format)
				if err != nil || out.String() != want[i] || a.Cut != (limit == 2) || a.Rows != limit {
					t.Errorf("%s, limit %d: %q, %+v, %v, want %q", format, limit, out.String(), a, err, want[i])
				}
			}
		}
	}
	var out bytes.Buffer
	if _, err := d.Query(t.Context(), Request{Statement: "select 1 as a, 2 as a", Limit: 5}, &out, CSV); err != nil || out.String() != "a,a\n1,2\n" {
		t.Errorf("two columns of one name: %q, %v", out.String(), err)
	}
}
