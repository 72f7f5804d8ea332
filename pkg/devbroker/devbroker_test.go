package devbroker_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sr"

	"github.com/millrace/millrace/pkg/devbroker"
)

func start(t *testing.T, dir string) *devbroker.Broker {
	t.Helper()
	b, err := devbroker.Start(dir)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func closeBroker(t *testing.T, b *devbroker.Broker) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := b.Close(ctx); err != nil {
		t.Error(err)
	}
}

func client(t *testing.T, b *devbroker.Broker, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	cl, err := kgo.NewClient(append(opts, kgo.SeedBrokers(b.Brokers()...))...)
	if err != nil {
		t.Fatal(err)
	}
	return cl
}

// copyDir is a kill -9 as the disk sees it: whatever was written, and nothing that a shutdown would have added.
func copyDir(t *testing.T, from string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "copy")
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	return to
}

func TestNothingIsLostByAKill(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	dir := t.TempDir()
	b := start(t, dir)
	defer closeBroker(t, b)
	cl := client(t, b)
	defer cl.Close()
	if _, err := kadm.NewClient(cl).CreateTopic(ctx, 1, 1, nil, "t"); err != nil {
		t.Fatal(err)
	}
	for _, v := range []string{"one", "two"} {
		if err := cl.ProduceSync(ctx, &kgo.Record{Topic: "t", Value: []byte(v)}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	reg, err := sr.NewClient(sr.URLs(b.RegistryURL()))
	if err != nil {
		t.Fatal(err)
	}
	schema := sr.Schema{Schema: `{"type":"record","name":"a","fields":[]}`}
	first, err := reg.CreateSchema(ctx, "a-value", schema)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := reg.CreateSchema(ctx, "b-value", schema); err != nil { // the same schema under another subject
		t.Fatal(err)
	}
	before, err := kadm.NewClient(cl).BrokerMetadata(ctx)
	if err != nil {
		t.Fatal(err)
	}

	killed := copyDir(t, dir)
	// A registration that was cut off in the middle was never acknowledged.
	f, err := os.OpenFile(filepath.Join(killed, "schemas.ndjson"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(`{"subject":"c-va`); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	b2 := start(t, killed)
	defer closeBroker(t, b2)
	cl2 := client(t, b2, kgo.ConsumeTopics("t"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	defer cl2.Close()
	var got []string
	for len(got) < 2 && ctx.Err() == nil {
		fs := cl2.PollFetches(ctx)
		fs.EachRecord(func(r *kgo.Record) { got = append(got, string(r.Value)) })
	}
	if strings.Join(got, " ") != "one two" {
		t.Errorf("read %v after the kill", got)
	}
	after, err := kadm.NewClient(cl2).BrokerMetadata(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if before.Cluster != after.Cluster || !strings.HasPrefix(after.Cluster, "dev-") {
		t.Errorf("cluster id %q became %q", before.Cluster, after.Cluster)
	}
	reg2, err := sr.NewClient(sr.URLs(b2.RegistryURL()))
	if err != nil {
		t.Fatal(err)
	}
	again, err := reg2.SchemaByVersion(ctx, "a-value", -1)
	if err != nil || again.ID != first.ID || again.Schema.Schema != schema.Schema {
		t.Errorf("schema after the kill: %+v, %v; want id %d", again, err, first.ID)
	}
	next, err := reg2.CreateSchema(ctx, "c-value", sr.Schema{Schema: `{"type":"record","name":"c","fields":[]}`})
	if err != nil || next.ID == first.ID {
		t.Errorf("a new schema got id %d, %v", next.ID, err)
	}
}

func TestOneProcessPerDirectory(t *testing.T) {
	dir := t.TempDir()
	b := start(t, dir)
	if _, err := devbroker.Start(dir); err == nil || !strings.Contains(err.Error(), "in use by another process") {
		t.Errorf("a second start gave %v", err)
	}
	addresses := func(b *devbroker.Broker) string { return b.RegistryURL() + " " + strings.Join(b.Brokers(), " ") }
	first := addresses(b)
	closeBroker(t, b)
	b = start(t, dir) // and it is free again
	if again := addresses(b); again != first {
		t.Errorf("the addresses %s became %s: clients outside would look in vain", first, again)
	}
	taken := copyDir(t, dir) // the same ports, which are in use now
	if err := os.Remove(filepath.Join(taken, "lock")); err != nil {
		t.Fatal(err)
	}
	other := start(t, taken)
	if addresses(other) == first {
		t.Error("two brokers have the same addresses")
	}
	closeBroker(t, other)
	closeBroker(t, b)
}
