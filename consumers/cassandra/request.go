package cassandra

import (
	"encoding/binary"
	"fmt"
	"sync"

	"github.com/gocql/gocql"

	"github.com/millrace/millrace/pkg/schema"
)

// An insert is how rows of one version of a type are written: the statement and its arguments. It keeps the memory of
// requests that are not in use.
type insert struct {
	statement string
	arguments []argument // in the statement's order: the partition's come first
	key       int        // how many are the partition's
	queue     queue
	idle      sync.Pool // of *request
}

// argument is one argument of the insert.
type argument struct {
	field int // position in the type's fields, or one of the below
	kind  schema.Kind
	wire  gocql.Type // what the column has to be
}

// Arguments that are not a field, besides schema.BucketColumn and schema.ShardColumn.
const (
	ttlArgument       = -3
	writeTimeArgument = -4
)

func newInsert(t *schema.Type, cql *schema.CQL) *insert {
	n := &insert{statement: cql.Insert, key: len(t.Cassandra.Partition) + 2, queue: queue{turn: make(chan struct{}, 1)}} // with bucket and shard
	for _, c := range cql.Columns {
		a := argument{field: c.Field}
		switch c.Field {
		case schema.BucketColumn:
			a.wire = gocql.TypeTimestamp
		case schema.ShardColumn:
			a.wire = gocql.TypeInt
		default:
			a.kind = t.Fields[c.Field].Kind
			a.wire = wireTypes[a.kind]
		}
		n.arguments = append(n.arguments, a)
	}
	n.arguments = append(n.arguments, argument{field: ttlArgument, wire: gocql.TypeInt}, argument{field: writeTimeArgument, wire: gocql.TypeBigInt})
	n.idle.New = func() any { return &request{wire: []byte{}} } // never nil, or an empty text would be null
	return n
}

// A request is what gocql wants rows wrapped in: an entry for each, of arguments that give their bytes when asked. It is
// used again, since gocql keeps nothing of it once it has answered; its pointers are set once, and from then on only
// numbers change, which costs the collector nothing.
type request struct {
	wire    []byte // of its rows, as in their sheets
	entries []gocql.BatchEntry
	args    []any // of all entries, one after the other
	cells   []bound
}

// bound is one argument. Its column's type comes from the prepared statement, so a table that differs from the schema is
// an error here and not a changed value.
type bound struct {
	request *request
	from, n int // where it lies in the request's wire; n may be unset
	want    gocql.Type
}

func (b *bound) argument(size int) any {
	if size == unset {
		return gocql.UnsetValue
	}
	return b
}

// MarshalCQL implements gocql.Marshaler.
func (b *bound) MarshalCQL(info gocql.TypeInfo) ([]byte, error) {
	if info.Type() != b.want {
		return nil, fmt.Errorf("the column is %s, which does not hold the field's type", info)
	}
	return b.request.wire[b.from : b.from+b.n], nil
}

// take gives a request of rows of one partition. It goes back by give.
func (n *insert) take(ps parts) *request {
	q, _ := n.idle.Get().(*request)
	rows := ps.count()
	if rows > cap(q.entries) {
		q.grow(n, max(rows, 2*cap(q.entries)))
	}
	q.entries, q.wire = q.entries[:rows], q.wire[:0]
	i, key := 0, 0
	for _, p := range ps {
		sheet := p.write.sheet
		for _, r := range p.rows {
			at := len(q.wire)
			q.wire = append(q.wire, sheet.wire[r.at+key:r.at+r.size]...)
			q.bind(n, i, at)
			if i == 0 { // the others' partition is the first's
				key = len(sheet.bundles[r.bundle].key)
			}
			i++
		}
	}
	return q
}

// bind points the cells of a row to its wire.
func (q *request) bind(n *insert, row, at int) {
	width := len(n.arguments)
	from := row * width
	if row > 0 {
		from += n.key
	}
	for j := from; j < (row+1)*width; j++ {
		size := int(int32(binary.BigEndian.Uint32(q.wire[at:]))) //nolint:gosec // as it was put there
		at += lengthBytes
		c := &q.cells[j]
		if size != c.n && (size == unset || c.n == unset) {
			q.args[j] = c.argument(size)
		}
		c.from, c.n = at, size
		at += max(0, size)
	}
}

func (n *insert) give(q *request) {
	if cap(q.wire) <= maxIdle {
		n.idle.Put(q)
	}
}

// grow makes memory for so many rows.
func (q *request) grow(n *insert, rows int) {
	width := len(n.arguments)
	*q = request{wire: q.wire, entries: make([]gocql.BatchEntry, rows), args: make([]any, rows*width), cells: make([]bound, rows*width)}
	for i := range rows {
		args := q.args[i*width : (i+1)*width : (i+1)*width]
		q.entries[i] = gocql.BatchEntry{Stmt: n.statement, Args: args, Idempotent: true}
		for j := range args {
			q.cells[i*width+j] = bound{request: q, want: n.arguments[j].wire}
			args[j] = &q.cells[i*width+j]
			if j < n.key {
				args[j] = &q.cells[j] // the first row's: all rows are of one partition
			}
		}
	}
}
