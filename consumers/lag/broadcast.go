package lag

import "sync"

// broadcast wakes whoever waits for the next view. Its zero value is ready.
type broadcast struct {
	mu   sync.Mutex
	next chan struct{}
	over bool
}

// wait gives what is closed with the next send, and nil after the last.
func (b *broadcast) wait() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.over {
		return nil
	}
	if b.next == nil {
		b.next = make(chan struct{})
	}
	return b.next
}

func (b *broadcast) send() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.next != nil {
		close(b.next)
		b.next = nil
	}
}

// close sends for the last time.
func (b *broadcast) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.over = true
	if b.next != nil {
		close(b.next)
		b.next = nil
	}
}
