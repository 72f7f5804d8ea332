package lakesql

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/apache/iceberg-go/table"

	"github.com/millrace/millrace/pkg/lake"
	"github.com/millrace/millrace/pkg/lake/laketest"
	"github.com/millrace/millrace/pkg/schema/schematest"
	"github.com/millrace/millrace/pkg/telemetry"
)

// TestMarkedRowsAreRefused: a statement that needs a file with rows that another engine has marked as deleted is refused,
// with the file and what to do. Others, and the state before, are answered.
func TestMarkedRowsAreRefused(t *testing.T) {
	for _, way := range laketest.Deletes() {
		t.Run(way, func(t *testing.T) {
			typ := schematest.Type(t, "log")
			cfg := lake.Default()
			cfg.Warehouse = t.TempDir()
			cat, err := laketest.New(cfg.Warehouse)
			if err != nil {
				t.Fatal(err)
			}
			l, err := lake.NewOn(cfg, telemetry.Discard(), cat.Open)
			if err != nil {
				t.Fatal(err)
			}
			if err := l.Create(t.Context(), typ); err != nil {
				t.Fatal(err)
			}
			for day := range int64(2) {
				at := base.AddDate(0, 0, int(day))
				store(t, l, typ, day*2, record(typ, day*2, at, nil), record(typ, day*2+1, at, nil))
			}
			_, before := read(t, openWith(t, l, nil, typ), "from log")
			ice, err := cat.LoadTable(t.Context(), table.Identifier{cfg.Namespace, typ.Lake.Table})
			if err != nil {
				t.Fatal(err)
			}
			if err := laketest.MarkDeleted(t.Context(), ice, way, fmt.Sprintf("018f0000-0000-7000-8000-%012d", 1)); err != nil {
				t.Fatal(err)
			}
			d := openWith(t, l, nil, typ)
			for _, statement := range []string{"select count(*) from log", "from log where _offset = 0", "select max(time) from log", "explain analyze from log"} {
				for _, format := range []string{CSV, Parquet} {
					var out bytes.Buffer
					_, err := d.Query(t.Context(), Request{Statement: statement}, &out, format)
					if format == Parquet && errors.Is(err, ErrRefused) { // a plan is no table
						continue
					}
					if !errors.Is(err, lake.ErrDeletes) || out.Len() > 0 || !strings.Contains(err.Error(), "deletes rows of ") || !strings.Contains(err.Error(), "rewrite_data_files") {
						t.Errorf("%s: %v, and %q", statement, err, out.String())
					}
				}
			}
			if got, _ := read(t, d, "select count(*) as n from log where time >= '2026-03-02'"); got != "n\n2\n" {
				t.Errorf("the other day: %q", got)
			}
			if got, _ := read(t, openAsOf(t, l, fmt.Sprint(before.Reads[0].Snapshot), typ, schematest.Type(t, "usage")), "select count(*) as n from log"); got != "n\n4\n" {
				t.Errorf("the state before: %q", got)
			}
		})
	}
}
