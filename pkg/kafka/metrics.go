package kafka

import (
	"errors"
	"strconv"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/plugin/kprom"
)

// clientMetrics is kprom made safe to share: kprom registers afresh for every client, and panics when the names are
// taken, although one process runs many clients.
type clientMetrics struct {
	*kprom.Metrics

	mu      sync.Mutex
	clients int
}

var (
	_ kgo.HookNewClient    = (*clientMetrics)(nil)
	_ kgo.HookClientClosed = (*clientMetrics)(nil)
)

func newClientMetrics(reg prometheus.Registerer) *clientMetrics {
	return &clientMetrics{Metrics: kprom.NewMetrics("millrace_kafka",
		kprom.Registerer(&numbered{reg: reg, at: map[prometheus.Collector]prometheus.Registerer{}}),
		kprom.WithClientLabel(),
		kprom.FetchAndProduceDetail(kprom.ByTopic, kprom.Batches, kprom.Records, kprom.CompressedBytes),
	)}
}

// OnNewClient registers the metrics with the first client.
func (m *clientMetrics) OnNewClient(cl *kgo.Client) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.clients++; m.clients == 1 {
		m.Metrics.OnNewClient(cl)
	}
}

// OnClientClosed takes them back with the last.
func (m *clientMetrics) OnClientClosed(cl *kgo.Client) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.clients--; m.clients == 0 {
		m.Metrics.OnClientClosed(cl)
	}
}

// numbered gives every collector a label client="n", the first n that is free.
type numbered struct {
	reg prometheus.Registerer
	mu  sync.Mutex
	at  map[prometheus.Collector]prometheus.Registerer
}

func (n *numbered) Register(c prometheus.Collector) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	for i := 1; ; i++ {
		reg := prometheus.WrapRegistererWith(prometheus.Labels{"client": strconv.Itoa(i)}, n.reg)
		err := reg.Register(c)
		if taken := (prometheus.AlreadyRegisteredError{}); errors.As(err, &taken) {
			continue
		}
		if err == nil {
			n.at[c] = reg
		}
		return err
	}
}

// MustRegister cannot fail on a name that is taken; whatever else fails leaves the metric unseen, not the client dead.
func (n *numbered) MustRegister(cs ...prometheus.Collector) {
	for _, c := range cs {
		_ = n.Register(c)
	}
}

func (n *numbered) Unregister(c prometheus.Collector) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	reg, ok := n.at[c]
	delete(n.at, c)
	return ok && reg.Unregister(c)
}
