package client

import (
	"context"
	"sync"
)

// budget bounds what is buffered, in records and bytes. It is ours, and not the Kafka client's, because that one tells
// a shed record through its callback: too late for a caller who must know whether the record was taken.
type budget struct {
	mu       sync.Mutex
	records  int
	bytes    int
	pending  int           // records whose callback has not returned
	free     chan struct{} // closed and replaced when something is given back and somebody waits
	waiting  int
	maxCount int
	maxBytes int
	closed   bool
}

func newBudget(records, bytes int) *budget {
	return &budget{maxCount: records, maxBytes: bytes, free: make(chan struct{})}
}

// take reserves room for one record of that size. Without block it gives ErrFull where there is none.
func (b *budget) take(ctx context.Context, size int, block bool) error {
	if size > b.maxBytes {
		return ErrTooLarge
	}
	for {
		b.mu.Lock()
		switch {
		case b.closed:
			b.mu.Unlock()
			return ErrClosed
		case b.records < b.maxCount && b.bytes+size <= b.maxBytes:
			b.records++
			b.bytes += size
			b.pending++
			b.mu.Unlock()
			return nil
		case !block:
			b.mu.Unlock()
			return ErrFull
		}
		free := b.free
		b.waiting++
		b.mu.Unlock()
		select {
		case <-free:
		case <-ctx.Done():
			b.mu.Lock()
			b.waiting--
			b.mu.Unlock()
			return context.Cause(ctx)
		}
		b.mu.Lock()
		b.waiting--
		b.mu.Unlock()
	}
}

func (b *budget) give(size int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.records--
	b.bytes -= size
	b.wake()
}

// finish says that a record's callback has returned.
func (b *budget) finish() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.pending--
	b.wake()
}

// close lets nobody in any more, also those who wait.
func (b *budget) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	b.wake()
}

func (b *budget) wake() {
	if b.waiting > 0 {
		close(b.free)
		b.free = make(chan struct{})
	}
}

// wait returns when no callback is out, or ctx has ended. Nothing comes in any more when it is called.
func (b *budget) wait(ctx context.Context) {
	for {
		b.mu.Lock()
		if b.pending == 0 {
			b.mu.Unlock()
			return
		}
		free := b.free
		b.waiting++
		b.mu.Unlock()
		select {
		case <-free:
		case <-ctx.Done():
		}
		b.mu.Lock()
		b.waiting--
		b.mu.Unlock()
		if ctx.Err() != nil {
			return
		}
	}
}
