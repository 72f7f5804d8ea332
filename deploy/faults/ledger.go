package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/google/uuid"

	"github.com/millrace/millrace/pkg/client"
	"github.com/millrace/millrace/pkg/codec"
	"github.com/millrace/millrace/producers/loadgen"
)

// key is a record's id, or of bytes that are no record the start of their hash.
type key [16]byte

func idKey(id []byte) (key, error) {
	u, err := uuid.ParseBytes(id)
	return key(u), err
}

// bytesKey is the key of a value that no decoder takes.
func bytesKey(value []byte) key {
	sum := sha256.Sum256(value)
	return key(sum[:16])
}

// hash is codec.Fingerprint of a record.
type hash [16]byte

func hashOf(fingerprint string) (h hash) {
	if n, err := hex.Decode(h[:], []byte(fingerprint)); n != len(h) || err != nil {
		panic("a fingerprint has 32 hexadecimal digits: " + fingerprint) //nolint:forbidigo // codec.Fingerprint makes no other
	}
	return h
}

// destinations, as bits of a set.
const (
	toCassandra uint8 = 1 << iota
	toElasticsearch
	toLake
	toAll = toCassandra | toElasticsearch | toLake
)

var destinationNames = []string{"cassandra", "elasticsearch", "lake"}

func group(destination string) string { return "millrace-" + destination }

func bitOf(destination string) uint8 { return 1 << slices.Index(destinationNames, destination) }

// ledger is what was sent, and what became of it: for each record what it was and how often sending it was
// acknowledged, refused, or left open. It takes about a hundred bytes a record.
type ledger struct {
	mu      sync.Mutex
	index   map[key]int32
	entries []entry
	counts  counts
	refused map[string]int64 // errors of sends that were not acknowledged
}

type entry struct {
	key     key
	hash    hash
	seq     uint32
	source  uint16
	intents uint8
	ok      uint8
	failed  uint8
	unknown uint8
	must    uint8 // the destinations that must refuse it
	may     uint8 // those that may
	gone    uint8 // those for which Kafka lost it before they had it, as far as is known
}

type counts struct {
	Sent    int64 `json:"sent"`
	OK      int64 `json:"ok"`
	Failed  int64 `json:"failed"`
	Unknown int64 `json:"unknown"`
}

func newLedger() *ledger { return &ledger{index: map[key]int32{}, refused: map[string]int64{}} }

// intent notes that a record is about to be sent, and gives its number. The same record can be sent more than once.
func (l *ledger) intent(e entry) int32 {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.counts.Sent++
	i, ok := l.index[e.key]
	if !ok {
		i = int32(len(l.entries)) //nolint:gosec // memory ends before
		l.index[e.key] = i
		l.entries = append(l.entries, e)
	}
	l.entries[i].intents++
	return i
}

// outcome notes what became of one send. An intent that never has one is unknown.
func (l *ledger) outcome(i int32, err error) { l.settle(i, client.OutcomeOf(err), err) }

// settle is outcome where somebody else than the SDK says which it is.
func (l *ledger) settle(i int32, o client.Outcome, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := &l.entries[i]
	switch o {
	case client.Acknowledged:
		e.ok++
		l.counts.OK++
	case client.Failed:
		e.failed++
		l.counts.Failed++
	case client.Unknown:
		e.unknown++
		l.counts.Unknown++
	}
	if err != nil && (len(l.refused) < 20 || l.refused[err.Error()] > 0) {
		l.refused[err.Error()]++
	}
}

// lose notes that Kafka loses a record that these destinations may not have.
func (l *ledger) lose(k key, destinations uint8) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if i, ok := l.index[k]; ok {
		l.entries[i].gone |= destinations
	}
}

// sums gives the counts so far; those in flight are sent and nothing else yet.
func (l *ledger) sums() counts {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.counts
}

// settled gives the counts where nothing will change any more: what has no outcome is unknown.
func (l *ledger) settled() counts {
	c := l.sums()
	c.Unknown = c.Sent - c.OK - c.Failed
	return c
}

// finding is what was found in one destination. It is not for concurrent use.
type finding struct {
	ledger  *ledger
	where   string
	bit     uint8
	rows    bool    // the destination keeps a row per record of Kafka; else a row per id
	found   []uint8 // by number in the ledger
	letters []uint8
	wrong   map[string]*violation

	Rows    int64            `json:"rows"`
	Gone    int64            `json:"gone,omitempty"`    // not there, because Kafka lost it before
	Letters map[string]int64 `json:"letters,omitempty"` // by class and reason
}

// violation is a way in which a promise was broken, with a few examples.
type violation struct {
	Where    string   `json:"where"`
	What     string   `json:"what"`
	Count    int64    `json:"count"`
	Examples []string `json:"examples,omitempty"`
}

func (v *violation) String() string {
	s := fmt.Sprintf("%s: %d %s", v.Where, v.Count, v.What)
	if len(v.Examples) > 0 {
		s += ", such as " + v.Examples[0]
	}
	return s
}

func (l *ledger) finding(destination string) *finding {
	return &finding{
		ledger: l, where: destination, bit: bitOf(destination), rows: destination == "lake",
		found: make([]uint8, len(l.entries)), letters: make([]uint8, len(l.entries)),
		wrong: map[string]*violation{}, Letters: map[string]int64{},
	}
}

func (f *finding) note(what, example string) {
	v := f.wrong[what]
	if v == nil {
		v = &violation{Where: f.where, What: what}
		f.wrong[what] = v
	}
	v.Count++
	if len(v.Examples) < 5 {
		v.Examples = append(v.Examples, example)
	}
}

// row is one that the destination holds.
func (f *finding) row(k key, h hash) {
	f.Rows++
	i, ok := f.ledger.index[k]
	if !ok {
		f.note("never sent", uuid.UUID(k).String())
		return
	}
	if f.found[i] < 255 {
		f.found[i]++
	}
	if f.ledger.entries[i].hash != h {
		f.note("altered", f.ledger.entries[i].String())
	}
}

// letter is one that the destination has among the dead letters.
func (f *finding) letter(k key, class, reason string) {
	f.Letters[class+", "+reason]++
	i, ok := f.ledger.index[k]
	if !ok {
		f.note("never sent, and a dead letter", uuid.UUID(k).String())
		return
	}
	if f.letters[i] < 255 {
		f.letters[i]++
	}
}

func (e *entry) String() string {
	return fmt.Sprintf("source %d record %d (%s)", e.source, e.seq, uuid.UUID(e.key))
}

// judge holds what was found against what was sent.
func (f *finding) judge() []violation {
	for i := range f.ledger.entries {
		e := &f.ledger.entries[i]
		what := f.verdict(e, int(f.found[i]), f.letters[i] > 0)
		if what == lost && e.gone&f.bit != 0 {
			f.Gone++
			what = ""
		}
		if what != "" {
			f.note(what, e.String())
		}
	}
	var out []violation
	for _, kind := range slices.Sorted(maps.Keys(f.wrong)) {
		out = append(out, *f.wrong[kind])
	}
	return out
}

// verdict says what is wrong with one record; nothing where all is well.
//
// A send that has no outcome may have been written, once: the producer is idempotent.
func (f *finding) verdict(e *entry, found int, letter bool) string {
	most := int(e.intents - e.failed)
	least := int(e.ok)
	if !f.rows {
		most, least = min(most, 1), min(least, 1)
	}
	switch {
	case letter && (e.must|e.may)&f.bit == 0:
		return "a dead letter, though nothing was wrong with it"
	case letter && found > 0:
		return "stored, and a dead letter"
	case letter && most == 0:
		return "refused by Kafka, and a dead letter"
	case letter:
		return ""
	case e.must&f.bit != 0 && found > 0:
		return "stored, though it is to be refused"
	case most == 0 && found > 0:
		return "refused by Kafka, and stored"
	case found > most:
		return "doubled"
	case found < least:
		return lost
	}
	return ""
}

const lost = "lost"

// fingerprint is the hash of a record's values, but for the attribute that carries one.
func fingerprint(r *codec.Record) hash {
	return hashOf(codec.Fingerprint(r.Type, r.Values, loadgen.AttrHash))
}
