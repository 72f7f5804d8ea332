package lake

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/millrace/millrace/pkg/config"
	"github.com/millrace/millrace/pkg/kafka/kafkatest"
	"github.com/millrace/millrace/pkg/lake"
	"github.com/millrace/millrace/pkg/schema/schematest"
	"github.com/millrace/millrace/pkg/servertest"
	"github.com/millrace/millrace/pkg/stream/sinktest"
	"github.com/millrace/millrace/pkg/telemetry"
)

// rowsByOthers prints the rows of a table on S3 as pyiceberg sees them.
const rowsByOthers = `
import json, sys
from pyiceberg.table import StaticTable
rows = StaticTable.from_metadata(sys.argv[1], properties=json.load(sys.stdin)).scan(selected_fields=("_topic_partition", "_offset", "id")).to_arrow()
json.dump([list(r) for r in zip(*(rows[c].to_pylist() for c in ("_topic_partition", "_offset", "id")))], sys.stdout)
`

// TestFromKafkaToS3 is TestFromKafkaOverRestarts with the catalogs that are servers and files on S3, read by others.
func TestFromKafkaToS3(t *testing.T) {
	servers, ok := servertest.RequireLake(t)
	if !ok {
		return
	}
	storage := lake.Storage{
		"s3.endpoint": servers.S3, "s3.region": "us-east-1",
		"s3.access-key-id": servers.AccessKey, "s3.secret-access-key": servers.SecretKey,
	}
	for name, cfg := range map[string]lake.Config{
		lake.SQL:  {Catalog: lake.SQL, URI: servers.SQL, Credential: config.Secret(servers.Password), Warehouse: "s3://lake/consumer"},
		lake.REST: {Catalog: lake.REST, URI: servers.REST},
	} {
		t.Run(name, func(t *testing.T) {
			cfg.Namespace, cfg.Storage, cfg.Snapshots, cfg.Compact = servertest.Name(t), storage, lake.Default().Snapshots, lake.Default().Compact
			fromKafkaToS3(t, cfg)
		})
	}
}

func fromKafkaToS3(t *testing.T, cfg lake.Config) {
	const each, runs = 300, 3
	b := newBench(t, schematest.Type(t, "log"))
	b.cfg.Table, b.cfg.Age = cfg, 100*time.Millisecond
	b.apply(b.newSink())
	topic := b.typ.Topic.Name
	cluster := kafkatest.New(t, topic)
	maker := sinktest.Maker{Type: b.typ, Base: time.Now().Add(-time.Minute).UTC().Truncate(time.Microsecond), Seed: "s3"}
	l, err := lake.New(cfg, telemetry.Discard())
	if err != nil {
		t.Fatal(err)
	}
	table, err := l.Open(t.Context(), b.typ)
	if err != nil {
		t.Fatal(err)
	}
	committed := func() (rows int64) {
		if err := table.Refresh(t.Context()); err != nil {
			t.Error(err)
		}
		at, err := table.Positions(topic)
		if err != nil {
			t.Error(err)
		}
		for _, p := range at.Partitions {
			rows += p.Counts.Rows
		}
		return rows
	}
	for run := range int64(runs) {
		b.publish(t, cluster, each)
		sink, consumer := b.fromKafka(t, cluster, byOffset{maker})
		// The second is stopped at once, with whatever it has under way.
		runUntil(t, sink, consumer, func() bool { return run == 1 || committed() == (run+1)*each })
	}
	properties, err := json.Marshal(cfg.Storage)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), os.Getenv("MILLRACE_PYTHON"), "-c", rowsByOthers, table.MetadataLocation())
	cmd.Stdin, cmd.Stderr = bytes.NewReader(properties), os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("pyiceberg: %v", err)
	}
	var got [][]any
	if err := json.Unmarshal(out, &got); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, row := range got {
		partition, offset := int32(row[0].(float64)), int64(row[1].(float64))
		key := fmt.Sprint(partition, offset)
		if want := maker.Record(partition, offset); seen[key] || string(want.ID()) != row[2] {
			t.Errorf("row %v is wrong or double", row)
		}
		seen[key] = true
	}
	if len(seen) != each*runs {
		t.Errorf("%d rows, want %d", len(seen), each*runs)
	}
}
