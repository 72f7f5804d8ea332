package stream

import "sync"

// recordOverhead is what a record costs beside its key and value: the client's struct, the decoded values.
const recordOverhead = 512

// budget bounds the bytes of the records held. Half of the memory is a pool that anyone may fill; the other half is
// shared out evenly, so that a partition whose writes are stuck cannot stop the others. In sum: a partition is paused
// when it is over its share and the pool is full, and the sum never passes the memory by more than one poll.
//
// A partition is resumed under the low mark: half its share, or a pool that is three quarters full.
type budget struct {
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

func newBudget(memory int, pause, resume func(*part)) *budget {
	return &budget{memory: memory, accounts: map[*part]*account{}, pause: pause, resume: resume}
}

func (b *budget) join(p *part) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.accounts[p] = &account{}
}

// leave forgets a partition and what it holds.
func (b *budget) leave(p *part) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if a := b.accounts[p]; a != nil {
		delete(b.accounts, p)
		b.used -= a.held
		b.resumeSome()
	}
}

func (b *budget) add(p *part, n int) {
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
func (b *budget) release(p *part, n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if a := b.accounts[p]; a != nil {
		a.held -= n
		b.used -= n
		b.resumeSome()
	}
}

func (b *budget) resumeSome() {
	for p, a := range b.accounts {
		if a.paused && (a.held < b.share()/2 || b.used < b.memory*3/8) {
			a.paused = false
			b.resume(p)
		}
	}
}

// share is what each partition may hold whatever the others do.
func (b *budget) share() int { return b.memory / 2 / max(1, len(b.accounts)) }

func (b *budget) sharePerPart() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.share()
}

func (b *budget) held() (used, paused int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, a := range b.accounts {
		if a.paused {
			paused++
		}
	}
	return b.used, paused
}

func (b *budget) isPaused(p *part) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	a := b.accounts[p]
	return a != nil && a.paused
}
