package main

import (
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/pkg/lakesql"
)

// TestWhatWasReadIsSaid has the end of the line on standard error for a table.
func TestWhatWasReadIsSaid(t *testing.T) {
	at := time.Date(2026, 11, 25, 13, 19, 15, 0, time.UTC)
	for want, r := range map[string]lakesql.Read{
		"log: nothing is committed yet":                        {},
		"; snapshot 7 of 2026-11-25T13:19:15Z; 4 files opened": {Snapshot: 7, Committed: at, Files: 4},
		"4 of 90 files opened":                                 {Snapshot: 7, Files: 4, Of: 90},
		"4 of 90 files opened, 1.5MiB of 1.0GiB fetched":       {Snapshot: 7, Files: 4, Of: 90, Bytes: 1 << 30, Fetched: 3 << 19},
		"4 of 90 files opened, 0B of 1.0GiB fetched":           {Snapshot: 7, Files: 4, Of: 90, Bytes: 1 << 30},
	} {
		r.Type = "log"
		if got := readLine(r); !strings.HasSuffix(got, want) {
			t.Errorf("%q does not end with %q", got, want)
		}
	}
}
