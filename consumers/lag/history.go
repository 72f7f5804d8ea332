package lag

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/millrace/millrace/pkg/lag"
)

const (
	keepHistory = 24 * time.Hour
	// breachedPartitions bounds how many partitions have a history besides their flows', while they are past their objective.
	breachedPartitions = 200
)

// Point is how a flow, or a partition of it, stood at one time. What was not known is nil.
type Point struct {
	At       time.Time  `json:"at"`
	Records  *int64     `json:"lag_records"`
	Applied  *int64     `json:"lag_applied_records"`
	Low      *float64   `json:"lag_seconds_low"`
	High     *float64   `json:"lag_seconds"`
	In       *float64   `json:"in_per_second"`
	Out      *float64   `json:"out_per_second"`
	Status   lag.Status `json:"status"`
	Why      lag.Why    `json:"cause,omitempty"`
	Headroom *float64   `json:"headroom_seconds"`
}

// subject is what a history is of. Partition is -1 for a whole flow.
type subject struct {
	group, topic string
	partition    int32
}

// series are the points of one subject, an hour to a chunk. Points are kept in the form in which they lie on disk: some
// twelve bytes each.
type series struct {
	chunks []*chunk // oldest first
}

// history is the points of the last 24 hours.
type history struct {
	flows int

	mu   sync.Mutex
	all  map[subject]*series
	file *historyFile
}

func newHistory(flows int) *history { return &history{flows: flows, all: map[subject]*series{}} }

// open reads what an earlier process has left in a directory, and goes on there.
func (h *history) open(dir string, now time.Time) error {
	if dir == "" {
		return nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	f, err := openHistory(dir, now, func(s subject, at int64, b []byte) error {
		return h.chunk(s, at).append(b)
	})
	if err != nil {
		return fmt.Errorf("lag.history: %w", err)
	}
	h.file = f
	return nil
}

func (h *history) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.file != nil {
		h.file.close()
		h.file = nil
	}
}

// chunk is the one of a subject that a time, in milliseconds, belongs to.
func (h *history) chunk(s subject, at int64) *chunk {
	one := h.all[s]
	if one == nil {
		one = &series{}
		h.all[s] = one
	}
	hour := hourOf(at)
	if n := len(one.chunks); n > 0 && one.chunks[n-1].hour == hour {
		return one.chunks[n-1]
	}
	c := &chunk{hour: hour}
	one.chunks = append(one.chunks, c)
	return c
}

// add remembers a view. Its error is that it is not on disk; it is in memory all the same.
func (h *history) add(v *lag.View) error {
	if v.AsOf.IsZero() || v.Blind != "" {
		return nil // nothing is known: a gap
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	at := v.AsOf.UnixMilli()
	var frame []entry
	take := func(s subject, p values) {
		c := h.chunk(s, at)
		if b := c.encode(at, p); b != nil {
			frame = append(frame, entry{s, b})
		}
	}
	partitions := 0
	for i := range v.Flows {
		f := &v.Flows[i]
		if i >= h.flows {
			break
		}
		take(subject{f.Group, f.Topic, -1}, valuesOfFlow(f))
		for j := range f.Rows {
			if r := &f.Rows[j]; r.Past && partitions < breachedPartitions {
				partitions++
				take(subject{r.Group, r.Topic, r.Partition}, valuesOfRow(r))
			}
		}
	}
	h.forget(at)
	if h.file == nil {
		return nil
	}
	return h.file.write(at, frame)
}

// forget drops the chunks that are past 24 hours as a whole.
func (h *history) forget(now int64) {
	before := hourOf(now - keepHistory.Milliseconds())
	maps.DeleteFunc(h.all, func(_ subject, s *series) bool {
		i := 0
		for i < len(s.chunks) && s.chunks[i].hour < before {
			i++
		}
		s.chunks = s.chunks[i:]
		return len(s.chunks) == 0
	})
}

// read gives the points of a subject from one time to another, oldest first.
func (h *history) read(s subject, from, to time.Time) []Point {
	h.mu.Lock()
	defer h.mu.Unlock()
	one := h.all[s]
	if one == nil {
		return nil
	}
	var out []Point
	for _, c := range one.chunks {
		if c.hour > hourOf(to.UnixMilli()) || c.hour < hourOf(from.UnixMilli()) {
			continue
		}
		c.each(func(at int64, v values) {
			if t := time.UnixMilli(at); !t.Before(from) && !t.After(to) {
				out = append(out, v.point(t))
			}
		})
	}
	return out
}

// has says whether there are points of a subject.
func (h *history) has(s subject) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.all[s] != nil
}

func valuesOfFlow(f *lag.Flow) values {
	return pack(f.Records, f.Applied, f.Age, f.In, f.Out, f.Headroom, f.Status, f.Why)
}

func valuesOfRow(r *lag.Row) values {
	return pack(r.Records, r.AppliedRecords, r.Age, r.In, r.Out, r.Headroom, r.Status, r.Why)
}

// pack turns numbers into those that are kept: seconds to a tenth, rates to a tenth of a record.
func pack(records, applied *int64, age lag.Seconds, in, out, headroom *float64, status lag.Status, why lag.Why) values {
	var v values
	v[vStatus] = int64(slices.Index(statuses, status) + 1)
	v[vCause] = int64(slices.Index(causes, why) + 1)
	whole := func(field int, n *int64) {
		if n != nil {
			v[field] = *n
			v[vKnown] |= 1 << field
		}
	}
	part := func(field int, n *float64) {
		if n != nil {
			whole(field, new(tenths(*n)))
		}
	}
	whole(vRecords, records)
	whole(vApplied, applied)
	part(vLow, age.Low)
	part(vHigh, age.High)
	part(vIn, in)
	part(vOut, out)
	part(vHeadroom, headroom)
	return v
}

func tenths(f float64) int64 { return int64(math.Round(min(f, 1e15) * 10)) }

func (v values) point(at time.Time) Point {
	p := Point{At: at.UTC()}
	if i := v[vStatus]; i > 0 && i <= int64(len(statuses)) {
		p.Status = statuses[i-1]
	}
	if i := v[vCause]; i > 0 && i <= int64(len(causes)) {
		p.Why = causes[i-1]
	}
	whole := func(field int) *int64 {
		if v[vKnown]&(1<<field) == 0 {
			return nil
		}
		return new(v[field])
	}
	part := func(field int) *float64 {
		n := whole(field)
		if n == nil {
			return nil
		}
		return new(float64(*n) / 10)
	}
	p.Records, p.Applied = whole(vRecords), whole(vApplied)
	p.Low, p.High, p.In, p.Out, p.Headroom = part(vLow), part(vHigh), part(vIn), part(vOut), part(vHeadroom)
	return p
}

// The statuses and causes by their numbers on disk: they may be added to at the end, and not moved.
var (
	statuses = []lag.Status{lag.OK, lag.Warn, lag.Err, lag.Stop, lag.Stall, lag.Rewind}
	causes   = []lag.Why{
		lag.MonitorBlind, lag.DataExpired, lag.TopicRecreated, lag.GroupDead, lag.Unassigned, lag.RebalanceLoop, lag.CommitStalled,
		lag.Poison, lag.SinkDown, lag.SinkSlow, lag.StuckMember, lag.FetchSlow, lag.BrokerDown, lag.RegistryDown,
		lag.TransactionOpen, lag.Skew, lag.ProducerBurst,
	}
)

var errDamaged = errors.New("the points are damaged")
