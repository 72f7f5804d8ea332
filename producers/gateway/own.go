package gateway

import (
	"context"
	"encoding/json"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace/pkg/event"
)

// ownQueue is how many of the gateway's own records wait; more are dropped and counted.
const ownQueue = 2048

// Names by which the gateway's own records are known.
const (
	ownService      = "millrace-gateway"
	typePerformance = "performance"
	typeUsage       = "usage"
)

// ownRecord is a record about the gateway, on its way through the gateway's own publisher.
type ownRecord struct {
	typ    string
	time   time.Time
	fields map[string]any
}

// own publishes the gateway's own records. Its queue is bounded and nobody ever waits for it.
type own struct {
	pub              Publisher
	m                *metrics
	host, datacenter string
	timeout          time.Duration
	queue            chan ownRecord
	pending          atomic.Int64
}

// offer queues a record, or drops it.
func (o *own) offer(r ownRecord) {
	select {
	case o.queue <- r:
	default:
		o.m.dropped.WithLabelValues(r.typ).Inc()
	}
}

// publish hands a record to the publisher. While Kafka is away it waits a bounded time for room and then drops.
func (o *own) publish(ctx context.Context, r ownRecord) {
	if !o.send(ctx, r) {
		o.m.dropped.WithLabelValues(r.typ).Inc()
	}
}

func (o *own) send(ctx context.Context, r ownRecord) bool {
	ctx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	enc, err := o.pub.Encoder(ctx, r.typ)
	if err != nil {
		return false
	}
	r.fields["id"] = event.NewID(r.time)
	r.fields["time"] = r.time.UTC().Format(time.RFC3339Nano)
	r.fields["service"] = ownService
	r.fields["host"] = o.host
	r.fields["datacenter"] = o.datacenter
	obj, err := json.Marshal(r.fields)
	if err != nil {
		return false
	}
	rec, err := enc.EncodeJSON(obj)
	if err != nil {
		return false
	}
	o.pending.Add(1)
	// The record outlives this call: its acknowledgement is bounded by the client's own time-out.
	err = o.pub.Produce(context.WithoutCancel(ctx), rec, func(err error) {
		o.pending.Add(-1)
		if err != nil {
			o.m.dropped.WithLabelValues(r.typ).Inc()
		}
	})
	if err != nil {
		o.pending.Add(-1)
		return false
	}
	return true
}

// wait waits until every published record is acknowledged.
func (o *own) wait(ctx context.Context) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for o.pending.Load() > 0 {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// ownRecords makes the usage records of one tenant for one interval.
func (u usage) ownRecords(from, to time.Time) []ownRecord {
	var out []ownRecord
	for _, q := range []struct {
		resource, unit string
		quantity       int64
	}{
		{"gateway.requests", "{request}", u.requests},
		{"gateway.records", "{record}", u.records},
		{"gateway.bytes", "By", u.bytes},
	} {
		if q.quantity == 0 {
			continue
		}
		out = append(out, ownRecord{typ: typeUsage, time: to, fields: map[string]any{
			"tenant": u.tenant, "resource": q.resource, "quantity": q.quantity, "unit": q.unit,
			"period_start": from.UTC().Format(time.RFC3339Nano), "period_end": to.UTC().Format(time.RFC3339Nano),
		}})
	}
	return out
}
