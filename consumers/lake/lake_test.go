package lake

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/duckdb/duckdb-go/v2"

	"github.com/millrace/millrace/pkg/codec"
	"github.com/millrace/millrace/pkg/lake"
	"github.com/millrace/millrace/pkg/lakesql"
	"github.com/millrace/millrace/pkg/schema"
	"github.com/millrace/millrace/pkg/schema/schematest"
	"github.com/millrace/millrace/pkg/stream/sinktest"
	"github.com/millrace/millrace/pkg/telemetry"
)

// bench is a warehouse and a sink over it.
type bench struct {
	t     *testing.T
	cfg   Config
	types *schema.Set
	typ   *schema.Type
	id    lake.Source
	sink  *Sink
}

func newBench(t *testing.T, typ *schema.Type) *bench {
	t.Helper()
	cfg := Default()
	cfg.Table.Warehouse = filepath.Join(t.TempDir(), "lake")
	cfg.Age = time.Hour // tests flush by themselves
	types, err := schema.NewSet(typ)
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{t: t, cfg: cfg, types: types, typ: typ, id: lake.Source{Cluster: "cluster", TopicID: "topic"}}
	b.sink = b.newSink()
	b.apply(b.sink)
	return b
}

// newSink is another process on the same warehouse.
func (b *bench) newSink() *Sink {
	b.t.Helper()
	s, err := New(b.cfg, b.types, nil, telemetry.Discard())
	if err != nil {
		b.t.Fatal(err)
	}
	s.sources.fake = func(string) lake.Source { return b.id }
	return s
}

func (b *bench) apply(s *Sink) {
	b.t.Helper()
	changes, err := s.Planner().Plan(b.t.Context())
	if err != nil {
		b.t.Fatal(err)
	}
	for _, c := range changes {
		if err := c.Apply(b.t.Context()); err != nil {
			b.t.Fatal(err)
		}
	}
}

// flush commits what a sink holds.
func (b *bench) flush(s *Sink) error {
	for _, c := range s.committers() {
		if err := c.flush(b.t.Context()); err != nil {
			return err
		}
	}
	return nil
}

// rows reads the table by SQL, by the type's positions.
func (b *bench) rows(t *testing.T) [][]codec.Value {
	t.Helper()
	var out [][]codec.Value
	b.query(t, "SELECT * FROM "+b.typ.Name, func(row []any) {
		values := make([]codec.Value, len(b.typ.Fields))
		for i, f := range b.typ.Fields {
			v, err := codecValue(f.Kind, row[i])
			if err != nil {
				t.Fatalf("reading %s: %v", f.Name, err)
			}
			values[i] = v
		}
		out = append(out, values)
	})
	return out
}

func (b *bench) query(t *testing.T, statement string, each func([]any)) {
	t.Helper()
	l, err := lake.New(b.cfg.Table, telemetry.Discard())
	if err != nil {
		t.Fatal(err)
	}
	cfg := lakesql.Default()
	cfg.Deduplicate = nil // the rows as they are
	db, err := lakesql.Open(t.Context(), cfg, l, b.types.All(), lake.AsOf{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = db.Rows(t.Context(), lakesql.Request{Statement: statement}, func([]lakesql.Column) error { return nil }, func(row []any) error {
		each(row)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func codecValue(kind schema.Kind, v any) (codec.Value, error) {
	switch v := v.(type) {
	case nil:
		return codec.Value{}, nil
	case bool:
		return codec.BoolValue(v), nil
	case int32:
		return codec.LongValue(int64(v)), nil
	case int64:
		return codec.LongValue(v), nil
	case float32:
		return codec.DoubleValue(float64(v)), nil
	case float64:
		return codec.DoubleValue(v), nil
	case string:
		return codec.StringValue(v), nil
	case []byte:
		return codec.BytesValue(v), nil
	case time.Time:
		return codec.LongValue(v.UnixMicro()), nil
	case duckdb.OrderedMap:
		m := map[string]string{}
		for i, k := range v.Keys() {
			m[fmt.Sprint(k)] = fmt.Sprint(v.Values()[i])
		}
		return codec.MapValue(m), nil
	default:
		return codec.Value{}, fmt.Errorf("a %T for kind %d", v, kind)
	}
}

func (b *bench) harness() sinktest.Harness {
	return sinktest.Harness{
		Sink: b.sink, Type: b.typ, Read: b.rows,
		Flush: func(t *testing.T) {
			t.Helper()
			if err := b.flush(b.sink); err != nil {
				t.Fatal(err)
			}
		},
	}
}

func TestContract(t *testing.T) {
	sinktest.Test(t, func(t *testing.T) sinktest.Harness {
		t.Helper()
		return newBench(t, schematest.Type(t, "log")).harness()
	})
}

// TestContractOfEveryKind runs the suite over a type with a field of every kind, with small row groups and little
// memory, so that everything is spilled.
func TestContractOfEveryKind(t *testing.T) {
	sinktest.Test(t, func(t *testing.T) sinktest.Harness {
		t.Helper()
		b := newBench(t, schematest.NetworkFlow(t))
		b.cfg.Memory, b.cfg.GroupRows = 64<<10, 17
		b.sink = b.newSink()
		return b.harness()
	})
}

// TestTimedCommits lets Run do the commits.
func TestTimedCommits(t *testing.T) {
	sinktest.Test(t, func(t *testing.T) sinktest.Harness {
		t.Helper()
		b := newBench(t, schematest.Type(t, "metric"))
		b.cfg.Age = 50 * time.Millisecond
		b.sink = b.newSink()
		ctx, cancel := context.WithCancel(context.Background())
		stopped := make(chan error, 1)
		go func() { stopped <- b.sink.Run(ctx) }()
		t.Cleanup(func() {
			cancel()
			if err := <-stopped; err != nil {
				t.Error(err)
			}
		})
		return sinktest.Harness{Sink: b.sink, Type: b.typ, Read: b.rows}
	})
}
