package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/millrace/millrace/pkg/lake"
)

func TestLakeDeleteCommand(t *testing.T) {
	t.Parallel()
	w := newWarehouse(t)
	for o := range int64(4) {
		w.store(10*o, 10*o+10, 10*o+10)
	}
	const some = "_offset < 15"
	w.lakeCommand(exitUsage, "missing flags: --where", "delete", "log")
	w.lakeCommand(exitUsage, "--reason is missing", "delete", "log", "--where", some, "--yes")
	w.lakeCommand(exitUsage, "no data type has the name", "delete", "logs", "--where", some)
	w.lakeCommand(exitFailure, "does not exist", "delete", "metric", "--where", some)
	for _, condition := range []string{"true; drop table log", "1=1) union select (1", "exists (select 1)", "servise = 'a'", "service"} {
		w.lakeCommand(exitUsage, "--where: not a condition on one row", "delete", "log", "--where", condition)
	}
	const shown = "log: 15 rows in 2 files would be deleted; 1 of these have no other rows\nPARTITION            FILES  ROWS  OF\ntime_day=2026-03-01  2      15    20\n"
	w.lakeCommand(exitFailure, shown, "delete", "log", "--where", some)
	w.lakeCommand(exitFailure, "nothing was changed: to have it so, give --yes and --reason", "delete", "log", "--where", some)
	w.lakeCommand(exitOK, shown+"log: its 4 states up to now would be forgotten, and what only they have removed\nnothing was changed: a dry run\n", "delete", "log", "--where", some, "--dry-run", "--yes", "--reason", "asked for", "--purge")
	w.lakeCommand(exitOK, "log: 40 rows in 4 files: every offset", "verify")
	w.lakeCommand(exitOK, "log: 15 rows in 2 files deleted; ", "delete", "log", "--where", some, "--yes", "--reason", "asked for")
	w.lakeCommand(exitOK, "log: 25 rows in 3 files: every offset", "verify")
	w.lakeCommand(exitOK, "REPEATS  DELETED  FOUND", "verify")
	w.lakeCommand(exitOK, `"deleted":15,"found":25`, "verify", "log", "--json")
	w.lakeCommand(exitOK, "log: 0 rows in 0 files deleted", "delete", "log", "--where", some, "--yes", "--reason", "asked for")
	w.lakeCommand(exitOK, "has no such row; rows of these offsets and later are not looked at: millrace.log/0: 40\n", "delete", "log", "--where", "_offset = 39", "--yes", "--reason", "asked for")
}

// TestLakeDeletePurgesCommand has the condition, which may name a person, in none of the table's files.
func TestLakeDeletePurgesCommand(t *testing.T) {
	t.Parallel()
	w := newWarehouse(t)
	for o := range int64(4) {
		w.store(10*o, 10*o+10, 10*o+10)
	}
	tb, err := w.lake.Open(t.Context(), w.typ)
	if err != nil {
		t.Fatal(err)
	}
	at, err := tb.At(lake.AsOf{})
	if err != nil {
		t.Fatal(err)
	}
	past, _, _ := at.Snapshot()
	args := []string{"delete", "log", "--where", "_offset % 2 = 0 and service <> 'mrs-somebody'", "--purge"}
	w.lakeCommand(exitFailure, "nothing was changed: to have it so, give --yes and --reason", args...)
	w.lakeCommand(exitOK, "log: 5 earlier states forgotten, ", append(args, "--yes", "--reason", "asked for")...)
	w.lakeCommand(exitOK, "log: 20 rows in 4 files: every offset", "verify")
	w.lakeCommand(exitOK, "log: 0 earlier states forgotten, 0 files of theirs are gone\n", append(args, "--yes", "--reason", "asked for")...)
	_, stderr, code := millrace(t, "", "sql", "--config", w.config, "--as-of", fmt.Sprint(past), "select count(*) from log")
	if code != exitFailure || !strings.Contains(stderr, "there is no such state") {
		t.Errorf("as of an earlier state: %d, %s", code, stderr)
	}
	err = filepath.WalkDir(filepath.Join(filepath.Dir(w.config), "lake"), func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		raw, err := os.ReadFile(path)
		if strings.Contains(string(raw), "mrs-somebody") {
			t.Errorf("the condition is in %s", path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
