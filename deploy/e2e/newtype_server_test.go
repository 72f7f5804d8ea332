package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gocql/gocql"
	"github.com/google/go-cmp/cmp"

	"github.com/millrace/millrace/pkg/schema"
)

// A data type is one file, named in the configuration: its records arrive, typed and exact, once each, in all three
// destinations, and search answers with them. Then the file changes while everything runs: records of both versions
// arrive, an old producer goes on, and nothing is restarted.
func TestATypeIsDataAndChangesWhileItRuns(t *testing.T) {
	f, ok := newFlow(t)
	if !ok {
		return
	}
	command(t, nil, "topics", "apply", "--config", f.config)
	running, address := f.run(t, "millrace")
	made := f.sendMade(t, address, 40)
	generator, journal := f.loadgen(t, f.config, "first", 2000, 0)
	if err := generator.wait(time.Minute); err != nil {
		t.Fatal(err)
	}
	f.expectJournal(t, journal, f.typ())
	f.judgeAll(t)
	f.searchAnswers(t, address, made)

	// A producer that asks the registry once an hour stays with the version that it began with.
	unaware := *f.world
	unaware.Refresh = time.Hour
	path := filepath.Join(t.TempDir(), "unaware.yaml")
	unaware.configure(t, path)
	was := f.typ()
	old, oldJournal := f.loadgen(t, path, "old", 0, 100)
	awaitMore(t, oldJournal, 100)
	f.addAndRename(t)
	command(t, nil, "topics", "apply", "--config", f.config)
	f.sendMade(t, address, 40) // the gateway meets a field that it does not know
	generator, journal = f.loadgen(t, f.config, "new", 500, 200)
	if err := generator.wait(time.Minute); err != nil {
		t.Fatal(err)
	}
	f.expectJournal(t, journal, f.typ())
	awaitMore(t, oldJournal, 100)
	if err := old.stop(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	f.expectJournal(t, oldJournal, was)
	f.judgeAll(t)
	f.newFieldIsSearched(t, address)
	f.renamedFieldIsSearched(t, address)

	f.refusesIncompatible(t)
	f.sendMade(t, address, 1)
	f.judgeAll(t)
	if n := f.deadLetters(t); n != 0 {
		t.Errorf("%d dead letters: nothing was wrong with any record", n)
	}
	if err := running.stop(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
}

// sendMade publishes records by `millrace send`, and gives them as they were sent.
func (f *flow) sendMade(t *testing.T, address string, n int) (made []byte) {
	t.Helper()
	records := f.make(n)
	for _, r := range records {
		f.expect(r, "")
	}
	made = lines(records)
	command(t, bytes.NewReader(made), "send", "--addr", address, f.name)
	return made
}

// awaitMore waits until so many more records are in a journal.
func awaitMore(t *testing.T, journal string, n int) {
	t.Helper()
	before, _ := readJournal(journal) // perhaps it is not there yet
	eventually(t, 30*time.Second, fmt.Sprintf("%s gets %d more records", filepath.Base(journal), n), func(context.Context) error {
		entries, err := readJournal(journal)
		if err == nil && len(entries) < len(before)+n {
			err = fmt.Errorf("it has %d", len(entries))
		}
		return err
	})
}

// searchAnswers wants search to answer with the made records as they were sent.
func (f *flow) searchAnswers(t *testing.T, address string, made []byte) {
	t.Helper()
	want := map[string]any{}
	for line := range bytes.Lines(made) {
		var document map[string]any
		if err := json.Unmarshal(line, &document); err != nil {
			t.Fatal(err)
		}
		want[fmt.Sprint(document["id"])] = document
	}
	eventually(t, 20*time.Second, "search finds every record as it was sent", func(ctx context.Context) error {
		total, hits, err := f.search(ctx, address, "datacenter=made")
		if diff := cmp.Diff(want, hits); err == nil && (total != len(want) || diff != "") {
			err = fmt.Errorf("%d hits, want %d (-sent +found):\n%s", total, len(want), tail(diff, 2000))
		}
		return err
	})
}

// fields gives the fields in the type's file.
func (f *flow) fields() []any {
	fields, _ := f.json["fields"].([]any)
	return fields
}

func (f *flow) field(t *testing.T, name string) map[string]any {
	t.Helper()
	for _, one := range f.fields() {
		if field, ok := one.(map[string]any); ok && field["name"] == name {
			return field
		}
	}
	t.Fatalf("the type has no field %s", name)
	return nil
}

// addAndRename makes the next version of the type: with a new field, and others that have a new name.
func (f *flow) addAndRename(t *testing.T) {
	t.Helper()
	for was, is := range map[string]string{"icmp_code": "icmp", "session_id": "session"} {
		field := f.field(t, was)
		field["name"], field["aliases"] = is, []string{was}
	}
	f.json["fields"] = append(f.fields(), map[string]any{"name": "protocol", "type": []string{"null", "string"}, "default": nil})
	f.write(t)
}

// newFieldIsSearched wants search to find records by the field that was added.
func (f *flow) newFieldIsSearched(t *testing.T, address string) {
	t.Helper()
	const value = "żółć 東京 🚀" // one of those that records are made with
	eventually(t, 20*time.Second, "search finds records by the new field", func(ctx context.Context) error {
		_, hits, err := f.search(ctx, address, "datacenter=made&protocol="+url.QueryEscape(value))
		if err == nil && len(hits) == 0 {
			err = errors.New("no hit")
		}
		for id, hit := range hits {
			if fields, ok := hit.(map[string]any); !ok || fields["protocol"] != value || f.sent[id].typ != f.typ() {
				return fmt.Errorf("%v", hit)
			}
		}
		return err
	})
}

// renamedFieldIsSearched wants search to find the records of both versions, by the new name and by the old one.
func (f *flow) renamedFieldIsSearched(t *testing.T, address string) {
	t.Helper()
	for _, name := range []string{"session", "session_id"} {
		query := "datacenter=made&" + name + "=018f0000-0000-7000-8000-000000000002"
		eventually(t, 20*time.Second, "search finds records by a renamed field: "+query, func(ctx context.Context) error {
			_, hits, err := f.search(ctx, address, query)
			versions := map[*schema.Type]int{}
			for id := range hits {
				versions[f.sent[id].typ]++
			}
			if err == nil && len(versions) != 2 {
				err = fmt.Errorf("%d hits of %d versions, want both", len(hits), len(versions))
			}
			return err
		})
	}
}

// refusesIncompatible changes the file in ways that no other version could be read with: `topics apply` says which, and
// leaves every server as it is, also where the same file has changes that could be made.
func (f *flow) refusesIncompatible(t *testing.T) {
	t.Helper()
	good, err := json.Marshal(f.json)
	if err != nil {
		t.Fatal(err)
	}
	config, types, destinations := f.config, f.types, f.destinations
	before := f.servers(t)
	for want, change := range map[string]func(){
		"was of type long and cannot become string": func() { f.field(t, "octets")["type"] = "string" },
		"is new and needs a default": func() {
			f.json["fields"] = append(f.fields(), map[string]any{"name": "needed", "type": "string"},
				map[string]any{"name": "harmless", "type": []string{"null", "string"}, "default": nil})
			f.attribute("topic")["partitions"] = 5
		},
	} {
		change()
		f.write(t)
		code, stdout, stderr := try(t, nil, "topics", "apply", "--config", config)
		if code != 1 || !strings.Contains(stderr, want) || strings.Contains(stdout, "made ") {
			t.Errorf("exit code %d, want 1 and %q\n%s%s", code, want, stdout, stderr)
		}
		if diff := cmp.Diff(before, f.servers(t)); diff != "" {
			t.Errorf("%q: the servers changed all the same (-before +after):\n%s", want, diff)
		}
		clear(f.json)
		if err := json.Unmarshal(good, &f.json); err != nil {
			t.Fatal(err)
		}
	}
	f.write(t)
	f.types, f.destinations = types, destinations // the same version: what was sent refers to it
}

func (f *flow) attribute(name string) map[string]any {
	all, _ := f.json["millrace"].(map[string]any)
	one, _ := all[name].(map[string]any)
	return one
}

// servers is what each of them has of the type.
func (f *flow) servers(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	for name, url := range map[string]string{
		"registry": f.Registry + "/subjects/" + f.typ().Subject() + "/versions",
		"template": f.Elastic + "/_index_template/" + f.Prefix + "*",
		"mapping":  f.Elastic + "/" + f.Prefix + "*/_mapping",
	} {
		body, err := get(t.Context(), url)
		if err != nil {
			t.Fatal(err)
		}
		out[name] = string(body)
	}
	topics, err := f.adm.ListTopics(t.Context(), f.typ().TopicName())
	if err == nil {
		err = topics.Error()
	}
	if err != nil {
		t.Fatal(err)
	}
	out["partitions"] = fmt.Sprint(len(topics[f.typ().TopicName()].Partitions))
	out["table"] = f.columns(t)
	out["lake"] = string(command(t, nil, "sql", "--config", f.config, "--format", "csv", "describe "+f.name))
	return out
}

// columns names the columns of the type's table in Cassandra.
func (f *flow) columns(t *testing.T) string {
	t.Helper()
	cluster := gocql.NewCluster(f.Hosts...)
	cluster.Timeout, cluster.NumConns = 20*time.Second, 1
	session, err := cluster.CreateSession()
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	var columns []string
	var name, kind string
	rows := session.Query("SELECT column_name, type FROM system_schema.columns WHERE keyspace_name = ? AND table_name = ?",
		f.Keyspace, f.name).WithContext(t.Context()).Iter()
	for rows.Scan(&name, &kind) {
		columns = append(columns, name+" "+kind)
	}
	if err := rows.Close(); err != nil {
		t.Fatal(err)
	}
	slices.Sort(columns)
	return strings.Join(columns, "\n")
}
