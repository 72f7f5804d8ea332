package cassandra

import (
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace/pkg/schema/schematest"
	"github.com/millrace/millrace/pkg/servertest"
	"github.com/millrace/millrace/pkg/stream"
)

// A proxy stands between the Store and Cassandra. Frozen, it keeps its connections and passes nothing on; cut, it
// resets them and takes no new ones.
type proxy struct {
	t      *testing.T
	target string
	addr   string

	mu     sync.Mutex
	frozen chan struct{} // closed when not frozen
	cut    bool
	conns  []net.Conn
}

func newProxy(t *testing.T, target string) *proxy {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{t: t, target: target, addr: l.Addr().String(), frozen: make(chan struct{})}
	close(p.frozen)
	t.Cleanup(func() { _ = l.Close(); p.setCut(true) })
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			p.serve(in)
		}
	}()
	return p
}

func (p *proxy) serve(in net.Conn) {
	out, err := (&net.Dialer{}).DialContext(p.t.Context(), "tcp", p.target)
	p.mu.Lock()
	defer p.mu.Unlock()
	if err != nil || p.cut {
		_ = in.Close()
		return
	}
	p.conns = append(p.conns, in, out)
	go p.pass(in, out)
	go p.pass(out, in)
}

func (p *proxy) pass(from, to net.Conn) {
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		p.mu.Lock()
		frozen := p.frozen
		p.mu.Unlock()
		<-frozen
		if _, werr := to.Write(buf[:n]); err != nil || werr != nil {
			if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
				p.t.Logf("proxy: %v", err)
			}
			_, _ = from.Close(), to.Close()
			return
		}
	}
}

func (p *proxy) setFrozen(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if on {
		p.frozen = make(chan struct{})
		return
	}
	close(p.frozen)
}

func (p *proxy) setCut(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cut = on; on {
		for _, c := range p.conns {
			_ = c.Close()
		}
		p.conns = nil
	}
}

// TestComesBack: a connection that dies, or only goes silent, is an outage within the time-out, and the same batch is
// stored once Cassandra can be reached again.
func TestComesBack(t *testing.T) {
	servers, ok := servertest.Require(t)
	if !ok {
		return
	}
	typ := schematest.Type(t, "log")
	for name, fault := range map[string]func(*proxy, bool){"cut": (*proxy).setCut, "frozen": (*proxy).setFrozen} {
		t.Run(name, func(t *testing.T) {
			direct := open(t, servers, typ)
			p := newProxy(t, servers.Cassandra[0])
			s := unplanned(t, servertest.Servers{Cassandra: []string{p.addr}}, direct.cfg.Keyspace, typ)
			s.cfg.Timeout, s.data.cfg.Timeout = 2*time.Second, 2*time.Second
			m := maker(typ)
			if err := store(t, s, m.Batch(0, 0, 50)); err != nil {
				t.Fatal(err)
			}
			fault(p, true)
			for range 2 {
				begun := time.Now()
				err := store(t, s, m.Batch(0, 50, 100))
				var partial *stream.PartialError
				if err == nil || errors.As(err, &partial) {
					t.Errorf("done got %v, want an outage", err)
				}
				if took := time.Since(begun); took > 15*time.Second {
					t.Errorf("it took %s to see the outage", took)
				}
			}
			fault(p, false)
			begun := time.Now()
			for {
				err := store(t, s, m.Batch(0, 50, 100))
				if err == nil {
					break
				}
				if time.Since(begun) > time.Minute {
					t.Fatalf("a minute later: %v", err)
				}
				time.Sleep(100 * time.Millisecond)
			}
			t.Logf("stored %s after the fault ended", time.Since(begun).Round(time.Millisecond))
			if n := len(rows(t, direct, typ)); n != 100 {
				t.Errorf("%d rows, want 100", n)
			}
		})
	}
}
