package lag

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// What a Finder may ask for after one look.
const (
	findRounds  = 8    // requests to each broker that search by time
	findPairs   = 500  // heads that are looked for, the oldest first
	countable   = 1000 // offsets that are read to count what records they are
	fetchBytes  = 1 << 20
	fetchLayers = 4 // groups on one partition, each at another offset
	countRounds = 4 // a fetch ends with the log's segment
	fetchWait   = 2 * time.Second
	searchWait  = 4 * time.Second // for all rounds
	precise     = time.Second
)

// Finder asks for what a look does not say, where it matters: when the oldest unread record was appended, and how many
// records a few offsets are.
type Finder struct {
	client *kgo.Client
	dec    kgo.Decompressor // the client's own, which bounds what a batch may become
}

// NewFinder asks through a client.
func NewFinder(client *kgo.Client) *Finder {
	dec, _ := client.OptValue(kgo.WithDecompressor).(kgo.Decompressor)
	return &Finder{client: client, dec: dec}
}

// question is about the head of a group on a partition.
type question struct {
	group string
	p     Partition
	one   *pair
	log   *logState
	end   int64
	count bool
}

// at is where to read from: the head, or where counting has come to.
func (q *question) at() int64 {
	if q.count {
		return max(q.one.from, q.one.probed)
	}
	return q.one.from
}

// Find improves what a Watcher knows since its last look. What could not be asked stays as it was.
func (f *Finder) Find(ctx context.Context, w *Watcher, now func() time.Time) error {
	byTime, byReading := w.questions(now())
	err := f.search(ctx, w, byTime, now)
	if ctx.Err() == nil {
		if readErr := f.read(ctx, w, byReading); err == nil {
			err = readErr
		}
	}
	return err
}

// questions are what is worth to ask: heads of lag past its objective that are not known to a second, the oldest first; and
// few offsets before an end that stands still.
func (w *Watcher) questions(now time.Time) (byTime, byReading []question) {
	for name, g := range w.groups {
		if g.Err != nil {
			continue
		}
		limit := w.patience(w.opts.Objective(name))
		for p, one := range g.pairs {
			log := w.logs[p]
			if log == nil || log.Err != nil || one.head == nil || len(one.track.marks) == 0 {
				continue
			}
			q := question{group: name, p: p, one: one, log: log, end: w.endFor(name, log)}
			lag := q.end - one.from
			if q.count = lag > 0 && lag <= countable && one.track.stands() && one.probed < q.end; q.count {
				byReading = append(byReading, q)
				continue
			}
			if q.end <= one.head.offset || one.head.at.width() <= precise || one.head.seconds(now).atMost() <= limit {
				continue
			}
			if w.look.Topics[p.Topic].AppendTime {
				byTime = append(byTime, q)
			} else if !one.head.tried {
				byReading = append(byReading, q)
			}
		}
	}
	oldest := func(a, b question) int {
		return cmp.Or(cmp.Compare(b.one.head.seconds(now).atMost(), a.one.head.seconds(now).atMost()), cmp.Compare(a.group, b.group), cmp.Compare(a.p.Number, b.p.Number))
	}
	slices.SortFunc(byTime, oldest)
	slices.SortFunc(byReading, oldest)
	return byTime[:min(findPairs, len(byTime))], byReading[:min(findPairs, len(byReading))]
}

// search halves brackets: the first offset whose stamp is at least a time says for every group on the partition on which
// side of that time its head lies. Stamps that the brokers give only grow.
func (f *Finder) search(ctx context.Context, w *Watcher, questions []question, now func() time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, searchWait)
	defer cancel()
	on := map[Partition][]question{}
	for _, q := range questions {
		on[q.p] = append(on[q.p], q)
	}
	for range findRounds {
		at, asked := map[int32]map[Partition]int64{}, map[Partition]int64{}
		for p, qs := range on {
			for _, q := range qs { // the worst that is not known yet
				if t, ok := between(q.one.head.at, now()); ok {
					asked[p] = max(t.Add(w.skew).UnixMilli(), 1)
					if at[q.log.Leader] == nil {
						at[q.log.Leader] = map[Partition]int64{}
					}
					at[q.log.Leader][p] = asked[p]
					break
				}
			}
		}
		if len(at) == 0 {
			return nil
		}
		answers, failed := offsetsAt(ctx, f.client, at, 0)
		for p, a := range answers {
			for _, q := range on[p] {
				h := q.one.head
				switch {
				case a.offset == h.offset && a.timestamp > 0:
					h.learn(exactly(w.here(a.timestamp)), ByAppendTime)
				case a.offset >= 0 && a.offset < h.offset: // the head is no older than the one before it
					h.learn(span{w.here(max(a.timestamp, asked[p])), never}, ByAppendTime)
				default: // it was there before that time
					h.learn(span{longAgo, w.here(asked[p])}, ByAppendTime)
				}
			}
		}
		for p, err := range failed {
			delete(on, p)
			if len(on) == 0 {
				return fmt.Errorf("searching %s by time: %w", p.Topic, err)
			}
		}
	}
	return nil
}

// between is the time to ask for next: the middle, or that of the log's first record where nothing is known of how old the
// head may be.
func between(s span, now time.Time) (time.Time, bool) {
	switch {
	case s.low.Equal(longAgo):
		return time.UnixMilli(1), true
	case s.high.Equal(never):
		s.high = now
	}
	if s.high.Sub(s.low) <= precise {
		return time.Time{}, false
	}
	return s.low.Add(s.high.Sub(s.low) / 2), true
}

// read fetches from the heads on: one record, or all that there are to count.
func (f *Finder) read(ctx context.Context, w *Watcher, questions []question) error {
	ctx, cancel := context.WithTimeout(ctx, fetchWait*fetchLayers)
	defer cancel()
	type request struct {
		broker    int32
		committed bool
	}
	layers := make([]map[request][]question, fetchLayers) // each partition once
	for i := range layers {
		layers[i] = map[request][]question{}
	}
	seen := map[Partition]int{}
	for _, q := range questions {
		n := seen[q.p]
		if n >= len(layers) || q.log.Leader < 0 {
			continue
		}
		seen[q.p]++
		to := request{q.log.Leader, w.opts.Committed(q.group)}
		layers[n][to] = append(layers[n][to], q)
	}
	var first error
	for _, layer := range layers {
		for to, qs := range layer {
			for range countRounds {
				if err := f.fetch(ctx, w, to.broker, qs); err != nil {
					first = cmp.Or(first, err)
					break
				}
				// What is counted in part goes on where it ended, now or after the next look.
				qs = slices.DeleteFunc(qs, func(q question) bool { return !q.count || q.one.probed >= q.end })
				if len(qs) == 0 {
					break
				}
			}
		}
	}
	return first
}

func (f *Finder) fetch(ctx context.Context, w *Watcher, broker int32, qs []question) error {
	req := kmsg.NewPtrFetchRequest()
	req.ReplicaID, req.MaxWaitMillis, req.MinBytes, req.MaxBytes = -1, 0, 0, 64<<20
	byTopic, byID := map[string]*kmsg.FetchRequestTopic{}, map[[16]byte]string{}
	asked := map[Partition]*question{}
	for i := range qs {
		q := &qs[i]
		asked[q.p] = q
		t := byTopic[q.p.Topic]
		if t == nil {
			one := kmsg.NewFetchRequestTopic()
			one.Topic, one.TopicID = q.p.Topic, q.log.TopicID
			t = &one
			byTopic[q.p.Topic], byID[q.log.TopicID] = t, q.p.Topic
		}
		p := kmsg.NewFetchRequestTopicPartition()
		p.Partition, p.FetchOffset, p.CurrentLeaderEpoch = q.p.Number, q.at(), -1
		p.PartitionMaxBytes = fetchBytes // a batch that is larger comes as a whole only if it is the first
		if w.opts.Committed(q.group) {
			req.IsolationLevel = 1 // as all of the request
		}
		t.Partitions = append(t.Partitions, p)
	}
	for _, t := range byTopic {
		req.Topics = append(req.Topics, *t)
	}
	kresp, err := f.client.Broker(int(broker)).RetriableRequest(ctx, req)
	if err != nil {
		return fmt.Errorf("reading the oldest unread records from broker %d: %w", broker, err)
	}
	resp := kresp.(*kmsg.FetchResponse) //nolint:forcetypeassert // of this request
	if err := kerr.ErrorForCode(resp.ErrorCode); err != nil {
		return fmt.Errorf("reading the oldest unread records from broker %d: %w", broker, err)
	}
	for _, t := range resp.Topics {
		topic := cmp.Or(t.Topic, byID[t.TopicID])
		for i := range t.Partitions {
			rp := &t.Partitions[i]
			if q := asked[Partition{topic, rp.Partition}]; q != nil && rp.ErrorCode == 0 {
				f.learn(w, q, rp)
			}
		}
	}
	return nil
}

// learn takes what was fetched: the head's stamp, and how many records there are up to the end.
func (f *Finder) learn(w *Watcher, q *question, rp *kmsg.FetchResponseTopicPartition) {
	isolation := kgo.ReadUncommitted()
	if w.opts.Committed(q.group) {
		isolation = kgo.ReadCommitted()
	}
	at := q.at()
	fetched, next := kgo.ProcessFetchPartition(kgo.ProcessFetchPartitionOpts{
		Topic: q.p.Topic, Partition: q.p.Number, Offset: at, IsolationLevel: isolation,
	}, rp, f.dec, nil)
	if fetched.Err != nil {
		return
	}
	q.one.head.tried = true
	var n int64
	for _, r := range fetched.Records {
		if r.Offset >= q.end {
			break
		}
		if n++; n == 1 && q.one.exact == 0 {
			q.found(w, r)
		}
	}
	if q.count && next > at {
		q.one.exact += n
		q.one.probed = min(next, q.end)
	}
}

// found takes the first record that there is: the head's, unless what lay before it was a marker or compacted away.
func (q *question) found(w *Watcher, r *kgo.Record) {
	h := q.one.head
	if r.Offset > h.offset {
		*h = head{offset: h.offset, at: span{longAgo, never}, method: Unknown, tried: true}
		h.learn(w.logs[q.p].ends.appended(r.Offset), ByHistory)
	}
	h.learn(exactly(w.here(r.Timestamp.UnixMilli())), ByRecord)
}
