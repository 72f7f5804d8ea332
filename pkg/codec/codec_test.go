package codec_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sr"
	"github.com/twmb/franz-go/pkg/sr/srfake"

	"github.com/millrace/millrace/pkg/codec"
	"github.com/millrace/millrace/pkg/schema"
	"github.com/millrace/millrace/pkg/telemetry"
)

// world is a registry and a codec of the built-in types, which are registered.
func world(t *testing.T, types ...*schema.Type) (*srfake.Registry, *codec.Codec) {
	t.Helper()
	reg := srfake.New()
	t.Cleanup(reg.Close)
	c := newCodec(t, reg, types...)
	for _, typ := range set(t, types...).All() {
		if _, err := c.Register(t.Context(), typ); err != nil {
			t.Fatal(err)
		}
	}
	return reg, c
}

func set(t *testing.T, types ...*schema.Type) *schema.Set {
	t.Helper()
	if len(types) == 0 {
		var err error
		if types, err = schema.Builtin(); err != nil {
			t.Fatal(err)
		}
	}
	s, err := schema.NewSet(types...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func newCodec(t *testing.T, reg *srfake.Registry, types ...*schema.Type) *codec.Codec {
	t.Helper()
	cfg := codec.Default()
	cfg.URLs = []string{reg.URL()}
	c, err := codec.New(cfg, set(t, types...), telemetry.Discard())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func encoder(t *testing.T, c *codec.Codec) *codec.Encoder {
	t.Helper()
	e, err := c.Encoder(t.Context(), "log")
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// arrived is r as a consumer gets it.
func arrived(r *kgo.Record) *kgo.Record {
	r.Timestamp = time.Now()
	return r
}

func decode(t *testing.T, c *codec.Codec, r *kgo.Record) codec.Record {
	t.Helper()
	rec, err := c.Decoder(strings.TrimPrefix(r.Topic, "millrace.")).Decode(t.Context(), arrived(r))
	if err != nil {
		t.Fatal(err)
	}
	return rec
}

func TestJSONThereAndBack(t *testing.T) {
	_, c := world(t)
	in := `{"id":"0190163d-8694-739b-aea5-966c26f8ad91","time":"TIME","service":"billing","host":"h1","datacenter":"","tenant":"","body":"a \"quoted\" line\nwith ü and 𝄞","attributes":{"k":"v","empty":""}}`
	in = strings.Replace(in, "TIME", time.Now().UTC().Format("2006-01-02T15:04:05.000000Z"), 1)
	r, err := encoder(t, c).EncodeJSON([]byte(in))
	if err != nil {
		t.Fatal(err)
	}
	if r.Topic != "millrace.log" || string(r.Key) != "billing|h1" {
		t.Errorf("topic %q key %q", r.Topic, r.Key)
	}
	rec := decode(t, c, r)
	if diff := cmp.Diff(in, string(codec.AppendJSON(nil, &rec))); diff != "" {
		t.Error(diff)
	}
}

func reason(t *testing.T, err error) string {
	t.Helper()
	var bad *codec.BadRecord
	if !errors.As(err, &bad) {
		return ""
	}
	return bad.Reason
}

func TestUnknownSchemaIsTheRecordsFaultAndAskedForOnce(t *testing.T) {
	reg, c := world(t)
	asked := 0
	reg.Intercept(func(_ http.ResponseWriter, r *http.Request) bool {
		if strings.HasPrefix(r.URL.Path, "/schemas/ids/") {
			asked++
		}
		return false
	})
	d := c.Decoder("log")
	for range 1000 {
		_, err := d.Decode(t.Context(), arrived(&kgo.Record{Value: []byte{0, 0, 0, 3, 9, 1}}))
		if got := reason(t, err); got != codec.ReasonUnknownSchema {
			t.Fatalf("reason %q of %v", got, err)
		}
	}
	if asked != 1 {
		t.Errorf("asked the registry %d times, want 1", asked)
	}
}

func TestRegistryOutageIsNeverTheRecordsFault(t *testing.T) {
	f := func(status int, body string) {
		t.Helper()
		reg, c := world(t)
		r, err := encoder(t, c).EncodeJSON([]byte(`{"body":"x"}`))
		if err != nil {
			t.Fatal(err)
		}
		fresh := newCodec(t, reg)
		reg.Intercept(func(w http.ResponseWriter, _ *http.Request) bool {
			w.WriteHeader(status)
			_, _ = w.Write([]byte(body))
			return true
		})
		d := fresh.Decoder("log")
		if _, err := d.Decode(t.Context(), arrived(r)); err == nil || reason(t, err) != "" {
			t.Errorf("status %d: %v", status, err)
		}
		reg.ClearInterceptors()
		if _, err := d.Decode(t.Context(), arrived(r)); err != nil {
			t.Errorf("after the outage: %v", err)
		}
	}
	f(500, `{"error_code":50001,"message":"x"}`)
	f(503, `busy`)
	f(401, `{"error_code":401,"message":"x"}`)
	f(403, `{"error_code":40301,"message":"x"}`)
	f(404, `<html>no such page</html>`)
	f(404, `{"error_code":404,"message":"HTTP 404 Not Found"}`)
	f(200, `<html>log in first</html>`)
}

func TestRegistryUnreachable(t *testing.T) {
	reg, c := world(t)
	r, err := encoder(t, c).EncodeJSON([]byte(`{"body":"x"}`))
	if err != nil {
		t.Fatal(err)
	}
	fresh := newCodec(t, reg)
	reg.Close()
	if _, err := fresh.Decoder("log").Decode(t.Context(), arrived(r)); err == nil || reason(t, err) != "" {
		t.Errorf("got %v, want an outage", err)
	}
}

func TestNotAvro(t *testing.T) {
	_, c := world(t)
	for _, v := range [][]byte{nil, {}, {0, 0, 0, 0}, []byte(`{"body":"x"}`)} {
		_, err := c.Decoder("log").Decode(t.Context(), arrived(&kgo.Record{Value: v}))
		if got := reason(t, err); got != codec.ReasonNotAvro {
			t.Errorf("%q: %v", v, err)
		}
	}
}

func TestEventTimeTooFarFromAppendTime(t *testing.T) {
	_, c := world(t)
	e := encoder(t, c)
	f := func(event time.Duration, ok bool) {
		t.Helper()
		v := e.Defaults()
		v[schema.Time] = codec.LongValue(time.Now().Add(event).UnixMicro())
		v[e.Type().Index("body")] = codec.StringValue("x")
		r, err := e.Encode(v)
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.Decoder("log").Decode(t.Context(), arrived(r))
		if got := reason(t, err); (got == "") != ok || (!ok && got != codec.ReasonTime) {
			t.Errorf("%v: %v", event, err)
		}
	}
	f(0, true)
	f(9*time.Minute, true)
	f(11*time.Minute, false)
	f(-29*24*time.Hour, true)
	f(-31*24*time.Hour, false)
	f(-290*365*24*time.Hour, false)
}

const withField = `{"type":"record","name":"log","namespace":"millrace","millrace":{},"fields":[
{"name":"id","type":{"type":"string","logicalType":"uuid"}},
{"name":"time","type":{"type":"long","logicalType":"timestamp-micros"}},
{"name":"service","type":"string","default":""},{"name":"host","type":"string","default":""},
{"name":"datacenter","type":"string","default":""},{"name":"tenant","type":"string","default":""},
{"name":"body","type":"string"}EXTRA,
{"name":"attributes","type":{"type":"map","values":"string"},"default":{}}]}`

func logType(t *testing.T, extra string) *schema.Type {
	t.Helper()
	typ, err := schema.Parse([]byte(strings.Replace(withField, "EXTRA", extra, 1)))
	if err != nil {
		t.Fatal(err)
	}
	return typ
}

func TestNewerSchemaIsTakenUpFromARecord(t *testing.T) {
	v1, v2 := logType(t, ""), logType(t, `,{"name":"line","type":["null","long"],"default":null}`)
	reg, old := world(t, v1)
	d := old.Decoder("log")
	r1, err := encoder(t, old).EncodeJSON([]byte(`{"body":"one"}`))
	if err != nil {
		t.Fatal(err)
	}
	before, err := d.Decode(t.Context(), arrived(r1))
	if err != nil || len(before.Values) != len(v1.Fields) {
		t.Fatal(err, len(before.Values))
	}

	ahead := newCodec(t, reg, v2)
	if _, err := ahead.Register(t.Context(), v2); err != nil {
		t.Fatal(err)
	}
	r2, err := encoder(t, ahead).EncodeJSON([]byte(`{"body":"two","line":7}`))
	if err != nil {
		t.Fatal(err)
	}
	after, err := d.Decode(t.Context(), arrived(r2))
	if err != nil {
		t.Fatal(err)
	}
	if i := after.Type.Index("line"); i < 0 || after.Values[i].Long() != 7 {
		t.Errorf("the new field did not come: %s", codec.AppendJSON(nil, &after))
	}
	again, err := d.Decode(t.Context(), arrived(r1))
	if err != nil || again.Type != after.Type || !again.Values[again.Type.Index("line")].IsNull() {
		t.Errorf("an old record after the change: %v", err)
	}
	if string(before.Values[before.Type.Index("body")].Bytes()) != "one" {
		t.Error("a record in flight lost its type")
	}
	// And the encoder that met the field in JSON alone.
	third := newCodec(t, reg, v1)
	if _, err := encoder(t, third).EncodeJSON([]byte(`{"body":"three","line":8}`)); err != nil {
		t.Error(err)
	}
}

func TestEncodeJSONTakesUpANewFieldAndRefusesAnUnknownOne(t *testing.T) {
	v1, v2 := logType(t, ""), logType(t, `,{"name":"line","type":["null","long"],"default":null}`)
	reg, c := world(t, v1)
	e := encoder(t, c)
	if _, err := newCodec(t, reg, v2).Register(t.Context(), v2); err != nil {
		t.Fatal(err)
	}
	r, err := e.EncodeJSON([]byte(`{"body":"x","line":9}`))
	if err != nil {
		t.Fatal(err)
	}
	if rec := decode(t, c, r); rec.Values[rec.Type.Index("line")].Long() != 9 {
		t.Error("the new field did not come")
	}
	asked := 0
	reg.Intercept(func(http.ResponseWriter, *http.Request) bool { asked++; return false })
	for range 100 {
		_, err := e.EncodeJSON([]byte(`{"body":"x","nosuch":9}`))
		var fe *codec.FieldError
		if !errors.As(err, &fe) || fe.Field != "nosuch" {
			t.Fatal(err)
		}
	}
	if asked > 1 {
		t.Errorf("asked %d times", asked)
	}
}

func TestRegisterRefusesIncompatible(t *testing.T) {
	v1 := logType(t, "")
	reg, c := world(t, v1)
	if _, err := c.Register(t.Context(), logType(t, `,{"name":"line","type":"long"}`)); err == nil {
		t.Error("a field without a default was registered")
	}
	v2 := logType(t, `,{"name":"line","type":["null","long"],"default":null}`)
	id, err := c.Register(t.Context(), v2)
	if err != nil {
		t.Fatal(err)
	}
	again, err := newCodec(t, reg, v2).Register(t.Context(), v2)
	if err != nil || again != id {
		t.Errorf("registering again: id %d, want %d, %v", again, id, err)
	}
	if typ, err := c.Type(t.Context(), "log"); err != nil || typ.Index("line") < 0 {
		t.Errorf("the registered version is not current: %v", err)
	}
}

func TestIncompatibleSchemaInRecord(t *testing.T) {
	reg, c := world(t)
	id, _, err := reg.RegisterSchema("other", sr.Schema{Schema: `{"type":"record","name":"other","fields":[{"name":"x","type":"int"}]}`})
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Decoder("log").Decode(context.Background(), arrived(&kgo.Record{Value: []byte{0, 0, 0, 0, byte(id & 0x7f), 2}}))
	if got := reason(t, err); got != codec.ReasonIncompatible {
		t.Error(err)
	}
}

func TestStructs(t *testing.T) {
	_, c := world(t)
	e := encoder(t, c)
	type entry struct {
		ID       string            `avro:"id"`
		Time     time.Time         `avro:"time"`
		Service  string            `avro:"service"`
		Severity *string           `avro:"severity"`
		Body     string            `avro:"body"`
		Attrs    map[string]string `avro:"attributes"`
	}
	r, err := e.EncodeStruct(&entry{Service: "s", Body: "b"})
	if err != nil {
		t.Fatal(err)
	}
	rec := decode(t, c, r)
	t.Logf("%s", codec.AppendJSON(nil, &rec))
}

func TestRunTakesUpANewerVersion(t *testing.T) {
	v1, v2 := logType(t, ""), logType(t, `,{"name":"line","type":["null","long"],"default":null}`)
	reg, _ := world(t, v1)
	cfg := codec.Default()
	cfg.URLs, cfg.Refresh = []string{reg.URL()}, time.Millisecond
	c, err := codec.New(cfg, set(t, v1), telemetry.Discard())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- c.Run(ctx) }()
	if _, err := newCodec(t, reg, v2).Register(t.Context(), v2); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); encoder(t, c).Type().Index("line") < 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the newer version was not taken up")
		}
	}
	// A version that cannot be used is refused once, and what is in use stays.
	if _, _, err := reg.RegisterSchema(v1.Subject(), sr.Schema{Schema: `{"type":"record","name":"log","fields":[{"name":"x","type":"int"}]}`}); err != nil {
		t.Fatal(err)
	}
	asked := make(chan struct{})
	reg.Intercept(func(http.ResponseWriter, *http.Request) bool {
		select {
		case asked <- struct{}{}:
		default:
		}
		return false
	})
	for range 5 {
		<-asked
	}
	if encoder(t, c).Type().Index("line") < 0 {
		t.Error("a version that cannot be used is in use")
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestManyGoroutinesShareOneLookup(t *testing.T) {
	reg, c := world(t)
	r, err := encoder(t, c).EncodeJSON([]byte(`{"body":"x"}`))
	if err != nil {
		t.Fatal(err)
	}
	var asked atomic.Int32
	reg.Intercept(func(http.ResponseWriter, *http.Request) bool { asked.Add(1); return false })
	fresh := newCodec(t, reg)
	var wg sync.WaitGroup
	for range 32 {
		wg.Go(func() {
			if _, err := fresh.Decoder("log").Decode(t.Context(), &kgo.Record{Value: r.Value}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	// One of the schema, one of the latest version, and a few of those who came between the two.
	if n := asked.Load(); n > 8 {
		t.Errorf("the registry was asked %d times", n)
	}
}

func TestDecodeAllocatesNothingPerRecord(t *testing.T) {
	_, c := world(t)
	r, err := encoder(t, c).EncodeJSON([]byte(`{"body":"x","service":"s","attributes":{"a":"b","c":"d"}}`))
	if err != nil {
		t.Fatal(err)
	}
	d := c.Decoder("log")
	r.Timestamp = time.Now()
	if n := testing.AllocsPerRun(1000, func() {
		if _, err := d.Decode(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}); n > 0.1 {
		t.Errorf("%v allocations a record", n)
	}
}

func TestStructsThatDoNotFit(t *testing.T) {
	_, c := world(t)
	e := encoder(t, c)
	f := func(v any, want string) {
		t.Helper()
		_, err := e.EncodeStruct(v)
		var fe *codec.FieldError
		if !errors.As(err, &fe) || !strings.Contains(err.Error(), want) {
			t.Errorf("%T: %v, want %q", v, err, want)
		}
	}
	f(struct {
		Body string `avro:"body"`
		Nope int    `avro:"nope"`
	}{}, `"nope"`)
	f(struct {
		Service string `avro:"service"`
	}{}, `"body"`)
	f(struct {
		Body int `avro:"body"`
	}{}, "body")
	f(struct {
		Body string `avro:"body"`
	}{"\xff"}, "UTF-8")
	f(struct {
		ID   string `avro:"id"`
		Body string `avro:"body"`
	}{ID: "x"}, "UUID")
	f(5, "not a struct")
	f(nil, "not a struct")
	f((*struct {
		Body string `avro:"body"`
	})(nil), "nil")
}
