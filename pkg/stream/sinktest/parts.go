package sinktest

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/millrace/millrace/pkg/codec"
	"github.com/millrace/millrace/pkg/stream"
)

func (s *suite) roundTrip() {
	s.assign(0)
	b := s.maker.Batch(0, 0, 60)
	if err := s.store(b); err != nil {
		s.Fatalf("storing: %v", err)
	}
	s.want(b.Records...)
}

// replay sends batches again, as after a crash: in whole, and cut in other places.
func (s *suite) replay() {
	k, keeps := s.Sink.(stream.Keeper)
	s.assign(0)
	b := s.maker.Batch(0, 0, 40)
	if keeps {
		// A Keeper is replayed from its own offset, so what was accepted and not yet committed comes again.
		if _, err := s.start(s.Context(), b); err != nil {
			s.Fatalf("writing: %v", err)
		}
		k.Lost(s.maker.topic(), []int32{0})
		if at := s.assign(0)[0]; at != 0 {
			s.Fatalf("after a loss before the commit the partition starts at %d, want 0", at)
		}
	}
	if err := s.store(b); err != nil {
		s.Fatalf("storing: %v", err)
	}
	if keeps {
		k.Lost(s.maker.topic(), []int32{0})
		if at := s.assign(0)[0]; at != 40 {
			s.Errorf("after the commit the partition starts at %d, want 40", at)
		}
		s.want(b.Records...)
		return
	}
	for _, cut := range []stream.Batch{b, s.maker.Batch(0, 0, 25), s.maker.Batch(0, 20, 50)} {
		if err := s.store(cut); err != nil {
			s.Fatalf("storing [%d, %d) again: %v", cut.First, cut.Next, err)
		}
	}
	s.want(s.maker.Batch(0, 0, 50).Records...)
}

// partialFailure has records in a batch that can never be stored: they are named, the others are stored.
func (s *suite) partialFailure() {
	if s.Refuse == nil {
		return
	}
	s.assign(0)
	b := s.maker.Batch(0, 0, 30)
	bad := []int{0, 7, 29}
	for _, i := range bad {
		s.Refuse(b.Records[i].Values)
	}
	err := s.store(b)
	partial := asPartial(err)
	if partial == nil {
		s.Fatalf("done gave %v, want a *stream.PartialError", err)
	}
	var named []int
	for i, reason := range partial.Failed {
		named = append(named, i)
		if reason == nil {
			s.Errorf("record %d is refused without a reason", i)
		}
	}
	slices.Sort(named)
	if !slices.Equal(named, bad) {
		s.Errorf("records %v are named as refused, want %v", named, bad)
	}
	var good []codec.Record
	for i, r := range b.Records {
		if !slices.Contains(bad, i) {
			good = append(good, r)
		}
	}
	s.want(good...)
}

// cancel ends the context under a write. Whatever came of it, the same batch stores everything later.
func (s *suite) cancel() {
	s.assign(0)
	for name, after := range map[string]time.Duration{"before the write": 0, "during the write": time.Millisecond} {
		ctx, cancel := context.WithCancel(s.Context())
		if after == 0 {
			cancel()
		} else {
			time.AfterFunc(after, cancel)
		}
		begun := time.Now()
		w, err := s.start(ctx, s.maker.Batch(0, 0, 200))
		if took := time.Since(begun); took > promptness {
			s.Errorf("cancelled %s, Write returned after %v", name, took)
		}
		if k, ok := s.Sink.(stream.Keeper); ok {
			// A Keeper's context bounds the call only, and what it accepted is its own; it is told to forget.
			k.Lost(s.maker.topic(), []int32{0})
			if at := s.assign(0)[0]; at != 0 {
				s.Fatalf("cancelled %s, the partition starts at %d, want 0", name, at)
			}
		} else if err == nil {
			select {
			case result := <-w.result:
				s.Logf("cancelled %s: %v", name, result)
			case <-time.After(promptness):
				s.Errorf("cancelled %s, done was not called within %v", name, promptness)
			}
		}
		cancel()
	}
	b := s.maker.Batch(0, 0, 200)
	if err := s.store(b); err != nil {
		s.Fatalf("storing what was cancelled: %v", err)
	}
	s.want(b.Records...)
}

// empty is a range of which no record is left: control records, or dead letters.
func (s *suite) empty() {
	s.assign(0)
	b := s.maker.Batch(0, 0, 0)
	b.Next, b.Dead = 3, 3
	if err := s.store(b); err != nil {
		s.Fatalf("storing a batch without records: %v", err)
	}
	s.want()
	if _, ok := s.Sink.(stream.Keeper); ok {
		s.Sink.(stream.Keeper).Lost(s.maker.topic(), []int32{0})
		if at := s.assign(0)[0]; at != 3 {
			s.Errorf("after an advance without rows the partition starts at %d, want 3", at)
		}
	}
}

func (s *suite) huge() {
	s.assign(0)
	n := s.Huge
	if n == 0 {
		n = 5000
	}
	b := s.maker.Batch(0, 0, int64(n))
	for _, f := range s.Type.Elasticsearch.Text { // full text may be long, keywords may not
		b.Records[n/2].Values[f] = codec.StringValue(strings.Repeat("żółć 東京 ", 10_000))
		break
	}
	if err := s.store(b); err != nil {
		s.Fatalf("storing %d records: %v", n, err)
	}
	s.want(b.Records...)
}

// partitions writes several partitions at once, several batches of each.
func (s *suite) partitions() {
	const parts, batches, size = 4, 5, 20
	s.assign(0, 1, 2, 3)
	var wg sync.WaitGroup
	errs := make(chan error, parts*batches)
	var pending sync.WaitGroup
	for p := range int32(parts) {
		wg.Go(func() {
			for n := range int64(batches) {
				w, err := s.start(s.Context(), s.maker.Batch(p, n*size, (n+1)*size))
				if err != nil {
					errs <- err
					return
				}
				pending.Go(func() { errs <- s.wait(w) })
			}
		})
	}
	wg.Wait()
	if s.Flush != nil {
		s.Flush(s.T)
	}
	pending.Wait()
	close(errs)
	var all []error
	for err := range errs {
		all = append(all, err)
	}
	if err := errors.Join(all...); err != nil {
		s.Fatalf("storing: %v", err)
	}
	var want []codec.Record
	for p := range int32(parts) {
		want = append(want, s.maker.Batch(p, 0, batches*size).Records...)
	}
	s.want(want...)
}
