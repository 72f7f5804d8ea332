package loadgen

import (
	"context"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sr"

	"github.com/millrace/millrace/pkg/client"
	"github.com/millrace/millrace/pkg/codec"
	"github.com/millrace/millrace/pkg/schema"
	"github.com/millrace/millrace/pkg/servertest"
	"github.com/millrace/millrace/pkg/telemetry"
)

// every has a field of each kind.
const every = `{"type":"record","name":"NAME","namespace":"millrace","millrace":{},"fields":[
{"name":"id","type":{"type":"string","logicalType":"uuid"}},{"name":"time","type":{"type":"long","logicalType":"timestamp-micros"}},
{"name":"service","type":"string","default":""},{"name":"host","type":"string","default":""},
{"name":"datacenter","type":"string","default":""},{"name":"tenant","type":"string","default":""},
{"name":"b","type":["null","boolean"],"default":null},{"name":"i","type":["null","int"],"default":null},
{"name":"n","type":["null","long"],"default":null},{"name":"f","type":["null","float"],"default":null},
{"name":"d","type":["null","double"],"default":null},{"name":"s","type":["null","string"],"default":null},
{"name":"y","type":["null","bytes"],"default":null},{"name":"t","type":["null",{"type":"long","logicalType":"timestamp-micros"}],"default":null},
{"name":"u","type":["null",{"type":"string","logicalType":"uuid"}],"default":null},
{"name":"attributes","type":{"type":"map","values":"string"},"default":{}}]}`

// A type that nobody has seen before, by Dial, through a real registry and a real Kafka with its append times.
func TestOnRealServers(t *testing.T) {
	servers, ok := servertest.Require(t)
	if !ok {
		return
	}
	typ, err := schema.Parse([]byte(strings.Replace(every, "NAME", servertest.Name(t), 1)))
	if err != nil {
		t.Fatal(err)
	}
	set, err := schema.NewSet(typ)
	if err != nil {
		t.Fatal(err)
	}
	rcfg := codec.Default()
	rcfg.URLs = []string{servers.Registry}
	c, err := codec.New(rcfg, set, telemetry.Discard())
	if err != nil {
		t.Fatal(err)
	}
	prepare(t, servers, c, typ)

	cl, err := client.Dial(t.Context(), servers.Kafka, rcfg.URLs)
	if err != nil {
		t.Fatal(err)
	}
	cfg := Default()
	cfg.Types, cfg.Rate, cfg.Count, cfg.Journal = []string{typ.Name}, 0, 5000, filepath.Join(t.TempDir(), "journal")
	var out strings.Builder
	g, err := New(cfg, cl, telemetry.Discard(), &out)
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Run(t.Context()); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	t.Log(out.String())
	large := map[string]any{"s": strings.Repeat("x", 2<<20)}
	var tooLarge error
	if err := cl.Send(t.Context(), typ.Name, large, func(err error) { tooLarge = err }); err != nil {
		t.Fatal(err)
	}
	r, err := cl.Close(t.Context())
	if want := (client.Report{Accepted: 5001, Acknowledged: 5000, Failed: 1}); err != nil || r != want || client.OutcomeOf(tooLarge) != client.Failed {
		t.Errorf("report %+v, %v, too large: %v", r, err, tooLarge)
	}

	f, err := os.Open(cfg.Journal)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	entries, err := ReadJournal(f)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{}
	for _, e := range entries {
		want[e.ID] = e.Hash
	}
	if got := readAll(t, servers, c, typ, len(want)); len(want) != 5000 || !maps.Equal(got, want) {
		t.Errorf("%d records arrived, %d in the journal", len(got), len(want))
	}
}

// prepare registers the type and makes its topic, both for this test alone.
func prepare(t *testing.T, servers servertest.Servers, c *codec.Codec, typ *schema.Type) {
	t.Helper()
	if _, err := c.Register(t.Context(), typ); err != nil {
		t.Fatal(err)
	}
	kcl, err := kgo.NewClient(kgo.SeedBrokers(servers.Kafka...))
	if err != nil {
		t.Fatal(err)
	}
	adm := kadm.NewClient(kcl)
	spec := typ.TopicSpec()
	configs := map[string]*string{}
	for k, v := range spec.Configs {
		configs[k] = &v
	}
	if _, err := adm.CreateTopic(t.Context(), int32(spec.Partitions), 1, configs, spec.Name); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		defer kcl.Close()
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if _, err := adm.DeleteTopic(ctx, spec.Name); err != nil {
			t.Errorf("deleting the topic: %v", err)
		}
		rcl, err := sr.NewClient(sr.URLs(servers.Registry))
		if err != nil {
			t.Error(err)
			return
		}
		if _, err := rcl.DeleteSubject(ctx, typ.Subject(), sr.SoftDelete); err != nil {
			t.Errorf("deleting the subject: %v", err)
		}
	})
}

// readAll gives the hashes, by id, of n records of the type's topic, as they are and as they say.
func readAll(t *testing.T, servers servertest.Servers, c *codec.Codec, typ *schema.Type, n int) map[string]string {
	t.Helper()
	kcl, err := kgo.NewClient(kgo.SeedBrokers(servers.Kafka...), kgo.ConsumeTopics(typ.TopicName()),
		kgo.ConsumeStartOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		t.Fatal(err)
	}
	defer kcl.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	d := c.Decoder(typ.Name)
	got := map[string]string{}
	for len(got) < n && ctx.Err() == nil {
		for _, r := range kcl.PollFetches(ctx).Records() {
			rec, err := d.Decode(ctx, r)
			if err != nil {
				t.Fatal(err)
			}
			hash := codec.Fingerprint(rec.Type, rec.Values, AttrHash)
			if said := attribute(t, &rec, AttrHash); said != hash {
				t.Errorf("hash %s, said to be %s: %s", hash, said, codec.AppendJSON(nil, &rec))
			}
			got[string(rec.ID())] = hash
		}
	}
	return got
}
