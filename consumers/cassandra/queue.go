package cassandra

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/millrace/millrace/pkg/stream"
)

// A queue is the batches of one type that wait for room. Those that wait together go together: what they have for one of
// Cassandra's partitions is put into the same requests. A batch is of one of Kafka's partitions, and may have only a few
// rows for each of Cassandra's, and a row costs the servers less the more there are in its request.
type queue struct {
	turn    chan struct{} // holds one while a goroutine sends
	mu      sync.Mutex
	waiting []*write
}

// A part is what a batch has in a request.
type part struct {
	write *write
	rows  []row
}

// parts is what one request is made of: rows of one partition.
type parts []part

func (ps parts) count() (n int) {
	for _, p := range ps {
		n += len(p.rows)
	}
	return n
}

// send returns when all requests of w have begun, or it has failed. Whoever's turn it is sends for all that wait.
func (q *queue) send(ctx context.Context, w *write) {
	q.mu.Lock()
	q.waiting = append(q.waiting, w)
	q.mu.Unlock()
	select {
	case <-w.sent:
	case q.turn <- struct{}{}:
		defer func() { <-q.turn }()
		if err := w.store.limit.Wait(ctx); err != nil { // who comes meanwhile goes along
			q.giveUp(w, err)
		} else if q.among(w) {
			q.lead(ctx)
		}
	case <-ctx.Done():
		q.giveUp(w, fmt.Errorf("waiting for other batches to be sent: %w", context.Cause(ctx)))
	}
}

func (q *queue) among(w *write) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return slices.Contains(q.waiting, w)
}

// giveUp fails w, unless another has taken it along.
func (q *queue) giveUp(w *write, err error) {
	q.mu.Lock()
	i := slices.Index(q.waiting, w)
	if i >= 0 {
		q.waiting = slices.Delete(q.waiting, i, i+1)
	}
	q.mu.Unlock()
	if i < 0 {
		<-w.sent
		return
	}
	w.Fail(err)
	w.Close()
}

// lead sends for all that wait.
func (q *queue) lead(ctx context.Context) {
	q.mu.Lock()
	company := q.waiting
	q.waiting = nil
	q.mu.Unlock()
	defer func() {
		for _, w := range company {
			close(w.sent)
		}
	}()
	if len(company) > 1 {
		ctx = accompany(ctx, company)
	}
	post(ctx, company)
}

// accompany gives a context that ends with that of any batch that has not concluded: the others then go again.
func accompany(ctx context.Context, company []*write) context.Context {
	var c struct {
		cancel context.CancelCauseFunc
		left   atomic.Int64 // batches that have not concluded
	}
	ctx, c.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	c.left.Store(int64(len(company)))
	for _, w := range company {
		stop := w.ending(c.cancel)
		w.leave = func() {
			stop()
			if c.left.Add(-1) == 0 {
				c.cancel(nil)
			}
		}
	}
	return ctx
}

var errBroken = errors.New("sending did not come to its end")

// post begins all requests of some batches. One that fails gets no more of them.
func post(ctx context.Context, company []*write) {
	done := false
	defer func() {
		for _, w := range company {
			if !done { // a panic: what is left of them was not sent
				w.Fail(errBroken)
			}
			w.Close()
		}
	}()
	for _, ps := range requests(company) {
		ps = slices.DeleteFunc(ps, func(p part) bool { return p.write.Failed() })
		if len(ps) == 0 {
			continue
		}
		scatters := make([]*stream.Scatter, len(ps))
		for i, p := range ps {
			scatters[i] = p.write.Scatter
		}
		stream.Together(ctx, scatters, func() error { return ps.deliver(ctx) })
	}
	done = true
}

// requests gives what each request is made of: rows of one partition, up to the bounds of a request.
func requests(company []*write) (out []parts) {
	cfg := company[0].store.cfg.Batch
	if len(company) == 1 {
		bundles := company[0].sheet.bundles
		for i := range bundles {
			out = cut(out, parts{{company[0], bundles[i].rows}}, bundles[i].bytes, cfg)
		}
		return out
	}
	type all struct {
		parts parts
		bytes int
	}
	var partitions []*all
	of := map[string]*all{}
	for _, w := range company {
		for i := range w.sheet.bundles {
			g := &w.sheet.bundles[i]
			a := of[g.key]
			if a == nil {
				a = &all{}
				of[g.key] = a
				partitions = append(partitions, a)
			}
			a.parts = append(a.parts, part{w, g.rows})
			a.bytes += g.bytes
		}
	}
	for _, a := range partitions {
		out = cut(out, a.parts, a.bytes, cfg)
	}
	return out
}

// cut adds as many requests as they need, of about as many rows each.
func cut(out []parts, ps parts, bytes int, most Batch) []parts {
	total := ps.count()
	pieces := max(1, (total+most.Rows-1)/most.Rows, (bytes+int(most.Bytes)-1)/int(most.Bytes))
	if pieces == 1 {
		return append(out, ps)
	}
	rows := (total + pieces - 1) / pieces
	var request parts
	n, size := 0, 0
	for _, p := range ps {
		from := 0
		for i := range p.rows {
			if n > 0 && (n >= rows || size+p.rows[i].size > int(most.Bytes)) {
				if i > from {
					request = append(request, part{p.write, p.rows[from:i]})
				}
				out = append(out, request)
				request, n, size, from = nil, 0, 0, i
			}
			n++
			size += p.rows[i].size
		}
		request = append(request, part{p.write, p.rows[from:]})
	}
	return append(out, request)
}
