package elasticsearch

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/pkg/codec"
	"github.com/millrace/millrace/pkg/provision"
	"github.com/millrace/millrace/pkg/schema"
	"github.com/millrace/millrace/pkg/schema/schematest"
	"github.com/millrace/millrace/pkg/serve"
	"github.com/millrace/millrace/pkg/servertest"
	"github.com/millrace/millrace/pkg/servertest/esproxy"
	"github.com/millrace/millrace/pkg/stream"
	"github.com/millrace/millrace/pkg/stream/sinktest"
)

// open makes a Store with its templates, under a prefix of its own.
func open(t *testing.T, servers servertest.Servers, types ...*schema.Type) *Store {
	t.Helper()
	s := unplanned(t, servers, servers.Prefix(t), types...)
	apply(t, s)
	return s
}

func unplanned(t *testing.T, servers servertest.Servers, prefix string, types ...*schema.Type) *Store {
	t.Helper()
	cfg := Default()
	cfg.URLs, cfg.Prefix, cfg.Replicas = []string{servers.Elasticsearch}, prefix, 0
	return newStoreOf(t, cfg, types...)
}

func apply(t *testing.T, s *Store) []provision.Change {
	t.Helper()
	changes, err := s.Plan(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range changes {
		if err := c.Apply(t.Context()); err != nil {
			t.Fatalf("%s: %v", c.Object, err)
		}
	}
	return changes
}

func documents(t *testing.T, s *Store, typ *schema.Type) [][]codec.Value {
	t.Helper()
	var out [][]codec.Value
	if err := s.Scan(t.Context(), typ.Name, func(v []codec.Value) error { out = append(out, v); return nil }); err != nil {
		t.Fatal(err)
	}
	return out
}

// nulKey makes the free map one that Elasticsearch refuses.
func nulKey(typ *schema.Type) func([]codec.Value) {
	at := typ.Index("attributes")
	return func(v []codec.Value) { v[at] = codec.MapValue(map[string]string{"k\x00": "v"}) }
}

func TestContract(t *testing.T) {
	servers, ok := servertest.Require(t)
	if !ok {
		return
	}
	for _, typ := range []*schema.Type{schematest.NetworkFlow(t), schematest.Type(t, "log")} {
		t.Run(typ.Name, func(t *testing.T) {
			sinktest.Test(t, func(t *testing.T) sinktest.Harness {
				s := open(t, servers, typ)
				return sinktest.Harness{
					Sink: s, Type: typ, Refuse: nulKey(typ),
					Read: func(t *testing.T) [][]codec.Value { return documents(t, s, typ) },
				}
			})
		})
	}
}

// TestRefusedDocuments holds the list of errors that make a dead letter against the real server.
func TestRefusedDocuments(t *testing.T) {
	servers, ok := servertest.Require(t)
	if !ok {
		return
	}
	typ := schematest.Type(t, "log")
	body, attributes := typ.Index("body"), typ.Index("attributes")
	for name, change := range map[string]func(v []codec.Value){
		"a NUL in a key": nulKey(typ),
		"a very long key": func(v []codec.Value) {
			v[attributes] = codec.MapValue(map[string]string{strings.Repeat("k", 40000): "v"})
		},
		"not UTF-8": func(v []codec.Value) { v[body] = codec.BytesValue([]byte("\xff")) },
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t, servers, typ)
			b := maker(typ).Batch(0, 0, 5)
			change(b.Records[2].Values)
			err := store(t, s, b)
			var partial *stream.PartialError
			if !errors.As(err, &partial) || !slices.Equal(slices.Collect(maps.Keys(partial.Failed)), []int{2}) {
				t.Fatalf("done got %v, want record 2 refused", err)
			}
			if !strings.Contains(partial.Failed[2].Error(), "document_parsing_exception") {
				t.Errorf("the reason is %q, want Elasticsearch's own", partial.Failed[2])
			}
			if got := len(documents(t, s, typ)); got != 4 {
				t.Errorf("%d documents, want 4", got)
			}
		})
	}
}

// TestOutages: what is wrong with the index or the cluster is never a document's fault.
func TestOutages(t *testing.T) {
	servers, ok := servertest.Require(t)
	if !ok {
		return
	}
	typ := schematest.Type(t, "log")
	for name, settings := range map[string]string{
		"closed":    "",
		"read only": `{"index.blocks.read_only":true}`,
		"full disk": `{"index.blocks.read_only_allow_delete":true}`,
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t, servers, typ)
			s.cfg.Retry = Retry{Min: time.Millisecond, Max: time.Millisecond, Attempts: 1}
			s.retry = newRetry(s.cfg.Retry)
			if err := store(t, s, maker(typ).Batch(0, 0, 5)); err != nil {
				t.Fatal(err)
			}
			pattern := "/" + typ.IndexPattern(s.cfg.Prefix)
			damage := func() error { return s.client.do(t.Context(), http.MethodPost, pattern+"/_close", nil, "", nil, nil) }
			if settings != "" {
				damage = func() error {
					return s.client.do(t.Context(), http.MethodPut, pattern+"/_settings", nil, asJSON, []byte(settings), nil)
				}
			}
			if err := damage(); err != nil {
				t.Fatal(err)
			}
			if settings != "" {
				t.Cleanup(func() {
					undo := []byte(`{"index.blocks.read_only":null,"index.blocks.read_only_allow_delete":null}`)
					if err := s.client.do(context.Background(), http.MethodPut, pattern+"/_settings", nil, asJSON, undo, nil); err != nil {
						t.Error(err)
					}
				})
			}
			err := store(t, s, maker(typ).Batch(0, 5, 10))
			var partial *stream.PartialError
			if err == nil || errors.As(err, &partial) {
				t.Errorf("done got %v, want an outage", err)
			}
		})
	}
}

// TestBehindFaults writes through a proxy that turns items away, and then claims that the cluster is full of shards.
func TestBehindFaults(t *testing.T) {
	servers, ok := servertest.Require(t)
	if !ok {
		return
	}
	p, err := esproxy.Start(servers.Elasticsearch, 4)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	}()
	typ := schematest.Type(t, "log")
	first, second := maker(typ).Batch(0, 0, 1000), maker(typ).Batch(0, 1000, 2000) // a maker of another second makes others
	direct := open(t, servers, typ)
	cfg := direct.cfg
	cfg.URLs = []string{p.URL()}
	s := newStoreOf(t, cfg, typ)
	if err := p.Set(esproxy.Faults{TurnAway: 0.3}); err != nil {
		t.Fatal(err)
	}
	if err := store(t, s, first); err != nil {
		t.Fatal(err)
	}
	if c := p.Counts(); c.TurnedAway < 200 || c.Forwarded != 1000 {
		t.Errorf("the proxy turned %d items away and passed %d on, want hundreds and 1000", c.TurnedAway, c.Forwarded)
	}
	if n := value(t, s.m.retried.WithLabelValues("log")); n != float64(p.Counts().TurnedAway) {
		t.Errorf("%g documents were sent again of %d that were turned away", n, p.Counts().TurnedAway)
	}
	for _, f := range []esproxy.Faults{{ShardLimit: 0.01}, {Status: 401}, {Status: 403}, {Status: 503}, {Refuse: true}} {
		if err := p.Set(f); err != nil {
			t.Fatal(err)
		}
		err := store(t, s, second)
		var partial *stream.PartialError
		if err == nil || errors.As(err, &partial) || errors.Is(err, stream.ErrThrottle) {
			t.Errorf("%+v: done got %v, want an outage", f, err)
		}
	}
	if err := p.Set(esproxy.Faults{}); err != nil {
		t.Fatal(err)
	}
	if err := store(t, s, second); err != nil {
		t.Fatal(err)
	}
	if n := len(documents(t, direct, typ)); n != 2000 {
		t.Errorf("%d documents, want 2000", n)
	}
}

func TestReplayChangesNothing(t *testing.T) {
	servers, ok := servertest.Require(t)
	if !ok {
		return
	}
	typ := schematest.Type(t, "log")
	s := open(t, servers, typ)
	b := maker(typ).Batch(0, 0, 300)
	for range 3 {
		if err := store(t, s, b); err != nil {
			t.Fatal(err)
		}
	}
	if c, d := value(t, s.m.documents.WithLabelValues("log")), value(t, s.m.duplicates.WithLabelValues("log")); c != 300 || d != 600 {
		t.Errorf("%g created and %g duplicates, want 300 and 600", c, d)
	}
	var versions struct {
		Hits struct {
			Total struct{ Value int } `json:"total"`
		} `json:"hits"`
	}
	if err := s.Refresh(t.Context(), "log"); err != nil {
		t.Fatal(err)
	}
	query := []byte(`{"track_total_hits":true,"query":{"range":{"_seq_no":{"gte":300}}}}`)
	if err := s.client.do(t.Context(), http.MethodPost, "/"+typ.IndexPattern(s.cfg.Prefix)+"/_search", nil, asJSON, query, &versions); err != nil {
		t.Fatal(err)
	}
	if versions.Hits.Total.Value != 0 {
		t.Errorf("%d documents were written again", versions.Hits.Total.Value)
	}
}

// TestEvolvesWhileRunning meets a newer version of a type, and an older process beside it.
func TestEvolvesWhileRunning(t *testing.T) {
	servers, ok := servertest.Require(t)
	if !ok {
		return
	}
	v1 := schematest.Type(t, "log")
	v2 := withField(t, v1, `{"name": "region", "type": ["null", "string"], "default": null}`)
	old := open(t, servers, v1)
	if err := store(t, old, maker(v1).Batch(0, 0, 20)); err != nil {
		t.Fatal(err)
	}
	young := unplanned(t, servers, old.cfg.Prefix, v2)
	want := maker(v2).Batch(0, 20, 40)
	if err := store(t, young, want); err != nil {
		t.Fatal(err)
	}
	if err := store(t, old, maker(v1).Batch(0, 40, 60)); err != nil {
		t.Fatal(err)
	}
	again := unplanned(t, servers, old.cfg.Prefix, v1) // an older process that starts now takes nothing away
	if err := store(t, again, maker(v1).Batch(0, 60, 80)); err != nil {
		t.Fatal(err)
	}
	if left := apply(t, young); len(left) != 0 {
		t.Errorf("a plan of the newer version has %+v, want nothing", left)
	}
	got := map[string]string{}
	for _, v := range documents(t, young, v2) {
		got[v[schema.ID].String()] = codec.Fingerprint(v2, v, "")
	}
	if len(got) != 80 {
		t.Errorf("%d documents, want 80", len(got))
	}
	for _, r := range want.Records {
		if fp := codec.Fingerprint(v2, r.Values, ""); got[string(r.ID())] != fp {
			t.Errorf("record %s differs", r.ID())
		}
	}
	res, err := young.Search(t.Context(), serve.SearchQuery{Type: "log", Filters: map[string]string{"region": "żółć 東京 🚀"}})
	if err != nil || res.Total == 0 {
		t.Errorf("%d documents by the new field, %v", res.Total, err)
	}
}

// TestIndexMadeBehindOurBack has an index whose mapping lacks a field although the sink knows the type's version.
func TestIndexMadeBehindOurBack(t *testing.T) {
	servers, ok := servertest.Require(t)
	if !ok {
		return
	}
	v1 := schematest.Type(t, "log")
	v2 := withField(t, v1, `{"name": "region", "type": ["null", "string"], "default": null}`)
	s := open(t, servers, v2)
	if err := store(t, s, stream.Batch{Type: v2, Records: maker(v2).Batch(0, 0, 1).Records}); err != nil {
		t.Fatal(err)
	}
	if err := s.client.do(t.Context(), http.MethodDelete, "/"+v2.IndexName(s.cfg.Prefix, time.Now().UnixMicro()), nil, "", nil, nil); err != nil {
		t.Fatal(err)
	}
	body := fmt.Appendf(nil, `{"mappings":%s}`, v1.IndexMapping())
	older := unplanned(t, servers, s.cfg.Prefix, v1)
	if err := older.putTemplate(t.Context(), v1, nil); err != nil {
		t.Fatal(err)
	}
	if err := s.client.do(t.Context(), http.MethodPut, "/"+v2.IndexName(s.cfg.Prefix, time.Now().UnixMicro()), nil, asJSON, body, nil); err != nil {
		t.Fatal(err)
	}
	if err := store(t, s, maker(v2).Batch(0, 0, 20)); err != nil {
		t.Errorf("done got %v: good records would be dead letters", err)
	}
	if n := len(documents(t, s, v2)); n != 20 {
		t.Errorf("%d documents, want 20", n)
	}
}

func TestPlan(t *testing.T) {
	servers, ok := servertest.Require(t)
	if !ok {
		return
	}
	v1 := schematest.Type(t, "log")
	s := unplanned(t, servers, servers.Prefix(t), v1, schematest.NetworkFlow(t))
	var objects []string
	for _, c := range apply(t, s) {
		objects = append(objects, c.Object)
	}
	if want := []string{"index template " + s.cfg.Prefix + "-log", "index template " + s.cfg.Prefix + "-network_flow"}; !slices.Equal(objects, want) {
		t.Errorf("the first plan has %v, want %v", objects, want)
	}
	if left := apply(t, s); len(left) != 0 {
		t.Errorf("a second plan has %+v, want nothing", left)
	}
	if err := store(t, s, maker(v1).Batch(0, 0, 5)); err != nil {
		t.Fatal(err)
	}
	changed := unplanned(t, servers, s.cfg.Prefix, withField(t, v1, `{"name": "region", "type": ["null", "string"], "default": null}`))
	changed.cfg.Replicas = 2
	var details []string
	for _, c := range apply(t, changed) {
		details = append(details, c.Object+": "+c.Detail)
	}
	text := strings.Join(details, "\n")
	for _, want := range []string{"add field region", "number_of_replicas:2", "index " + v1.IndexName(s.cfg.Prefix, time.Now().UnixMicro()) + ": add fields region"} {
		if !strings.Contains(text, want) {
			t.Errorf("the plan lacks %q:\n%s", want, text)
		}
	}
	if left := apply(t, changed); len(left) != 0 {
		t.Errorf("a plan after the changes has %+v, want nothing", left)
	}
}

func TestSearch(t *testing.T) {
	servers, ok := servertest.Require(t)
	if !ok {
		return
	}
	typ := schematest.Type(t, "log")
	s := open(t, servers, typ)
	base := time.Now().Add(-time.Hour).Truncate(time.Second)
	b := maker(typ).Batch(0, 0, 50)
	for i := range b.Records {
		v := b.Records[i].Values
		v[schema.Time] = codec.LongValue(base.Add(time.Duration(i) * time.Second).UnixMicro())
		v[schema.Service] = codec.StringValue([]string{"billing", "shop"}[i%2])
		v[typ.Index("body")] = codec.StringValue(fmt.Sprintf("disk %d is full", i))
		v[typ.Index("attributes")] = codec.MapValue(map[string]string{"k8s.pod": fmt.Sprintf("p%d", i%5)})
	}
	if err := store(t, s, b); err != nil {
		t.Fatal(err)
	}
	if err := s.Refresh(t.Context(), "log"); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		q     serve.SearchQuery
		total int64
		first int // index of the newest hit, -1 for none
		hits  int
	}{
		"all":          {serve.SearchQuery{}, 50, 49, 50},
		"limit":        {serve.SearchQuery{Limit: 7}, 50, 49, 7},
		"all words":    {serve.SearchQuery{Text: "FULL 17 disk"}, 1, 17, 1},
		"a word lacks": {serve.SearchQuery{Text: "disk empty"}, 0, -1, 0},
		"no syntax":    {serve.SearchQuery{Text: "dis* OR body:full"}, 0, -1, 0},
		"service":      {serve.SearchQuery{Filters: map[string]string{"service": "billing"}}, 25, 48, 25},
		"attribute":    {serve.SearchQuery{Filters: map[string]string{"attributes.k8s.pod": "p3", "service": "shop"}}, 5, 43, 5},
		"window":       {serve.SearchQuery{From: base.Add(10 * time.Second), To: base.Add(20 * time.Second)}, 10, 19, 10},
	} {
		t.Run(name, func(t *testing.T) {
			c.q.Type = "log"
			got, err := s.Search(t.Context(), c.q)
			if err != nil {
				t.Fatal(err)
			}
			if got.Total != c.total || !got.Exact || len(got.Hits) != c.hits {
				t.Fatalf("total %d exact %t, %d hits; want %d, true, %d", got.Total, got.Exact, len(got.Hits), c.total, c.hits)
			}
			if c.first < 0 {
				return
			}
			var hit struct {
				ID   string `json:"id"`
				Time string `json:"time"`
			}
			if err := json.Unmarshal(got.Hits[0], &hit); err != nil {
				t.Fatal(err)
			}
			if want := string(b.Records[c.first].ID()); hit.ID != want {
				t.Errorf("the newest hit is %s of %s, want record %d", hit.ID, hit.Time, c.first)
			}
		})
	}
	s.cfg.Count = 10
	if got, err := s.Search(t.Context(), serve.SearchQuery{Type: "log"}); err != nil || got.Exact || got.Total != 10 {
		t.Errorf("total %d exact %t, %v; want 10, not exact", got.Total, got.Exact, err)
	}
	none := open(t, servers, typ)
	if got, err := none.Search(t.Context(), serve.SearchQuery{Type: "log", Text: "disk"}); err != nil || got.Total != 0 || got.Hits == nil {
		t.Errorf("without any index: %+v, %v", got, err)
	}
}

func TestDeletesExpiredIndices(t *testing.T) {
	servers, ok := servertest.Require(t)
	if !ok {
		return
	}
	typ := schematest.Type(t, "log") // kept for 14 days
	s := open(t, servers, typ)
	now := time.Date(2026, 6, 20, 12, 0, 0, 0, time.UTC)
	s.Now = func() time.Time { return now }
	prefix := typ.IndexPrefix(s.cfg.Prefix)
	names := map[string]bool{ // whether it is to be kept
		prefix + "-2026.06.20": true, prefix + "-2026.06.06": true, prefix + "-2026.06.05": false, prefix + "-2025.01.01": false,
		prefix + "-2020.01.01-copy": true, prefix + "x-2020.01.01": true, prefix + "-archive": true,
	}
	for name := range names {
		if err := s.client.do(t.Context(), http.MethodPut, pathOf(name), nil, "", nil, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.client.do(t.Context(), http.MethodPost, pathOf(prefix+"-2025.01.01", "_close"), nil, "", nil, nil); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- s.Run(ctx) }()
	deadline := time.Now().Add(30 * time.Second)
	for value(t, s.m.deleted.WithLabelValues("log")) < 2 && time.Now().Before(deadline) {
		time.Sleep(20 * time.Millisecond)
	}
	cancel()
	if err := <-ran; err != nil {
		t.Error(err)
	}
	for name, keep := range names {
		err := s.client.do(t.Context(), http.MethodHead, pathOf(name), nil, "", nil, nil)
		if gone := isStatus(err, http.StatusNotFound); gone == keep {
			t.Errorf("%s: gone %t, want %t (%v)", name, gone, !keep, err)
		}
	}
	if err := s.Write(t.Context(), maker(typ).Batch(0, 0, 1), func(error) { t.Error("done after the end") }); !errors.Is(err, stream.ErrClosed) {
		t.Errorf("a write after the end got %v", err)
	}
}

func TestGzipAndPing(t *testing.T) {
	servers, ok := servertest.Require(t)
	if !ok {
		return
	}
	typ := schematest.Type(t, "log")
	s := open(t, servers, typ)
	cfg := s.cfg
	cfg.Gzip = true
	zipped := newStoreOf(t, cfg, typ)
	if err := zipped.Ping(t.Context()); err != nil {
		t.Error(err)
	}
	if err := store(t, zipped, maker(typ).Batch(0, 0, 500)); err != nil {
		t.Fatal(err)
	}
	if n := len(documents(t, s, typ)); n != 500 {
		t.Errorf("%d documents, want 500", n)
	}
}
