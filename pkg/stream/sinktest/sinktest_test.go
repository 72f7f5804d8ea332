package sinktest_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"

	"github.com/millrace/millrace/pkg/codec"
	"github.com/millrace/millrace/pkg/schema"
	"github.com/millrace/millrace/pkg/stream"
	"github.com/millrace/millrace/pkg/stream/sinktest"
)

// store is a keyed store in memory: the least that the contract asks for.
type store struct {
	mu   sync.Mutex
	rows map[string][]codec.Value
}

const refused = "refuse me"

func (s *store) Write(ctx context.Context, b stream.Batch, done func(error)) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	go func() { done(s.put(b)) }()
	return nil
}

func (s *store) put(b stream.Batch) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	failed := map[int]error{}
	for i := range b.Records {
		r := &b.Records[i]
		if slices.ContainsFunc(r.Values, func(v codec.Value) bool { return string(v.Bytes()) == refused }) {
			failed[i] = errors.New("it asked for it")
			continue
		}
		s.rows[string(r.ID())] = r.Values
	}
	if len(failed) > 0 {
		return &stream.PartialError{Failed: failed}
	}
	return nil
}

func (s *store) read(*testing.T) [][]codec.Value {
	s.mu.Lock()
	defer s.mu.Unlock()
	var rows [][]codec.Value
	for _, r := range s.rows {
		rows = append(rows, r)
	}
	return rows
}

// table keeps its offsets with its rows.
type table struct {
	mu   sync.Mutex
	next map[int32]int64
	at   map[int32]int64
	held map[int32][]held
	rows [][]codec.Value
}

type held struct {
	batch stream.Batch
	done  func(error)
}

func (k *table) Assigned(_ context.Context, _ string, partitions []int32) (map[int32]int64, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	known := map[int32]int64{}
	for _, p := range partitions {
		if next, ok := k.next[p]; ok {
			known[p] = next
		}
		k.at[p] = k.next[p]
	}
	return known, nil
}

func (k *table) Write(ctx context.Context, b stream.Batch, done func(error)) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if b.First != k.at[b.Partition] {
		return stream.ErrReseek
	}
	k.at[b.Partition] = b.Next
	k.held[b.Partition] = append(k.held[b.Partition], held{b, done})
	return nil
}

func (k *table) flush(*testing.T) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for p, hs := range k.held {
		for _, h := range hs {
			for i := range h.batch.Records {
				k.rows = append(k.rows, h.batch.Records[i].Values)
			}
			k.next[p] = h.batch.Next
			h.done(nil)
		}
	}
	clear(k.held)
}

func (k *table) Revoked(context.Context, string, []int32) error { k.flush(nil); return nil }

func (k *table) Lost(_ string, partitions []int32) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, p := range partitions {
		delete(k.held, p)
		delete(k.at, p)
	}
}

func (k *table) read(*testing.T) [][]codec.Value {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.rows)
}

func types(t *testing.T) []*schema.Type {
	t.Helper()
	all, err := schema.Builtin()
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestKeyedStore(t *testing.T) {
	for _, typ := range types(t) {
		t.Run(typ.Name, func(t *testing.T) {
			sinktest.Test(t, func(*testing.T) sinktest.Harness {
				s := &store{rows: map[string][]codec.Value{}}
				return sinktest.Harness{
					Sink: s, Type: typ, Read: s.read,
					Refuse: func(values []codec.Value) { values[schema.Service] = codec.StringValue(refused) },
				}
			})
		})
	}
}

func TestKeeper(t *testing.T) {
	for _, typ := range types(t) {
		t.Run(typ.Name, func(t *testing.T) {
			sinktest.Test(t, func(*testing.T) sinktest.Harness {
				k := &table{next: map[int32]int64{}, at: map[int32]int64{}, held: map[int32][]held{}}
				return sinktest.Harness{Sink: k, Type: typ, Read: k.read, Flush: k.flush}
			})
		})
	}
}

// The records cover what destinations get wrong: if a kind's limits or nulls are missing, no suite would notice.
func TestRecordsCoverTheLimits(t *testing.T) {
	for _, typ := range types(t) {
		m := sinktest.Maker{Type: typ}
		for i, f := range typ.Fields {
			if i < schema.Common {
				continue
			}
			seen := map[string]bool{}
			nulls := false
			for offset := range int64(60) {
				r := m.Record(0, offset)
				seen[sinktest.Text(typ, r.Values)] = true
				nulls = nulls || r.Values[i].IsNull()
			}
			if nulls != f.Nullable {
				t.Errorf("%s.%s: nulls %v, want %v", typ.Name, f.Name, nulls, f.Nullable)
			}
		}
		a, b := m.Record(1, 7), m.Record(1, 7)
		if sinktest.Text(typ, a.Values) != sinktest.Text(typ, b.Values) {
			t.Errorf("%s: the same offset made two records", typ.Name)
		}
	}
}
