// Package ledger knows, for each partition, up to where everything is durable: the longest prefix of what was fetched
// whose every part was acknowledged. Only that may be committed.
//
// It is pure: no clock, no I/O, no lock. Every acknowledgement carries the claim under which its records were fetched,
// so one that comes after the partition was given up, even if it was assigned again since, is void. That is the whole
// point: a client that marks such a late one rewinds the commit of the partition's next owner.
package ledger

// Key names a partition.
type Key struct {
	Topic     string
	Partition int32
}

// Claim is one assignment of one partition. Claims of the same ledger are never reused.
type Claim struct {
	Key
	epoch uint64
}

// Mark is what is known of the last record of a range; it goes with the commit.
type Mark struct {
	LeaderEpoch int32
	Time        int64 // append time in milliseconds
}

// Position is what may be committed: everything below Offset is durable.
type Position struct {
	Claim  Claim
	Offset int64
	Mark   Mark
	Again  bool // it is committed already, and is to be once more, for what goes with it
}

// Ledger holds the partitions that are assigned.
type Ledger struct {
	epoch      uint64
	partitions map[Key]*partition
}

type partition struct {
	epoch     uint64
	fetched   int64 // end of what was fetched
	durable   int64 // end of the contiguous prefix
	committed int64
	mark      Mark
	done      map[int64]span // acknowledged ranges beyond durable, by their first offset
}

type span struct {
	next int64
	mark Mark
}

// New makes an empty ledger.
func New() *Ledger { return &Ledger{partitions: map[Key]*partition{}} }

// Assign begins a claim on a partition from an offset on. An earlier claim on it is void from here. What is below start is
// durable; where the last commit is below it, as after a crash of a process whose destination keeps its own offsets, it is
// to be committed, though nothing may ever come after it.
func (l *Ledger) Assign(k Key, start, committed int64) Claim {
	l.epoch++
	l.partitions[k] = &partition{
		epoch: l.epoch, fetched: start, durable: start, committed: min(committed, start),
		mark: Mark{LeaderEpoch: -1}, done: map[int64]span{},
	}
	return Claim{Key: k, epoch: l.epoch}
}

// Renew ends a claim and begins another on the same partition where its durable prefix ends. What is durable and not
// committed stays so. It gives the zero Claim where the claim is void.
func (l *Ledger) Renew(c Claim) (now Claim, start int64, ok bool) {
	p := l.get(c)
	if p == nil {
		return Claim{}, 0, false
	}
	l.epoch++
	p.epoch, p.fetched, p.done = l.epoch, p.durable, map[int64]span{}
	return Claim{Key: c.Key, epoch: l.epoch}, p.durable, true
}

// Revoke ends a claim. It says whether the claim was still good.
func (l *Ledger) Revoke(c Claim) bool {
	if l.get(c) == nil {
		return false
	}
	delete(l.partitions, c.Key)
	return true
}

// Valid says whether a claim is still good.
func (l *Ledger) Valid(c Claim) bool { return l.get(c) != nil }

func (l *Ledger) get(c Claim) *partition {
	if p := l.partitions[c.Key]; p != nil && p.epoch == c.epoch {
		return p
	}
	return nil
}

// Fetched says that the range up to next was taken in. Ranges follow each other without a gap: the first begins at the
// claim's start. It gives the range's first offset; ok is false where the claim is void or the range is empty.
func (l *Ledger) Fetched(c Claim, next int64) (first int64, ok bool) {
	p := l.get(c)
	if p == nil || next <= p.fetched {
		return 0, false
	}
	first, p.fetched = p.fetched, next
	return first, true
}

// Done says that the range [first, next) is durable. Ranges may be done in any order. It says whether the durable
// prefix grew; it never does for a void claim, nor for a range that was not fetched or was done before.
func (l *Ledger) Done(c Claim, first, next int64, m Mark) bool {
	p := l.get(c)
	if p == nil || first < p.durable || next <= first || next > p.fetched {
		return false
	}
	if first > p.durable {
		p.done[first] = span{next, m}
		return false
	}
	p.durable, p.mark = next, m
	for {
		s, ok := p.done[p.durable]
		if !ok {
			return true
		}
		delete(p.done, p.durable)
		p.durable, p.mark = s.next, s.mark
	}
}

// Durable gives the end of the durable prefix, and that of what was fetched.
func (l *Ledger) Durable(c Claim) (durable, fetched int64, ok bool) {
	p := l.get(c)
	if p == nil {
		return 0, 0, false
	}
	return p.durable, p.fetched, true
}

// Uncommitted gives the positions that are ahead of the last commit.
func (l *Ledger) Uncommitted() []Position {
	var out []Position
	for k, p := range l.partitions {
		if p.durable > p.committed {
			out = append(out, Position{Claim: Claim{Key: k, epoch: p.epoch}, Offset: p.durable, Mark: p.mark})
		}
	}
	return out
}

// Standing gives the last committed position of a claim, to commit it again, where everything durable is committed. Without
// a commit in this claim it is the claim's start, and its mark has no time and no epoch, which is -1.
func (l *Ledger) Standing(c Claim) (Position, bool) {
	p := l.get(c)
	if p == nil || p.durable > p.committed {
		return Position{}, false
	}
	return Position{Claim: c, Offset: p.committed, Mark: p.mark, Again: true}, true
}

// Current says whether a position may still be sent to the broker: its claim is good and no later commit is known.
func (l *Ledger) Current(pos Position) bool {
	p := l.get(pos.Claim)
	if p == nil || pos.Again {
		return p != nil && pos.Offset == p.committed
	}
	return pos.Offset > p.committed && pos.Offset <= p.durable
}

// Committed says that the broker has taken a position. A commit that failed is simply not reported: the position stays
// uncommitted.
func (l *Ledger) Committed(pos Position) bool {
	if !l.Current(pos) {
		return false
	}
	l.get(pos.Claim).committed = pos.Offset
	return true
}

// Commit gives the last committed offset of a claim.
func (l *Ledger) Commit(c Claim) (int64, bool) {
	p := l.get(c)
	if p == nil {
		return 0, false
	}
	return p.committed, true
}
