package lake

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/apache/iceberg-go/catalog"

	"github.com/millrace/millrace/pkg/lake"
	"github.com/millrace/millrace/pkg/lake/laketest"
	"github.com/millrace/millrace/pkg/schema/schematest"
	"github.com/millrace/millrace/pkg/stream"
	"github.com/millrace/millrace/pkg/stream/sinktest"
	"github.com/millrace/millrace/pkg/telemetry"
)

// TestClassOfWhatGoesWrong: the lake refuses no record. Whatever its disk or its catalog says is an outage: nobody is told
// that the rows are stored, none of them is called bad, and when it is over they are there once.
func TestClassOfWhatGoesWrong(t *testing.T) {
	for _, wrong := range []error{
		syscall.ENOSPC, syscall.EACCES, syscall.ECONNREFUSED, errors.New("403 Forbidden"), errors.New("500 Internal Server Error"),
		errors.New("400 Bad Request: the schema is not supported"), catalog.ErrNoSuchTable,
	} {
		for _, before := range []bool{true, false} { // it struck, or it had taken effect already
			t.Run(fmt.Sprintf("%v, before the commit: %t", wrong, before), func(t *testing.T) {
				t.Parallel()
				b := newBench(t, schematest.Type(t, "log"))
				cat, err := laketest.New(b.cfg.Table.Warehouse)
				if err != nil {
					t.Fatal(err)
				}
				s := b.newSink()
				if s.lake, err = lake.NewOn(b.cfg.Table, telemetry.Discard(), cat.Open); err != nil {
					t.Fatal(err)
				}
				m := sinktest.Maker{Type: b.typ, Base: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC), Seed: "x"}
				topic := b.typ.Topic.Name
				if _, err := s.Assigned(t.Context(), topic, []int32{0}); err != nil {
					t.Fatal(err)
				}
				var dones []error
				if err := s.Write(t.Context(), m.Batch(0, 0, 10), func(err error) { dones = append(dones, err) }); err != nil {
					t.Fatal(err)
				}
				hook := cat.After
				if before {
					hook = cat.Before
				}
				struck := false
				hook(func() error { struck = true; return wrong })
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				if err := s.committers()[0].flush(ctx); before && stream.Classify(err) != stream.ClassOutage {
					t.Errorf("class %s of %v", stream.Classify(err), err)
				}
				for _, err := range dones {
					if class := stream.Classify(err); err != nil && class != stream.ClassOutage || err == nil && before {
						t.Errorf("done got %v, of class %s", err, class)
					}
				}
				hook(nil)
				if err := b.flush(s); err != nil {
					t.Error(err)
				}
				if n := b.count(t); n != 10 || !struck {
					t.Errorf("%d rows, want 10; it struck: %t", n, struck)
				}
			})
		}
	}
}
