package lake

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/millrace/millrace/pkg/config"
	"github.com/millrace/millrace/pkg/schema/schematest"
	"github.com/millrace/millrace/pkg/stream"
	"github.com/millrace/millrace/pkg/stream/sinktest"
)

// holding gives a sink that holds one batch of partitions 0 and 1 each.
func holding(t *testing.T, change func(*Config)) (b *bench, m sinktest.Maker, dones map[int32]*[]error) {
	t.Helper()
	b = newBench(t, schematest.Type(t, "log"))
	change(&b.cfg)
	b.sink = b.newSink()
	m = sinktest.Maker{Type: b.typ, Base: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC), Seed: "x"}
	if _, err := b.sink.Assigned(t.Context(), b.typ.Topic.Name, []int32{0, 1}); err != nil {
		t.Fatal(err)
	}
	dones = map[int32]*[]error{0: {}, 1: {}}
	for p := range int32(2) {
		if err := b.sink.Write(t.Context(), m.Batch(p, 0, 10), func(err error) { *dones[p] = append(*dones[p], err) }); err != nil {
			t.Fatal(err)
		}
	}
	return b, m, dones
}

// TestWriteWaitsForRoom: at the bound Write does not return before a commit has made room, or its context ends.
func TestWriteWaitsForRoom(t *testing.T) {
	b, m, _ := holding(t, func(c *Config) { c.Bytes = config.Bytes(1 << 10) })
	if err := b.sink.Write(t.Context(), m.Batch(1, 10, 20), func(error) {}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := b.sink.Write(ctx, m.Batch(0, 10, 20), func(error) {}); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v, want the context's end", err)
	}
	written := make(chan error, 1)
	go func() { written <- b.sink.Write(t.Context(), m.Batch(0, 10, 20), func(error) {}) }()
	if err := b.flush(b.sink); err != nil {
		t.Fatal(err)
	}
	if err := <-written; err != nil {
		t.Error(err)
	}
}

// TestLostRowsAreNotCommitted takes a lost partition's rows out; where they are in a row group, all start again.
func TestLostRowsAreNotCommitted(t *testing.T) {
	for name, rows := range map[string]int{"in memory": 1000, "in a row group": 5} {
		t.Run(name, func(t *testing.T) {
			b, _, dones := holding(t, func(c *Config) { c.GroupRows = rows })
			b.sink.Lost(b.typ.Topic.Name, []int32{0})
			if err := b.flush(b.sink); err != nil {
				t.Fatal(err)
			}
			wantRows := 10
			if rows == 5 {
				wantRows = 0
			}
			if n := b.count(t); n != wantRows || len(*dones[0]) != 0 || len(*dones[1]) != 1 {
				t.Fatalf("%d rows; dones %v and %v", n, *dones[0], *dones[1])
			}
			if err := (*dones[1])[0]; (err == nil) != (wantRows > 0) || err != nil && !errors.Is(err, stream.ErrReseek) {
				t.Errorf("the other partition's done got %v", err)
			}
			at, err := b.sink.Assigned(t.Context(), b.typ.Topic.Name, []int32{0, 1})
			if _, known := at[0]; err != nil || known || at[1] != int64(wantRows) {
				t.Errorf("they start at %v (%v)", at, err)
			}
		})
	}
}

func TestAGapIsRefused(t *testing.T) {
	b, m, _ := holding(t, func(*Config) {})
	for _, first := range []int64{0, 5, 11} {
		if err := b.sink.Write(t.Context(), m.Batch(0, first, 30), func(error) {}); !errors.Is(err, stream.ErrReseek) {
			t.Errorf("a batch from %d gave %v, want stream.ErrReseek", first, err)
		}
	}
	if err := b.sink.Write(t.Context(), m.Batch(7, 0, 1), func(error) {}); !errors.Is(err, stream.ErrReseek) {
		t.Errorf("a partition that is not assigned gave %v, want stream.ErrReseek", err)
	}
}

// TestAFileThatCannotBeWrittenStartsAgain has the folder of the data files be a file.
func TestAFileThatCannotBeWrittenStartsAgain(t *testing.T) {
	b, m, dones := holding(t, func(*Config) {})
	data := filepath.Join(b.cfg.Table.Warehouse, "millrace", "log", "data")
	if err := os.WriteFile(data, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := b.flush(b.sink); err == nil {
		t.Fatal("the commit went through")
	}
	for p, got := range dones {
		if len(*got) != 1 || (*got)[0] == nil {
			t.Errorf("partition %d: dones got %v", p, *got)
		}
	}
	if err := os.Remove(data); err != nil {
		t.Fatal(err)
	}
	topic := b.typ.Topic.Name
	b.sink.Lost(topic, []int32{0, 1})
	if at, err := b.sink.Assigned(t.Context(), topic, []int32{0}); err != nil || len(at) != 0 {
		t.Fatalf("it starts at %v (%v)", at, err)
	}
	if err := b.sink.Write(t.Context(), m.Batch(0, 0, 10), func(error) {}); err != nil {
		t.Fatal(err)
	}
	if err := b.sink.Revoked(t.Context(), topic, []int32{0}); err != nil {
		t.Fatal(err)
	}
	if n := b.count(t); n != 10 {
		t.Errorf("%d rows, want 10", n)
	}
}

func TestMetrics(t *testing.T) {
	b, _, _ := holding(t, func(*Config) {})
	if held := read(t, b.sink.metrics.held.WithLabelValues("log")); held < 20*rowFloor {
		t.Errorf("%v bytes held, want at least %d", held, 20*rowFloor)
	}
	if err := b.flush(b.sink); err != nil {
		t.Fatal(err)
	}
	m := b.sink.metrics
	through := time.Date(2026, 3, 1, 12, 0, 1, 0, time.UTC)
	for name, c := range map[string]struct{ got, want float64 }{
		"rows":    {read(t, m.rows.WithLabelValues("log")), 20},
		"files":   {read(t, m.files.WithLabelValues("log")), 1},
		"commits": {read(t, m.commits.WithLabelValues("log")), 1},
		"held":    {read(t, m.held.WithLabelValues("log")), 0},
		"through": {float64(int64(read(t, m.validThrough.WithLabelValues("log")))), float64(through.Unix())},
	} {
		if c.got != c.want {
			t.Errorf("%s: %v, want %v", name, c.got, c.want)
		}
	}
}

// rowFloor is the least that a row is counted as.
const rowFloor = 256

func read(t *testing.T, m prometheus.Metric) float64 {
	t.Helper()
	var out dto.Metric
	if err := m.Write(&out); err != nil {
		t.Fatal(err)
	}
	return out.GetCounter().GetValue() + out.GetGauge().GetValue()
}
