package cassandra

import (
	"bufio"
	"encoding/binary"
	"io"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gocql/gocql"

	"github.com/millrace/millrace/pkg/codec"
	"github.com/millrace/millrace/pkg/schema"
	"github.com/millrace/millrace/pkg/schema/schematest"
	"github.com/millrace/millrace/pkg/servertest"
)

// wiretap stands between the Store and Cassandra, reads the writes in frames of the native protocol, version 4, and holds
// their answers back until as many are under way as it is told to see.
type wiretap struct {
	t      *testing.T
	target string
	addr   string
	keys   int // the first arguments of an insert, which are the partition's key

	mu          sync.Mutex
	inserts     map[string]bool // prepared ones, by id
	executes    int
	batches     map[byte]int // by kind: 0 logged, 1 unlogged
	consistency map[uint16]int
	unprepared  int // statements sent as text
	mixed       int // batches of more than one partition
	waiting     int
	most        int
	wanted      int
	full        chan struct{}
}

const (
	opQuery, opResult, opPrepare, opExecute, opBatch = 0x07, 0x08, 0x09, 0x0a, 0x0d
	resultPrepared                                   = 4
	logged, unlogged                                 = 0, 1
)

func newWiretap(t *testing.T, target string, keys, wanted int) *wiretap {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &wiretap{
		t: t, target: target, addr: l.Addr().String(), keys: keys, wanted: wanted, full: make(chan struct{}),
		inserts: map[string]bool{}, batches: map[byte]int{}, consistency: map[uint16]int{},
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			go w.serve(client)
		}
	}()
	return w
}

func (w *wiretap) serve(client net.Conn) {
	defer client.Close()
	node, err := new(net.Dialer).DialContext(w.t.Context(), "tcp", w.target)
	if err != nil {
		return
	}
	defer node.Close()
	var mu sync.Mutex
	sent := map[[2]byte]asked{} // by stream, until their answer
	go func() {
		defer client.Close()
		for r := bufio.NewReader(node); ; {
			f, err := readFrame(r)
			if err != nil {
				return
			}
			mu.Lock()
			what := sent[[2]byte(f[2:4])]
			delete(sent, [2]byte(f[2:4]))
			mu.Unlock()
			switch what {
			case isWrite:
				go w.answer(client, &mu, f)
				continue
			case preparesInsert:
				w.prepared(f)
			case other:
			}
			mu.Lock()
			_, _ = client.Write(f)
			mu.Unlock()
		}
	}()
	for r := bufio.NewReader(client); ; {
		f, err := readFrame(r)
		if err != nil {
			return
		}
		mu.Lock()
		sent[[2]byte(f[2:4])] = w.see(f)
		mu.Unlock()
		if _, err := node.Write(f); err != nil {
			return
		}
	}
}

// answer passes an answer on once enough writes are under way.
func (w *wiretap) answer(client net.Conn, mu *sync.Mutex, f []byte) {
	select {
	case <-w.full:
	case <-time.After(time.Minute):
		w.t.Error("fewer writes at once than configured")
	}
	w.mu.Lock()
	w.waiting--
	w.mu.Unlock()
	mu.Lock()
	defer mu.Unlock()
	_, _ = client.Write(f)
}

func readFrame(r *bufio.Reader) ([]byte, error) {
	const head = 9
	f := make([]byte, head)
	if _, err := io.ReadFull(r, f); err != nil {
		return nil, err
	}
	f = append(f, make([]byte, binary.BigEndian.Uint32(f[5:]))...)
	_, err := io.ReadFull(r, f[head:])
	return f, err
}

// asked is what matters of a request.
type asked int

const (
	other asked = iota
	preparesInsert
	isWrite
)

// prepared notes the id of an insert.
func (w *wiretap) prepared(f []byte) {
	body := cursor(f[9:])
	if f[4] != opResult || body.long() != resultPrepared {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.inserts[string(body.take(int(body.short())))] = true
}

func isInsert(statement []byte) bool {
	return strings.HasPrefix(strings.ToUpper(string(statement)), "INSERT")
}

// see notes what a request is.
func (w *wiretap) see(f []byte) asked {
	body := cursor(f[9:])
	w.mu.Lock()
	defer w.mu.Unlock()
	switch f[4] {
	case opQuery:
		if isInsert(body.take(int(body.long()))) {
			w.unprepared++
		}
		return other
	case opPrepare:
		if isInsert(body.take(int(body.long()))) {
			return preparesInsert
		}
		return other
	case opExecute:
		if !w.inserts[string(body.take(int(body.short())))] {
			return other
		}
		w.executes++
		w.consistency[body.short()]++
	case opBatch:
		w.batches[body.take(1)[0]]++
		partitions := map[string]bool{}
		for range body.short() {
			if kind := body.take(1)[0]; kind == 0 {
				w.unprepared++
				body.take(int(body.long()))
			} else {
				body.take(int(body.short()))
			}
			key := ""
			for i := range body.short() {
				n := int32(body.long())
				if v := body.take(int(max(n, 0))); int(i) < w.keys {
					key += string(v) + "|"
				}
			}
			partitions[key] = true
		}
		if len(partitions) != 1 {
			w.mixed++
		}
		w.consistency[body.short()]++
	default:
		return other
	}
	w.waiting++
	if w.most = max(w.most, w.waiting); w.most == w.wanted {
		select {
		case <-w.full:
		default:
			close(w.full)
		}
	}
	return isWrite
}

// cursor reads a frame's body.
type cursor []byte

func (c *cursor) take(n int) []byte {
	out := (*c)[:n]
	*c = (*c)[n:]
	return out
}

func (c *cursor) short() uint16 { return binary.BigEndian.Uint16(c.take(2)) }
func (c *cursor) long() uint32  { return binary.BigEndian.Uint32(c.take(4)) }

// TestWhatGoesOverTheWire: writes are prepared statements, alone or in unlogged batches of one partition each, with the
// configured consistency, and as many at once as configured.
func TestWhatGoesOverTheWire(t *testing.T) {
	t.Parallel()
	servers, ok := servertest.Require(t)
	if !ok {
		return
	}
	typ := schematest.NetworkFlow(t)
	direct := open(t, servers, typ)
	for name, want := range map[string]gocql.Consistency{"": gocql.LocalQuorum, "local_one": gocql.LocalOne} {
		const inFlight = 6
		w := newWiretap(t, servers.Cassandra[0], len(typ.Cassandra.Partition)+2, inFlight)
		cfg := Default()
		cfg.Hosts, cfg.Keyspace, cfg.Timeout, cfg.InFlight = []string{w.addr}, direct.cfg.Keyspace, 2*time.Minute, inFlight
		if name != "" {
			cfg.Consistency = name
		}
		s := storeOf(t, cfg, typ)
		b := maker(typ).Batch(0, 0, 400)
		for i := range b.Records {
			tenant := string("abcdefgh"[i*i%8])
			if i == 0 {
				tenant = "alone"
			}
			b.Records[i].Values[schema.Tenant] = codec.StringValue(tenant)
		}
		if err := store(t, s, b); err != nil {
			t.Fatal(err)
		}
		w.mu.Lock()
		if w.unprepared > 0 || w.executes == 0 {
			t.Errorf("%d statements were sent as text, %d were prepared", w.unprepared, w.executes)
		}
		if w.batches[unlogged] == 0 || w.batches[logged] > 0 || len(w.batches) != 1 || w.mixed > 0 {
			t.Errorf("batches by kind: %v, %d of them of several partitions; want unlogged ones of one partition each", w.batches, w.mixed)
		}
		if at := slices.Collect(maps.Keys(w.consistency)); len(at) != 1 || gocql.Consistency(at[0]) != want {
			t.Errorf("written with the consistencies %v, want %v alone", at, want)
		}
		if w.most != inFlight {
			t.Errorf("%d writes were under way at once, want %d", w.most, inFlight)
		}
		w.mu.Unlock()
	}
}
