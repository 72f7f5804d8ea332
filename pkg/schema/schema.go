// Package schema reads data types: annotated Avro records that say, in one file, what a record holds and where it goes.
//
// From a [Type] everything that a destination needs is derived: the Kafka topic, the registry subject, the Cassandra
// table, the Elasticsearch index template and the Iceberg schema. A type is data; adding one is adding a file.
package schema

import (
	"time"

	"github.com/twmb/avro"
)

// Positions of the fields that every type starts with, in this order. They index Type.Fields and codec.Record.Values.
const (
	ID         = iota // string, logical type uuid (UUIDv7)
	Time              // timestamp-micros, UTC, the event's time
	Service           // string
	Host              // string
	Datacenter        // string
	Tenant            // string
	Common            // how many there are
)

// Kind is what a field holds.
type Kind uint8

// The kinds of fields. Avro types outside of these (nested records, arrays, enums, unions other than with null) are
// refused when a type is parsed.
const (
	Bool      Kind = iota + 1 // Avro boolean
	Int                       // int
	Long                      // long
	Float                     // float
	Double                    // double
	String                    // string
	Bytes                     // bytes
	UUID                      // string with logical type uuid, 36 lower-case characters
	Timestamp                 // long with logical type timestamp-micros
	Map                       // map of strings
)

// Field is one field of a type.
type Field struct {
	Name     string
	Doc      string
	Kind     Kind
	Nullable bool     // a union with null
	Aliases  []string // earlier names, the oldest first
	// Default is nil, a bool, a string (for Bytes too, one code point per byte), a json.Number or, for a Map, a
	// map[string]any; nil where HasDefault is false or the default is null.
	Default any
	// HasDefault says whether a record may leave the field out.
	HasDefault bool
}

// Type is one data type. It is immutable; an evolved version is another Type.
type Type struct {
	Name   string // the Avro record's name: "log". Topic, table and view are named by it.
	Doc    string
	JSON   []byte // the annotated schema as compact JSON: what is registered
	Avro   *avro.Schema
	Fields []Field

	// Past and Future bound the event time around the append time; outside of them a record is a dead letter.
	Past, Future time.Duration

	Topic         Topic
	Cassandra     Cassandra
	Elasticsearch Elasticsearch
	Lake          Lake

	attributes []byte         // what stands under "millrace", for ParseWith
	index      map[string]int // field names and aliases
}

// Topic says how a type is kept in Kafka.
type Topic struct {
	Name       string        // millrace.<type>
	Partitions int           //
	Key        []int         // positions of the fields that make the record key
	Retention  time.Duration // retention.ms
}

// Cassandra says how a type is kept in Cassandra.
type Cassandra struct {
	Table     string        // the type's name
	Partition []int         // positions of the key columns, before the time bucket and the shard
	Bucket    time.Duration // width of a time bucket
	Shards    int           // partitions per key and bucket; a record's shard is a hash of its ShardBy fields
	ShardBy   []int         // positions
	RowBytes  int           // expected bytes of a row, for the size that `check` states
	Retention time.Duration
}

// Elasticsearch says how a type is indexed.
type Elasticsearch struct {
	Index     string // prefix of the daily indices where none other is configured: millrace-<type>
	Text      []int  // positions of full-text strings; all others are keywords
	Shards    int
	Retention time.Duration
}

// Lake says how a type lies in its Iceberg table.
type Lake struct {
	Table     string // the type's name
	Partition string // "day(time)" or "hour(time)"
	Sort      []int  // positions, in order
	Retention time.Duration
}

// Index gives the position of the field with that name or alias, or -1.
func (t *Type) Index(name string) int {
	if i, ok := t.index[name]; ok {
		return i
	}
	return -1
}
