package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/gocql/gocql"
	"github.com/twmb/avro"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/pkg/schema"
)

// The bare loop to Cassandra: what a good engineer writes by hand on franz-go, twmb/avro and gocql for one data type, with
// the settings that were found to be best. It has no dead letters, no retries, no metrics, and commits once, at its end:
// the limit for a Go consumer with these servers, not a consumer to run.
const (
	bareRows     = 100 // of one partition, in an unlogged batch
	bareBatches  = 32  // in flight
	barePoll     = 5000
	bareKey      = 4 // columns of the partition: tenant, service, bucket, shard
	bareColumns  = 14
	bareBucket   = 15 * 60 * 1e6          // microseconds
	bareRetained = 7 * 24 * 60 * 60 * 1e6 // microseconds
)

func bareCassandraRow(ctx context.Context, b *bench, count int) error {
	keyspace := fmt.Sprintf("%s_bare_%d", b.run, b.round)
	store, err := b.cassandra(ctx, keyspace) // for the same table
	if err != nil {
		return err
	}
	store.Close()
	session, err := bareSession(keyspace)
	if err != nil {
		return err
	}
	defer session.Close()
	consumer, group, err := b.bareConsumer("bare-cassandra")
	if err != nil {
		return err
	}
	defer consumer.Close()

	w := newBareWriter(session, b.typ, keyspace)
	b.clock.start()
	for n := 0; n < count; {
		fetches := consumer.PollRecords(ctx, barePoll)
		if err := fetches.Err(); err != nil {
			return err
		}
		n += fetches.NumRecords()
		now := time.Now().UnixMicro()
		for it := fetches.RecordIter(); !it.Done(); {
			if err := w.add(ctx, it.Next(), now); err != nil {
				return err
			}
		}
	}
	if err := w.drain(ctx); err != nil {
		return err
	}
	if err := consumer.CommitUncommittedOffsets(ctx); err != nil {
		return err
	}
	b.clock.stop()
	return b.committed(ctx, group, count)
}

func bareSession(keyspace string) (*gocql.Session, error) {
	hosts, err := server("MILLRACE_CASSANDRA")
	if err != nil {
		return nil, err
	}
	_, port, err := net.SplitHostPort(hosts[0])
	if err != nil {
		return nil, err
	}
	cluster := gocql.NewCluster(hosts...)
	if cluster.Port, err = strconv.Atoi(port); err != nil {
		return nil, err
	}
	cluster.Keyspace = keyspace
	cluster.ProtoVersion = 4
	cluster.Consistency = gocql.LocalQuorum
	cluster.DefaultTimestamp = false // each row has its own
	cluster.Timeout, cluster.ConnectTimeout = 30*time.Second, 30*time.Second
	return cluster.CreateSession()
}

// bareWriter fills a batch for each partition, and sends it when it is full.
type bareWriter struct {
	session *gocql.Session
	avro    *avro.Schema
	insert  string
	log     bareLog
	open    map[barePartition]*bareBatch
	idle    chan *bareBatch // answered, to be filled again
	slots   chan struct{}   // one for each in flight
	wrong   chan error
}

type barePartition struct {
	tenant, service string
	bucket          int64 // milliseconds
	shard           uint32
}

func newBareWriter(session *gocql.Session, typ *schema.Type, keyspace string) *bareWriter {
	return &bareWriter{
		session: session, avro: typ.Avro, insert: typ.CQL(keyspace).Insert, open: map[barePartition]*bareBatch{},
		idle: make(chan *bareBatch, bareBatches), slots: make(chan struct{}, bareBatches), wrong: make(chan error, bareBatches),
	}
}

func (w *bareWriter) add(ctx context.Context, r *kgo.Record, now int64) error {
	w.log = bareLog{}
	l := &w.log
	if _, err := w.avro.Decode(r.Value[5:], l, avro.AliasInput()); err != nil { // everything is copied into the row
		return err
	}
	key := barePartition{tenant: l.Tenant, service: l.Service, bucket: l.Time / bareBucket * bareBucket / 1000, shard: bareShard(l.ID)}
	b := w.open[key]
	if b == nil {
		key.tenant, key.service = strings.Clone(key.tenant), strings.Clone(key.service) // they lie in the fetch's memory
		b = w.batch(&key)
		w.open[key] = b
	}
	if err := b.add(l, r, now); err != nil {
		return err
	}
	if b.n < bareRows {
		return nil
	}
	delete(w.open, key)
	return w.send(ctx, b)
}

// batch gives an empty one.
func (w *bareWriter) batch(key *barePartition) *bareBatch {
	var b *bareBatch
	select {
	case b = <-w.idle:
	default:
		b = newBareBatch(w.insert)
	}
	b.n = 0
	first := &b.rows[0]
	first.buf = first.buf[:0]
	first.text(0, key.tenant)
	first.text(1, key.service)
	first.long(2, key.bucket)
	first.int(3, key.shard)
	return b
}

func (w *bareWriter) send(ctx context.Context, b *bareBatch) error {
	select {
	case w.slots <- struct{}{}:
	case err := <-w.wrong:
		return err
	}
	go func() {
		batch := w.session.NewBatch(gocql.UnloggedBatch).WithContext(ctx)
		batch.Entries = b.entries[:b.n]
		if err := w.session.ExecuteBatch(batch); err != nil {
			w.wrong <- err
			return
		}
		select {
		case w.idle <- b:
		default:
		}
		<-w.slots
	}()
	return nil
}

// drain sends what is left and waits for all answers.
func (w *bareWriter) drain(ctx context.Context) error {
	for _, b := range w.open {
		if err := w.send(ctx, b); err != nil {
			return err
		}
	}
	clear(w.open)
	for range bareBatches {
		select {
		case w.slots <- struct{}{}:
		case err := <-w.wrong:
			return err
		}
	}
	for range bareBatches {
		<-w.slots
	}
	return nil
}

// bareBatch is rows of one partition. Its memory is used again, and all pointers in it are set once: gocql asks each cell
// for its bytes.
type bareBatch struct {
	rows    []bareRow
	entries []gocql.BatchEntry
	n       int
}

type bareRow struct {
	buf   []byte
	cells [bareColumns + 2]bareCell // with time to live and write time
	args  [bareColumns + 2]any
}

type bareCell struct {
	row      *bareRow
	from, to int
}

// MarshalCQL implements gocql.Marshaler.
func (c *bareCell) MarshalCQL(gocql.TypeInfo) ([]byte, error) { //nolint:unparam // the interface has an error
	return c.row.buf[c.from:c.to], nil
}

func newBareBatch(insert string) *bareBatch {
	b := &bareBatch{rows: make([]bareRow, bareRows), entries: make([]gocql.BatchEntry, bareRows)}
	for i := range b.rows {
		r := &b.rows[i]
		r.buf = make([]byte, 0, 512)
		for j := range r.cells {
			r.cells[j].row = r
			r.args[j] = &r.cells[j]
			if j < bareKey {
				r.args[j] = &b.rows[0].cells[j]
			}
		}
		b.entries[i] = gocql.BatchEntry{Stmt: insert, Args: r.args[:], Idempotent: true}
	}
	return b
}

// add brings a log into the form of the wire: gocql's own marshalling of Go values takes more, an allocation for each.
func (b *bareBatch) add(l *bareLog, r *kgo.Record, now int64) error {
	id, err := gocql.ParseUUID(l.ID)
	if err != nil {
		return err
	}
	row := &b.rows[b.n]
	if b.n > 0 { // the first row's begins with the partition
		row.buf = row.buf[:0]
	}
	b.n++
	row.long(4, l.Time)
	row.set(5, append(row.buf, id[:]...))
	row.text(6, l.Host)
	row.text(7, l.Datacenter)
	row.optional(8, l.Severity)
	row.text(9, l.Body)
	row.optional(10, l.Source)
	row.optional(11, l.TraceID)
	row.optional(12, l.SpanID)
	row.texts(13, l.Attributes)
	row.int(14, uint32((l.Time+bareRetained-now+999_999)/1_000_000)) //nolint:gosec // seven days in seconds
	row.long(15, r.Timestamp.UnixMicro()+r.Offset%1000)
	return nil
}

// set makes what was added to the buffer the cell's bytes.
func (r *bareRow) set(i int, buf []byte) {
	r.cells[i].from, r.cells[i].to = len(r.buf), len(buf)
	r.buf = buf
}

func (r *bareRow) text(i int, s string) { r.set(i, append(r.buf, s...)) }

func (r *bareRow) long(i int, n int64) {
	r.set(i, binary.BigEndian.AppendUint64(r.buf, uint64(n))) //nolint:gosec // the bits are kept as they are
}

func (r *bareRow) int(i int, n uint32) { r.set(i, binary.BigEndian.AppendUint32(r.buf, n)) }

func (r *bareRow) optional(i int, s *string) {
	if s == nil { // a null would be a tombstone
		r.args[i] = gocql.UnsetValue
		return
	}
	r.args[i] = &r.cells[i]
	r.text(i, *s)
}

func (r *bareRow) texts(i int, m map[string]string) {
	buf := binary.BigEndian.AppendUint32(r.buf, uint32(len(m))) //nolint:gosec // small
	for k, v := range m {
		buf = append(binary.BigEndian.AppendUint32(buf, uint32(len(k))), k...) //nolint:gosec // small
		buf = append(binary.BigEndian.AppendUint32(buf, uint32(len(v))), v...) //nolint:gosec // small
	}
	r.set(i, buf)
}

// bareShard hashes an id as the table's format wants it: FNV-1a over a 1, the length in 8 bytes and the text, mixed as
// murmur3 ends, modulo 8.
func bareShard(id string) uint32 {
	const prime = 1099511628211
	h := uint64(14695981039346656037)
	h = (h ^ 1) * prime
	for shift := 56; shift >= 0; shift -= 8 {
		h = (h ^ uint64(len(id))>>shift&0xff) * prime
	}
	for i := range len(id) {
		h = (h ^ uint64(id[i])) * prime
	}
	h ^= h >> 33
	h *= 0xff51afd7ed558ccd
	h ^= h >> 33
	h *= 0xc4ceb9fe1a85ec53
	h ^= h >> 33
	return uint32(h % 8)
}
