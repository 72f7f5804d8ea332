package ledger_test

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/millrace/millrace/pkg/stream/ledger"
)

// The oracle is as naive as can be: one boolean per offset and owner. It stands for the destination (what is stored)
// and the broker (what is committed); the ledger must never let a commit pass a record that is not stored, nor let a
// commit go back, and must let it go as far as it may.
type oracle struct {
	claim   ledger.Claim
	held    bool
	start   int64
	fetched int64
	acked   map[int64]bool // by this owner
	commit  int64          // at the broker
	stored  map[int64]bool // ever, by anyone
}

func (o *oracle) prefix() int64 {
	n := o.start
	for n < o.fetched && o.acked[n] {
		n++
	}
	return n
}

type batch struct {
	part        int
	claim       ledger.Claim
	first, next int64
}

type world struct {
	t       *rapid.T
	ledger  *ledger.Ledger
	parts   []*oracle
	flying  []batch           // fetched, not acknowledged
	pending []ledger.Position // commits under way
}

func key(i int) ledger.Key { return ledger.Key{Topic: "t", Partition: int32(i)} }

func (w *world) part() (int, *oracle) {
	i := rapid.IntRange(0, len(w.parts)-1).Draw(w.t, "partition")
	return i, w.parts[i]
}

func (w *world) assign(*rapid.T) {
	i, o := w.part()
	// The broker's commit is where a new owner starts, also when the ledger was not told of a revoke (kgo may assign
	// again what a failed session held).
	o.claim, o.held = w.ledger.Assign(key(i), o.commit, o.commit), true
	o.start, o.fetched, o.acked = o.commit, o.commit, map[int64]bool{}
}

func (w *world) fetch(t *rapid.T) {
	i, o := w.part()
	if !o.held {
		t.Skip("not assigned")
	}
	next := o.fetched + rapid.Int64Range(1, 5).Draw(t, "n")
	first, ok := w.ledger.Fetched(o.claim, next)
	if !ok || first != o.fetched {
		t.Fatalf("fetched up to %d: got %d, %v; want %d, true", next, first, ok, o.fetched)
	}
	w.flying = append(w.flying, batch{i, o.claim, first, next})
	o.fetched = next
}

// ack acknowledges any batch in flight, of whichever owner.
func (w *world) ack(t *rapid.T) {
	if len(w.flying) == 0 {
		t.Skip("nothing in flight")
	}
	n := rapid.IntRange(0, len(w.flying)-1).Draw(t, "batch")
	b := w.flying[n]
	if rapid.Bool().Draw(t, "once") { // else the same acknowledgement can come again
		w.flying = append(w.flying[:n], w.flying[n+1:]...)
	}
	o := w.parts[b.part]
	before := o.prefix()
	live := o.held && b.claim == o.claim
	for off := b.first; off < b.next; off++ {
		o.stored[off] = true
		if live {
			o.acked[off] = true
		}
	}
	grew := w.ledger.Done(b.claim, b.first, b.next, ledger.Mark{Time: b.next})
	if want := live && o.prefix() > before; grew != want {
		t.Fatalf("done [%d, %d): grew %v, want %v", b.first, b.next, grew, want)
	}
}

func (w *world) revoke(t *rapid.T) {
	_, o := w.part()
	if !o.held {
		t.Skip("not assigned")
	}
	if !w.ledger.Revoke(o.claim) {
		t.Fatal("a good claim was refused")
	}
	o.held = false
}

// renew starts a partition again from what is durable.
func (w *world) renew(t *rapid.T) {
	_, o := w.part()
	if !o.held {
		t.Skip("not assigned")
	}
	claim, start, ok := w.ledger.Renew(o.claim)
	if !ok || start != o.prefix() {
		t.Fatalf("renewed at %d, %v; want %d, true", start, ok, o.prefix())
	}
	if _, _, ok := w.ledger.Renew(o.claim); ok {
		t.Fatal("a void claim was renewed")
	}
	// What was committed stays so, and what is durable can still be committed: start is where prefix begins.
	o.claim, o.fetched = claim, start
	for off := range o.acked {
		if off >= start {
			delete(o.acked, off)
		}
	}
}

func (w *world) collect(*rapid.T) { w.pending = append(w.pending, w.ledger.Uncommitted()...) }

// again collects a position that is committed already.
func (w *world) again(*rapid.T) {
	_, o := w.part()
	if pos, ok := w.ledger.Standing(o.claim); ok {
		w.pending = append(w.pending, pos)
	}
}

// commit sends a collected position, perhaps long after; the broker takes it or fails.
func (w *world) commit(t *rapid.T) {
	if len(w.pending) == 0 {
		t.Skip("nothing collected")
	}
	n := rapid.IntRange(0, len(w.pending)-1).Draw(t, "position")
	pos := w.pending[n]
	w.pending = append(w.pending[:n], w.pending[n+1:]...)
	if !w.ledger.Current(pos) || rapid.Bool().Draw(t, "fails") {
		return
	}
	o := w.parts[pos.Claim.Partition]
	if pos.Offset < o.commit {
		t.Fatalf("the commit of partition %d goes back from %d to %d", pos.Claim.Partition, o.commit, pos.Offset)
	}
	if unmarked := pos.Again && pos.Offset == o.start && pos.Mark.Time == 0; pos.Mark.Time != pos.Offset && !unmarked {
		t.Fatalf("position %d has the mark of %d", pos.Offset, pos.Mark.Time)
	}
	o.commit = pos.Offset
	if !w.ledger.Committed(pos) {
		t.Fatal("a current position was refused")
	}
}

func (w *world) check(t *rapid.T) {
	for i, o := range w.parts {
		for off := range o.commit {
			if !o.stored[off] {
				t.Fatalf("partition %d is committed to %d and %d was never stored", i, o.commit, off)
			}
		}
		if !o.held {
			continue
		}
		durable, fetched, ok := w.ledger.Durable(o.claim)
		if !ok || durable != o.prefix() || fetched != o.fetched {
			t.Fatalf("partition %d: durable %d, fetched %d, %v; want %d, %d", i, durable, fetched, ok, o.prefix(), o.fetched)
		}
		want := o.prefix() > o.commit
		var got bool
		for _, pos := range w.ledger.Uncommitted() {
			if pos.Claim.Key == key(i) {
				got = true
				if pos.Offset != o.prefix() {
					t.Fatalf("partition %d: uncommitted at %d, want %d", i, pos.Offset, o.prefix())
				}
			}
		}
		if got != want {
			t.Fatalf("partition %d: uncommitted %v, want %v", i, got, want)
		}
	}
}

func TestAgainstNaiveOracle(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := &world{t: rt, ledger: ledger.New()}
		for range rapid.IntRange(1, 3).Draw(rt, "partitions") {
			w.parts = append(w.parts, &oracle{stored: map[int64]bool{}, acked: map[int64]bool{}})
		}
		rt.Repeat(map[string]func(*rapid.T){
			"assign": w.assign, "fetch": w.fetch, "ack": w.ack, "revoke": w.revoke, "renew": w.renew,
			"collect": w.collect, "again": w.again, "commit": w.commit, "": w.check,
		})
	})
}

func TestLateAcknowledgementIsVoid(t *testing.T) {
	l := ledger.New()
	k := ledger.Key{Topic: "t"}
	old := l.Assign(k, 0, 0)
	if _, ok := l.Fetched(old, 10); !ok {
		t.Fatal("the fetch was refused")
	}
	l.Revoke(old)
	now := l.Assign(k, 0, 0)
	if _, ok := l.Fetched(now, 10); !ok {
		t.Fatal("the fetch was refused")
	}
	if l.Done(old, 0, 10, ledger.Mark{}) {
		t.Error("an acknowledgement of an earlier assignment counted")
	}
	if got := l.Uncommitted(); len(got) != 0 {
		t.Errorf("uncommitted %v, want nothing", got)
	}
	if !l.Done(now, 0, 10, ledger.Mark{}) {
		t.Error("the owner's own acknowledgement did not count")
	}
}
