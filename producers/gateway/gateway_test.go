package gateway

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/pkg/client"
	"github.com/millrace/millrace/pkg/codec"
	"github.com/millrace/millrace/pkg/event"
	"github.com/millrace/millrace/pkg/kafka/kafkatest"
	"github.com/millrace/millrace/pkg/schema"
	"github.com/millrace/millrace/pkg/telemetry"
)

// newCodec is a codec whose registry has the built-in types.
func newCodec(t *testing.T, cluster *kafkatest.Cluster) *codec.Codec {
	t.Helper()
	types, err := schema.Builtin()
	if err != nil {
		t.Fatal(err)
	}
	set, err := schema.NewSet(types...)
	if err != nil {
		t.Fatal(err)
	}
	cfg := codec.Default()
	cfg.URLs = []string{cluster.RegistryURL(t)}
	c, err := codec.New(cfg, set, telemetry.Discard())
	if err != nil {
		t.Fatal(err)
	}
	for _, typ := range types {
		if _, err := c.Register(t.Context(), typ); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

// fake is a publisher that acknowledges, or does what the test says.
type fake struct {
	codec   *codec.Codec
	down    error                                       // of Encoder
	produce func(r *kgo.Record, done func(error)) error // nil: acknowledge

	mu      sync.Mutex
	records []*kgo.Record
}

func (f *fake) Encoder(ctx context.Context, name string) (*codec.Encoder, error) {
	if f.down != nil {
		return nil, f.down
	}
	return f.codec.Encoder(ctx, name)
}

func (f *fake) Produce(ctx context.Context, r *kgo.Record, done func(error)) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if f.produce != nil {
		return f.produce(r, done)
	}
	f.mu.Lock()
	f.records = append(f.records, r)
	f.mu.Unlock()
	go done(nil)
	return nil
}

func (f *fake) of(topic string) []*kgo.Record {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []*kgo.Record
	for _, r := range f.records {
		if r.Topic == topic {
			out = append(out, r)
		}
	}
	return out
}

func setup(t *testing.T, change func(*Config)) (*Server, *fake, http.Handler) {
	t.Helper()
	pub := &fake{codec: newCodec(t, kafkatest.New(t))}
	s, mux := serve(t, pub, change)
	return s, pub, mux
}

func serve(t *testing.T, pub Publisher, change func(*Config)) (*Server, http.Handler) {
	t.Helper()
	cfg := Default()
	cfg.MaxRecord, cfg.MaxBody, cfg.MaxCompressed, cfg.MaxRecords = 1000, 10_000, 5_000, 50
	if change != nil {
		change(&cfg)
	}
	s, err := New(cfg, telemetry.Discard(), pub)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	s.Register(mux)
	return s, mux
}

const (
	asJSON  = "application/json"
	asLines = "application/x-ndjson"
)

// post sends a body; header holds further names and values.
func post(h http.Handler, typ, contentType, body string, header ...string) (*httptest.ResponseRecorder, answer) {
	r := httptest.NewRequestWithContext(context.Background(), http.MethodPost, "/v1/events/"+typ, strings.NewReader(body))
	r.Header.Set("Content-Type", contentType)
	for i := range len(header) / 2 {
		r.Header.Set(header[2*i], header[2*i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	var a answer
	_ = json.Unmarshal(w.Body.Bytes(), &a) // tests look at what they expect
	return w, a
}

// brief is an answer's status and its records' statuses.
func brief(code int, a answer) string {
	var s strings.Builder
	fmt.Fprint(&s, code, ":")
	for i, r := range a.Results {
		fmt.Fprint(&s, " ", r.Status)
		if r.Index != i {
			fmt.Fprint(&s, "(index ", r.Index, ")")
		}
	}
	return s.String()
}

func TestStatuses(t *testing.T) {
	_, pub, h := setup(t, nil)
	f := func(typ, contentType, body, want, part string, header ...string) {
		t.Helper()
		w, a := post(h, typ, contentType, body, header...)
		if got := brief(w.Code, a); got != want || !strings.Contains(w.Body.String(), part) {
			t.Errorf("%.60q: %s, want %s and %q\n%.600s", body, got, want, part, w.Body)
		}
	}
	good, long := `{"body":"x"}`, `{"body":"`+strings.Repeat("x", 1000)+`"}`
	f("log", asJSON, good, "202: 202", `"id":"`)
	f("log", asJSON+"; charset=UTF-8", `[`+good+`,`+good+`]`, "202: 202 202", `"accepted":2`)
	f("log", asLines, good+"\n"+good+"\n", "202: 202 202", "")
	f("log", asJSON, `[]`, "202:", `"results":[]`)
	// A record's own fault.
	f("log", asJSON, `[`+good+`,{"body":7},`+good+`]`, "207: 202 400 202", `"field":"body"`)
	f("log", asJSON, `{"body":7}`, "400: 400", `"field":"body"`)
	f("log", asJSON, `{"severity":"INFO"}`, "400: 400", `"field":"body"`)
	f("log", asJSON, `{"body":"x","bodi":"y"}`, "400: 400", `bodi`)
	f("log", asJSON, `{"body":"x","id":"7"}`, "400: 400", `"field":"id"`)
	f("log", asJSON, `{"body":"x","time":"yesterday"}`, "400: 400", `"field":"time"`)
	f("log", asJSON, `{"body":"x"}{"body":"y"}`, "400: 400", "")
	f("log", asLines, good+"\nnonsense\n"+good, "207: 202 400 202", "not a JSON object")
	f("log", asLines, good+"\n{\"body\":\n"+good, "207: 202 400 202", "")
	f("log", asLines, good+"\n"+long+"\n"+good, "207: 202 413 202", "longer than 1000 bytes")
	f("log", asJSON, `[`+good+`,`+long+`,`+good+`]`, "207: 202 413 202", "")
	f("log", asJSON, long, "413: 413", "")
	f("log", asJSON, "[{\"body\":\"\xff\"}]", "400: 400", "")
	// The body's fault: what came before it stays accepted, and the answer says so.
	f("log", asJSON, `[`+good+`,`+good, "207: 202", "ends too early")
	f("log", asJSON, `nonsense`, "400:", "neither a JSON object")
	f("log", asJSON, ``, "400:", "empty")
	f("log", asLines, ``, "400:", "empty")
	f("log", asJSON, good+" xyz", "400: 400", "more after the object")
	f("log", asLines, good+" xyz\n"+good, "207: 400 202", "more after the object")
	f("log", asJSON, `{"body":"x","attributes":{"k":null}}`, "400: 400", "must not be null")
	f("log", asJSON, `{"body":"x","time":1}`, "400: 400", "more than 30d before now")
	f("log", asLines, strings.Repeat(good+"\n", 51), "207:"+strings.Repeat(" 202", 50), "too many records")
	f("log", asJSON, strings.Repeat(" ", 5001), "413:", "longer than 5000 bytes")
	// Who it is for, and how it is sent.
	f("nosuch", asJSON, good, "404:", "no type")
	f("log", "text/plain", good, "415:", "content type")
	f("log", "", good, "415:", "content type")
	f("log", asJSON+"; charset=latin1", good, "415:", "UTF-8")
	f("log", asJSON, good, "415:", "content encoding", "Content-Encoding", "br")
	f("log", asJSON, "not gzip", "400:", "is not gzip", "Content-Encoding", "gzip")
	f("log", asJSON, "not zstd", "400:", "is not zstd", "Content-Encoding", "zstd")
	f("log", asJSON, good, "400:", "X-Millrace-Tenant", "X-Millrace-Tenant", "a b")
	if n := len(pub.of("millrace.log")); n == 0 {
		t.Error("nothing was published")
	}
}

func compressed(t *testing.T, encoding, body string) string {
	t.Helper()
	var b bytes.Buffer
	if encoding == "gzip" {
		z := gzip.NewWriter(&b)
		_, err := z.Write([]byte(body))
		if err := errors.Join(err, z.Close()); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	z, err := zstd.NewWriter(&b)
	if err != nil {
		t.Fatal(err)
	}
	_, err = z.Write([]byte(body))
	if err := errors.Join(err, z.Close()); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestCompressedBodies(t *testing.T) {
	_, _, h := setup(t, nil)
	for _, enc := range []string{"gzip", "zstd"} {
		f := func(body, want, part string) {
			t.Helper()
			w, a := post(h, "log", asLines, body, "Content-Encoding", enc)
			if got := brief(w.Code, a); got != want || !strings.Contains(w.Body.String(), part) {
				t.Errorf("%s: %s, want %s and %q\n%.600s", enc, got, want, part, w.Body)
			}
		}
		good := `{"body":"x"}` + "\n"
		f(compressed(t, enc, good+good), "202: 202 202", "")
		// A bomb: far over the bound after decompression, and tiny before it.
		f(compressed(t, enc, strings.Repeat(" ", 4<<20)), "413:", "after decompression")
		f(compressed(t, enc, good+strings.Repeat(" ", 4<<20)), "207: 202", "after decompression")
		whole := compressed(t, enc, strings.Repeat(good, 20))
		w, a := post(h, "log", asLines, whole[:len(whole)-6], "Content-Encoding", enc)
		if (w.Code != 207 && w.Code != 400) || a.Failed != 0 {
			t.Errorf("%s cut off: %s %s", enc, brief(w.Code, a), w.Body)
		}
	}
}

func TestIdentityIsEchoedAndKept(t *testing.T) {
	_, pub, h := setup(t, nil)
	id := event.NewID(time.Now())
	_, a := post(h, "log", asJSON, `[{"body":"x","id":"`+id+`"},{"body":"y"}]`)
	if len(a.Results) != 2 || a.Results[0].ID != id || len(a.Results[1].ID) != event.Len {
		t.Fatalf("%+v", a.Results)
	}
	r := pub.of("millrace.log")
	d := pub.codec.Decoder("log")
	for i, want := range []string{id, a.Results[1].ID} {
		rec, err := d.Decode(t.Context(), r[i])
		if err != nil || string(rec.ID()) != want {
			t.Errorf("record %d has id %s, want %s (%v)", i, rec.ID(), want, err)
		}
	}
}

func TestUnknownOutcomeCarriesIDAndTime(t *testing.T) {
	_, pub, h := setup(t, func(c *Config) { c.Timeout = 50 * time.Millisecond })
	var late func(error)
	pub.produce = func(_ *kgo.Record, done func(error)) error { late = done; return nil }
	w, a := post(h, "log", asJSON, `{"body":"x"}`)
	if brief(w.Code, a) != "503: 503" || w.Header().Get("Retry-After") == "" {
		t.Fatalf("%d %s %s", w.Code, w.Header(), w.Body)
	}
	r := a.Results[0]
	if r.Outcome != "unknown" || r.ID == "" || r.Time == "" {
		t.Fatalf("%+v", r)
	}
	late(nil) // changes nothing any more
	pub.produce = nil
	_, a = post(h, "log", asJSON, `{"body":"x","id":"`+r.ID+`","time":"`+r.Time+`"}`)
	if len(a.Results) != 1 || a.Results[0].Status != 202 || a.Results[0].ID != r.ID {
		t.Fatalf("again: %+v", a)
	}
	rec, err := pub.codec.Decoder("log").Decode(t.Context(), pub.of("millrace.log")[0])
	if got := time.UnixMicro(rec.TimeMicros()).UTC().Format("2006-01-02T15:04:05.000000Z"); err != nil || got != r.Time {
		t.Errorf("the time is %s, was %s (%v)", got, r.Time, err)
	}
}

func TestKafkaRefuses(t *testing.T) {
	_, pub, h := setup(t, nil)
	f := func(want, outcome string, produce func(*kgo.Record, func(error)) error) {
		t.Helper()
		pub.produce = produce
		w, a := post(h, "log", asJSON, `{"body":"x"}`)
		if brief(w.Code, a) != want || a.Results[0].Outcome != outcome {
			t.Errorf("%s %s, want %s, outcome %q", brief(w.Code, a), w.Body, want, outcome)
		}
	}
	f("503: 503", "", func(*kgo.Record, func(error)) error { return client.ErrFull })
	f("413: 413", "", func(*kgo.Record, func(error)) error { return client.ErrTooLarge })
	f("413: 413", "", func(_ *kgo.Record, done func(error)) error { go done(kerr.MessageTooLarge); return nil })
	f("503: 503", "unknown", func(_ *kgo.Record, done func(error)) error { go done(kgo.ErrRecordTimeout); return nil })
	n := 0
	pub.produce = func(_ *kgo.Record, done func(error)) error {
		n++
		go done(map[bool]error{true: kgo.ErrRecordTimeout}[n == 2])
		return nil
	}
	w, a := post(h, "log", asLines, strings.Repeat(`{"body":"x"}`+"\n", 3))
	if brief(w.Code, a) != "207: 202 503 202" {
		t.Errorf("%s %s", brief(w.Code, a), w.Body)
	}
	pub.down = errors.New("no registry")
	if w, _ := post(h, "log", asJSON, `{"body":"x"}`); w.Code != 503 || w.Header().Get("Retry-After") == "" {
		t.Errorf("registry away: %d %s", w.Code, w.Body)
	}
}

func TestLimits(t *testing.T) {
	s, pub, h := setup(t, func(c *Config) {
		c.MaxRequests, c.TenantRate, c.TenantBurst, c.MaxTenants = 1, 1, 3, 2
	})
	now := time.Now()
	s.now = func() time.Time { return now }
	three := strings.Repeat(`{"body":"x"}`+"\n", 3)
	f := func(tenant, body, want string) *httptest.ResponseRecorder {
		t.Helper()
		w, a := post(h, "log", asLines, body, "X-Millrace-Tenant", tenant)
		if got := brief(w.Code, a); got != want {
			t.Errorf("%s %s, want %s", got, w.Body, want)
		}
		return w
	}
	f("a", three+three, "207: 202 202 202 429 429 429")
	if w := f("a", three, "429:"); w.Header().Get("Retry-After") != "1" {
		t.Errorf("Retry-After %q", w.Header().Get("Retry-After"))
	}
	f("b", three, "202: 202 202 202")
	f("c", three, "202: 202 202 202") // beyond the bound: "other"
	f("d", three, "429:")             // shares it
	now = now.Add(2 * time.Second)
	f("a", three, "207: 202 202 429")
	// One request at a time.
	now = now.Add(time.Minute)
	entered, leave := make(chan struct{}), make(chan struct{})
	pub.produce = func(_ *kgo.Record, done func(error)) error {
		close(entered)
		go func() { <-leave; done(nil) }()
		return nil
	}
	first := make(chan int)
	go func() { w, _ := post(h, "log", asJSON, `{"body":"x"}`); first <- w.Code }()
	<-entered
	f("b", three, "429:")
	close(leave)
	if code := <-first; code != 202 {
		t.Errorf("the first request got %d", code)
	}
	pub.produce = nil
	f("b", three, "202: 202 202 202")
}

func TestBytesInFlightAreBounded(t *testing.T) {
	s, pub, h := setup(t, func(c *Config) { c.MaxRecord, c.InFlight, c.Timeout = 100, 100, 100*time.Millisecond })
	var held []func(error)
	pub.produce = func(_ *kgo.Record, done func(error)) error { held = append(held, done); return nil }
	rec := `{"body":"` + strings.Repeat("x", 49) + `"}`
	w, a := post(h, "log", asLines, rec+"\n"+rec+"\n"+rec)
	if brief(w.Code, a) != "503: 503 503" || len(held) != 1 || s.bytes.inUse() != 60 {
		t.Errorf("%s, %d sent, %d bytes held\n%s", brief(w.Code, a), len(held), s.bytes.inUse(), w.Body)
	}
	held[0](nil)
	if n := s.bytes.inUse(); n != 0 {
		t.Errorf("%d bytes are held after the acknowledgement", n)
	}
}

func TestClientGoesAway(t *testing.T) {
	s, pub, h := setup(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	var held func(error)
	pub.produce = func(_ *kgo.Record, done func(error)) error { held = done; cancel(); return nil }
	r := httptest.NewRequestWithContext(ctx, http.MethodPost, "/v1/events/log", strings.NewReader(`{"body":"x"}`))
	r.Header.Set("Content-Type", asJSON)
	h.ServeHTTP(httptest.NewRecorder(), r) // returns although nothing was acknowledged
	if len(s.requests) != 0 {
		t.Error("the slot is not free")
	}
	held(nil)
	if s.bytes.inUse() != 0 {
		t.Error("bytes are still held")
	}
}

func TestTraceparent(t *testing.T) {
	_, pub, h := setup(t, nil)
	const tp = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	f := func(header, want string) {
		t.Helper()
		pub.records = nil
		post(h, "log", asJSON, `{"body":"x"}`, "Traceparent", header)
		var got strings.Builder
		for _, hd := range pub.of("millrace.log")[0].Headers {
			got.WriteString(hd.Key + "=" + string(hd.Value))
		}
		if got.String() != want {
			t.Errorf("%q: headers %q, want %q", header, got.String(), want)
		}
	}
	f(tp, "traceparent="+tp)
	f("", "")
	f("nonsense", "")
	f(strings.ToUpper(tp), "")
	f("00-00000000000000000000000000000000-b7ad6b7169203331-01", "")
}

// TestOwnRecords runs the gateway and stops it: what it has to say of itself is published at the stop.
func TestOwnRecords(t *testing.T) {
	s, pub, h := setup(t, func(c *Config) { c.UsageInterval = time.Hour })
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	const tp = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	post(h, "log", asLines, "{\"body\":\"x\"}\n{\"body\":\"y\"}\n{}", "X-Millrace-Tenant", "acme", "Traceparent", tp)
	post(h, "metric", asJSON, `{"name":"m","value":1}`)
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	lines := func(typ string) string {
		var out strings.Builder
		d := pub.codec.Decoder(typ)
		for _, r := range pub.of("millrace." + typ) {
			rec, err := d.Decode(t.Context(), r)
			if err != nil {
				t.Fatal(err)
			}
			out.Write(append(codec.AppendJSON(nil, &rec), '\n'))
		}
		return out.String()
	}
	if w, _ := post(h, "log", asJSON, `{"body":"x"}`); w.Code != 503 || w.Header().Get("Retry-After") == "" {
		t.Errorf("after the stop: %d %s", w.Code, w.Body)
	}
	perf, usage := lines("performance"), lines("usage")
	for _, want := range []string{
		`"operation":"POST /v1/events/log"`, `"status":207`, `"trace_id":"0af7651916cd43dd8448eb211c80319c"`,
		`"parent_span_id":"b7ad6b7169203331"`, `"operation":"POST /v1/events/metric"`, `"ok":true`, `"service":"millrace-gateway"`,
	} {
		if !strings.Contains(perf, want) {
			t.Errorf("%s is not in\n%s", want, perf)
		}
	}
	if strings.Count(usage, `"tenant":"acme"`) != 3 || strings.Count(usage, "\n") != 6 ||
		!strings.Contains(usage, `"resource":"gateway.records","quantity":2`) {
		t.Errorf("usage:\n%s", usage)
	}
}

func TestOwnRecordsNeverBlock(t *testing.T) {
	s, _, h := setup(t, nil) // not running: nobody takes from the queue
	for range ownQueue + 10 {
		if w, _ := post(h, "log", asJSON, `{"body":"x"}`); w.Code != 202 {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
	}
	if len(s.own.queue) != ownQueue {
		t.Errorf("%d queued", len(s.own.queue))
	}
}

func TestThroughKafka(t *testing.T) {
	cluster := kafkatest.New(t, "millrace.log", "millrace.performance", "millrace.usage")
	cdc := newCodec(t, cluster)
	pub, err := client.New(client.Default(), cdc, telemetry.Discard(), cluster.Opts())
	if err != nil {
		t.Fatal(err)
	}
	s, h := serve(t, pub, nil)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	w, a := post(h, "log", asLines, `{"body":"one"}`+"\n{}\n"+`{"body":"two"}`)
	if brief(w.Code, a) != "207: 202 400 202" {
		t.Errorf("%s %s", brief(w.Code, a), w.Body)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if _, err := pub.Close(t.Context()); err != nil {
		t.Error(err)
	}
	for topic, want := range map[string]int{"millrace.log": 2, "millrace.performance": 1, "millrace.usage": 3} {
		if n := len(cluster.Records(t, topic)); n != want {
			t.Errorf("%s has %d records, want %d", topic, n, want)
		}
	}
}

func TestValidateNamesEachKey(t *testing.T) {
	err := Config{MaxRecord: 1, TenantRate: -1, DefaultTenant: "a b"}.Validate()
	for _, key := range []string{"max_compressed", "max_body", "max_records", "in_flight", "timeout", "tenant_rate", "default_tenant", "drain"} {
		if err == nil || !strings.Contains(err.Error(), "gateway."+key) {
			t.Errorf("gateway.%s is not named in: %v", key, err)
		}
	}
	err = Config{Timeout: -time.Second}.Validate()
	if !strings.Contains(fmt.Sprint(err), "gateway.timeout is -1s: give a positive duration") {
		t.Error(err)
	}
	if err := Default().Validate(); err != nil {
		t.Error(err)
	}
}
