package schema_test

import (
	"testing"
	"time"

	"github.com/millrace/millrace/pkg/schema/schematest"
)

func TestIndexName(t *testing.T) {
	typ := schematest.Type(t, "log")
	last := time.Date(2026, 3, 1, 23, 59, 59, 999999000, time.UTC)
	if got := typ.IndexName("millrace", last.UnixMicro()); got != "millrace-log-2026.03.01" {
		t.Errorf("the last microsecond of the day is in %s", got)
	}
	if got := typ.IndexName("millrace", last.UnixMicro()+1); got != "millrace-log-2026.03.02" {
		t.Errorf("the next one is in %s", got)
	}
}

func TestIndexExpired(t *testing.T) {
	typ := schematest.Type(t, "log")                   // kept for 14 days
	end := time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC) // of the index below
	const index = "millrace-log-2026.03.01"            //
	if typ.IndexExpired("millrace", index, end.Add(14*24*time.Hour)) {
		t.Error("expired while its last record is not")
	}
	if !typ.IndexExpired("millrace", index, end.Add(14*24*time.Hour+1)) {
		t.Error("kept though all in it is expired")
	}
	for _, other := range []string{"millrace-logs-2026.03.01", "other-log-2026.03.01", "millrace-log-2026.03", "millrace-log-2026.03.01-copy", "millrace-log-"} {
		if typ.IndexExpired("millrace", other, end.AddDate(10, 0, 0)) {
			t.Errorf("%s is not one of ours and would be deleted", other)
		}
	}
}
