package lake

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"runtime/pprof"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/millrace/millrace/pkg/failpoint"
	"github.com/millrace/millrace/pkg/lake"
	"github.com/millrace/millrace/pkg/schema"
	"github.com/millrace/millrace/pkg/stream"
)

// unknown is where a partition starts that the table has never seen: at the log's start, wherever that is.
const unknown = -1

// committer holds the rows of one table and commits them: one at a time, while the next rows are held already.
type committer struct {
	sink  *Sink
	topic string
	name  string
	typ   *schema.Type
	turn  chan struct{} // held by whoever commits, or reads where the table stands

	mu       sync.Mutex
	table    *lake.Table
	source   lake.Source
	ends     map[int32]int64 // by partition of ours: where the next batch must begin
	filling  *held
	leaving  *held            // being committed; kept over failed tries
	room     chan struct{}    // closed when filling has been taken
	stopping map[int32]string // partitions shown as stopped
	trouble  trouble
	begun    time.Time // of the commit under way
	hung     bool      // it has been named: its time is over, and it does not come back
	bad      bad
}

// held is what one commit will hold.
type held struct {
	writer *lake.Writer
	spans  map[int32]lake.Counts
	dones  []pending
	bytes  int64
	rows   int64
	since  time.Time
	commit *lake.Commit // made when the files are closed
	files  int
	size   int64
}

type pending struct {
	partition int32
	done      func(error)
}

func newCommitter(s *Sink, topic string, t *schema.Type) *committer {
	return &committer{
		sink: s, topic: topic, name: t.Lake.Table, typ: t, turn: make(chan struct{}, 1),
		ends: map[int32]int64{}, room: make(chan struct{}), stopping: map[int32]string{},
	}
}

// acquire waits for the turn to commit.
func (c *committer) acquire(ctx context.Context) error {
	select {
	case c.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (c *committer) release() { <-c.turn }

// assigned reads where the table stands. It waits for a commit under way, which may hold rows of these partitions.
func (c *committer) assigned(ctx context.Context, partitions []int32) (map[int32]int64, error) {
	if err := c.acquire(ctx); err != nil {
		return nil, fmt.Errorf("waiting for a commit to table %s: %w", c.name, err)
	}
	defer c.release()
	c.forget(partitions)
	source, err := c.sink.sources.of(ctx, c.topic)
	if err != nil {
		return nil, err
	}
	table, err := c.open(ctx)
	if err != nil {
		return nil, err
	}
	positions, err := table.Positions(c.topic)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.source = source
	offsets, stopped := map[int32]int64{}, map[int32]error{}
	for _, p := range partitions {
		at, known := positions.Partitions[p]
		err := positions.Check(source)
		if err == nil {
			err = at.Err
		}
		c.show(p, err)
		switch {
		case err != nil:
			stopped[p] = fmt.Errorf("%w; %s", err, c.decision())
		case known:
			offsets[p], c.ends[p] = at.Next, at.Next
		default:
			c.ends[p] = unknown
		}
	}
	if len(stopped) > 0 {
		return offsets, &stream.StoppedError{Partitions: stopped}
	}
	return offsets, nil
}

// show keeps the metric of stopped partitions.
func (c *committer) show(p int32, err error) {
	m, label := c.sink.metrics.stopped, strconv.Itoa(int(p))
	if reason := c.stopping[p]; reason != "" {
		m.DeleteLabelValues(c.name, label, reason)
		delete(c.stopping, p)
	}
	for _, reason := range []error{lake.ErrRolledBack, lake.ErrOtherSource} {
		if errors.Is(err, reason) {
			c.stopping[p] = reason.Error()
			m.WithLabelValues(c.name, label, reason.Error()).Set(1)
		}
	}
}

// open gives the table in its current state.
func (c *committer) open(ctx context.Context) (*lake.Table, error) {
	c.mu.Lock()
	table := c.table
	c.mu.Unlock()
	if table != nil {
		return table, table.Refresh(ctx)
	}
	table, err := c.sink.lake.Open(ctx, c.typ)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	c.table = table
	c.mu.Unlock()
	return table, nil
}

// write holds a batch, when there is room.
func (c *committer) write(ctx context.Context, b stream.Batch, done func(error)) error {
	c.mu.Lock()
	for {
		full := c.filling != nil && c.filling.bytes >= int64(c.sink.cfg.Bytes)
		rest := time.Until(c.trouble.rest)
		if !full && rest <= 0 {
			break
		}
		room := c.room
		c.mu.Unlock()
		if full {
			c.sink.nudge()
			rest = time.Minute // whoever takes what is held tells
		}
		if err := await(ctx, room, rest); err != nil {
			return err
		}
		c.mu.Lock()
	}
	failed, err := c.hold(ctx, b, done)
	c.mu.Unlock()
	failed.fail(err)
	return err
}

// await waits for room, at most for d.
func await(ctx context.Context, room <-chan struct{}, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-room:
	case <-timer.C:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return nil
}

// hold adds a batch to what is held. After an error of the writer nothing that is held can be trusted to be whole: all
// of it is given up, and failed says whom to tell.
func (c *committer) hold(ctx context.Context, b stream.Batch, done func(error)) (failed *held, err error) {
	defer func() {
		if p := recover(); p != nil { // under the lock, which nobody would have again
			failed, err = c.filling, stream.Panicked(fmt.Sprint(p), debug.Stack())
			c.filling = nil
			if failed != nil {
				c.giveUp(failed)
			}
		}
	}()
	end, ours := c.ends[b.Partition]
	switch {
	case !ours:
		return nil, fmt.Errorf("writing to table %s: partition %d is not assigned: %w", c.name, b.Partition, stream.ErrReseek)
	case end != unknown && end != b.First:
		return nil, fmt.Errorf("writing to table %s: partition %d goes on at %d, the batch begins at %d: %w",
			c.name, b.Partition, end, b.First, stream.ErrReseek)
	}
	if err := c.bad.in(&b); err != nil {
		return nil, err
	}
	h := c.filling
	if h == nil {
		if h, err = c.newHeld(ctx); err != nil {
			return nil, err
		}
	}
	if len(b.Records) > 0 {
		if err := h.writer.Prepare(ctx, b.Type); err != nil {
			err = fmt.Errorf("preparing table %s: %w", c.name, err)
			c.trouble.add(err)
			return nil, err
		}
		if err := h.writer.Add(ctx, b.Type, b.Records); err != nil {
			c.filling = nil
			c.giveUp(h)
			err = fmt.Errorf("writing files of table %s: %w", c.name, err)
			c.bad.note(err)
			c.trouble.add(err)
			c.trouble.pause()
			return h, err
		}
	}
	c.filling = h
	h.add(b, done)
	c.ends[b.Partition] = b.Next
	c.sink.metrics.held.WithLabelValues(c.name).Set(float64(h.writer.Held()))
	if h.bytes >= int64(c.sink.cfg.Bytes) {
		c.sink.nudge()
	}
	return nil, nil
}

func (c *committer) newHeld(ctx context.Context) (*held, error) {
	w, err := c.table.NewWriter(ctx, lake.WriterConfig{Memory: int64(c.sink.cfg.Memory), GroupRows: c.sink.cfg.GroupRows})
	if err != nil {
		return nil, err
	}
	return &held{writer: w, spans: map[int32]lake.Counts{}, since: time.Now()}, nil
}

func (h *held) add(b stream.Batch, done func(error)) {
	span := lake.Counts{
		First: b.First, Next: b.Next, Rows: int64(len(b.Records)), Dead: int64(b.Dead),
		Skipped: b.Next - b.First - int64(len(b.Records)) - int64(b.Dead),
	}
	for i := range b.Records {
		r := b.Records[i].Source
		span.Through = max(span.Through, r.Timestamp.UnixMicro())
		if len(r.Headers) > 0 && r.Headers[0].Key == stream.HeaderReplayFor {
			span.Replayed++
		}
	}
	if before, ok := h.spans[b.Partition]; ok {
		span = before.Add(span)
	}
	h.spans[b.Partition] = span
	h.dones = append(h.dones, pending{b.Partition, done})
	h.bytes += int64(b.Bytes)
	h.rows += int64(len(b.Records))
}

// due says whether a commit is. One that is under way goes on, and takes with it what is due by its end.
func (c *committer) due(now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.turn) > 0 {
		return false
	}
	if c.leaving != nil {
		return true // a failed one is tried again
	}
	h := c.filling
	return h != nil && (h.bytes >= int64(c.sink.cfg.Bytes) || now.Sub(h.since) >= c.sink.cfg.Age)
}

// flush commits all that is held.
func (c *committer) flush(ctx context.Context) (err error) {
	if err := c.acquire(ctx); err != nil {
		return err
	}
	defer c.release()
	c.committing(time.Now())
	defer c.committing(time.Time{})
	pprof.Do(ctx, pprof.Labels(tableLabel, c.name), func(ctx context.Context) { err = c.commitHeld(ctx) })
	return err
}

func (c *committer) commitHeld(ctx context.Context) error {
	for {
		h := c.take()
		if h == nil {
			return nil
		}
		if err := c.commit(ctx, h); err != nil {
			return err
		}
	}
}

// take gives what an earlier try left behind, else what is being filled.
func (c *committer) take() *held {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.leaving == nil && c.filling != nil {
		c.leaving, c.filling = c.filling, nil
		close(c.room)
		c.room = make(chan struct{})
		c.sink.metrics.held.WithLabelValues(c.name).Set(0)
	}
	return c.leaving
}

func (c *committer) commit(ctx context.Context, h *held) error {
	begun := time.Now()
	if h.commit == nil {
		if err := c.close(h); err != nil {
			c.failed(err)
			c.mu.Lock()
			c.bad.note(err)
			c.trouble.pause()
			c.mu.Unlock()
			c.drop(h, err)
			return err
		}
	}
	lost := h.commit.Conflicts
	err := guarded(func() error { return c.table.Commit(ctx, h.commit) })
	c.sink.metrics.conflicts.WithLabelValues(c.name).Add(float64(h.commit.Conflicts - lost))
	switch {
	case err == nil:
		c.committed(ctx, h, time.Since(begun))
		return nil
	case errors.Is(err, lake.ErrReseek), errors.Is(err, lake.ErrRolledBack), errors.Is(err, lake.ErrOtherSource):
		c.drop(h, fmt.Errorf("%w: %w", stream.ErrReseek, err))
	case errors.Is(err, context.DeadlineExceeded):
		c.failed(err)
	}
	return err
}

// close finishes the files.
func (c *committer) close(h *held) error {
	files, err := h.writer.Finish()
	if err != nil {
		return fmt.Errorf("finishing files of table %s: %w", c.name, err)
	}
	h.commit = &lake.Commit{
		Files: files, Spans: map[lake.TopicPartition]lake.Counts{}, Sources: map[string]lake.Source{c.topic: c.source},
		Failed: c.failed,
	}
	for p, span := range h.spans {
		h.commit.Spans[lake.TopicPartition{Topic: c.topic, Partition: p}] = span
	}
	for _, f := range files {
		h.files++
		h.size += f.FileSizeBytes()
	}
	return nil
}

func (c *committer) committed(ctx context.Context, h *held, took time.Duration) {
	c.mu.Lock()
	c.leaving, c.trouble = nil, trouble{}
	c.bad.past(h.spans)
	dones := h.dones
	c.mu.Unlock()
	m := c.sink.metrics
	m.rows.WithLabelValues(c.name).Add(float64(h.rows))
	m.files.WithLabelValues(c.name).Add(float64(h.files))
	m.bytes.WithLabelValues(c.name).Add(float64(h.size))
	m.commits.WithLabelValues(c.name).Inc()
	m.seconds.WithLabelValues(c.name).Observe(took.Seconds())
	if at := c.table.ValidThrough(); !at.IsZero() {
		m.validThrough.WithLabelValues(c.name).Set(float64(at.UnixMicro()) / 1e6)
	}
	failpoint.Hit("lake.before_group_commit")
	for _, p := range dones {
		p.done(nil)
	}
	if err := c.table.ExpireDue(ctx); err != nil {
		c.sink.tel.Log.Warn("forgetting earlier states", "table", c.name, "err", err)
	}
}

// drop gives up a commit that will never be: its partitions start again from the table.
func (c *committer) drop(h *held, err error) {
	c.mu.Lock()
	c.leaving = nil
	c.giveUp(h)
	// What is being filled goes on from offsets that will not be in the table.
	next := c.filling
	if next != nil {
		c.filling = nil
		close(c.room)
		c.room = make(chan struct{})
		c.giveUp(next)
	}
	c.mu.Unlock()
	h.fail(err)
	next.fail(err)
}

// giveUp forgets the partitions of h, until they are assigned again. The files of a commit of unknown outcome stay.
func (c *committer) giveUp(h *held) {
	for p := range h.spans {
		delete(c.ends, p)
	}
	if h.commit == nil || !h.commit.Unknown {
		h.writer.Discard()
	}
	c.sink.metrics.restarts.WithLabelValues(c.name).Inc()
}

// fail tells everyone who waits.
func (h *held) fail(err error) {
	if h == nil {
		return
	}
	for _, p := range h.dones {
		p.done(err)
	}
}

// forget drops what is held of the partitions. Rows of theirs that are in a row group already cannot be taken out: then
// all that is held is given up. A commit under way goes on: it is refused if another owner has advanced the partition,
// and right if not.
func (c *committer) forget(partitions []int32) {
	c.mu.Lock()
	gone := func(p pending) bool { return slices.Contains(partitions, p.partition) }
	for _, p := range partitions {
		delete(c.ends, p)
		c.show(p, nil)
	}
	if c.leaving != nil {
		c.leaving.dones = slices.DeleteFunc(c.leaving.dones, gone)
	}
	h, whole := c.filling, true
	if h != nil {
		h.dones = slices.DeleteFunc(h.dones, gone)
		for _, p := range partitions {
			if _, ok := h.spans[p]; ok {
				h.rows -= h.spans[p].Rows
				delete(h.spans, p)
				whole = h.writer.Forget(p) && whole
			}
		}
		if !whole || len(h.spans) == 0 {
			c.filling = nil
			close(c.room)
			c.room = make(chan struct{})
			c.giveUp(h)
		} else {
			h = nil
		}
	}
	c.mu.Unlock()
	h.fail(fmt.Errorf("%w: rows of a lost partition are in the same files", stream.ErrReseek))
}
