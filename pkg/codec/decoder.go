package codec

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/pkg/schema"
)

// The reasons of a BadRecord. The set is closed.
const (
	ReasonNotAvro       = "not_avro"            // the value does not begin as the Confluent wire format does
	ReasonUnknownSchema = "unknown_schema"      // the registry says that there is no schema with the record's id
	ReasonIncompatible  = "incompatible_schema" // the record's schema cannot be read as the type
	ReasonMalformed     = "malformed"           // the value is not what its schema says
	ReasonTime          = "time_out_of_range"   // the event time is too far from the append time
)

// headerLen is the length of the wire format's head: 0, then the schema's id in 4 bytes.
const headerLen = 5

// slabRecords is how many records' values are allocated at once.
const slabRecords = 64

var errHeader = errors.New("value does not begin with 0 and a schema id")

// Decoder decodes the records of one type. It is for one goroutine.
type Decoder struct {
	codec *Codec
	name  string
	entry *entry

	version  *version // whose programs are held
	id       int      // of the last record
	program  *program // for id; nil before the first record
	programs map[int]*program

	slab  []Value
	check mapCheck
}

// Decode gives r's values, which lie in r's own bytes. A *BadRecord means that it is the record's own fault; any other
// error is an outage, and the record is to be tried again. The record has the type that was current when it was
// decoded, and keeps it.
func (d *Decoder) Decode(ctx context.Context, r *kgo.Record) (Record, error) {
	if len(r.Value) < headerLen || r.Value[0] != 0 {
		return Record{}, &BadRecord{Reason: ReasonNotAvro, Err: errHeader}
	}
	if d.entry == nil {
		return Record{}, fmt.Errorf("decoding: %w %q", ErrUnknownType, d.name)
	}
	id := int(binary.BigEndian.Uint32(r.Value[1:]))
	if id != d.id || d.program == nil || d.entry.current.Load() != d.version {
		if err := d.use(ctx, id); err != nil {
			return Record{}, err
		}
	}
	values := d.take(len(d.program.typ.Fields))
	if err := d.program.run(r.Value[headerLen:], values, &d.check); err != nil {
		return Record{}, &BadRecord{Reason: ReasonMalformed, Err: err}
	}
	if err := checkTime(d.program.typ, values[schema.Time].Long(), r.Timestamp, "the append time"); err != nil {
		return Record{}, &BadRecord{Reason: ReasonTime, Err: err}
	}
	return Record{Source: r, Type: d.program.typ, Values: values}, nil
}

// use makes the program for a writer's schema the current one.
func (d *Decoder) use(ctx context.Context, id int) error {
	v := d.entry.current.Load()
	p := d.programs[id]
	if v != d.version || p == nil {
		var err error
		if v, p, err = d.codec.programFor(ctx, d.entry, id); err != nil {
			return err
		}
	}
	if v != d.version || d.programs == nil {
		d.version, d.programs = v, map[int]*program{}
	}
	d.programs[id] = p
	d.id, d.program = id, p
	return nil
}

// take gives n null values out of a slab, so that a record costs no allocation of its own.
func (d *Decoder) take(n int) []Value {
	if len(d.slab) < n {
		d.slab = make([]Value, n*slabRecords)
	}
	values := d.slab[:n:n]
	d.slab = d.slab[n:]
	return values
}

// checkTime holds an event time against the append time. A record without an append time is not held against any.
// What it is held against is called by a name: "now" for whoever sends it.
func checkTime(t *schema.Type, micros int64, appended time.Time, name string) error {
	if appended.IsZero() {
		return nil
	}
	at := appended.UnixMicro()
	switch {
	case t.Future > 0 && micros > at+t.Future.Microseconds():
		return fmt.Errorf("event time is more than %s after %s (%s)", schema.FormatDuration(t.Future), name, appended.UTC().Format(time.RFC3339))
	case t.Past > 0 && micros < at-t.Past.Microseconds():
		return fmt.Errorf("event time is more than %s before %s (%s)", schema.FormatDuration(t.Past), name, appended.UTC().Format(time.RFC3339))
	}
	return nil
}
