package stream

import "testing"

// A partition that is stuck fills the pool and its share, and every other still has its own share.
func TestBudgetKeepsAShareForEach(t *testing.T) {
	paused := map[*part]bool{}
	b := newBudget(1000, func(p *part) { paused[p] = true }, func(p *part) { delete(paused, p) })
	parts := []*part{{}, {}, {}, {}, {}} // a share is 100, the pool 500
	for _, p := range parts {
		b.join(p)
	}
	for !paused[parts[0]] {
		b.add(parts[0], 50)
	}
	if held, _ := b.held(nil); held != 500 {
		t.Errorf("the stuck partition holds %d, want the pool of 500", held)
	}
	for _, p := range parts[1:] {
		b.add(p, 50)
		if paused[p] {
			t.Error("a partition is paused under its share")
		}
		b.add(p, 50)
		if !paused[p] {
			t.Error("a partition over its share goes on while the pool is full")
		}
	}
	if held, _ := b.held(nil); held > 1000 {
		t.Errorf("%d bytes are held, more than the memory", held)
	}
	b.release(parts[1], 60)
	if paused[parts[1]] {
		t.Error("a partition under the low mark is still paused")
	}
	if !paused[parts[2]] {
		t.Error("a partition over its share was resumed while the pool is full")
	}
	b.leave(parts[0])
	for _, p := range parts[1:] {
		if paused[p] {
			t.Error("a partition is paused after the stuck one left")
		}
	}
	b.release(parts[0], 500) // late
	for _, p := range parts[1:] {
		b.leave(p)
	}
	if held, _ := b.held(nil); held != 0 {
		t.Errorf("%d bytes are held by nobody", held)
	}
}
