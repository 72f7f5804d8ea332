package e2e

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"text/template"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/pkg/schema"
)

// world is where a run of the suite takes place.
type world struct {
	Brokers   []string
	Registry  string
	Hosts     []string // of Cassandra; none without real servers
	Keyspace  string
	Elastic   string
	Prefix    string // of indices
	Warehouse string
	Age       time.Duration // between commits of the lake
	Session   time.Duration // how long a killed consumer is missed; Kafka takes 6 s or more
	TypeFiles []string      // of types beside the built-in ones; with them the gateway publishes nothing of its own
	Refresh   time.Duration // of what is known of the registry; 0 is the default

	config       string // file
	types        *schema.Set
	adm          *kadm.Client
	destinations []destination
}

// destination is a component with a consumer group, and a way to read back all that it holds of a type.
type destination struct {
	name string
	scan scanner
}

var configuration = template.Must(template.New("config").Parse(`
http: {listen: "127.0.0.1:0"}
kafka: {brokers: [{{range .Brokers}}"{{.}}",{{end}}], replication: 1, min_isr: 1}
registry: {urls: ["{{.Registry}}"]{{if .Refresh}}, refresh: {{.Refresh}}{{end}}}
{{if .TypeFiles}}
types: {files: [{{range .TypeFiles}}"{{.}}",{{end}}]}
gateway: {own_records: false}
{{end}}
{{if .Hosts}}
cassandra: {hosts: [{{range .Hosts}}"{{.}}",{{end}}], keyspace: {{.Keyspace}}}
elasticsearch: {urls: ["{{.Elastic}}"], prefix: {{.Prefix}}, replicas: 0}
{{end}}
stream: {session: {{.Session}}}
lake: {age: {{.Age}}, warehouse: "{{.Warehouse}}"}
lag: {interval: 2s}
`))

// open writes the configuration and connects to Kafka.
func (w *world) open(t *testing.T) {
	t.Helper()
	if w.types == nil {
		w.types = builtin(t)
	}
	dir := t.TempDir()
	w.Warehouse = filepath.Join(dir, "lake")
	w.config = filepath.Join(dir, "millrace.yaml")
	w.configure(t, w.config)
	client, err := kgo.NewClient(kgo.SeedBrokers(w.Brokers...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	w.adm = kadm.NewClient(client)
}

// configure writes the configuration to a file.
func (w *world) configure(t *testing.T, path string) {
	t.Helper()
	file, err := os.Create(path)
	if err == nil {
		err = errors.Join(configuration.Execute(file, w), file.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
}

func (w *world) names() []string {
	var names []string
	for _, typ := range w.types.All() {
		names = append(names, typ.Name)
	}
	return names
}

func (w *world) topics() []string {
	var names []string
	for _, typ := range w.types.All() {
		names = append(names, typ.Topic.Name)
	}
	return names
}

// positions sums, over all partitions of all types, what was produced and what a group has committed.
func (w *world) positions(ctx context.Context, group string) (produced, committed int64, err error) {
	ends, err := w.adm.ListEndOffsets(ctx, w.topics()...)
	if err != nil {
		return 0, 0, err
	}
	commits, err := w.adm.FetchOffsets(ctx, group)
	if err != nil && !errors.Is(err, kerr.GroupIDNotFound) { // before its first member
		return 0, 0, err
	}
	ends.Each(func(end kadm.ListedOffset) {
		produced += end.Offset
		if c, ok := commits.Lookup(end.Topic, end.Partition); ok {
			committed += c.At
		}
	})
	return produced, committed, errors.Join(ends.Error(), commits.Error())
}

// deadLetters counts what is in the dead-letter topics.
func (w *world) deadLetters(t *testing.T) (n int64) {
	t.Helper()
	var names []string
	for _, typ := range w.types.All() {
		names = append(names, typ.DLQName())
	}
	ends, err := w.adm.ListEndOffsets(t.Context(), names...)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		t.Fatalf("reading the dead-letter topics: %v", err)
	}
	ends.Each(func(end kadm.ListedOffset) { n += end.Offset })
	return n
}

// awaitNoLag waits until a group has committed all that was produced.
func (w *world) awaitNoLag(t *testing.T, name string, within time.Duration) {
	t.Helper()
	eventually(t, within, name+": the lag returns to 0", func(ctx context.Context) error {
		produced, committed, err := w.positions(ctx, "millrace-"+name)
		if err == nil && committed != produced {
			err = lagError{produced, committed}
		}
		return err
	})
}
