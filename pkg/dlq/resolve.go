package dlq

import (
	"cmp"
	"context"
	"fmt"
	"strings"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/pkg/kafka"
)

// What is published before its resolutions are written: what is replayed again at most when that is interrupted.
const (
	chunkLetters = 500
	chunkBytes   = 8 << 20
	maxProduce   = 2 << 20 // a letter with its headers
)

// Order says what is to be done, to which letters, by whom and why.
type Order struct {
	Filter   Filter
	Limit    int // letters at most, oldest first within a partition
	By, Why  string
	DryRun   bool
	MaxLoops int                  // Replay: letters that were replayed so often are refused
	Force    bool                 // Replay: but not with this
	Said     func(*Letter, error) // of each letter: nil when it was resolved, or would be
}

// Report is what was done.
type Report struct {
	Resolved int  `json:"resolved"` // or, of a dry run, would be
	Refused  int  `json:"refused"`
	Left     bool `json:"left"` // there are more letters than Limit
}

// Replay publishes letters again, each to the topic it came from for the destination that refused it, and resolves
// those that Kafka acknowledged. When it is interrupted between the two, the letter stays open: another replay then
// publishes the record a second time.
func (b *Box) Replay(ctx context.Context, o Order) (Report, error) {
	return b.resolveAll(ctx, o, Replayed)
}

// Discard resolves letters as given up, with a reason.
func (b *Box) Discard(ctx context.Context, o Order) (Report, error) {
	if strings.TrimSpace(o.Why) == "" {
		return Report{}, mistake("a letter is discarded only with a reason")
	}
	return b.resolveAll(ctx, o, Discarded)
}

// work is an order under way.
type work struct {
	Order

	box    *Box
	how    string
	client *kgo.Client
	report Report
	chunk  []*Letter
	bytes  int
	failed error // the first of Kafka's refusals
}

func (b *Box) resolveAll(ctx context.Context, o Order, how string) (Report, error) {
	topics, err := b.topics(o.Filter)
	if err != nil {
		return Report{}, err
	}
	spans, err := b.spans(ctx, topics)
	if err != nil {
		return Report{}, err
	}
	opts := append(kafka.Default().ProducerOpts(), b.Kafka...)
	cl, err := kgo.NewClient(append(opts, kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerBatchMaxBytes(maxProduce))...)
	if err != nil {
		return Report{}, fmt.Errorf("making a Kafka producer: %w", err)
	}
	defer cl.Close()
	w := &work{Order: o, box: b, how: how, client: cl}
	w.Filter.All = false
	if err := b.letters(ctx, w.Filter, spans, func(l *Letter) error { return w.add(ctx, l) }, func(Address, Resolution) {}); err != nil {
		return w.report, err
	}
	err = w.flush(ctx)
	if err == nil && len(o.Filter.Letters) > 0 && w.report.Resolved+w.report.Refused == 0 {
		err = fmt.Errorf("open letters among those named: %w", ErrNotFound)
	}
	return w.report, err
}

func (w *work) add(ctx context.Context, l *Letter) error {
	if w.report.Resolved+w.report.Refused+len(w.chunk) >= w.Limit {
		w.report.Left = true
		return errEnough
	}
	if w.how == Replayed {
		if err := l.refusal(w.MaxLoops, w.Force); err != nil {
			w.report.Refused++
			w.Said(l, err)
			return nil
		}
	}
	w.chunk = append(w.chunk, l)
	w.bytes += size(l)
	if len(w.chunk) >= chunkLetters || w.bytes >= chunkBytes {
		return w.flush(ctx)
	}
	return nil
}

// flush publishes and then resolves what was gathered.
func (w *work) flush(ctx context.Context) error {
	chunk := w.chunk
	w.chunk, w.bytes = nil, 0
	if w.DryRun {
		for _, l := range chunk {
			w.report.Resolved++
			w.Said(l, nil)
		}
		return nil
	}
	if w.how == Replayed {
		records := make([]*kgo.Record, len(chunk))
		for i, l := range chunk {
			records[i] = l.replay()
		}
		chunk = w.acknowledged(ctx, chunk, records, "replaying")
	}
	records := make([]*kgo.Record, len(chunk))
	for i, l := range chunk {
		records[i] = l.resolve(Resolution{How: w.how, By: w.By, Why: w.Why, Time: w.box.Now()})
	}
	for _, l := range w.acknowledged(ctx, chunk, records, "resolving") {
		w.report.Resolved++
		w.Said(l, nil)
	}
	return w.failed
}

// acknowledged produces a record for each letter and gives the letters whose record is in Kafka. The others stay open.
func (w *work) acknowledged(ctx context.Context, letters []*Letter, records []*kgo.Record, doing string) []*Letter {
	failed := map[*kgo.Record]error{}
	for _, r := range w.client.ProduceSync(ctx, records...) {
		if r.Err != nil {
			failed[r.Record] = r.Err
		}
	}
	var done []*Letter
	for i, l := range letters {
		err := failed[records[i]]
		if err == nil {
			done = append(done, l)
			continue
		}
		err = fmt.Errorf("%s %s: %w", doing, l, err)
		w.report.Refused++
		w.Said(l, err)
		w.failed = cmp.Or(w.failed, err)
	}
	return done
}
