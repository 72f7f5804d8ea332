// Package kafkatest is the in-process Kafka cluster of the tests, over loopback or, under testing/synctest, over a
// virtual network on which hours pass in milliseconds.
//
// The broker is kfake. It stores message.timestamp.type=LogAppendTime and ignores it: a record's timestamp is its
// producer's. What rests on append time needs a test on the real Kafka.
package kafkatest

import (
	"context"
	"errors"
	"net"
	"slices"
	"sync"
	"syscall"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sr/srfake"
)

// Partitions is how many partitions New gives each topic.
const Partitions = 3

// Cluster is a running cluster; kfake's own methods (ControlKey, Fault, ...) inject faults.
type Cluster struct {
	*kfake.Cluster

	network  *kfake.VirtualNetwork // nil over loopback
	registry *srfake.Registry
	once     sync.Once
}

// New starts a cluster on loopback that ends with the test.
func New(t testing.TB, topics ...string) *Cluster {
	t.Helper()
	return start(t, nil, topics)
}

// NewVirtual starts a cluster on a virtual network, inside a synctest bubble. It needs the build tag synctests.
func NewVirtual(t testing.TB, topics ...string) *Cluster {
	t.Helper()
	return start(t, &kfake.VirtualNetwork{}, topics)
}

func start(t testing.TB, network *kfake.VirtualNetwork, topics []string) *Cluster {
	t.Helper()
	opts := []kfake.Opt{kfake.NumBrokers(1)}
	if network != nil {
		opts = append(opts, kfake.ListenFn(network.Listen), kfake.Ports(9092))
	}
	fake, err := kfake.NewCluster(opts...)
	if err != nil {
		t.Fatalf("starting kfake: %v", err)
	}
	t.Cleanup(fake.Close)
	c := &Cluster{Cluster: fake, network: network}
	for _, topic := range topics {
		c.Create(t, topic, Partitions)
	}
	return c
}

// Create makes a topic.
func (c *Cluster) Create(t testing.TB, topic string, partitions int32) {
	t.Helper()
	if err := c.CreateTopic(topic, partitions, nil); err != nil {
		t.Fatalf("creating topic %s: %v", topic, err)
	}
}

// RegistryURL is where a fake schema registry answers, over loopback; it starts when first asked for.
func (c *Cluster) RegistryURL(t testing.TB) string {
	t.Helper()
	c.once.Do(func() {
		c.registry = srfake.New()
		t.Cleanup(c.registry.Close)
	})
	return c.registry.URL()
}

// Opts are the options by which a client reaches the cluster.
func (c *Cluster) Opts(more ...kgo.Opt) []kgo.Opt { return c.Link().Opts(more...) }

// Client is a client that is closed with the test.
func (c *Cluster) Client(t testing.TB, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	cl, err := kgo.NewClient(c.Opts(opts...)...)
	if err != nil {
		t.Fatalf("making a client: %v", err)
	}
	t.Cleanup(cl.CloseAllowingRebalance)
	return cl
}

// Produce writes records and waits for all of them. A record's Partition is kept.
func (c *Cluster) Produce(t testing.TB, records ...*kgo.Record) {
	t.Helper()
	cl, err := kgo.NewClient(c.Opts(kgo.RecordPartitioner(kgo.ManualPartitioner()))...)
	if err != nil {
		t.Fatalf("making a client: %v", err)
	}
	defer cl.Close()
	if err := cl.ProduceSync(context.Background(), records...).FirstErr(); err != nil {
		t.Fatalf("producing: %v", err)
	}
}

// Committed gives a group's committed offsets by partition; partitions without a commit are left out.
func (c *Cluster) Committed(t testing.TB, group, topic string) map[int32]int64 {
	t.Helper()
	cl, err := kgo.NewClient(c.Opts()...)
	if err != nil {
		t.Fatalf("making a client: %v", err)
	}
	defer cl.Close()
	offsets, err := kadm.NewClient(cl).FetchOffsets(context.Background(), group)
	if err != nil && !errors.Is(err, kerr.GroupIDNotFound) {
		t.Fatalf("fetching offsets: %v", err)
	}
	got := map[int32]int64{}
	offsets.Each(func(o kadm.OffsetResponse) {
		if o.Topic == topic && o.At >= 0 {
			got[o.Partition] = o.At
		}
	})
	return got
}

// Records reads a topic from its start to its end.
func (c *Cluster) Records(t testing.TB, topic string) []*kgo.Record {
	t.Helper()
	cl, err := kgo.NewClient(c.Opts(kgo.ConsumeTopics(topic), kgo.ConsumeStartOffset(kgo.NewOffset().AtStart()))...)
	if err != nil {
		t.Fatalf("making a client: %v", err)
	}
	defer cl.Close()
	adm := kadm.NewClient(cl)
	starts, err1 := adm.ListStartOffsets(context.Background(), topic)
	ends, err2 := adm.ListEndOffsets(context.Background(), topic)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatalf("listing offsets: %v", err)
	}
	want := 0
	ends.Each(func(o kadm.ListedOffset) { want += int(o.Offset) })
	starts.Each(func(o kadm.ListedOffset) { want -= int(o.Offset) })
	var got []*kgo.Record
	for len(got) < want {
		fetches := cl.PollFetches(t.Context())
		if err := fetches.Err(); err != nil {
			t.Fatalf("reading topic %s: %v", topic, err)
		}
		got = append(got, fetches.Records()...)
	}
	return got
}

// Link is one client's way to the cluster, which a test can cut.
type Link struct {
	cluster *Cluster
	mu      sync.Mutex
	down    bool
	conns   map[net.Conn]struct{}
}

// Link makes a way to the cluster.
func (c *Cluster) Link() *Link { return &Link{cluster: c, conns: map[net.Conn]struct{}{}} }

// Opts are the options by which a client goes this way. They come after any others: in a bubble nothing may be
// compressed, since the pooled zstd decoders are closed by finalizers, outside of the bubble that made them.
func (l *Link) Opts(more ...kgo.Opt) []kgo.Opt {
	opts := append(slices.Clone(more), kgo.SeedBrokers(l.cluster.ListenAddrs()...), kgo.Dialer(l.dial))
	if l.cluster.network != nil {
		opts = append(opts, kgo.ProducerBatchCompression(kgo.NoCompression()))
	}
	return opts
}

// Cut closes the client's connections and lets it open no more: to the cluster it looks like kill -9.
func (l *Link) Cut() {
	l.mu.Lock()
	l.down = true
	conns := l.conns
	l.conns = map[net.Conn]struct{}{}
	l.mu.Unlock()
	for conn := range conns {
		_ = conn.Close()
	}
}

// Mend lets the client connect again.
func (l *Link) Mend() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.down = false
}

func (l *Link) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	if l.isDown() {
		return nil, errCut()
	}
	dial := (&net.Dialer{}).DialContext
	if l.cluster.network != nil {
		dial = l.cluster.network.DialContext
	}
	conn, err := dial(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.down { // cut while dialing
		_ = conn.Close()
		return nil, errCut()
	}
	l.conns[conn] = struct{}{}
	return conn, nil
}

// errCut is what dialing a dead broker gives. Of an error of another type kgo asks for a producer id again and again
// without a pause.
func errCut() error { return &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED} }

func (l *Link) isDown() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.down
}
