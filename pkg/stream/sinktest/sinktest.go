// Package sinktest is the contract of stream.Sink as a test suite. A destination is done when it passes, on the real
// server too.
package sinktest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace/millrace/pkg/codec"
	"github.com/millrace/millrace/pkg/schema"
	"github.com/millrace/millrace/pkg/stream"
)

// Harness is one empty destination and how to look into it.
type Harness struct {
	Sink stream.Sink
	Type *schema.Type
	// Topic is the source of the records; "" is the type's own topic.
	Topic string
	// Read gives every visible row by the type's positions, in any order. A row stored twice comes twice.
	Read func(t *testing.T) [][]codec.Value
	// Refuse changes a record so that the destination refuses its content. Nil: it refuses nothing.
	Refuse func(values []codec.Value)
	// Flush makes what was accepted durable, so that the dones come. Nil: the sink does that by itself.
	Flush func(t *testing.T)
	// Huge is how many records the huge batch has; 0 is 5,000.
	Huge int
}

const (
	patience   = 60 * time.Second // for a done
	promptness = 15 * time.Second // for whatever follows a cancelled context
)

// Test runs the suite; newHarness makes a fresh, empty destination for each part.
func Test(t *testing.T, newHarness func(t *testing.T) Harness) {
	t.Helper()
	for _, part := range []struct {
		name string
		run  func(*suite)
	}{
		{"RoundTrip", (*suite).roundTrip},
		{"Replay", (*suite).replay},
		{"PartialFailure", (*suite).partialFailure},
		{"Cancel", (*suite).cancel},
		{"Empty", (*suite).empty},
		{"Huge", (*suite).huge},
		{"Partitions", (*suite).partitions},
	} {
		t.Run(part.name, func(t *testing.T) {
			h := newHarness(t)
			if h.Sink == nil || h.Type == nil || h.Read == nil {
				t.Fatal("the harness needs Sink, Type and Read")
			}
			s := &suite{T: t, Harness: h, maker: Maker{
				Type: h.Type, Topic: h.Topic, Seed: part.name,
				Base: time.Now().Add(-time.Minute).Truncate(time.Hour / 2).UTC(),
			}}
			part.run(s)
			s.doneOnce()
		})
	}
}

type suite struct {
	*testing.T
	Harness

	maker  Maker
	mu     sync.Mutex
	writes []*write
}

// write is one call of Sink.Write.
type write struct {
	refused bool // Write itself returned an error
	dones   atomic.Int32
	result  chan error
}

// start calls Write.
func (s *suite) start(ctx context.Context, b stream.Batch) (*write, error) {
	w := &write{result: make(chan error, 16)}
	s.mu.Lock()
	s.writes = append(s.writes, w)
	s.mu.Unlock()
	err := s.Sink.Write(ctx, b, func(err error) {
		w.dones.Add(1)
		w.result <- err
	})
	w.refused = err != nil
	return w, err
}

// wait waits for done.
func (s *suite) wait(w *write) error {
	select {
	case err := <-w.result:
		return err
	case <-time.After(patience):
		return fmt.Errorf("done was not called within %v", patience)
	}
}

// store writes a batch and waits until it is durable.
func (s *suite) store(b stream.Batch) error {
	w, err := s.start(s.Context(), b)
	if err != nil {
		return fmt.Errorf("writing: %w", err)
	}
	if s.Flush != nil {
		s.Flush(s.T)
	}
	return s.wait(w)
}

// assign tells a Keeper which partitions are its own, and gives where they start.
func (s *suite) assign(partitions ...int32) map[int32]int64 {
	s.Helper()
	k, ok := s.Sink.(stream.Keeper)
	if !ok {
		return nil
	}
	offsets, err := k.Assigned(s.Context(), s.maker.topic(), partitions)
	if err != nil {
		s.Fatalf("assigning: %v", err)
	}
	return offsets
}

// want checks that the destination holds exactly these records, each once, each field as it was.
func (s *suite) want(records ...codec.Record) {
	s.Helper()
	wanted := map[string]string{}
	for _, r := range records {
		wanted[string(r.ID())] = Text(s.Type, r.Values)
	}
	rows := map[string][]string{}
	for _, values := range s.Read(s.T) {
		rows[values[schema.ID].String()] = append(rows[values[schema.ID].String()], Text(s.Type, values))
	}
	wrong := 0
	complain := func(format string, args ...any) {
		s.Helper()
		if wrong++; wrong <= 5 {
			s.Errorf(format, args...)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(wanted)) {
		got := rows[id]
		switch {
		case len(got) == 0:
			complain("record %s is missing", id)
		case len(got) > 1:
			complain("record %s is there %d times", id, len(got))
		case got[0] != wanted[id]:
			complain("record %s differs:\n%s", id, difference(wanted[id], got[0]))
		}
	}
	for id := range rows {
		if _, ok := wanted[id]; !ok {
			complain("record %s was not to be stored", id)
		}
	}
	if wrong > 5 {
		s.Errorf("and %d more of %d", wrong-5, len(wanted))
	}
}

func difference(want, got string) string {
	var b strings.Builder
	g := strings.Split(got, "\n")
	for i, line := range strings.Split(want, "\n") {
		if i >= len(g) || g[i] != line {
			other := "nothing"
			if i < len(g) {
				other = g[i]
			}
			fmt.Fprintf(&b, "  want %.200s\n  got  %.200s\n", line, other)
		}
	}
	return b.String()
}

// doneOnce checks that each accepted batch got one done, and each refused one none.
func (s *suite) doneOnce() {
	s.Helper()
	_, keeps := s.Sink.(stream.Keeper)
	for i, w := range s.writes {
		switch n := w.dones.Load(); {
		case w.refused && n != 0:
			s.Errorf("write %d: Write returned an error and done was called %d times, want 0", i, n)
		case n > 1:
			s.Errorf("write %d: done was called %d times, want once", i, n)
		case !w.refused && n == 0 && !keeps: // a Keeper's lost batches get none
			s.Errorf("write %d: done was never called", i)
		}
	}
}

func asPartial(err error) *stream.PartialError {
	partial, _ := errors.AsType[*stream.PartialError](err)
	return partial
}
