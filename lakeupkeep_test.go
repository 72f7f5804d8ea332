package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/pkg/codec"
	"github.com/millrace/millrace/pkg/kafka/kafkatest"
	"github.com/millrace/millrace/pkg/lake"
	"github.com/millrace/millrace/pkg/schema"
	"github.com/millrace/millrace/pkg/telemetry"
)

// warehouse is a lake with a topic beside it, and the configuration of both.
type warehouse struct {
	t       *testing.T
	config  string
	cluster *kafkatest.Cluster
	adm     *kadm.Client
	typ     *schema.Type
	lake    *lake.Lake
}

func newWarehouse(t *testing.T) *warehouse {
	t.Helper()
	dir := t.TempDir()
	cluster := kafkatest.New(t, "millrace.log")
	config := filepath.Join(dir, "millrace.yaml")
	text := fmt.Sprintf("kafka: {brokers: [%q]}\nlake: {warehouse: %q}\n", cluster.ListenAddrs()[0], filepath.Join(dir, "lake"))
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := loadConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	types, err := loadTypes(cfg.Types)
	if err != nil {
		t.Fatal(err)
	}
	w := &warehouse{t: t, config: config, cluster: cluster, adm: kadm.NewClient(cluster.Client(t))}
	for _, typ := range types.All() {
		if typ.Name == "log" {
			w.typ = typ
		}
	}
	if w.lake, err = lake.New(cfg.Lake.Table, telemetry.Discard()); err != nil {
		t.Fatal(err)
	}
	if err := w.lake.Create(t.Context(), w.typ); err != nil {
		t.Fatal(err)
	}
	return w
}

// source is the topic as it is now.
func (w *warehouse) source() lake.Source {
	w.t.Helper()
	meta, err := w.adm.Metadata(kadm.WithAuthorizedOps(w.t.Context()), w.typ.Topic.Name) // not one that is remembered
	if err != nil {
		w.t.Fatal(err)
	}
	return lake.Source{Cluster: meta.Cluster, TopicID: meta.Topics[w.typ.Topic.Name].ID.String()}
}

// store commits rows of partition 0, and says that more offsets were.
func (w *warehouse) store(first, next, said int64) {
	w.t.Helper()
	ctx := w.t.Context()
	tb, err := w.lake.Open(ctx, w.typ)
	if err != nil {
		w.t.Fatal(err)
	}
	writer, err := tb.NewWriter(ctx, lake.WriterConfig{Memory: 1 << 20, GroupRows: 1000})
	if err != nil {
		w.t.Fatal(err)
	}
	base := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	var records []codec.Record
	for o := first; o < next; o++ {
		values := make([]codec.Value, len(w.typ.Fields))
		for i, f := range w.typ.Fields {
			if f.Kind == schema.Map {
				values[i] = codec.MapValue(nil)
			} else if !f.Nullable {
				values[i] = codec.StringValue(f.Name)
			}
		}
		values[schema.ID] = codec.StringValue(fmt.Sprintf("018f0000-0000-7000-8000-%012d", o))
		values[schema.Time] = codec.LongValue(base.UnixMicro() + o)
		records = append(records, codec.Record{
			Type: w.typ, Values: values, Source: &kgo.Record{Topic: w.typ.Topic.Name, Offset: o, Timestamp: base},
		})
	}
	if err := writer.Add(ctx, w.typ, records); err != nil {
		w.t.Fatal(err)
	}
	files, err := writer.Finish()
	if err != nil {
		w.t.Fatal(err)
	}
	if err := tb.Commit(ctx, &lake.Commit{
		Files: files, Sources: map[string]lake.Source{w.typ.Topic.Name: w.source()},
		Spans: map[lake.TopicPartition]lake.Counts{{Topic: w.typ.Topic.Name}: {First: first, Next: said, Rows: said - first}},
	}); err != nil {
		w.t.Fatal(err)
	}
}

// lakeCommand runs one and wants an exit code, and words in what it prints.
func (w *warehouse) lakeCommand(code int, words string, args ...string) {
	w.t.Helper()
	args = append([]string{"lake", args[0], "--config", w.config}, args[1:]...)
	out, errs, got := millrace(w.t, "", args...)
	if got != code || !strings.Contains(out+errs, words) {
		w.t.Errorf("%v: exit code %d, want %d and %q:\n%s%s", args, got, code, words, out, errs)
	}
}

// TestLakeAdoptCommand is an operator whose topic was made anew.
func TestLakeAdoptCommand(t *testing.T) {
	t.Parallel()
	w := newWarehouse(t)
	var records []*kgo.Record
	for range 10 {
		records = append(records, &kgo.Record{Topic: w.typ.Topic.Name, Value: []byte("v")})
	}
	w.cluster.Produce(t, records...)
	w.store(0, 10, 10)
	w.lakeCommand(exitOK, "nothing to do", "adopt", "log")
	if resp, err := w.adm.DeleteTopic(t.Context(), w.typ.Topic.Name); err != nil || resp.Err != nil {
		t.Fatal(err, resp.Err)
	}
	w.cluster.Create(t, w.typ.Topic.Name, 2)
	w.cluster.Produce(t, &kgo.Record{Topic: w.typ.Topic.Name, Partition: 1, Value: []byte("v")})
	w.lakeCommand(exitOK, "other_source  10     10       0      0    0\n", "adopt", "log", "--dry-run")
	w.lakeCommand(exitOK, "other_source  -      -        0      1    1\n", "adopt", "log", "--dry-run", "--from", "end")
	w.lakeCommand(exitFailure, "give --yes and --reason", "adopt", "log")
	w.lakeCommand(exitUsage, "--reason is missing", "adopt", "log", "--yes")
	w.lakeCommand(exitUsage, "no data type has the name", "adopt", "logs")
	w.lakeCommand(exitOK, "go on within seconds", "adopt", "log", "--yes", "--reason", "made anew")
	w.lakeCommand(exitOK, "nothing to do", "adopt", "log")
	w.store(0, 5, 5)
	w.lakeCommand(exitOK, "log: 15 rows in 2 files: every offset is accounted for, once", "verify")
}

func TestLakeVerifyCommand(t *testing.T) {
	t.Parallel()
	w := newWarehouse(t)
	w.lakeCommand(exitOK, "log: 0 rows", "verify", "log")
	w.lakeCommand(exitFailure, "does not exist", "verify", "metric")
	w.store(0, 10, 10)
	w.lakeCommand(exitOK, `{"ok":true,"table":"log"`, "verify", "--json")
	w.store(10, 18, 20)
	w.lakeCommand(exitPast, "missing are 2 of the offsets without a row: 18-19\n", "verify")
	w.lakeCommand(exitPast, `"missing":2,"absent":{"count":2,"ranges":[{"first":18,"next":20}]}`, "verify", "log", "--json")
	w.lakeCommand(exitFailure, "more memory is needed", "verify", "log", "--memory", "1KiB")
}

func TestLakeExpireAndOrphansCommands(t *testing.T) {
	t.Parallel()
	w := newWarehouse(t)
	for o := range int64(4) {
		w.store(o, o+1, o+1)
	}
	w.lakeCommand(exitOK, "log: 4 states, all kept\n", "expire")
	w.lakeCommand(exitOK, "log: 4 states, 1 would be kept\n", "expire", "--older-than", "1ns", "--keep", "1", "--dry-run")
	w.lakeCommand(exitOK, "log: 4 states, 1 kept\n", "expire", "log", "--older-than", "1ns", "--keep", "1")
	w.lakeCommand(exitUsage, "--keep=-1", "expire", "--keep=-1")
	litter := filepath.Join(filepath.Dir(w.config), "lake", "millrace", "log", "data", "nobodys.parquet")
	if err := os.WriteFile(litter, []byte("nobody's"), 0o600); err != nil {
		t.Fatal(err)
	}
	old := time.Now().Add(-100 * time.Hour)
	if err := os.Chtimes(litter, old, old); err != nil {
		t.Fatal(err)
	}
	w.lakeCommand(exitOK, "nobodys.parquet\nlog: 1 orphan files of 8 bytes would be removed\n", "orphans", "--dry-run")
	w.lakeCommand(exitOK, "log: 1 orphan files of 8 bytes removed\n", "orphans")
	w.lakeCommand(exitOK, "log: 0 orphan files of 0 bytes removed\n", "orphans")
	w.lakeCommand(exitFailure, "is too young", "orphans", "--older-than", "1h")
	w.lakeCommand(exitOK, "log: 4 rows in 4 files: every offset", "verify")
}

func TestLakeCompactCommand(t *testing.T) {
	t.Parallel()
	w := newWarehouse(t)
	for o := range int64(4) {
		w.store(10*o, 10*o+10, 10*o+10)
	}
	w.lakeCommand(exitOK, "log: 4 files of 1 partitions would be merged\n", "compact", "--dry-run")
	w.lakeCommand(exitOK, "log: 4 files of 1 partitions became 1, 40 rows, 0 repeats dropped\n", "compact", "log")
	w.lakeCommand(exitOK, "log: nothing to merge\n", "compact")
	w.lakeCommand(exitOK, "log: 40 rows in 1 files: every offset", "verify")
}
