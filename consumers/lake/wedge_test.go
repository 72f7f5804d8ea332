package lake

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace/pkg/lake"
	"github.com/millrace/millrace/pkg/lake/laketest"
	"github.com/millrace/millrace/pkg/schema/schematest"
	"github.com/millrace/millrace/pkg/stream/sinktest"
	"github.com/millrace/millrace/pkg/telemetry"
)

// TestACommitThatDoesNotComeBack is named with its stack, makes the lake not ready, and ends Run.
func TestACommitThatDoesNotComeBack(t *testing.T) {
	b := newBench(t, schematest.Type(t, "log"))
	b.cfg.Age, b.cfg.Timeout = 10*time.Millisecond, 500*time.Millisecond
	cat, err := laketest.New(b.cfg.Table.Warehouse)
	if err != nil {
		t.Fatal(err)
	}
	s := b.newSink()
	if s.lake, err = lake.NewOn(b.cfg.Table, telemetry.Discard(), cat.Open); err != nil {
		t.Fatal(err)
	}
	var log logBuffer
	s.tel.Log = slog.New(slog.NewTextHandler(&log, nil))
	release, ended := make(chan struct{}), make(chan error, 1)
	cat.Before(func() error { return stuckInCommit(release) })

	m := sinktest.Maker{Type: b.typ, Base: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC), Seed: "x"}
	if _, err := s.Assigned(t.Context(), b.typ.Topic.Name, []int32{0}); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	if err := s.Write(t.Context(), m.Batch(0, 0, 10), func(err error) { done <- err }); err != nil {
		t.Fatal(err)
	}
	go func() { ended <- s.Run(t.Context()) }()
	unready := false
	for deadline := time.Now().Add(time.Minute); ; {
		if err := s.Ready(); err != nil && strings.Contains(err.Error(), "does not come back") {
			unready = true
		}
		select {
		case err := <-ended:
			if err == nil || !strings.Contains(err.Error(), "a commit to table log did not come back") {
				t.Errorf("Run returned %v", err)
			}
		case <-time.After(time.Millisecond):
			if time.Now().After(deadline) {
				t.Fatal("Run did not return")
			}
			continue
		}
		break
	}
	if !unready {
		t.Error("the lake was ready all the time")
	}
	if text := log.String(); strings.Count(text, "a commit does not come back") != 1 || !strings.Contains(text, "stuckInCommit") {
		t.Errorf("the log does not name it once with its stack:\n%s", text)
	}
	if n := read(t, s.metrics.wedged.WithLabelValues("log")); n != 1 {
		t.Errorf("%v wedged commits are counted, want 1", n)
	}

	// It comes back at last, and what came of it is seen once.
	cat.Before(nil)
	close(release)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := s.Revoked(ctx, b.typ.Topic.Name, []int32{0}); err != nil {
		t.Error(err)
	}
	if err := <-done; err != nil {
		t.Errorf("done got %v", err)
	}
	if n := b.count(t); n != 10 {
		t.Errorf("%d rows, want 10", n)
	}
}

// stuckInCommit is named so that the log can be asked for it.
func stuckInCommit(release <-chan struct{}) error {
	<-release
	return errors.New("the disk came back without it")
}

type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
