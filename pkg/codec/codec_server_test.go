package codec_test

import (
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sr"

	"github.com/millrace/millrace/pkg/codec"
	"github.com/millrace/millrace/pkg/schema"
	"github.com/millrace/millrace/pkg/servertest"
	"github.com/millrace/millrace/pkg/telemetry"
)

// A registry that is not a fake: ids, versions, what it says of unknown ids, and whether it keeps our attributes.
func TestOnARealRegistry(t *testing.T) {
	servers, ok := servertest.Require(t)
	if !ok {
		return
	}
	name := servertest.Name(t)
	named := func(extra string) *schema.Type {
		text := strings.Replace(strings.Replace(withField, "EXTRA", extra, 1), `"name":"log"`, `"name":"`+name+`"`, 1)
		typ, err := schema.Parse([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		return typ
	}
	made := func(types ...*schema.Type) *codec.Codec {
		cfg := codec.Default()
		cfg.URLs = []string{servers.Registry}
		c, err := codec.New(cfg, set(t, types...), telemetry.Discard())
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	v1, v2 := named(""), named(`,{"name":"line","type":["null","long"],"default":null}`)
	cl, err := sr.NewClient(sr.URLs(servers.Registry))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if _, err := cl.DeleteSubject(t.Context(), v1.Subject(), sr.SoftDelete); err != nil {
			t.Errorf("deleting the subject: %v", err)
		}
	}()

	c := made(v1)
	if _, err := c.Encoder(t.Context(), name); err == nil {
		t.Error("an encoder for a type that is not registered")
	}
	id, err := c.Register(t.Context(), v1)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := made(v1).Register(t.Context(), v1); err != nil || again != id {
		t.Errorf("registering again: %d, want %d, %v", again, id, err)
	}
	if _, err := c.Register(t.Context(), named(`,{"name":"line","type":"long"}`)); err == nil {
		t.Error("an incompatible version was registered")
	}
	if _, err := c.Decoder(name).Decode(t.Context(), arrived(&kgo.Record{Value: []byte{0, 0x7f, 0, 0, 1, 1}})); reason(t, err) != codec.ReasonUnknownSchema {
		t.Errorf("an unknown id: %v", err)
	}

	send := func(c *codec.Codec, in string) *kgo.Record {
		e, err := c.Encoder(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		r, err := e.EncodeJSON([]byte(in))
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	d := c.Decoder(name)
	if _, err := d.Decode(t.Context(), arrived(send(c, `{"body":"one"}`))); err != nil {
		t.Fatal(err)
	}
	ahead := made(v2)
	if _, err := ahead.Register(t.Context(), v2); err != nil {
		t.Fatal(err)
	}
	rec, err := d.Decode(t.Context(), arrived(send(ahead, `{"body":"two","line":7}`)))
	if err != nil {
		t.Fatal(err)
	}
	if i := rec.Type.Index("line"); i < 0 || rec.Values[i].Long() != 7 {
		t.Errorf("the new field did not come: %s", codec.AppendJSON(nil, &rec))
	}
	if rec.Type.Topic.Partitions != v2.Topic.Partitions || string(rec.Type.JSON) != string(v2.JSON) {
		t.Errorf("the registry changed the schema: %s", rec.Type.JSON)
	}
	// A process that starts now has the newest version, whatever its file says.
	if typ, err := made(v1).Type(t.Context(), name); err != nil || typ.Index("line") < 0 {
		t.Errorf("the latest version: %v", err)
	}
	// What Dial finds.
	types, err := codec.Discover(t.Context(), codec.Config{URLs: []string{servers.Registry}, Timeout: codec.Default().Timeout, Refresh: 1}, telemetry.Discard())
	found := false
	for _, typ := range types {
		found = found || typ.Name == name
	}
	if err != nil || !found {
		t.Errorf("discovering: %v, found %v", err, found)
	}
}
