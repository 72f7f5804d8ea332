package stream

import (
	"sync"

	"github.com/millrace/millrace/pkg/config"
)

// recordOverhead is what a record costs beside its key and value: the client's struct, the decoded values.
const recordOverhead = 512

// Budget bounds the bytes of the records that all consumers of a process hold. Half of the memory is a pool that anyone
// may fill; the other half is shared out evenly over the partitions of all consumers, so that a partition whose writes
// are stuck cannot stop the others, nor a destination that is down the other destinations. In sum: a partition is paused
// when it is over its share and the pool is full, and the sum never passes the memory by more than one poll of each
// consumer.
//
// A partition is resumed under the low mark: half its share, or a pool that is three quarters full.
type Budget struct {
	memory int

	mu       sync.Mutex
	used     int
	accounts map[*part]*account
	pause    func(*part)
	resume   func(*part)
}

type account struct {
	held   int
	paused bool
}

// NewBudget makes one of so many bytes.
func NewBudget(memory config.Bytes) *Budget {
	return newBudget(int(memory), func(p *part) { p.c.pause(p) }, func(p *part) { p.c.resume(p) })
}

func newBudget(memory int, pause, resume func(*part)) *Budget {
	return &Budget{memory: memory, accounts: map[*part]*account{}, pause: pause, resume: resume}
}

func (b *Budget) join(p *part) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.accounts[p] = &account{}
}

// leave forgets a partition and what it holds.
func (b *Budget) leave(p *part) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if a := b.accounts[p]; a != nil {
		delete(b.accounts, p)
		b.used -= a.held
		b.resumeSome()
	}
}

func (b *Budget) add(p *part, n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	a := b.accounts[p]
	if a == nil {
		return
	}
	a.held += n
	b.used += n
	if !a.paused && a.held >= b.share() && b.used >= b.memory/2 {
		a.paused = true
		b.pause(p)
	}
}

// release gives back n bytes; after leave it does nothing, since leave gave them all.
func (b *Budget) release(p *part, n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if a := b.accounts[p]; a != nil {
		a.held -= n
		b.used -= n
		b.resumeSome()
	}
}

func (b *Budget) resumeSome() {
	for p, a := range b.accounts {
		if a.paused && (a.held < b.share()/2 || b.used < b.memory*3/8) {
			a.paused = false
			b.resume(p)
		}
	}
}

// share is what each partition may hold whatever the others do.
func (b *Budget) share() int { return b.memory / 2 / max(1, len(b.accounts)) }

func (b *Budget) sharePerPart() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.share()
}

// held is what one consumer holds, and how many of its partitions are paused.
func (b *Budget) held(c *Consumer) (bytes, paused int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for p, a := range b.accounts {
		if p.c != c {
			continue
		}
		bytes += a.held
		if a.paused {
			paused++
		}
	}
	return bytes, paused
}

func (b *Budget) isPaused(p *part) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	a := b.accounts[p]
	return a != nil && a.paused
}
