package dlq

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/pkg/kafka"
)

const (
	// What is published before its resolutions are written: what is replayed again at most when that is interrupted. One
	// batch of it stays below what Kafka takes by default, however little its bytes can be compressed.
	chunkLetters = 500
	chunkBytes   = 900 << 10
	chunkTimeout = 10 * time.Second // for both; an order that is cancelled or late still ends the chunk it is at

	maxProduce    = 64 << 20 // a record before compression: what a consumer takes
	rereadTimeout = 10 * time.Second

	maxBy  = 256
	maxWhy = 2048
)

// DefaultMaxLoops is how often a record is replayed before somebody must say that it shall be once more.
const DefaultMaxLoops = 3

// Order says what is to be done, to which letters, by whom and why.
type Order struct {
	Filter   Filter // of open letters; those that are being replayed only by their address
	Limit    int    // letters at most, oldest first within a partition
	By, Why  string
	From     string // the address that asks
	DryRun   bool
	MaxLoops int                  // Replay: letters that were replayed so often are refused
	Force    bool                 // Replay: but not with this, nor those of another cluster or being replayed
	Said     func(*Letter, error) // of each letter: nil when it was resolved, or would be
}

// Report is what was done.
type Report struct {
	Done    int    `json:"done"` // or, of a dry run, would be
	Refused int    `json:"refused"`
	More    bool   `json:"more"` // there are more letters than Limit
	Sent    []Sent `json:"-"`    // what Replay published
}

// Sent is a letter that was replayed.
type Sent struct {
	Letter      Address
	Destination string
	Replay      Replay
}

// Replay publishes letters again, each to the topic it came from for the destination that refused it, and notes for
// those that Kafka acknowledged where they lie. When it is interrupted between the two, the letter stays open: another
// replay then publishes the record a second time.
func (b *Box) Replay(ctx context.Context, o Order) (Report, error) {
	if o.MaxLoops < 1 {
		return Report{}, mistake("max_loops is %d: it must be at least 1", o.MaxLoops)
	}
	return b.resolveAll(ctx, o, Replayed)
}

// Discard resolves letters as given up, with a reason.
func (b *Box) Discard(ctx context.Context, o Order) (Report, error) {
	f := o.Filter
	switch {
	case strings.TrimSpace(o.Why) == "":
		return Report{}, mistake("a letter is discarded only with a reason")
	case len(f.Letters) == 0 && f.Topic == "" && f.Destination == "" && f.Reason == "":
		return Report{}, mistake("say which letters: their addresses, a topic, a destination or a reason")
	}
	return b.resolveAll(ctx, o, Discarded)
}

func (o *Order) check() error {
	switch {
	case strings.TrimSpace(o.By) == "" || len(o.By) > maxBy:
		return mistake("say in up to %d bytes by whom", maxBy)
	case len(o.Why) > maxWhy:
		return mistake("why has %d bytes: say it in %d", len(o.Why), maxWhy)
	case o.Limit < 1:
		return mistake("limit is %d: it must be at least 1", o.Limit)
	case o.Limit < len(o.Filter.Letters):
		return mistake("%d letters are named, and limit is %d", len(o.Filter.Letters), o.Limit)
	}
	return nil
}

// work is an order under way.
type work struct {
	Order

	box    *Box
	view   *view
	how    string
	client *kgo.Client
	report Report
	seen   map[Address]bool // of those that were named
	chunk  []*Letter
	bytes  int
	failed error // the first of Kafka's refusals
}

func (b *Box) resolveAll(ctx context.Context, o Order, how string) (Report, error) {
	if err := o.check(); err != nil {
		return Report{}, err
	}
	v, err := b.look(ctx, &o.Filter)
	if err != nil {
		return Report{}, err
	}
	opts := append(kafka.Default().ProducerOpts(), b.Kafka...)
	cl, err := kgo.NewClient(append(opts, kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerBatchMaxBytes(maxProduce))...)
	if err != nil {
		return Report{}, fmt.Errorf("making a Kafka producer: %w", err)
	}
	defer cl.Close()
	w := &work{Order: o, box: b, view: v, how: how, client: cl, seen: map[Address]bool{}}
	w.Filter.All = len(w.Filter.named) > 0 // to say of each that was named what it is
	if err := b.letters(ctx, &w.Filter, v, func(l *Letter) error { return w.add(ctx, l) }, nil); err != nil {
		return w.report, err
	}
	if err := w.flush(ctx); err != nil {
		return w.report, err
	}
	if len(w.Filter.named) > 0 && len(w.seen) == 0 {
		return w.report, fmt.Errorf("%s: %w", w.Filter.Letters[0], ErrNotFound)
	}
	for a := range w.Filter.named {
		if !w.seen[a] {
			w.refuse(&Letter{Address: a}, fmt.Errorf("%s: %w", a, ErrNotFound))
		}
	}
	return w.report, nil
}

func (w *work) refuse(l *Letter, err error) {
	w.report.Refused++
	w.Said(l, err)
}

func (w *work) add(ctx context.Context, l *Letter) error {
	named := w.Filter.named[l.Address]
	switch {
	case named:
		w.seen[l.Address] = true
	case l.State == Replaying:
		return nil
	}
	if w.report.Done+w.report.Refused+len(w.chunk) >= w.Limit {
		w.report.More = true
		return errEnough
	}
	if err := w.refusal(ctx, l); err != nil {
		w.refuse(l, err)
		return nil
	}
	if n := size(l); w.bytes+n > chunkBytes || len(w.chunk) >= chunkLetters {
		if err := w.flush(ctx); err != nil {
			return err
		}
	}
	w.chunk = append(w.chunk, l)
	w.bytes += size(l)
	return nil
}

// refusal says why nothing is done about a letter.
func (w *work) refusal(ctx context.Context, l *Letter) error {
	if l.State > Replaying {
		return fmt.Errorf("%s: it is resolved: %s", l, l.State)
	}
	if w.how != Replayed {
		return nil
	}
	if err := l.refusal(w.view.cluster, w.MaxLoops, w.Force); err != nil {
		return err
	}
	if l.Dropped > 0 && len(l.Record.Value) == 0 {
		return w.reread(ctx, l)
	}
	return nil
}

// reread gets the value of a letter that could not hold it from where the record was refused.
func (w *work) reread(ctx context.Context, l *Letter) error {
	at := fmt.Sprintf("%s/%d/%d", l.Origin.Topic, l.Origin.Partition, l.Origin.Offset)
	cannot := func(format string, args ...any) error {
		return fmt.Errorf("%s: its value (%d bytes) did not fit into the letter, and %s, where it was, %w", l, l.Dropped, at, fmt.Errorf(format, args...))
	}
	if l.Origin.Cluster != w.view.cluster {
		return cannot("is in the Kafka cluster %q, and this is %q", l.Origin.Cluster, w.view.cluster)
	}
	if start, ok := w.view.starts.Lookup(l.Origin.Topic, l.Origin.Partition); ok && start.Offset > l.Origin.Offset {
		return cannot("was deleted by retention")
	}
	opts := append([]kgo.Opt{}, w.box.Kafka...)
	cl, err := kgo.NewClient(append(opts, kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{
		l.Origin.Topic: {l.Origin.Partition: kgo.NewOffset().At(l.Origin.Offset)},
	}), kgo.ConsumeResetOffset(kgo.NoResetOffset()), kgo.KeepControlRecords())...)
	if err != nil {
		return fmt.Errorf("making a client to read %s: %w", at, err)
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(ctx, rereadTimeout)
	defer cancel()
	fetches := cl.PollRecords(ctx, 1)
	if err := fetches.Err(); err != nil {
		return cannot("cannot be read: %w", err)
	}
	records := fetches.Records()
	if len(records) != 1 || records[0].Offset != l.Origin.Offset || len(records[0].Value) != l.Dropped ||
		!bytes.Equal(records[0].Key, l.Record.Key) || records[0].Timestamp.UTC().Format(time.RFC3339Nano) != l.Origin.Timestamp {
		return cannot("holds another record by now")
	}
	l.Record.Value = records[0].Value
	return nil
}

// flush publishes and then resolves what was gathered, both or, as far as it can be helped, neither.
func (w *work) flush(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("what was not yet done stays open: %w", err)
	}
	chunk := w.chunk
	w.chunk, w.bytes = nil, 0
	if w.DryRun {
		for _, l := range chunk {
			w.report.Done++
			w.Said(l, nil)
		}
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), chunkTimeout)
	defer cancel()
	// The client never gives up a record that is on its way, since it may arrive; closed, it must.
	defer context.AfterFunc(ctx, w.client.Close)()
	replays := make([]*kgo.Record, len(chunk))
	if w.how == Replayed {
		for i, l := range chunk {
			replays[i] = l.replay()
		}
		chunk, replays = w.acknowledged(ctx, chunk, replays, "replaying")
	}
	records := make([]*kgo.Record, len(chunk))
	sent := map[Address]Sent{}
	for i, l := range chunk {
		res := Resolution{How: w.how, By: w.By, From: w.From, Why: w.Why, Time: w.box.Now()}
		if r := replays[i]; r != nil {
			res.Replay = &Replay{r.Topic, r.Partition, r.Offset, w.view.topics[r.Topic].ID.String()}
			sent[l.Address] = Sent{l.Address, l.Destination, *res.Replay}
		}
		records[i] = l.resolve(res)
	}
	chunk, _ = w.acknowledged(ctx, chunk, records, "resolving")
	for _, l := range chunk {
		w.report.Done++
		if s, ok := sent[l.Address]; ok {
			w.report.Sent = append(w.report.Sent, s)
		}
		w.Said(l, nil)
	}
	return w.failed
}

// acknowledged produces a record for each letter and gives the letters whose record is in Kafka. The others stay open.
func (w *work) acknowledged(ctx context.Context, letters []*Letter, records []*kgo.Record, doing string) (done []*Letter, in []*kgo.Record) {
	failed := map[*kgo.Record]error{}
	for _, r := range w.client.ProduceSync(ctx, records...) {
		if r.Err != nil {
			failed[r.Record] = r.Err
		}
	}
	for i, l := range letters {
		err := failed[records[i]]
		if err == nil {
			done, in = append(done, l), append(in, records[i])
			continue
		}
		err = fmt.Errorf("%s %s: %w", doing, l, err)
		w.refuse(l, err)
		w.failed = cmp.Or(w.failed, err)
	}
	return done, in
}
