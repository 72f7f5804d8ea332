package stream

import (
	"errors"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	applied, dead, passed, expired, truncated, stopped, reseeks, recreated, wedged *prometheus.CounterVec
	retries, pollErrors, redelivered, blocked, gaps                                *prometheus.CounterVec
	rebalances, late, panics, commitErrors                                         prometheus.Counter
	latency                                                                        *prometheus.HistogramVec
	batchRecords, writeSeconds                                                     prometheus.Histogram
}

// newMetrics registers a consumer's metrics, each with the label consumer.
func newMetrics(reg prometheus.Registerer, c *Consumer) (*metrics, error) {
	reg = prometheus.WrapRegistererWith(prometheus.Labels{"consumer": c.name}, reg)
	var errs []error
	add := func(col prometheus.Collector) { errs = append(errs, reg.Register(col)) }
	counters := func(name, help string, labels ...string) *prometheus.CounterVec {
		v := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "millrace_stream_" + name, Help: help}, labels)
		add(v)
		return v
	}
	counter := func(name, help string) prometheus.Counter {
		v := prometheus.NewCounter(prometheus.CounterOpts{Name: "millrace_stream_" + name, Help: help})
		add(v)
		return v
	}
	histogram := func(name, help string, buckets []float64) prometheus.Histogram {
		v := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "millrace_stream_" + name, Help: help, Buckets: buckets})
		add(v)
		return v
	}
	m := &metrics{
		applied: counters("applied_records_total", "Records that the destination made durable.", "topic"),
		dead:    counters("dead_letters_total", "Records written to the dead-letter topic.", "topic", "reason"),
		passed:  counters("passed_over_records_total", "Replayed dead letters that are for another destination.", "topic"),
		gaps: counters("gap_records_total", "Offsets passed over between two that were read: expired, or unexplained by retention, "+
			"transactions and compaction.", "topic", "kind"),
		expired:     counters("expired_records_total", "Records that retention deleted before they were read.", "topic"),
		truncated:   counters("truncated_records_total", "Records read that the log then lost.", "topic"),
		stopped:     counters("stopped_partitions_total", "Partitions whose reading stopped.", "topic", "reason"),
		reseeks:     counters("reseeks_total", "Partitions that started again from the destination's offset, or from what is durable.", "topic"),
		recreated:   counters("recreated_topics_total", "Times that a topic was found deleted while it was read.", "topic"),
		wedged:      counters("wedged_calls_total", "Calls of the sink or the decoder that did not come back when their time was over.", "topic"),
		retries:     counters("retries_total", "Attempts that failed and came again, by the class of what failed.", "what", "class"),
		redelivered: counters("redelivered_records_total", "Records that the destination had already, where it says so; of the lake, offsets.", "topic"),
		pollErrors:  counters("poll_errors_total", "Errors of polls.", "topic"),
		blocked: counters("blocked_seconds_total", "Time of partitions that was waited for something, by what: sink (batches are not acknowledged), "+
			"fetch (the log has more and nothing is held), decode, commit (all is applied and not committed).", "on"),
		rebalances:   counter("rebalances_total", "Times that partitions were assigned, revoked or lost."),
		late:         counter("late_acknowledgements_total", "Acknowledgements that came after the partition was given up, and were void."),
		panics:       counter("sink_panics_total", "Panics of the sink or the decoder that were caught."),
		commitErrors: counter("commit_errors_total", "Commits of offsets that failed."),
		batchRecords: histogram("batch_records", "Records of a batch.", prometheus.ExponentialBuckets(1, 4, 8)),
		writeSeconds: histogram("write_duration_seconds", "Time of an attempt, from Write to done.", prometheus.ExponentialBuckets(0.001, 4, 10)),
	}
	m.latency = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "millrace_stream_delivery_duration_seconds", Help: "Time from a record's event to its being durable in the destination.",
		Buckets: []float64{0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 900, 3600, 21600},
	}, []string{"topic"})
	add(m.latency)
	add(&partitionCollector{c: c})
	return m, errors.Join(errs...)
}

// partitionCollector reads the partitions' offsets when it is asked, so that no series of a partition outlives it.
type partitionCollector struct{ c *Consumer }

func partitionDesc(name, help string) *prometheus.Desc {
	return prometheus.NewDesc("millrace_stream_"+name, help, []string{"topic", "partition"}, nil)
}

func (p *partitionCollector) descs() [5]*prometheus.Desc {
	return [5]*prometheus.Desc{
		partitionDesc("fetched_offset", "One past the last offset taken in."),
		partitionDesc("applied_offset", "End of the contiguous prefix that the destination made durable."),
		partitionDesc("committed_offset", "Last committed offset."),
		partitionDesc("end_offset", "End of what may be read, as of the last fetch."),
		partitionDesc("running", "1 where the partition is read, 0 where it is not."),
	}
}

// Describe implements prometheus.Collector.
func (p *partitionCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range p.descs() {
		ch <- d
	}
	ch <- heldDesc()
	ch <- pausedDesc()
}

func heldDesc() *prometheus.Desc {
	return prometheus.NewDesc("millrace_stream_held_bytes", "Bytes of the records that the consumer holds.", nil, nil)
}

func pausedDesc() *prometheus.Desc {
	return prometheus.NewDesc("millrace_stream_paused_partitions", "Partitions paused because the process holds as much as it may.", nil, nil)
}

// Collect implements prometheus.Collector.
func (p *partitionCollector) Collect(ch chan<- prometheus.Metric) {
	descs := p.descs()
	for _, s := range p.c.Status() {
		running := int64(0)
		if s.State == stateRunning {
			running = 1
		}
		for i, v := range [5]int64{s.Fetched, s.Applied, s.Committed, s.End, running} {
			if v < 0 {
				continue // not known yet
			}
			ch <- prometheus.MustNewConstMetric(descs[i], prometheus.GaugeValue, float64(v), s.Topic, strconv.Itoa(int(s.Partition)))
		}
	}
	held, paused := p.c.budget.held(p.c)
	ch <- prometheus.MustNewConstMetric(heldDesc(), prometheus.GaugeValue, float64(held))
	ch <- prometheus.MustNewConstMetric(pausedDesc(), prometheus.GaugeValue, float64(paused))
}

// quiet lets one line per kind pass in 30 s.
type quiet struct {
	mu   sync.Mutex
	last map[string]time.Time
}

func (q *quiet) allow(kind string) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	now := time.Now()
	if last, ok := q.last[kind]; ok && now.Sub(last) < 30*time.Second {
		return false
	}
	if q.last == nil {
		q.last = map[string]time.Time{}
	}
	q.last[kind] = now
	return true
}
