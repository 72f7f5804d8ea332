package loadgen

import (
	"math"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	"github.com/millrace/millrace/pkg/codec"
	"github.com/millrace/millrace/pkg/event"
	"github.com/millrace/millrace/pkg/schema"
)

// The attributes by which a checker knows a record.
const (
	AttrSource = "loadgen.source"
	AttrSeq    = "loadgen.seq"
	AttrHash   = "loadgen.hash" // codec.Fingerprint of all else
)

// The values at which things break. Strings have no NUL, which Elasticsearch reserves in flattened fields.
var (
	longs = []int64{
		0, 1, -1, 127, -128, 1<<31 - 1, -1 << 31, 1 << 53, 1<<53 + 1, -1<<53 - 1, math.MaxInt64, math.MinInt64,
	}
	ints    = []int64{0, 1, -1, 200, 503, math.MaxInt32, math.MinInt32}
	doubles = []float64{
		0, math.Copysign(0, -1), 1, -1, 0.1, 1.0 / 3, math.Pi, math.MaxFloat64, -math.MaxFloat64,
		math.SmallestNonzeroFloat64, -math.SmallestNonzeroFloat64, 0x1p-1022, 1 << 53, 1e21, 1e-7,
	}
	floats  = []float64{0, math.Copysign(0, -1), 1, float64(float32(0.1)), math.MaxFloat32, math.SmallestNonzeroFloat32}
	strange = []string{
		"", " ", "plain", "null", "0", "-0", "true", "a \"quoted\" \\ backslash / slash", "tab\tnewline\nreturn\r",
		"\x01\x1f\x7f", "Grüße aus Łódź", "日本語のテキスト", "مرحبا بالعالم", "e\u0301 is not \u00e9", "👩‍👩‍👧‍👦 🇪🇺 𝄞",
		"\ufeffmark \u2028 line \u2029 paragraph \u200b", "'; drop table log; --", "${ENV} {{x}} %s", strings.Repeat("長い", 120),
	}
	attrKeys = []string{"k", "http.status_code", "with space", "größe", "日本", "a.b.c", "UPPER"}
)

// plan is what is known of one version of a type.
type plan struct {
	typ    *schema.Type
	attrs  int    // position of the map that carries the hash, or -1
	pooled []bool // fields that make keys: few values, none strange
}

func newPlan(t *schema.Type) *plan {
	p := &plan{typ: t, attrs: -1, pooled: make([]bool, len(t.Fields))}
	for i, f := range t.Fields {
		if f.Kind == schema.Map && (p.attrs < 0 || f.Name == "attributes") {
			p.attrs = i
		}
	}
	for _, keys := range [][]int{t.Topic.Key, t.Cassandra.Partition} {
		for _, i := range keys {
			p.pooled[i] = true
		}
	}
	return p
}

// fill makes the values of the seq-th record: for a seed, a source and an event time, always the same.
func (p *plan) fill(values []codec.Value, cfg *Config, seq int64, at time.Time, rnd *rand.Rand) (id, hash string) {
	id = event.DeriveID(at, cfg.Source, strconv.FormatInt(seq, 10))
	values[schema.ID] = codec.StringValue(id)
	values[schema.Time] = codec.LongValue(at.UnixMicro())
	var pairs []string
	for i := schema.Time + 1; i < len(p.typ.Fields); i++ {
		f := &p.typ.Fields[i]
		switch {
		case i == p.attrs:
			pairs = attributes(cfg, seq, rnd)
			values[i] = codec.PairsValue(pairs...)
		case f.Nullable && rnd.IntN(4) == 0:
			values[i] = codec.Value{}
		case f.Kind == schema.String && p.pooled[i]:
			values[i] = codec.StringValue(pool(f.Name, rnd))
		default:
			values[i] = edge(f.Kind, at, rnd)
		}
	}
	hash = codec.Fingerprint(p.typ, values, AttrHash)
	if p.attrs >= 0 {
		values[p.attrs] = codec.PairsValue(append(pairs, AttrHash, hash)...)
	}
	return id, hash
}

func attributes(cfg *Config, seq int64, rnd *rand.Rand) []string {
	pairs := make([]string, 0, 12)
	pairs = append(pairs, AttrSource, cfg.Source, AttrSeq, strconv.FormatInt(seq, 10))
	from := rnd.IntN(len(attrKeys))
	for i := range rnd.IntN(4) {
		pairs = append(pairs, attrKeys[(from+i)%len(attrKeys)], pick(rnd, strange))
	}
	return pairs
}

// pool gives one of 20 names, and seldom the empty string: keys must spread, and partitions hold many rows.
func pool(field string, rnd *rand.Rand) string {
	n := rnd.IntN(21)
	if n == 20 {
		return ""
	}
	return field + "-" + strconv.Itoa(n)
}

func edge(kind schema.Kind, at time.Time, rnd *rand.Rand) codec.Value {
	often := rnd.IntN(2) == 0 // half ordinary values, half those at which things break
	switch kind {
	case schema.Bool:
		return codec.BoolValue(rnd.IntN(2) == 0)
	case schema.Int:
		if often {
			return codec.LongValue(int64(rnd.Int32()))
		}
		return codec.LongValue(pick(rnd, ints))
	case schema.Long:
		if often {
			return codec.LongValue(rnd.Int64N(1_000_000))
		}
		return codec.LongValue(pick(rnd, longs))
	case schema.Float:
		return codec.DoubleValue(pick(rnd, floats))
	case schema.Double:
		if often {
			return codec.DoubleValue(rnd.NormFloat64() * 1000)
		}
		return codec.DoubleValue(pick(rnd, doubles))
	case schema.Timestamp:
		return codec.LongValue(at.UnixMicro() - rnd.Int64N(int64(time.Hour/time.Microsecond)))
	case schema.UUID:
		return codec.StringValue(event.DeriveID(at, strconv.FormatUint(rnd.Uint64(), 16)))
	case schema.Bytes:
		b := make([]byte, rnd.IntN(40))
		for i := range b {
			b[i] = byte(rnd.Uint32()) //nolint:gosec // any byte does
		}
		return codec.BytesValue(b)
	case schema.Map:
		return codec.PairsValue(pick(rnd, attrKeys), pick(rnd, strange))
	default:
		if often {
			return codec.StringValue("value " + strconv.Itoa(rnd.IntN(1000)))
		}
		return codec.StringValue(pick(rnd, strange))
	}
}

func pick[T any](rnd *rand.Rand, of []T) T { return of[rnd.IntN(len(of))] }

// plain makes an ordinary log, of about cfg.Size bytes on the wire.
func (p *plan) plain(values []codec.Value, cfg *Config, seq int64, at time.Time, rnd *rand.Rand) string {
	id := event.DeriveID(at, cfg.Source, strconv.FormatInt(seq, 10))
	values[schema.ID] = codec.StringValue(id)
	values[schema.Time] = codec.LongValue(at.UnixMicro())
	values[schema.Service] = codec.StringValue("service-" + strconv.Itoa(rnd.IntN(20)))
	values[schema.Host] = codec.StringValue("host-" + strconv.Itoa(rnd.IntN(100)))
	values[schema.Datacenter] = codec.StringValue("dc1")
	values[schema.Tenant] = codec.StringValue("tenant-" + strconv.Itoa(rnd.IntN(10)))
	if i := p.typ.Index("severity"); i >= 0 {
		values[i] = codec.StringValue([]string{"INFO", "INFO", "INFO", "WARN", "ERROR"}[rnd.IntN(5)])
	}
	if i := p.typ.Index("body"); i >= 0 {
		values[i] = codec.StringValue(body(max(1, cfg.Size-plainHead), seq, rnd))
	}
	return id
}

// plainHead is what a plain log takes beside its body.
const plainHead = 93

var words = strings.Fields(`request handled in order from the cache after retry of connection to upstream with status
	and payload written while queue was draining user session expired token refreshed batch of rows committed`)

func body(size int, seq int64, rnd *rand.Rand) string {
	b := make([]byte, 0, size+16)
	b = append(strconv.AppendInt(append(b, "seq="...), seq, 10), ' ')
	for len(b) < size {
		b = append(append(b, pick(rnd, words)...), ' ')
	}
	return string(b[:size])
}
