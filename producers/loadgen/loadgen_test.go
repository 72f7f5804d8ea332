package loadgen

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/pkg/client"
	"github.com/millrace/millrace/pkg/codec"
	"github.com/millrace/millrace/pkg/kafka/kafkatest"
	"github.com/millrace/millrace/pkg/schema"
	"github.com/millrace/millrace/pkg/telemetry"
)

// world is a cluster with a registry that has the built-in types, and a codec.
func world(t *testing.T) (*kafkatest.Cluster, *codec.Codec) {
	t.Helper()
	types, err := schema.Builtin()
	if err != nil {
		t.Fatal(err)
	}
	set, err := schema.NewSet(types...)
	if err != nil {
		t.Fatal(err)
	}
	cluster := kafkatest.New(t)
	cfg := codec.Default()
	cfg.URLs = []string{cluster.RegistryURL(t)}
	c, err := codec.New(cfg, set, telemetry.Discard())
	if err != nil {
		t.Fatal(err)
	}
	for _, typ := range types {
		cluster.Create(t, typ.TopicName(), 3)
		if _, err := c.Register(t.Context(), typ); err != nil {
			t.Fatal(err)
		}
	}
	return cluster, c
}

func attribute(t *testing.T, r *codec.Record, key string) string {
	t.Helper()
	pairs := map[string]string{}
	for k, v := range r.Values[r.Type.Index("attributes")].Pairs() {
		pairs[string(k)] = string(v)
	}
	return pairs[key]
}

func TestWhatArrivesIsWhatWasSent(t *testing.T) {
	cluster, c := world(t)
	cl, err := client.New(client.Default(), c, telemetry.Discard(), cluster.Opts())
	if err != nil {
		t.Fatal(err)
	}
	cfg := Default()
	cfg.Rate, cfg.Count, cfg.Journal = 0, 4000, filepath.Join(t.TempDir(), "journal")
	var out strings.Builder
	g, err := New(cfg, cl, telemetry.Discard(), &out)
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), "sent 4000 records") || !strings.Contains(out.String(), "ok 4000, failed 0, unknown 0") {
		t.Error(out.String())
	}
	if _, err := cl.Close(t.Context()); err != nil {
		t.Fatal(err)
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
		if e.Outcome != OK {
			t.Errorf("%+v", e)
		}
		want[e.Type+" "+e.ID] = e.Hash
	}
	got := map[string]string{}
	for _, name := range cfg.Types {
		d := c.Decoder(name)
		for _, r := range cluster.Records(t, "millrace."+name) {
			rec, err := d.Decode(t.Context(), r)
			if err != nil {
				t.Fatal(err)
			}
			hash := codec.Fingerprint(rec.Type, rec.Values, AttrHash)
			if attribute(t, &rec, AttrHash) != hash || attribute(t, &rec, AttrSource) != "loadgen" {
				t.Errorf("hash %s in %s", hash, codec.AppendJSON(nil, &rec))
			}
			got[name+" "+string(rec.ID())] = hash
		}
	}
	if len(want) != 4000 || !maps.Equal(got, want) {
		t.Errorf("%d records arrived, %d in the journal", len(got), len(want))
	}
}

func TestSameSeedSameValues(t *testing.T) {
	_, c := world(t)
	at := time.UnixMicro(1_800_000_000_000_001)
	for _, name := range Default().Types {
		typ, err := c.Type(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		run := func(seed uint64) string {
			cfg := Default()
			var hashes strings.Builder
			for seq := range int64(50) {
				values := make([]codec.Value, len(typ.Fields))
				_, hash := newPlan(typ).fill(values, &cfg, seq, at, rand.New(rand.NewPCG(seed, uint64(seq))))
				hashes.WriteString(hash)
			}
			return hashes.String()
		}
		one, again := run(1), run(1)
		if one != again || one == run(2) {
			t.Errorf("%s: values do not follow the seed", name)
		}
	}
}

// stub is a publisher whose answers the test gives.
type stub struct {
	*codec.Codec
	took   int
	answer func(n int) (refused, err error)
}

func (s *stub) Produce(_ context.Context, _ *kgo.Record, done func(error)) error {
	s.took++
	refused, err := s.answer(s.took)
	if refused == nil {
		done(err)
	}
	return refused
}

func (*stub) Flush(context.Context) error { return nil }

func TestRateIsKept(t *testing.T) {
	_, c := world(t)
	for _, name := range Default().Types {
		if _, err := c.Encoder(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		s := &stub{Codec: c, answer: func(int) (error, error) { return nil, nil }}
		cfg := Default()
		cfg.Rate = 1000
		g, err := New(cfg, s, telemetry.Discard(), io.Discard)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := g.Run(ctx); err != nil {
			t.Error(err)
		}
		if s.took < 59_900 || s.took > 60_100 {
			t.Errorf("%d records in a minute at 1,000 a second", s.took)
		}
	})
}

func TestOutcomesAreTold(t *testing.T) {
	_, c := world(t)
	cfg := Default()
	cfg.Rate, cfg.Count, cfg.Journal = 0, 5, filepath.Join(t.TempDir(), "journal")
	s := &stub{Codec: c, answer: func(n int) (error, error) {
		switch n {
		case 2:
			return nil, kerr.MessageTooLarge
		case 3:
			return nil, errors.New("gone away")
		case 4:
			return client.ErrFull, nil
		}
		return nil, nil
	}}
	var out strings.Builder
	g, err := New(cfg, s, telemetry.Discard(), &out)
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Run(t.Context()); err == nil || !strings.Contains(out.String(), "ok 2, failed 2, unknown 1") {
		t.Errorf("%v\n%s", err, out.String())
	}
	data, err := os.ReadFile(cfg.Journal)
	if err != nil {
		t.Fatal(err)
	}
	entries, err := ReadJournal(bytes.NewReader(append(data, `{"type":"lo`...)))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Outcome)
	}
	if want := "ok failed unknown failed ok"; strings.Join(got, " ") != want {
		t.Errorf("journal says %v, want %s", got, want)
	}
}

// gone is a publisher whose broker never answers; its callbacks come when the test calls them.
type gone struct {
	*codec.Codec
	late []func(error)
}

func (p *gone) Produce(_ context.Context, _ *kgo.Record, done func(error)) error {
	p.late = append(p.late, done)
	return nil
}

func (*gone) Flush(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

// TestLastWordOfEachRecord: a broker is gone, the run is interrupted, and its client calls back when it is closed, after
// the run has ended.
func TestLastWordOfEachRecord(t *testing.T) {
	_, c := world(t)
	for _, name := range Default().Types {
		if _, err := c.Encoder(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(t.TempDir(), "journal")
	var logged, out bytes.Buffer
	synctest.Test(t, func(t *testing.T) {
		p := &gone{Codec: c}
		cfg := Default()
		cfg.Rate, cfg.Journal = 10, path
		tel := telemetry.New(&logged, "text", slog.LevelInfo, prometheus.NewRegistry())
		g, err := New(cfg, p, tel, &out)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		began := time.Now()
		if err := g.Run(ctx); err == nil {
			t.Error("no error although nothing is known")
		}
		if took := time.Since(began); took > 21*time.Second {
			t.Errorf("the interrupt took %v to end", took-10*time.Second)
		}
		for _, done := range p.late {
			done(errors.New("client closed"))
		}
	})
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	intents, unknown := strings.Count(string(data), `"intent"`), strings.Count(string(data), `"unknown"`)
	if intents < 99 || unknown != intents || strings.Count(string(data), "\n") != 2*intents {
		t.Errorf("%d intents, %d unknown in\n%.2000s", intents, unknown, data)
	}
	if want := fmt.Sprintf("ok 0, failed 0, unknown %d", intents); !strings.Contains(out.String(), want) {
		t.Errorf("%s, want %s", out.String(), want)
	}
	if logged.Len() > 0 {
		t.Errorf("logged %.2000s", logged.String())
	}
}

// TestJournalErrorIsToldOnce: the disk is full, for instance.
func TestJournalErrorIsToldOnce(t *testing.T) {
	j, err := openJournal(filepath.Join(t.TempDir(), "journal"))
	if err != nil {
		t.Fatal(err)
	}
	if err := j.f.Close(); err != nil {
		t.Fatal(err)
	}
	if err := j.intent(Entry{Seq: 1}); err == nil || !strings.Contains(err.Error(), "writing journal: ") {
		t.Errorf("the first: %v", err)
	}
	j.outcome(&Entry{Seq: 1, Outcome: OK})
	if err := errors.Join(j.intent(Entry{Seq: 2}), j.close()); err != nil {
		t.Errorf("told again: %v", err)
	}
}

func TestIntentWithoutOutcomeIsUnknown(t *testing.T) {
	entries, err := ReadJournal(strings.NewReader(`{"source":"a","seq":1,"outcome":"intent"}` + "\n"))
	if err != nil || len(entries) != 1 || entries[0].Outcome != Unknown {
		t.Errorf("%+v %v", entries, err)
	}
}

func TestPlainLogsHaveTheirSize(t *testing.T) {
	_, c := world(t)
	size, n := 0, 0
	p := &sizes{Codec: c, size: &size, n: &n}
	cfg := Default()
	cfg.Plain, cfg.Rate, cfg.Count = true, 0, 1000
	g, err := New(cfg, p, telemetry.Discard(), io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if mean := size / n; mean < 295 || mean > 305 {
		t.Errorf("plain logs of %d bytes, want 300", mean)
	}
}

type sizes struct {
	*codec.Codec
	size, n *int
}

func (s *sizes) Produce(_ context.Context, r *kgo.Record, done func(error)) error {
	*s.size += len(r.Value)
	*s.n++
	done(nil)
	return nil
}

func (*sizes) Flush(context.Context) error { return nil }

func TestLatencyBuckets(t *testing.T) {
	var l latencies
	for us := range uint64(1 << 20) {
		b := bucketOf(us)
		if lower(b) > us || lower(b+1) <= us {
			t.Fatalf("%d µs in bucket %d: [%d, %d)", us, b, lower(b), lower(b+1))
		}
	}
	for i := range 1000 {
		l.add(time.Duration(i+1) * time.Millisecond)
	}
	if p := l.quantile(0.5); p < 490*time.Millisecond || p > 520*time.Millisecond {
		t.Errorf("median %v of 1 to 1,000 ms", p)
	}
}

func TestConfigNamesEveryMistake(t *testing.T) {
	err := Config{Rate: -1, Count: -1, Spread: -1}.Validate()
	for _, key := range []string{"types", "rate", "count", "source", "spread", "drain"} {
		if err == nil || !strings.Contains(err.Error(), "loadgen."+key) {
			t.Errorf("%s is not named in: %v", key, err)
		}
	}
	if err := Default().Validate(); err != nil {
		t.Error(err)
	}
}
