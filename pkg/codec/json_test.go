package codec

import (
	"encoding/json"
	"errors"
	"math"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/pkg/event"
	"github.com/millrace/millrace/pkg/schema"
)

const allKinds = `{"type":"record","name":"all","namespace":"millrace","millrace":{"topic":{"key":["service","n","o"]}},"fields":[
{"name":"id","type":{"type":"string","logicalType":"uuid"}},{"name":"time","type":{"type":"long","logicalType":"timestamp-micros"}},
{"name":"service","type":"string","default":""},{"name":"host","type":"string","default":""},
{"name":"datacenter","type":"string","default":""},{"name":"tenant","type":"string","default":""},
{"name":"b","type":["null","boolean"],"default":null},{"name":"i","type":["null","int"],"default":null},
{"name":"n","type":"long","aliases":["number"],"default":0},{"name":"f","type":["null","float"],"default":null},
{"name":"d","type":["null","double"],"default":null},{"name":"s","type":["null","string"],"default":null},
{"name":"y","type":["null","bytes"],"default":null},{"name":"u","type":["null",{"type":"string","logicalType":"uuid"}],"default":null},
{"name":"t","type":["null",{"type":"long","logicalType":"timestamp-micros"}],"default":null},
{"name":"o","type":"string"},
{"name":"m","type":{"type":"map","values":"string"},"default":{"k":"v"}}]}`

func allEncoder(t testing.TB) *Encoder {
	t.Helper()
	typ, err := schema.Parse([]byte(allKinds))
	if err != nil {
		t.Fatal(err)
	}
	e, err := newEncoder(typ, 7)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// readBack decodes what e wrote.
func readBack(t testing.TB, e *Encoder, r *kgo.Record) Record {
	t.Helper()
	p, err := compile(e.typ.Avro, e.typ)
	if err != nil {
		t.Fatal(err)
	}
	rec := Record{Source: r, Type: e.typ, Values: make([]Value, len(e.typ.Fields))}
	var check mapCheck
	if err := p.run(r.Value[headerLen:], rec.Values, &check); err != nil {
		t.Fatal(err)
	}
	return rec
}

// In a synctest bubble it is always this time.
const (
	now   = "2000-01-01T00:00:00.000000Z"
	head  = `{"id":"00dc6acf-ac00-7000-8000-000000000000","time":"` + now + `",`
	tail  = `,"o":""`
	shown = head + `"service":"","host":"","datacenter":"","tenant":"",`
)

func TestEncodeJSONAccepts(t *testing.T) {
	f := func(in, want string) {
		t.Helper()
		synctest.Test(t, func(t *testing.T) {
			e := allEncoder(t)
			r, err := e.EncodeJSON([]byte(head + in + tail + "}"))
			if err != nil {
				t.Errorf("%s: %v", in, err)
				return
			}
			rec := readBack(t, e, r)
			got := string(AppendJSON(nil, &rec))
			got = strings.TrimSuffix(strings.TrimPrefix(got, shown), `,"o":"","m":{"k":"v"}}`)
			got = strings.TrimPrefix(strings.TrimSuffix(got, `,"n":0`), `"n":0,`)
			if got != want {
				t.Errorf("%s: got %s, want %s", in, got, want)
			}
		})
	}
	f(`"n":9223372036854775807`, `"n":9223372036854775807`)
	f(`"n":-9223372036854775808`, `"n":-9223372036854775808`)
	f(`"n":9007199254740993`, `"n":9007199254740993`)
	f(`"n":1e3`, `"n":1000`)
	f(`"n":1.50E1`, `"n":15`)
	f(`"n":12000e-3`, `"n":12`)
	f(`"n":0.9223372036854775807e19`, `"n":9223372036854775807`)
	f(`"number":5`, `"n":5`)
	f(`"i":-2147483648`, `"i":-2147483648`)
	f(`"b":true`, `"b":true`)
	f(`"b":null`, `"n":0`)
	f(`"d":-0.0`, `"d":-0`)
	f(`"d":1.7976931348623157e308`, `"d":1.7976931348623157e+308`)
	f(`"d":5e-324`, `"d":5e-324`)
	f(`"d":0.1`, `"d":0.1`)
	f(`"d":1e-400`, `"d":0`)
	f(`"f":0.1`, `"f":0.1`)
	f(`"f":3.4028234663852886e38`, `"f":3.4028235e+38`)
	f(`"s":"\u00e9\ud834\udd1e\/\b\f"`, `"s":"é𝄞/\u0008\u000c"`)
	f(`"s":"\u0000"`, `"s":"\u0000"`)
	f(` "s" : "x" `, `"s":"x"`)
	f(`"y":"AP+A"`, `"y":"AP+A"`)
	f(`"y":""`, `"y":""`)
	f(`"u":"0190163D-8694-739B-AEA5-966C26F8AD91"`, `"u":"0190163d-8694-739b-aea5-966c26f8ad91"`)
	f(`"t":"2026-01-31T13:05:09.1234567+01:00"`, `"t":"2026-01-31T12:05:09.123456Z"`)
	f(`"t":"2026-01-31T13:05:09Z"`, `"t":"2026-01-31T13:05:09.000000Z"`)
	f(`"t":"1969-12-31T23:59:59.9999999Z"`, `"t":"1969-12-31T23:59:59.999999Z"`)
	f(`"t":1`, `"t":"1970-01-01T00:00:00.000001Z"`)
	f(`"t":253402300800000000`, `"t":253402300800000000`)
}

func TestEncodeJSONMaps(t *testing.T) {
	f := func(in, want string) {
		t.Helper()
		e := allEncoder(t)
		r, err := e.EncodeJSON([]byte(`{"o":"","m":` + in + "}"))
		if err != nil {
			t.Errorf("%s: %v", in, err)
			return
		}
		rec := readBack(t, e, r)
		if got := string(AppendJSON(nil, &rec)); !strings.HasSuffix(got, `"m":`+want+"}") {
			t.Errorf("%s: %s", in, got)
		}
	}
	f(`{}`, `{}`)
	f(`{"b":"","a":"\u0041","":"x"}`, `{"b":"","a":"A","":"x"}`)
}

func TestEncodeJSONRefuses(t *testing.T) {
	f := func(in, field, msg string) {
		t.Helper()
		_, err := allEncoder(t).EncodeJSON([]byte(in))
		var fe *FieldError
		if !errors.As(err, &fe) || fe.Field != field || !strings.Contains(fe.Msg, msg) {
			t.Errorf("%s: got %v, want field %q and %q", in, err, field, msg)
		}
	}
	f(``, "", "is not a JSON object")
	f(`[]`, "", "is not a JSON object")
	f(`{`, "", "ends too soon")
	f(`{"o":"x"`, "", "ends too soon")
	f(`{"o":"x",}`, "", "a key in quotes")
	f(`{"o" "x"}`, "", "a colon")
	f(`{"o":"x"}{}`, "", "more after the object")
	f(`{"o":"x"} x`, "", "more after the object")
	f(`{o:"x"}`, "", "a key in quotes")
	f(`{"nosuch":1,"o":"x"}`, "nosuch", "not a field")
	f(`{"O":"x"}`, "O", "not a field")
	f(`{}`, "o", "is missing")
	f(`{"o":"x","o":"x"}`, "o", "twice")
	f(`{"o":"x","n":1,"number":1}`, "n", "twice")
	f(`{"o":null}`, "o", "must not be null")
	f(`{"o":"x","id":null}`, "id", "must not be null")
	f(`{"o":5}`, "o", "must be a string, not a number")
	f(`{"o":["x"]}`, "o", "must be a string, not an array")
	f(`{"o":nil}`, "o", "not JSON")
	f(`{"o":"x","b":"true"}`, "b", "must be true or false, not a string")
	f(`{"o":"x","b":truth}`, "b", "not JSON")
	f(`{"o":"x","n":"1"}`, "n", "must be a whole number, not a string")
	f(`{"o":"x","n":1.5}`, "n", "must be a whole number")
	f(`{"o":"x","n":1e-1}`, "n", "must be a whole number")
	f(`{"o":"x","n":9223372036854775808}`, "n", "64 bits")
	f(`{"o":"x","n":-9223372036854775809}`, "n", "64 bits")
	f(`{"o":"x","n":1e999999999999999999999}`, "n", "64 bits")
	f(`{"o":"x","n":01}`, "n", "leading zeros")
	f(`{"o":"x","n":-}`, "n", "not JSON")
	f(`{"o":"x","n":1.}`, "n", "not JSON")
	f(`{"o":"x","n":1e}`, "n", "not JSON")
	f(`{"o":"x","n":+1}`, "n", "not JSON")
	f(`{"o":"x","i":2147483648}`, "i", "32 bits")
	f(`{"o":"x","d":NaN}`, "d", "not JSON")
	f(`{"o":"x","d":"NaN"}`, "d", "must be a number, not a string")
	f(`{"o":"x","d":1e309}`, "d", "out of range")
	f(`{"o":"x","f":1e39}`, "f", "more than a float holds")
	f(`{"o":"x","s":"`+"\xff"+`"}`, "s", "not UTF-8")
	f(`{"o":"x","s":"\n`+"\xff"+`"}`, "s", "not UTF-8")
	f(`{"o":"x","s":"`+"\n"+`"}`, "s", "control character")
	f(`{"o":"x","s":"\x"}`, "s", "no such escape")
	f(`{"o":"x","s":"\ud834"}`, "s", "surrogate")
	f(`{"o":"x","s":"\ud834\u0041"}`, "s", "surrogate")
	f(`{"o":"x","s":"\udd1e"}`, "s", "surrogate")
	f(`{"o":"x","s":"\u00g0"}`, "s", "hexadecimal")
	f(`{"o":"x","y":"AP+"}`, "y", "base64")
	f(`{"o":"x","y":"AP-A"}`, "y", "base64")
	f(`{"o":"x","u":"0190163d8694739baea5966c26f8ad91"}`, "u", "UUID")
	f(`{"o":"x","id":""}`, "id", "UUID")
	f(`{"o":"x","t":"yesterday"}`, "t", "RFC 3339")
	f(`{"o":"x","t":true}`, "t", "RFC 3339")
	f(`{"o":"x","m":[]}`, "m", "an object of strings")
	f(`{"o":"x","m":{"k":1}}`, "m.k", "must be a string, not a number")
	f(`{"o":"x","m":{"k":null}}`, "m.k", "must not be null")
	f(`{"o":"x","m":{"k":nul}}`, "m.k", "not JSON")
	f(`{"o":"x","m":{"k":"v","k":"v"}}`, "m", "same key twice")
	f(`{"o":"x","time":"1999-01-01T00:00:00Z"}`, "time", "out of range: event time is more than 30d before now (")
	f(`{"o":"x","time":"2999-01-01T00:00:00Z"}`, "time", "out of range: event time is more than 10m after now (")
	f(`{"o":"x","time":-9223372036854775808}`, "time", "out of range")
	f(`{"o":"x","id":"0190163d-8694-439b-aea5-966c26f8ad91"}`, "id", "UUIDv7")
	f(`{"o":"x","id":"0190163d-8694-739b-aea5-966c26f8ad91"}`, "time", "out of range")
}

func TestTenantOfTheRequest(t *testing.T) {
	e := allEncoder(t)
	f := func(in, tenant, want string) {
		t.Helper()
		r, err := e.EncodeJSONFor([]byte(in), tenant)
		if err != nil {
			t.Errorf("%s for %q: %v", in, tenant, err)
			return
		}
		rec := readBack(t, e, r)
		if got := string(rec.Values[schema.Tenant].Bytes()); got != want {
			t.Errorf("%s for %q is of tenant %q, want %q", in, tenant, got, want)
		}
	}
	f(`{"o":"x"}`, "", "")
	f(`{"o":"x","tenant":"a"}`, "", "a")
	f(`{"o":"x"}`, "a", "a")
	f(`{"o":"x","tenant":""}`, "a", "a")
	f(`{"o":"x","tenant":"\u0061"}`, "a", "a")
	_, err := e.EncodeJSONFor([]byte(`{"o":"x","tenant":"b"}`), "a")
	if fe, ok := errors.AsType[*FieldError](err); !ok || fe.Field != "tenant" || !strings.Contains(fe.Msg, `in the name of "a"`) {
		t.Errorf("another tenant's record: %v", err)
	}
}

func TestIdentityIsFixedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := allEncoder(t)
		f := func(in string) (id string, at time.Time) {
			t.Helper()
			r, err := e.EncodeJSON([]byte(in))
			if err != nil {
				t.Fatal(err)
			}
			rec := readBack(t, e, r)
			return string(rec.ID()), time.UnixMicro(rec.TimeMicros()).UTC()
		}
		id, at := f(`{"o":"x"}`)
		if made, err := event.TimeOf(id); err != nil || !made.Equal(at) || !at.Equal(time.Now()) {
			t.Errorf("neither: id %s time %v", id, at)
		}
		id, at = f(`{"o":"x","time":"1999-12-31T23:59:58.123456Z"}`)
		if made, err := event.TimeOf(id); err != nil || !made.Equal(at.Truncate(time.Millisecond)) {
			t.Errorf("a time: id %s time %v", id, at)
		}
		given := event.NewID(time.Now().Add(-time.Minute))
		if id, at = f(`{"o":"x","id":"` + given + `"}`); id != given || !at.Equal(time.Now().Add(-time.Minute)) {
			t.Errorf("an id: id %s time %v", id, at)
		}
		if id, at = f(`{"o":"x","id":"` + given + `","time":"` + now + `"}`); id != given || !at.Equal(time.Now()) {
			t.Errorf("both: id %s time %v", id, at)
		}
	})
}

func TestKeyAndHeader(t *testing.T) {
	r, err := allEncoder(t).EncodeJSON([]byte(`{"o":"x|y","n":-5}`))
	if err != nil {
		t.Fatal(err)
	}
	if r.Topic != "millrace.all" || string(r.Key) != "|-5|x|y" || string(r.Value[:5]) != "\x00\x00\x00\x00\x07" {
		t.Errorf("topic %s key %s head %v", r.Topic, r.Key, r.Value[:5])
	}
}

func TestEncodeRefuses(t *testing.T) {
	e := allEncoder(t)
	f := func(field string, v Value) {
		t.Helper()
		values := e.Defaults()
		values[e.typ.Index("o")] = StringValue("x")
		values[e.typ.Index(field)] = v
		_, err := e.Encode(values)
		var fe *FieldError
		if !errors.As(err, &fe) || fe.Field != field {
			t.Errorf("field %s: %v", field, err)
		}
	}
	f("o", Value{})
	f("o", StringValue("\xff"))
	f("i", LongValue(math.MaxInt32+1))
	f("f", DoubleValue(math.MaxFloat64))
	f("u", StringValue("x"))
	f("id", StringValue("x"))
	f("m", BytesValue([]byte{2}))
	f("m", BytesValue([]byte{0, 0}))
	f("m", PairsValue("k", "v", "k", "w"))
	var fe *FieldError
	if _, err := e.Encode(nil); !errors.As(err, &fe) {
		t.Errorf("no values: %v", err)
	}
}

func TestFloatsThatJSONDoesNotHave(t *testing.T) {
	e := allEncoder(t)
	values := e.Defaults()
	values[e.typ.Index("o")] = StringValue("x")
	for f, want := range map[float64]string{math.Inf(1): `"d":"Infinity"`, math.Inf(-1): `"d":"-Infinity"`, math.NaN(): `"d":"NaN"`} {
		values[e.typ.Index("d")] = DoubleValue(f)
		r, err := e.Encode(values)
		if err != nil {
			t.Fatal(err)
		}
		rec := readBack(t, e, r)
		if got := string(AppendJSON(nil, &rec)); !strings.Contains(got, want) || !json.Valid([]byte(got)) {
			t.Errorf("%v: %s", f, got)
		}
	}
}

// The canonical text, written out: other languages are held against the same vectors.
func TestFingerprintVectors(t *testing.T) {
	e := allEncoder(t)
	values := e.Defaults()
	set := func(field string, v Value) { values[e.typ.Index(field)] = v }
	set("id", StringValue("0190163d-8694-739b-aea5-966c26f8ad91"))
	set("time", LongValue(-1))
	set("b", BoolValue(true))
	set("i", LongValue(-5))
	set("n", LongValue(math.MinInt64))
	set("f", DoubleValue(0.5))
	set("d", DoubleValue(math.Copysign(0, -1)))
	set("s", StringValue("é"))
	set("y", BytesValue([]byte{0, 255}))
	set("t", LongValue(1))
	set("o", StringValue(""))
	set("m", PairsValue("z", "1", "hash", "h", "é", "", "a", "2"))
	want := "b=t\nd=8000000000000000\ndatacenter=0:\nf=3fe0000000000000\nhost=0:\ni=-5\n" +
		"id=36:0190163d-8694-739b-aea5-966c26f8ad91\nm=1:a>1:21:z>1:12:é>0:\nn=-9223372036854775808\no=0:\n" +
		"s=2:é\nservice=0:\nt=1\ntenant=0:\ntime=-1\ny=2:\x00\xff\n"
	if diff := cmp.Diff(want, string(canonical(e.typ, values, "hash"))); diff != "" {
		t.Error(diff)
	}
	if got := Fingerprint(e.typ, values, "hash"); got != "9d5b2737b1111314a0c701ecacddafe0" {
		t.Errorf("fingerprint %s", got)
	}
	one := Fingerprint(e.typ, values, "")
	set("m", PairsValue("z", "1", "hash", "i", "é", "", "a", "2"))
	if Fingerprint(e.typ, values, "") == one {
		t.Error("the map does not count")
	}
}

func TestMapsOnTheWire(t *testing.T) {
	f := func(b string, want error) {
		t.Helper()
		var check mapCheck
		end, err := check.end([]byte(b), 0)
		if !errors.Is(err, want) || err == nil && end != len(b) {
			t.Errorf("%q: end %d, %v, want %v", b, end, err, want)
		}
	}
	f("\x00", nil)
	f("\x02\x02k\x02v\x00", nil)
	f("\x02\x02k\x02v\x02\x02l\x02v\x00", nil) // two blocks
	f("\x01\x08\x02k\x02v\x00", nil)           // a block that says its size
	f("\x01\x06\x02k\x02v\x00", errMapSize)    // a wrong one
	f("\x01\x0a\x02k\x02v\x00", errMapSize)    //
	f("\x01\x7f\x02k\x02v\x00", errLength)     // a negative one
	f("\x02\x02k\x02v\x02\x02k\x02w\x00", errMapKey)
	f("", errTruncated)
	f("\x02\x02k", errTruncated)
	f("\x02\x02k\x02v", errTruncated)
	f("\x02\x04k", errLength)
	f("\x02\x01k\x02v\x00", errLength)
	f("\x02\x02\xff\x02v\x00", errUTF8)
	f("\x02\x02k\x02\xff\x00", errUTF8)
	f("\xfe\xff\xff\xff\x0f\x02k\x02v\x00", errMapCount)
	f("\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x00\x00", errMapCount) // the smallest count has no opposite
	f("\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", errVarint)
	f("\x80", errTruncated)

	many := map[string]string{}
	for i := range 1000 {
		many[strconv.Itoa(i)] = "v"
	}
	f(string(MapValue(many).Bytes()), nil)
	var pairs []string
	for i := range 100 {
		pairs = append(pairs, strconv.Itoa(i%99), "v")
	}
	f(string(PairsValue(pairs...).Bytes()), errMapKey)
	f(string(PairsValue("k").Bytes()), nil)
}

func FuzzEncodeJSON(f *testing.F) {
	e := allEncoder(f)
	f.Add([]byte(`{"o":"x","m":{"a":"b"},"n":1e3,"d":-0.1e-5,"t":"2026-01-31T13:05:09.5+01:00"}`))
	f.Add([]byte(`{"o":"\ud834\udd1e","y":"AAAA","u":"0190163d-8694-739b-aea5-966c26f8ad91","b":null}`))
	f.Fuzz(func(t *testing.T, in []byte) {
		r, err := e.EncodeJSON(in)
		if err != nil {
			if _, named := errors.AsType[*FieldError](err); !named {
				t.Fatalf("%T: %v", err, err)
			}
			return
		}
		if !json.Valid(in) {
			t.Fatalf("accepted what is not JSON: %q", in)
		}
		rec := readBack(t, e, r)
		out := AppendJSON(nil, &rec)
		again, err := e.EncodeJSON(out)
		if err != nil {
			t.Fatalf("our own JSON: %v: %s", err, out)
		}
		second := readBack(t, e, again)
		if Fingerprint(e.typ, rec.Values, "") != Fingerprint(e.typ, second.Values, "") {
			t.Fatalf("%q became %s", out, AppendJSON(nil, &second))
		}
	})
}
