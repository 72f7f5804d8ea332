package lag

import (
	"context"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
)

// TestASilentBroker: a broker whose sockets stay open and that says nothing any more costs a look some seconds, and nobody
// but the partitions that it leads and the groups that it coordinates their numbers.
func TestASilentBroker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var network kfake.VirtualNetwork
		cluster, err := kfake.NewCluster(kfake.NumBrokers(3), kfake.ListenFn(network.Listen), kfake.Ports(9092, 9093, 9094))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(cluster.Close)
		const partitions, groups = 12, 12
		if err := cluster.CreateTopic("t", partitions, nil); err != nil {
			t.Fatal(err)
		}
		wire := &muted{dial: network.DialContext}
		calls := &Calls{}
		cl, err := kgo.NewClient(append(Opts(calls), kgo.SeedBrokers(cluster.ListenAddrs()...), kgo.Dialer(wire.dialContext),
			kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerBatchCompression(kgo.NoCompression()),
			kgo.RequestTimeoutOverhead(3*time.Second), kgo.RetryTimeout(30*time.Second))...)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(cl.Close)
		adm := kadm.NewClient(cl)
		for p := range int32(partitions) {
			if err := cl.ProduceSync(t.Context(), &kgo.Record{Topic: "t", Partition: p, Value: []byte("v")}).FirstErr(); err != nil {
				t.Fatal(err)
			}
		}
		for g := range groups {
			offsets := kadm.Offsets{}
			for p := range int32(partitions) {
				offsets.AddOffset("t", p, 1, -1)
			}
			if err := adm.CommitAllOffsets(t.Context(), fmt.Sprint("g", g), offsets); err != nil {
				t.Fatal(err)
			}
		}
		r := NewReader(cl, calls, nil, func(string) bool { return true }, time.Now)
		w := NewWatcher(Options{
			Interval: time.Second, Committed: func(string) bool { return false }, Objective: func(string) time.Duration { return 0 },
		})
		// look takes one and counts the rows that are known, and the causes of those that are not.
		look := func() (known int, why map[Why]int, took time.Duration) {
			begun := time.Now()
			l, err := r.Look(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			took = time.Since(begun)
			w.Observe(l)
			why = map[Why]int{}
			for _, f := range w.View(time.Now()).Flows {
				for _, row := range f.Rows {
					if row.Records != nil {
						known++
					} else {
						why[row.Why]++
					}
				}
			}
			return known, why, took
		}
		if known, why, _ := look(); known != partitions*groups || len(why) > 0 {
			t.Fatalf("before: %d known, %v", known, why)
		}
		// Which broker leads and coordinates what is kfake's choice: the one that leads partition 0 falls silent.
		gone := w.look.Logs[Partition{"t", 0}].Leader
		led, coordinated := 0, 0
		for _, log := range w.look.Logs {
			if log.Leader == gone {
				led++
			}
		}
		for _, c := range adm.FindGroupCoordinators(t.Context(), slices.Collect(maps.Keys(w.look.Groups))...) {
			if c.NodeID == gone {
				coordinated++
			}
		}
		meta, err := adm.BrokerMetadata(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range meta.Brokers {
			if b.NodeID == gone {
				wire.mute(strconv.Itoa(int(b.Port)))
			}
		}
		for i := range 3 {
			known, why, took := look()
			if want := (partitions - led) * (groups - coordinated); known != want || why[BrokerDown] == 0 || len(why) != 1 {
				t.Errorf("look %d at a silent broker: %d known, want %d, %v", i+1, known, want, why)
			}
			if took > 20*time.Second { // what a monitor gives to a look
				t.Errorf("look %d at a silent broker took %v", i+1, took)
			}
		}
		wire.mute("")
		time.Sleep(5 * time.Second)
		look() // what hung is given up
		if known, why, took := look(); known != partitions*groups || len(why) > 0 || took > time.Second {
			t.Errorf("after: %d known, %v, in %v", known, why, took)
		}
	})
}

// TestRightsAreNoBroker: what the monitor may not see is not taken for a broker's fault.
func TestRightsAreNoBroker(t *testing.T) {
	s := newSim(t, map[Why]bool{})
	s.group("g", 1)
	s.run(60, s.steady("g"))
	l := s.logs[at(0)]
	l.Err = kerr.TopicAuthorizationFailed
	s.run(30, s.steady("g"))
	s.want("g", 0, OK, MonitorBlind)
	s.want("g", 1, OK, "")
	l.Err = nil
	s.groups["g"].Err = fmt.Errorf("reading the commits of group g: %w", kerr.GroupAuthorizationFailed)
	s.run(30, s.steady("g"))
	s.want("g", 1, OK, MonitorBlind)
	s.groups["g"].Err = fmt.Errorf("reading the commits of group g: %w", context.DeadlineExceeded)
	s.run(30, s.steady("g"))
	s.want("g", 1, OK, BrokerDown)
}

// muted is a way to brokers of which one can be made to say nothing.
type muted struct {
	dial func(ctx context.Context, network, addr string) (net.Conn, error)

	mu   sync.Mutex
	port string
}

func (m *muted) mute(port string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.port = port
}

func (m *muted) dialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := m.dial(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	_, port, err := net.SplitHostPort(addr)
	return &mutedConn{Conn: conn, of: m, port: port}, err
}

// mutedConn loses what is written while its broker is to say nothing.
type mutedConn struct {
	net.Conn

	of   *muted
	port string
}

func (c *mutedConn) Write(b []byte) (int, error) {
	c.of.mu.Lock()
	lost := c.of.port == c.port
	c.of.mu.Unlock()
	if lost {
		return len(b), nil
	}
	return c.Conn.Write(b)
}
