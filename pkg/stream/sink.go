package stream

import (
	"context"
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/pkg/codec"
	"github.com/millrace/millrace/pkg/schema"
)

// A Sink stores batches. Write returns when b is accepted, which is the backpressure, and calls done exactly once:
// with nil when every record of b is durable, or with an error. A *PartialError names the records that can never be
// stored, which become dead letters; all others are durable. Any other error means that nothing is known of the batch:
// it comes again, after ErrBatch or a panic in smaller parts, until the bad record is alone. See Class. An error
// returned by Write itself means the same, and then done is not called.
//
// The same batch can come again, after a failure, a crash or a rebalance, so Write is idempotent: row keys and document
// ids are derived from the event's id and time. Write may be called from several goroutines for different partitions;
// for one partition one call follows the other. First tries come in offset order, a later try of a batch may come after
// its successors. A sink whose table is older than b.Type evolves the table first.
//
// The context carries the attempt's deadline and lives until done is called: a sink that is still at work then gives up
// and calls done. For a Keeper it lives until Write returns and no longer. b and what it refers to may be kept until
// done is called.
type Sink interface {
	Write(ctx context.Context, b Batch, done func(error)) error
}

// Keeper is an optional ability of a sink that keeps its own offsets with its data, and keeps accepted batches back
// until its next commit (the lake).
//
// Once Write returned, the batch is the Keeper's: its bytes no longer count against the runtime's memory (they would
// never come back before the next commit, and the runtime would stop for want of memory), so a Keeper bounds what it
// holds itself, by not returning from Write. A Keeper sees every batch, also those without records, in offset order and
// without gaps: First of one is Next of the one before. If done gets an error, the whole partition starts again from
// Assigned, as with ErrReseek. A *PartialError that Write itself returns names records that it cannot take: when they are
// dead letters the batch comes again without them.
type Keeper interface {
	// Assigned gives the offset to start each partition from, read from the destination. A partition that the
	// destination does not know is left out of the map and starts at the log's start. It is called again for a
	// partition that starts again, after Lost.
	Assigned(ctx context.Context, topic string, partitions []int32) (map[int32]int64, error)
	// Revoked makes what is held of the partitions durable, calling its dones, before ctx ends, and forgets them.
	Revoked(ctx context.Context, topic string, partitions []int32) error
	// Lost forgets the partitions, and whatever is held of them, at once; their dones are never called.
	Lost(topic string, partitions []int32)
}

// ErrReseek is what a Keeper's Write or done reports when the offset that its table holds is not the one it started
// from: another writer was there. Whatever is in flight of the partition is dropped, and Assigned is asked again.
var ErrReseek = errors.New("the destination's offset is not the one this partition started from")

// StoppedError is what Assigned returns, beside the offsets of the other partitions, for partitions that must not be read
// until an operator decides: the table was rolled back, or was filled from another topic of the same name. They stay
// assigned and unread, and are shown with the reason. Any other error of Assigned is an outage, and it is asked again.
type StoppedError struct{ Partitions map[int32]error }

func (e *StoppedError) Error() string {
	for p, err := range e.Partitions {
		return fmt.Sprintf("%d partitions stopped, among them partition %d: %v", len(e.Partitions), p, err)
	}
	return "no partitions stopped"
}

// Decoder turns a Kafka record into values. A *codec.BadRecord is the record's own fault and makes it a dead letter;
// any other error is an outage, and the record is tried again until it is over. It is used by one goroutine.
type Decoder interface {
	Decode(ctx context.Context, r *kgo.Record) (codec.Record, error)
}

// Batch is a contiguous range of one partition.
type Batch struct {
	Topic     string
	Partition int32
	First     int64        // the first offset of the range
	Next      int64        // one past the last offset of the range
	Dead      int          // offsets of the range that went to the dead letters before the sink saw them
	Type      *schema.Type // of all records
	Records   []codec.Record
	Bytes     int // of the records' keys and values

	source *delivery // where a Scatter tells what it sees; nil outside of the runtime
}

// PartialError names the records of a batch, by index into Batch.Records, that can never be stored.
type PartialError struct{ Failed map[int]error }

func (e *PartialError) Error() string {
	for i, err := range e.Failed {
		return fmt.Sprintf("%d records refused, among them record %d: %v", len(e.Failed), i, err)
	}
	return "no records refused"
}
