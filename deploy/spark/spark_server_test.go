package spark

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/millrace/millrace/pkg/servertest"
)

// place is where a test runs: the real servers, a lake of its own, and Spark.
type place struct {
	t                            *testing.T
	bin, python, jars            string
	config, warehouse, namespace string
	servers                      servertest.Servers
}

// newPlace gives false where there are no real servers. The topics are those of the built-in types: `make test-spark` starts
// the servers empty.
func newPlace(t *testing.T) (*place, bool) {
	t.Helper()
	servers, ok := servertest.Require(t)
	if !ok {
		return nil, false
	}
	dir := t.TempDir()
	p := &place{
		t: t, bin: os.Getenv("MILLRACE_BIN"), python: os.Getenv("MILLRACE_SPARK_PYTHON"), jars: os.Getenv("MILLRACE_SPARK_JARS"),
		config: filepath.Join(dir, "millrace.yaml"), warehouse: filepath.Join(dir, "lake"), namespace: "millrace", servers: servers,
	}
	if p.bin == "" || p.python == "" || p.jars == "" {
		t.Fatal("MILLRACE_BIN, MILLRACE_SPARK_PYTHON and MILLRACE_SPARK_JARS are to be set: `make test-spark` does it")
	}
	text := fmt.Sprintf(`
http: {listen: "127.0.0.1:0"}
kafka: {brokers: [%q], replication: 1, min_isr: 1}
registry: {urls: [%q]}
lake: {age: 2s, warehouse: %q}
`, servers.Kafka[0], servers.Registry, p.warehouse)
	if err := os.WriteFile(p.config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	p.millrace("topics", "apply", "--config", p.config, "--server", "kafka", "--server", "registry", "--server", "lake")
	return p, true
}

// output runs a command to its end, and gives what it prints.
func (p *place) output(name string, args ...string) string {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), 4*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		p.t.Fatalf("%s %s: %v\n%s", filepath.Base(name), strings.Join(args, " "), err, brief(errs.String()))
	}
	return out.String()
}

// brief leaves out the stacks of Java, of which Spark prints hundreds of lines.
func brief(text string) string {
	var kept []string
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(strings.TrimSpace(line), "at ") {
			kept = append(kept, line)
		}
	}
	text = strings.Join(kept, "")
	return text[:min(len(text), 6000)]
}

// on is the same for a subtest.
func (p *place) on(t *testing.T) *place {
	q := *p
	q.t = t
	return &q
}

func (p *place) millrace(args ...string) string {
	p.t.Helper()
	return p.output(p.bin, args...)
}

func (p *place) sql(statement string) string {
	p.t.Helper()
	return p.millrace("sql", "--config", p.config, "--format", "csv", statement)
}

func (p *place) spark(job string, args ...string) string {
	p.t.Helper()
	return p.output(p.python, append([]string{job, "--warehouse", p.warehouse, "--jars", p.jars}, args...)...)
}

// lake starts the lake's consumer; the function that is given back waits until it has n rows, and ends it.
func (p *place) lake() (finish func(n int)) {
	p.t.Helper()
	cmd := exec.Command(p.bin, "run", "--config", p.config, "--status", "0", "lake") //nolint:noctx // ended below
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	p.t.Cleanup(func() { _ = cmd.Process.Kill() }) // it may have ended
	return func(n int) {
		p.t.Helper()
		p.until(fmt.Sprintf("the lake has %d rows", n), func() error {
			if rows := p.rows(); rows != n {
				return fmt.Errorf("it has %d", rows)
			}
			return nil
		})
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			p.t.Fatal(err)
		}
		select {
		case err := <-done:
			if err != nil {
				p.t.Errorf("the lake's consumer ended: %v\n%s", err, out.String())
			}
		case <-time.After(time.Minute):
			p.t.Fatal("the lake's consumer did not end within a minute")
		}
	}
}

func (p *place) until(what string, ok func() error) {
	p.t.Helper()
	var last error
	for end := time.Now().Add(2 * time.Minute); time.Now().Before(end); time.Sleep(500 * time.Millisecond) {
		if last = ok(); last == nil {
			return
		}
	}
	p.t.Fatalf("it was not seen within 2 minutes that %s: %v", what, last)
}

var types = []string{"metric", "log", "usage", "performance"}

func (p *place) rows() (n int) {
	p.t.Helper()
	for _, typ := range types {
		n += p.count("select count(*) from (select _topic, _topic_partition, _offset from " + typ + ")")
	}
	return n
}

func (p *place) count(statement string) int {
	p.t.Helper()
	lines := strings.Fields(p.sql(statement))
	n, err := strconv.Atoi(lines[len(lines)-1])
	if err != nil {
		p.t.Fatal(err)
	}
	return n
}

// TestSparkAgreesOnServers: Spark's report of the lake, and its counts of a topic, are row for row what `millrace sql` says.
// Then Spark rewrites the files and expires the snapshots of a table that the lake's consumer writes to: nothing is lost or
// doubled, and pyiceberg, DuckDB's own Python and we read the same. A row that it marks as deleted is never shown.
func TestSparkAgreesOnServers(t *testing.T) {
	p, ok := newPlace(t)
	if !ok {
		return
	}
	const first, second = 8000, 12_000
	finish := p.lake()
	p.millrace("loadgen", "--config", p.config, "--count", strconv.Itoa(first), "--rate", "0", "--source", "first")
	finish(first)

	t.Run("the usage report", func(t *testing.T) {
		p := p.on(t)
		from, to := "2020-01-01", "2100-01-01"
		same(t, p.spark("usage_report.py", "--from", from, "--to", to), p.sql(`
			select tenant, resource, unit, strftime(date_trunc('day', time), '%Y-%m-%dT%H:%M:%SZ') as day, sum(quantity) as quantity, count(*) as events
			from usage where time >= '`+from+`' and time < '`+to+`' group by all order by tenant, resource, unit nulls last, day`))
	})
	t.Run("counts per minute from the topic", func(t *testing.T) {
		p := p.on(t)
		same(t, p.spark("windowed_counts.py", "--brokers", p.servers.Kafka[0], "--registry", p.servers.Registry, "--once"), p.sql(`
			select service, strftime(date_trunc('minute', time), '%Y-%m-%dT%H:%M:%SZ') as minute, count(*) as operations, sum(duration_us) as microseconds
			from performance group by all order by service, minute`))
	})
	t.Run("upkeep while we write", func(t *testing.T) {
		p := p.on(t)
		finish := p.lake()
		type said struct {
			out string
			err error
		}
		upkeep := make(chan said)
		go func() {
			out, err := exec.CommandContext(t.Context(), p.python, "upkeep.py", "--warehouse", p.warehouse, "--jars", p.jars,
				"--table", "log", "--rounds", "6").CombinedOutput()
			upkeep <- said{string(out), err}
		}()
		p.millrace("loadgen", "--config", p.config, "--count", strconv.Itoa(second), "--rate", "400", "--source", "second")
		did := <-upkeep
		finish(first + second)
		counts := regexp.MustCompile(`rewritten=([1-9]\d*) expired=([1-9]\d*) lost=\d+`).FindString(did.out)
		if did.err != nil || counts == "" {
			t.Fatalf("Spark rewrote nothing, or expired nothing: %v\n%s", did.err, brief(did.out))
		}
		t.Log(counts)
		for _, typ := range types {
			if rows, once := p.count("select count(id) from "+typ), p.count("select count(distinct (_topic_partition, _offset)) from "+typ); rows != once {
				t.Errorf("%s: %d rows of %d records", typ, rows, once)
			}
			if err := p.agree(typ); err != nil {
				t.Errorf("%s: %v", typ, err)
			}
		}
	})
	t.Run("a row that Spark marks as deleted", func(t *testing.T) { p.on(t).refuses(t) })
}

// refuses has a row that Spark deletes by merge-on-read: what needs its file is refused, with what to do, and once Spark has
// done that, the row is gone and the others are there.
func (p *place) refuses(t *testing.T) {
	before, id := p.count("select count(*) from log"), strings.Fields(p.sql("select min(id) as id from log"))[1]
	if out := p.spark("delete_rows.py", "--table", "log", "--where", "id = '"+id+"'"); !strings.Contains(out, "marks=1\n") {
		t.Fatalf("Spark marked nothing: %s", out)
	}
	for _, args := range [][]string{{"sql", "--config", p.config, "select count(*) from log"}, {"lake", "verify", "--config", p.config, "log"}} {
		out, err := exec.CommandContext(t.Context(), p.bin, args...).CombinedOutput()
		if err == nil || !strings.Contains(string(out), "rows are marked as deleted in a file that is not read here") || !strings.Contains(string(out), "rewrite_data_files") {
			t.Errorf("%v: %v\n%s", args, err, out)
		}
	}
	if out := p.spark("delete_rows.py", "--table", "log", "--rewrite"); !regexp.MustCompile(`rewritten=[1-9]`).MatchString(out) {
		t.Errorf("Spark has not rewritten the file: %s", out)
	}
	if got := p.count("select count(*) from log"); got != before-1 {
		t.Errorf("%d rows, want %d", got, before-1)
	}
	if got := p.count("select count(*) from log where id = '" + id + "'"); got != 0 {
		t.Error("the row is back")
	}
	out, err := exec.CommandContext(t.Context(), p.bin, "lake", "verify", "--config", p.config, "log").CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 3 {
		t.Errorf("verify does not miss the row: %v\n%s", err, out)
	}
	t.Logf("%s", out)
}

// agree has the readers of others read a table.
func (p *place) agree(typ string) error {
	p.t.Helper()
	var said struct {
		Pyiceberg, Duckdb struct {
			Rows, IDs int
			Checksum  string
		}
	}
	out := p.output(p.python, "../e2e/readers/counts.py", p.warehouse, p.namespace, typ)
	if err := json.Unmarshal([]byte(out), &said); err != nil {
		return fmt.Errorf("reading what the readers say: %w: %s", err, out)
	}
	if said.Pyiceberg != said.Duckdb || said.Pyiceberg.Rows == 0 {
		return fmt.Errorf("pyiceberg and DuckDB do not read the same: %s", out)
	}
	ours := p.count("select count(distinct id) from " + typ)
	if said.Duckdb.IDs != ours {
		return fmt.Errorf("%d ids are read by others, %d by us", said.Duckdb.IDs, ours)
	}
	return nil
}

// same compares two CSVs line by line.
func same(t *testing.T, theirs, ours string) {
	t.Helper()
	a, b := strings.Split(strings.TrimSpace(theirs), "\n"), strings.Split(strings.TrimSpace(ours), "\n")
	if len(b) < 2 {
		t.Fatal(errors.New("there is nothing to compare"))
	}
	t.Logf("%d rows", len(b)-1)
	for i := range max(len(a), len(b)) {
		switch {
		case i >= len(a):
			t.Fatalf("Spark has no line %d: %s", i+1, b[i])
		case i >= len(b):
			t.Fatalf("millrace sql has no line %d: %s", i+1, a[i])
		case a[i] != b[i]:
			t.Fatalf("line %d: Spark says %s, millrace sql %s", i+1, a[i], b[i])
		}
	}
}
