package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/millrace/millrace/pkg/codec"
	"github.com/millrace/millrace/pkg/schema"
	"github.com/millrace/millrace/pkg/schema/schematest"
	"github.com/millrace/millrace/pkg/servertest"
	"github.com/millrace/millrace/pkg/stream/sinktest"
	"github.com/millrace/millrace/producers/loadgen"
)

// flow is a world with a data type that no code knows: network_flow under a name of its own, so that its topics are one
// test's alone. The groups are everybody's, the built-in types too: only what concerns this type is looked at.
type flow struct {
	*world
	name string
	file string         // of the type, named in the configuration
	json map[string]any // what is in it

	sent map[string]sentRecord // by id
	made int64                 // records by make
}

// sentRecord is what must be found of a record, and where.
type sentRecord struct {
	typ  *schema.Type // the version it was made with
	hash string
	not  string // the destination that refuses it
}

// newFlow gives false where there are no real servers.
func newFlow(t *testing.T) (*flow, bool) {
	t.Helper()
	servers, ok := servertest.Require(t)
	if !ok {
		return nil, false
	}
	f := &flow{name: "flow_" + servertest.Name(t), file: filepath.Join(t.TempDir(), "flow.avsc"), sent: map[string]sentRecord{}}
	data, err := schematest.Files.ReadFile("network_flow.avsc")
	if err == nil {
		err = json.Unmarshal(data, &f.json)
	}
	if err != nil {
		t.Fatal(err)
	}
	f.world = &world{
		Brokers: servers.Kafka, Registry: servers.Registry, Hosts: servers.Cassandra, Elastic: servers.Elasticsearch,
		Keyspace: servers.Keyspace(t), Prefix: servers.Prefix(t), Age: time.Second, Session: 10 * time.Second,
		TypeFiles: []string{f.file}, Refresh: 10 * time.Second,
	}
	f.json["name"] = f.name
	f.write(t)
	f.open(t)
	f.destinations = f.all(t)
	t.Cleanup(f.remove(t))
	return f, true
}

// write puts the type as it now is into its file.
func (f *flow) write(t *testing.T) {
	t.Helper()
	data, err := json.MarshalIndent(f.json, "", "  ")
	if err == nil {
		err = os.WriteFile(f.file, data, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	typ, err := schema.Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	if f.types, err = schema.NewSet(typ); err != nil {
		t.Fatal(err)
	}
	f.destinations = f.all(t)
}

func (f *flow) all(t *testing.T) []destination {
	t.Helper()
	return []destination{
		{"cassandra", f.scanCassandra(t)},
		{"elasticsearch", f.scanElasticsearch(t)},
		{"lake", scanLake(t, f.types, "--config", f.config)},
	}
}

func (f *flow) typ() *schema.Type { return f.types.Get(f.name) }

// remove takes the type's topics and subject away after the test.
func (f *flow) remove(t *testing.T) func() {
	return func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if _, err := f.adm.DeleteTopics(ctx, f.typ().TopicName(), f.typ().DLQName()); err != nil {
			t.Errorf("deleting the topics: %v", err)
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodDelete, f.Registry+"/subjects/"+f.typ().Subject(), http.NoBody)
		if err != nil {
			t.Error(err)
			return
		}
		if res, err := http.DefaultClient.Do(req); err == nil {
			_ = res.Body.Close()
		}
	}
}

// run starts all destinations and the gateway in one process.
func (f *flow) run(t *testing.T, name string) (p *process, address string) {
	t.Helper()
	p = start(t, name, "run", "--config", f.config, "--status", "0", "cassandra", "elasticsearch", "lake", "gateway")
	return p, p.address(t, time.Minute)
}

// make gives records whose values go to the limits of their kinds.
func (f *flow) make(n int) []codec.Record {
	m := sinktest.Maker{Type: f.typ(), Base: time.Now().Add(-time.Minute), Seed: f.name}
	records := make([]codec.Record, n)
	for i := range records {
		records[i] = m.Record(0, f.made)
		records[i].Values[schema.Datacenter] = codec.StringValue("made")
		f.made++
	}
	return records
}

// expect notes a record that is about to be sent.
func (f *flow) expect(r codec.Record, not string) {
	f.sent[string(r.ID())] = sentRecord{typ: r.Type, hash: codec.Fingerprint(r.Type, r.Values, hashAttribute), not: not}
}

// lines is records as NDJSON.
func lines(records []codec.Record) []byte {
	var out []byte
	for i := range records {
		out = append(codec.AppendJSON(out, &records[i]), '\n')
	}
	return out
}

// loadgen starts `millrace loadgen` on the type, and gives the path of its journal. Without a count it goes on until it
// is stopped.
func (f *flow) loadgen(t *testing.T, config, source string, count, rate int) (p *process, journal string) {
	t.Helper()
	journal = filepath.Join(t.TempDir(), source+".ndjson")
	return start(t, source, "loadgen", "--config", config, "--types", f.name, "--source", source,
		"--count", strconv.Itoa(count), "--rate", strconv.Itoa(rate), "--journal", journal), journal
}

// expectJournal notes what loadgen sent, all of it acknowledged, with a version of the type.
func (f *flow) expectJournal(t *testing.T, path string, typ *schema.Type) {
	t.Helper()
	entries, err := readJournal(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Outcome != loadgen.OK {
			t.Errorf("%s %d: outcome %s: nothing was wrong with Kafka", e.Source, e.Seq, e.Outcome)
		}
		f.sent[e.ID] = sentRecord{typ: typ, hash: e.Hash}
	}
}

func readJournal(path string) ([]loadgen.Entry, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return loadgen.ReadJournal(file)
}

// judgeAll waits until nothing lags, and wants every destination to hold exactly what was sent, once.
func (f *flow) judgeAll(t *testing.T) {
	t.Helper()
	for _, d := range f.destinations {
		f.awaitNoLag(t, d.name, time.Minute)
	}
	for _, d := range f.destinations {
		report(t, f.judge(t, d))
	}
}

func (f *flow) judge(t *testing.T, d destination) []string {
	t.Helper()
	v := verdict{where: d.name}
	found := map[string]int{}
	err := d.scan(t.Context(), f.name, func(values []codec.Value) error {
		id := values[schema.ID].String()
		found[id]++
		s, sent := f.sent[id]
		switch was, fresh := asVersion(f.typ(), s.typ, values); {
		case !sent || s.not == d.name:
			v.note("that should not be there", id)
		case found[id] > 1:
			v.note("found more than once", id)
		case fresh != "":
			v.note("with a value in a field that their version does not have", id+" "+fresh)
		case codec.Fingerprint(s.typ, was, hashAttribute) != s.hash:
			v.note("not as they were sent", id+"\n"+sinktest.Text(s.typ, was))
		}
		return nil
	})
	if err != nil {
		t.Errorf("%s: reading it back: %v", d.name, err)
	}
	for id, s := range f.sent {
		if s.not != d.name && found[id] == 0 {
			v.note("lost", id)
		}
	}
	t.Logf("%s: %d found", d.name, len(found))
	return v.sentences()
}

// asVersion gives the values of a record by the positions of the version that it was made with, and names a field that
// has a value though that version does not have it.
func asVersion(now, was *schema.Type, values []codec.Value) (out []codec.Value, fresh string) {
	if was == nil || was == now {
		return values, ""
	}
	out = make([]codec.Value, len(was.Fields))
	known := make([]bool, len(now.Fields))
	for i, field := range was.Fields {
		at := now.Index(field.Name)
		out[i], known[at] = values[at], true
	}
	for i := range values {
		if !known[i] && !values[i].IsNull() {
			fresh = now.Fields[i].Name
		}
	}
	return out, fresh
}

// try runs `millrace args…` to its end, which may be a failure.
func try(t *testing.T, stdin io.Reader, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary(t), args...)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &out, &errs
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), errs.String()
}

// found asks search for records, and gives how many there are in all and the hits by their id.
func (f *flow) search(ctx context.Context, address, query string) (int, map[string]any, error) {
	body, err := get(ctx, address+"/api/v1/search?limit=1000&type="+f.name+"&"+query)
	if err != nil {
		return 0, nil, err
	}
	var answer struct {
		Total int
		Hits  []map[string]any
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return 0, nil, err
	}
	hits := map[string]any{}
	for _, hit := range answer.Hits {
		hits[fmt.Sprint(hit["id"])] = hit
	}
	return answer.Total, hits, nil
}
