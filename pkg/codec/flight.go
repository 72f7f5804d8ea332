package codec

import (
	"context"
	"errors"
	"sync"
)

// flights lets many goroutines that want the same answer wait for one call.
type flights struct {
	mu    sync.Mutex
	calls map[string]*call
}

type call struct {
	done chan struct{}
	err  error
}

// do runs fn, unless it is running for the same key already: then it waits for that one's end. A wait that ends because
// the caller in front gave up starts again.
func (f *flights) do(ctx context.Context, key string, fn func(context.Context) error) error {
	for {
		f.mu.Lock()
		c := f.calls[key]
		if c == nil {
			break
		}
		f.mu.Unlock()
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-c.done:
		}
		if !errors.Is(c.err, errGaveUp) {
			return c.err
		}
	}
	c := &call{done: make(chan struct{})}
	if f.calls == nil {
		f.calls = map[string]*call{}
	}
	f.calls[key] = c
	f.mu.Unlock()

	err := fn(ctx)
	c.err = err
	if ctx.Err() != nil {
		c.err = errGaveUp
	}
	f.mu.Lock()
	delete(f.calls, key)
	f.mu.Unlock()
	close(c.done)
	return err
}

var errGaveUp = errors.New("the caller gave up")
