package lake

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/millrace/millrace/pkg/lake"
	"github.com/millrace/millrace/pkg/schema/schematest"
	"github.com/millrace/millrace/pkg/stream"
	"github.com/millrace/millrace/pkg/stream/sinktest"
)

// TestUpkeepOnASchedule has a running sink merge what it wrote itself, of a day that is over, and remove what is nobody's.
func TestUpkeepOnASchedule(t *testing.T) {
	b := newBench(t, schematest.Type(t, "log"))
	b.cfg.Upkeep.Every = 20 * time.Millisecond
	s := b.newSink()
	topic := b.typ.Topic.Name
	if _, err := s.Assigned(t.Context(), topic, []int32{0}); err != nil {
		t.Fatal(err)
	}
	maker := sinktest.Maker{Type: b.typ, Base: time.Now().Add(-72 * time.Hour).UTC().Truncate(24 * time.Hour), Seed: "upkeep"}
	for o := range int64(5) {
		batch := stream.Batch{Topic: topic, First: o, Next: o + 1, Type: b.typ, Bytes: 100}
		batch.Records = append(batch.Records, maker.Record(0, o))
		if err := s.Write(t.Context(), batch, func(error) {}); err != nil {
			t.Fatal(err)
		}
		if err := b.flush(s); err != nil {
			t.Fatal(err)
		}
	}
	nobodys := filepath.Join(b.cfg.Table.Warehouse, "millrace", "log", "data", "nobodys.parquet")
	if err := os.WriteFile(nobodys, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	old := time.Now().Add(-100 * time.Hour)
	if err := os.Chtimes(nobodys, old, old); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	stopped := make(chan error, 1)
	go func() { stopped <- s.Run(ctx) }()
	deadline := time.After(time.Minute)
	for {
		_, err := os.Stat(nobodys)
		if os.IsNotExist(err) && read(t, s.metrics.merged.WithLabelValues("log")) == 5 {
			break
		}
		select {
		case <-deadline:
			t.Fatalf("not looked after; of nobody's file: %v", err)
		case <-time.After(10 * time.Millisecond):
		}
	}
	stop()
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	tb, err := s.lake.Open(t.Context(), b.typ)
	if err != nil {
		t.Fatal(err)
	}
	files, ferr := tb.Files(t.Context())
	v, err := tb.Verify(t.Context(), 1<<20)
	if ferr != nil || err != nil || len(files) != 1 || !v.OK() || v.Rows != 5 {
		t.Errorf("%d files, %+v (%v, %v)", len(files), v, ferr, err)
	}
	if n := read(t, s.metrics.neglected.WithLabelValues("log")); n != 0 {
		t.Errorf("%v rounds failed", n)
	}
	cfg := b.cfg
	cfg.Upkeep = Upkeep{Every: -1, Orphans: lake.MinOrphanAge - 1}
	if err := cfg.Validate(); err == nil {
		t.Error("nonsense is valid")
	}
}
