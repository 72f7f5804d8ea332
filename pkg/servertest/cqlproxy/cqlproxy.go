// Package cqlproxy is Cassandra with faults: a proxy in front of a real node that answers writes with errors as a node
// does whose replicas are late or gone, as it is told while it runs, and counts what it did.
//
// It speaks frames of the native protocol, version 4, without compression, and looks at EXECUTE and BATCH only.
package cqlproxy

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"time"
)

// Faults is what a Proxy does; the zero value is nothing, every request is passed on.
type Faults struct {
	// TimeOut is the share, from 0 to 1, of writes that are passed on, and whose answer is replaced by a write time-out:
	// whether they were applied is not known to the client, and they were.
	TimeOut float64
	// Unavailable and Overloaded are the shares of writes that are not passed on, and are answered so.
	Unavailable float64
	Overloaded  float64
	// Answer is the error that every write is answered with, and none is passed on.
	Answer *Answer
}

// Answer is an error of the native protocol.
type Answer struct {
	Code    uint32
	Message string
}

// Counts is what a Proxy has done.
type Counts struct {
	Writes, TimedOut, Unavailable, Overloaded int64
}

// A Proxy stands in front of one node. Its methods are safe for concurrent use.
type Proxy struct {
	target   string
	listener net.Listener
	served   sync.WaitGroup

	mu     sync.Mutex
	faults Faults
	counts Counts
	rnd    *rand.Rand
	conns  map[net.Conn]bool
	closed bool
}

const (
	opExecute, opBatch = 0x0a, 0x0d
	opError            = 0x00
	version            = 0x04
	headBytes          = 9
	maxFrame           = 256 << 20 // of the protocol

	codeUnavailable, codeOverloaded, codeWriteTimeout, codeWriteFailure = 0x1000, 0x1001, 0x1100, 0x1500
	localQuorum                                                         = 0x0006

	dialTimeout = 10 * time.Second
)

// Start listens on a free port of 127.0.0.1 and passes everything on to the node at target, a host:port. Which writes
// fail follows from the seed and the order in which they come.
func Start(target string, seed uint64) (*Proxy, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // it does not wait
	if err != nil {
		return nil, fmt.Errorf("listening before Cassandra: %w", err)
	}
	p := &Proxy{target: target, listener: l, rnd: rand.New(rand.NewPCG(seed, 0)), conns: map[net.Conn]bool{}}
	p.served.Go(p.accept)
	return p, nil
}

// Address is where the proxy listens.
func (p *Proxy) Address() string { return p.listener.Addr().String() }

// Set changes the faults, from the next write on.
func (p *Proxy) Set(f Faults) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.faults = f
}

// Counts gives what was done so far.
func (p *Proxy) Counts() Counts {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.counts
}

// Close cuts all connections and ends the proxy.
func (p *Proxy) Close() error {
	err := p.listener.Close()
	p.mu.Lock()
	p.closed = true
	for c := range p.conns {
		_ = c.Close() // the other side may have been faster
	}
	p.mu.Unlock()
	p.served.Wait()
	return err
}

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.served.Go(func() { p.serve(client) })
	}
}

// keep notes a connection, which Close ends. It is false when the proxy is closed.
func (p *Proxy) keep(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conns[c] = true
	return !p.closed
}

func (p *Proxy) drop(c net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
	_ = c.Close() // it ends either way
}

func (p *Proxy) serve(client net.Conn) {
	defer p.drop(client)
	if !p.keep(client) {
		return
	}
	node, err := net.DialTimeout("tcp", p.target, dialTimeout) //nolint:noctx // it has a time-out
	if err != nil {
		return // the client sees its connection end, as it would with the node
	}
	defer p.drop(node)
	if !p.keep(node) {
		return
	}
	l := &link{proxy: p, client: client, node: node, late: map[[2]byte]bool{}}
	p.served.Go(func() {
		_ = l.answers() // an end of either side is an end of both
		_ = client.Close()
	})
	_ = l.requests()
	_ = node.Close()
}

// link is one connection of a client.
type link struct {
	proxy        *Proxy
	client, node net.Conn

	mu   sync.Mutex // also of writes to the client
	late map[[2]byte]bool
}

// frame reads one, head and body.
func frame(r *bufio.Reader) ([]byte, error) {
	var head [headBytes]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint32(head[5:])
	if size > maxFrame {
		return nil, fmt.Errorf("a frame of %d bytes", size)
	}
	f := make([]byte, headBytes+int(size))
	copy(f, head[:])
	_, err := io.ReadFull(r, f[headBytes:])
	return f, err
}

func (l *link) requests() error {
	for r := bufio.NewReaderSize(l.client, 64<<10); ; {
		f, err := frame(r)
		if err != nil {
			return err
		}
		if f[4] == opExecute || f[4] == opBatch {
			stream := [2]byte(f[2:4])
			switch a := l.proxy.decide(); {
			case a == nil:
			case a.late:
				l.mu.Lock()
				l.late[stream] = true
				l.mu.Unlock()
			default:
				if err := l.answer(failure(stream, a.Answer)); err != nil {
					return err
				}
				continue
			}
		}
		if _, err := l.node.Write(f); err != nil {
			return err
		}
	}
}

func (l *link) answers() error {
	for r := bufio.NewReaderSize(l.node, 64<<10); ; {
		f, err := frame(r)
		if err != nil {
			return err
		}
		stream := [2]byte(f[2:4])
		l.mu.Lock()
		late := l.late[stream]
		delete(l.late, stream)
		l.mu.Unlock()
		if late {
			f = failure(stream, lateAnswer)
		}
		if err := l.answer(f); err != nil {
			return err
		}
	}
}

func (l *link) answer(f []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, err := l.client.Write(f)
	return err
}

// A decision is how a write is answered; late is after it was passed on.
type decision struct {
	Answer
	late bool
}

var (
	lateAnswer        = Answer{codeWriteTimeout, "Operation timed out - received only 1 responses."}
	unavailableAnswer = Answer{codeUnavailable, "Cannot achieve consistency level LOCAL_QUORUM"}
	overloadedAnswer  = Answer{codeOverloaded, "Server is overloaded"}
)

// decide gives the error that a write is answered with, if any.
func (p *Proxy) decide() *decision {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.counts.Writes++
	x := p.rnd.Float64()
	switch f := p.faults; {
	case f.Answer != nil:
		return &decision{Answer: *f.Answer}
	case x < f.TimeOut:
		p.counts.TimedOut++
		return &decision{lateAnswer, true}
	case x < f.TimeOut+f.Unavailable:
		p.counts.Unavailable++
		return &decision{Answer: unavailableAnswer}
	case x < f.TimeOut+f.Unavailable+f.Overloaded:
		p.counts.Overloaded++
		return &decision{Answer: overloadedAnswer}
	}
	return nil
}

// failure makes the frame of an error. Some have more than a code and a message.
func failure(stream [2]byte, a Answer) []byte {
	body := binary.BigEndian.AppendUint32(nil, a.Code)
	text := func(s string) {
		body = binary.BigEndian.AppendUint16(body, uint16(len(s)))
		body = append(body, s...)
	}
	numbers := func(of ...uint32) {
		body = binary.BigEndian.AppendUint16(body, localQuorum)
		for _, n := range of {
			body = binary.BigEndian.AppendUint32(body, n)
		}
	}
	text(a.Message)
	switch a.Code {
	case codeUnavailable:
		numbers(2, 1) // replicas wanted, and alive
	case codeWriteTimeout:
		numbers(1, 2) // replicas that answered, of those wanted
		text("SIMPLE")
	case codeWriteFailure:
		numbers(1, 2, 1) // and that failed
		text("SIMPLE")
	}
	f := []byte{version | 0x80, 0, stream[0], stream[1], opError}
	f = binary.BigEndian.AppendUint32(f, uint32(len(body)))
	return append(f, body...)
}
