package stream

import (
	"context"
	"errors"
	"fmt"
	"runtime/pprof"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/pkg/codec"
	"github.com/millrace/millrace/pkg/failpoint"
	"github.com/millrace/millrace/pkg/lag"
	"github.com/millrace/millrace/pkg/schema"
	"github.com/millrace/millrace/pkg/stream/ledger"
)

// States of a partition, as Status shows them.
const (
	stateStarting  = "starting" // assigned, and where to start is being found out
	stateRunning   = "running"  //
	stateDraining  = "draining" // being given up
	stateSeeking   = "seeking"  // starting again from another offset
	stateRecreated = lag.StateRecreated
	stateHalted    = lag.StateHalted
	stateWedged    = lag.StateWedged
	stateGone      = "gone"
)

// part is one partition under one claim. A partition that starts again is another part.
type part struct {
	c      *Consumer
	key    ledger.Key
	typ    *schema.Type
	claim  ledger.Claim
	cancel context.CancelFunc // ends everything
	close  context.CancelFunc // ends the intake; what was handed over goes on

	notify  chan struct{}              // something is in the queue
	out     chan *batch                // from decoding to writing
	writing chan struct{}              // one token: the partition's calls of Write follow each other
	slots   chan struct{}              // batches that the sink may have at once
	step    atomic.Uint64              // odd while a record is being decoded
	current atomic.Pointer[kgo.Record] // the last one that was given to the decoder

	// Under Consumer.mu.
	state    string
	queue    []*kgo.Record
	passed   []passed // between records of the queue, or after them
	lost     int64    // what is below and not in the queue was deleted before it was read; 0 is nothing
	polled   int64    // one past the last offset taken from the client
	gaps     gaps
	start    int64 // of the log
	end      int64 // of what may be read, as of the last fetch
	heads    []head
	opened   time.Time // append time of the first record of the batch being filled
	progress time.Time // of the durable prefix, or of what a Keeper accepted
	waiting  string    // what its writer waits for, where that is an outage
	noSchema bool      // its decoder waits for the registry, whatever becomes of what was decoded before
	busy     int       // goroutines at work
	size     int       // records that are written at once while some are bad; 0 is a batch
	bugs     int       // records in a row, up to now, that panicked on their own
	broken   string    // why no more of them become dead letters
	changed  chan struct{}
	seen     uint64 // step, when sample last looked
	stuck    *call  // of the decoder, if it has not moved since
	inHand   bool   // the decoder has records
	handing  bool   // the decoder has a batch that the writer does not take yet
	trouble  trouble
	grouped  bool  // the claim began where the group had committed
	stamped  int64 // the commit of this offset says when its record was appended
	bare     bare  // a commit that does not
	// As of when it was last sampled:
	committed   int64
	uncommitted time.Time // since when something is applied and not committed
}

// passed is a batch of Kafka that cannot be read: its offsets are from first up to next.
type passed struct {
	first, next int64
	epoch       int32
}

// head is when the first record of a batch that is not durable yet was appended.
type head struct {
	first int64
	next  int64
	time  time.Time
}

// batch is a Batch on its way.
type batch struct {
	Batch
	claim ledger.Claim
	dead  []letter
	mark  ledger.Mark
	begun time.Time
	first time.Time // append time of the first record
	held  int       // bytes against the budget
}

func newPart(c *Consumer, k ledger.Key) *part {
	return &part{
		c: c, key: k, typ: c.types[k.Topic], state: stateStarting, progress: time.Now(),
		notify: make(chan struct{}, 1), out: make(chan *batch), writing: make(chan struct{}, 1),
		slots: make(chan struct{}, c.cfg.InFlight), changed: make(chan struct{}),
		cancel: func() {}, close: func() {}, polled: -1, start: -1, end: -1, stamped: -1,
	}
}

// launch starts the stages.
func (p *part) launch() {
	ctx, cancel := p.c.life()
	intake, stop := context.WithCancel(ctx)
	p.c.mu.Lock()
	p.cancel, p.close = cancel, stop
	gone := p.state == stateGone
	p.c.mu.Unlock()
	if gone { // released in between
		cancel()
	}
	p.work(func() { p.watched(func() { p.decode(intake) }) })
	p.work(func() { p.write(ctx) })
}

// halt ends everything at once.
func (p *part) halt() {
	p.c.mu.Lock()
	cancel := p.cancel
	p.queue, p.passed = nil, nil
	p.c.mu.Unlock()
	cancel()
	p.c.budget.leave(p)
}

// work runs f on a goroutine that wait waits for.
func (p *part) work(f func()) {
	p.c.mu.Lock()
	p.busy++
	p.c.mu.Unlock()
	p.c.spawn(func(ctx context.Context) {
		defer func() {
			p.c.mu.Lock()
			p.busy--
			close(p.changed)
			p.changed = make(chan struct{})
			p.c.mu.Unlock()
		}()
		pprof.Do(ctx, p.c.labels(p.key), func(context.Context) { f() })
	})
}

// wait waits until no stage is at work.
func (p *part) wait(ctx context.Context) bool {
	for {
		p.c.mu.Lock()
		busy, changed := p.busy, p.changed
		p.c.mu.Unlock()
		if busy == 0 {
			return true
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return false
		}
	}
}

// accept puts records into the queue. It never waits: the budget bounds what comes.
func (p *part) accept(f *kgo.FetchPartition) {
	bytes := 0
	var found found
	for _, r := range f.Records {
		bytes += sizeOf(r)
	}
	p.c.mu.Lock()
	if p.status().Lag() == 0 {
		p.progress = time.Now() // what comes now has not waited yet
	}
	p.start, p.end = max(p.start, f.LogStartOffset), max(f.LastStableOffset, 0)
	ok := len(f.Records) > 0 && p.state == stateRunning
	if ok {
		p.queue = append(p.queue, f.Records...)
		p.polled = f.Records[len(f.Records)-1].Offset + 1
		found = p.gaps.scan(f)
	}
	p.c.mu.Unlock()
	if !ok {
		return
	}
	p.c.foundGaps(p, found)
	p.c.budget.add(p, bytes)
	p.wake()
}

// pass puts a batch that cannot be read where its records would have been in the queue, and says whether it is wanted.
func (p *part) pass(s passed) bool {
	p.c.mu.Lock()
	ok := p.state == stateRunning && p.polled < s.next
	if ok {
		p.passed = append(p.passed, s)
		p.polled, p.gaps.next = s.next, max(p.gaps.next, s.next)
	}
	p.c.mu.Unlock()
	if ok {
		p.wake()
	}
	return ok
}

// wake has the decoding goroutine look at the queue.
func (p *part) wake() {
	select {
	case p.notify <- struct{}{}:
	default:
	}
}

func (p *part) take() (records []*kgo.Record, passed []passed, lost int64) {
	p.c.mu.Lock()
	defer p.c.mu.Unlock()
	records, passed, lost = p.queue, p.passed, p.lost
	p.queue, p.passed, p.lost = nil, nil, 0
	p.inHand = len(records) > 0 || len(passed) > 0
	return records, passed, lost
}

// sizeOf is what a record costs in memory, nearly.
func sizeOf(r *kgo.Record) int {
	n := recordOverhead + len(r.Key) + len(r.Value)
	for _, h := range r.Headers {
		n += len(h.Key) + len(h.Value)
	}
	return n
}

// decode turns records into batches until its context ends; a batch that is not full then is dropped with it.
func (p *part) decode(ctx context.Context) {
	defer close(p.out)
	d := decoding{part: p, decoder: p.c.deps.Decoder(p.typ.Name), age: time.NewTimer(time.Hour)}
	d.age.Stop()
	for {
		records, passed, lost := p.take()
		if records == nil && passed == nil && lost == 0 {
			select {
			case <-p.notify:
			case <-d.age.C:
				d.cut(ctx)
			case <-ctx.Done():
				return
			}
			continue
		}
		for _, r := range records {
			for ; len(passed) > 0 && passed[0].next <= r.Offset; passed = passed[1:] {
				d.pass(ctx, passed[0])
			}
			if ctx.Err() != nil {
				return
			}
			d.add(ctx, r)
		}
		for _, s := range passed {
			d.pass(ctx, s)
		}
		if lost > d.next {
			d.skip(ctx, lost)
		}
	}
}

// decoding fills one batch at a time.
type decoding struct {
	*part
	decoder Decoder
	batch   *batch
	age     *time.Timer
	panics  int   // records in a row that the decoder panicked at
	full    int   // bytes of a batch: two must fit the partition's share, or it would wait for their age
	last    int   // records of the batch before: a batch that grows by itself is copied ten times over
	next    int64 // records below were seen; a client that was set back may give them again
}

func (d *decoding) add(ctx context.Context, r *kgo.Record) {
	if r.Offset < d.next {
		d.c.budget.release(d.part, sizeOf(r))
		return
	}
	var record codec.Record
	var dead *letter
	switch {
	case r.Attrs.IsControl(): // an offset without a record
	case forAnother(r, d.c.name):
		d.c.metrics.passed.WithLabelValues(r.Topic).Inc()
	default:
		var err error
		if record, err = d.decodeOne(ctx, r); err != nil {
			if dead = badLetter(r, d.c.name, err); dead == nil {
				return // only its context's end
			}
		}
	}
	d.put(ctx, r, r.Offset+1, sizeOf(r), record, dead)
}

// pass makes one dead letter of a batch that cannot be read. Its content is where it was, in the topic.
func (d *decoding) pass(ctx context.Context, s passed) {
	if s.next <= d.next {
		return
	}
	r := &kgo.Record{Topic: d.key.Topic, Partition: d.key.Partition, Offset: s.first, LeaderEpoch: s.epoch, Timestamp: time.Now()}
	d.put(ctx, r, s.next, 0, codec.Record{}, &letter{
		record: r, offsets: int(s.next - s.first), destination: d.c.name, class: ClassRecord, reason: ReasonOversized,
		err:   fmt.Errorf("the batch of the offsets %d to %d decompresses to more than a consumer takes", s.first, s.next-1),
		first: time.Now(), attempts: 1,
	})
}

// put adds what was made of the offsets up to next to the batch: a record, a dead letter, or neither.
func (d *decoding) put(ctx context.Context, r *kgo.Record, next int64, size int, record codec.Record, dead *letter) {
	d.next = next
	if d.batch != nil && record.Type != nil && len(d.batch.Records) > 0 && record.Type != d.batch.Type {
		d.cut(ctx)
	}
	if d.batch != nil && time.Since(d.batch.begun) >= d.c.cfg.Batch.Age {
		d.cut(ctx)
	}
	var first time.Time // a marker's is no record's
	if dead != nil || record.Type != nil {
		first = r.Timestamp
	}
	switch {
	case d.batch == nil:
		d.open(first)
	case d.batch.first.IsZero() && !first.IsZero():
		d.reopen(first)
	}
	b := d.batch
	b.held += size
	b.Next = next
	b.mark = ledger.Mark{LeaderEpoch: r.LeaderEpoch, Time: r.Timestamp.UnixMilli()}
	switch {
	case dead != nil:
		b.dead = append(b.dead, *dead)
		b.Dead += dead.offsets
	case record.Type != nil:
		b.Type = record.Type
		b.Records = append(b.Records, record)
		b.Bytes += len(r.Key) + len(r.Value)
	}
	if len(b.Records)+b.Dead >= d.c.cfg.Batch.Records || b.held >= d.full {
		d.cut(ctx)
	}
}

// decodeOne waits while the registry is out: the record is not to blame. What was decoded before it goes on. A record
// that the decoder panics at is to blame if it does so each time, but not for as many in a row as only a defect explains.
func (d *decoding) decodeOne(ctx context.Context, r *kgo.Record) (codec.Record, error) {
	record, err := d.try(ctx, r)
	for alone := 1; isPanic(err) && alone < aloneTries; alone++ {
		record, err = d.try(ctx, r)
	}
	switch {
	case err == nil, isBad(err):
		d.panics = 0
		return record, err
	case isPanic(err):
		if d.panics++; d.panics <= d.c.cfg.Retry.Bugs {
			return record, err
		}
		d.setBroken(fmt.Sprintf("the decoder panicked at the last %d records; no more dead letters are made: repair it, "+
			"or raise stream.retry.bugs where the records are to blame: %.300v", d.panics, err))
		defer d.setBroken("")
	}
	return d.decodeLater(ctx, r)
}

// decodeLater tries a record until it decodes, or is found to be bad.
func (d *decoding) decodeLater(ctx context.Context, r *kgo.Record) (record codec.Record, bad error) {
	d.cut(ctx)
	d.setNoSchema(true)
	defer d.setNoSchema(false)
	err := d.c.persist(ctx, "decoding", func(ctx context.Context) error {
		var err error
		if record, err = d.try(ctx, r); isBad(err) {
			bad = err
			return nil
		}
		if err != nil {
			d.fails(r.Offset, err)
		}
		return err
	})
	return record, errors.Join(err, bad)
}

func (d *decoding) try(ctx context.Context, r *kgo.Record) (record codec.Record, err error) {
	d.current.Store(r)
	d.step.Add(1)
	defer d.step.Add(1)
	defer func() {
		if p := recover(); p != nil {
			err = newPanicError("decoder", p)
			d.c.metrics.panics.Inc()
		}
	}()
	return d.decoder.Decode(ctx, r)
}

func isBad(err error) bool {
	var bad *codec.BadRecord
	return errors.As(err, &bad)
}

// skip ends a batch at an offset up to which there is nothing any more. That must be committed, also if nothing comes
// after it: whoever started at the old position would count the same records as lost again.
func (d *decoding) skip(ctx context.Context, next int64) {
	if d.batch == nil {
		d.open(time.Now())
	}
	d.next, d.batch.Next = next, next
	d.cut(ctx)
}

// reopen notes the stamp of the batch's first record, which came after others that are none.
func (d *decoding) reopen(first time.Time) {
	d.c.mu.Lock()
	defer d.c.mu.Unlock()
	d.batch.first, d.opened = first, first
}

func (d *decoding) open(first time.Time) {
	d.batch = &batch{
		Batch: Batch{Topic: d.key.Topic, Partition: d.key.Partition, Type: d.typ, Records: make([]codec.Record, 0, d.last)},
		claim: d.claim, begun: time.Now(), first: first, mark: ledger.Mark{LeaderEpoch: -1},
	}
	d.full = min(int(d.c.cfg.Batch.Bytes), d.c.budget.sharePerPart()/2)
	d.age.Reset(d.c.cfg.Batch.Age)
	d.c.mu.Lock()
	d.opened = first
	d.c.mu.Unlock()
}

// cut hands the batch on, waiting until the writer takes it.
func (d *decoding) cut(ctx context.Context) {
	b := d.batch
	if b == nil {
		return
	}
	d.batch, d.last = nil, len(b.Records)
	d.age.Stop()
	d.c.mu.Lock()
	first, ok := d.c.ledger.Fetched(d.claim, b.Next)
	d.opened = time.Time{}
	d.heads = append(d.heads, head{first: first, next: b.Next, time: b.first})
	d.handing = true
	if failpoint.Broken == failpoint.EarlyCommit {
		d.c.ledger.Done(d.claim, first, b.Next, b.mark)
	}
	d.c.mu.Unlock()
	defer d.setHanding(false)
	if !ok {
		return // the partition was given up
	}
	b.First = first
	d.c.metrics.batchRecords.Observe(float64(len(b.Records)))
	select {
	case d.out <- b:
	case <-ctx.Done():
	}
}

func (p *part) setBroken(why string) {
	p.c.mu.Lock()
	defer p.c.mu.Unlock()
	p.broken = why
}

func (p *part) setHanding(on bool) {
	p.c.mu.Lock()
	defer p.c.mu.Unlock()
	p.handing = on
}

func (p *part) setNoSchema(on bool) {
	p.c.mu.Lock()
	defer p.c.mu.Unlock()
	p.noSchema = on
}

// waits says what the partition waits for: its writer, which has what came before, or else its decoder.
func (p *part) waits() string {
	if p.waiting == "" && p.noSchema {
		return lag.WaitsDecoding
	}
	return p.waiting
}

func (p *part) setWaiting(what string) {
	p.c.mu.Lock()
	defer p.c.mu.Unlock()
	p.waiting = what
}
