package lag

import (
	"cmp"
	"math"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/millrace/millrace/pkg/lag"
)

const (
	worstPartitions = 5   // of a flow have series of their own,
	detailedFlows   = 100 // and of how many flows, the worst: else /metrics would grow past what is good to scrape
)

// desc has the label cluster before all others: one Prometheus may scrape the watchers of several.
func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("millrace_lag_"+name, help, append([]string{"cluster"}, labels...), nil)
}

var (
	flow      = []string{"group", "topic"}
	stage     = []string{"group", "topic", "stage"}
	partition = []string{"group", "topic", "partition"}

	descRecords    = desc("records", "Offsets between a stage and the end, over all partitions; negative where it is ahead. Absent where it is not known.", stage...)
	descMax        = desc("max_records", "Offsets between the commit and the end of the worst partition.", flow...)
	descSeconds    = desc("seconds", "Age of the oldest record that is not past a stage, at most, on the worst partition. Absent where it is not known.", stage...)
	descLow        = desc("seconds_low", "Age of the oldest record that is not committed, at least, on the worst partition.", flow...)
	descUnknown    = desc("unknown_partitions", "Partitions whose oldest unread record's age is not known.", flow...)
	descObjective  = desc("objective_seconds", "How old the oldest unread record may become.", flow...)
	descWatched    = desc("partition_seconds_total", "Partitions by the seconds that they were watched, where there is an objective.", flow...)
	descBad        = desc("bad_partition_seconds_total", "Partitions by the seconds that they were past their objective, or their lag was not known.", flow...)
	descPartition  = desc("partition_records", "Offsets between the commit and the end, of the five worst partitions of the hundred worst flows.", partition...)
	descPartitionS = desc("partition_seconds", "Age of the oldest record that is not committed, at most, of the five worst partitions of the hundred worst flows.", partition...)
	descIn         = desc("in_records_per_second", "What is appended, over the last minutes.", flow...)
	descOut        = desc("out_records_per_second", "What is committed, over the last minutes.", flow...)
	descCatchUp    = desc("catch_up_seconds", "How long the lag takes to be gone at these rates; +Inf is never.", flow...)
	descHeadroom   = desc("headroom_seconds", "How long it takes at least until unread records may be deleted. Absent where none are unread.", flow...)
	descNoHeadroom = desc("headroom_unknown_partitions", "Partitions of which unread records may be deleted, and it is not known when.", flow...)
	descExpired    = desc("expired_records_total", "Offsets that were deleted before they were committed, since this process watches.", flow...)
	descRewinds    = desc("rewinds_total", "Times that a commit went back, since this process watches.", flow...)
	descStatus     = desc("status", "In Burrow's numbers: 1 OK, 2 WARN, 3 ERR, 4 STOP, 5 STALL, 6 REWIND.", flow...)
	descCause      = desc("cause", "1 for the cause that is named now.", "group", "topic", "cause")
	descMembers    = desc("members", "Members of the group.", "group")
	descWorkers    = desc("workers_wanted", "Members that would keep up; as many as there are while more would not help.", "group")
	descLookAge    = desc("look_age_seconds", "How long ago the last complete look was.")
	descLookTook   = desc("look_duration_seconds", "How long it took.")
	descLookCalls  = desc("look_requests", "Requests to brokers that it took.")
	descFailures   = desc("look_failures_total", "Looks that failed, as a whole or in a part that matters.")
	descInterval   = desc("interval_seconds", "The interval of looks.")
	descSkew       = desc("clock_skew_seconds", "By how much the brokers' clock is ahead of this machine's.")
	descFlows      = desc("flows", "Groups by topics that are watched.")
	descLeftOff    = desc("flows_left_off", "Those among them that have no metrics, as there are more than lag.flows: the best ones.")

	// The names of kafka-lag-exporter, for dashboards that are made for it.
	aliasLabels  = []string{"cluster_name", "group", "topic", "partition"}
	aliasGroup   = []string{"cluster_name", "group"}
	aliasMax     = prometheus.NewDesc("kafka_consumergroup_group_max_lag", "As millrace_lag_max_records, over all topics.", aliasGroup, nil)
	aliasMaxS    = prometheus.NewDesc("kafka_consumergroup_group_max_lag_seconds", "As millrace_lag_seconds, over all topics.", aliasGroup, nil)
	aliasSum     = prometheus.NewDesc("kafka_consumergroup_group_sum_lag", "As millrace_lag_records, over all topics.", aliasGroup, nil)
	aliasTopic   = prometheus.NewDesc("kafka_consumergroup_group_topic_sum_lag", "As millrace_lag_records of commits.", []string{"cluster_name", "group", "topic"}, nil)
	aliasLag     = prometheus.NewDesc("kafka_consumergroup_group_lag", "As millrace_lag_partition_records.", aliasLabels, nil)
	aliasLagS    = prometheus.NewDesc("kafka_consumergroup_group_lag_seconds", "As millrace_lag_partition_seconds.", aliasLabels, nil)
	aliasOffset  = prometheus.NewDesc("kafka_consumergroup_group_offset", "The commit, of the five worst partitions of the hundred worst flows.", aliasLabels, nil)
	aliasLatest  = prometheus.NewDesc("kafka_partition_latest_offset", "The end of a partition that is among the five worst of a flow.", []string{"cluster_name", "topic", "partition"}, nil)
	aliasEarly   = prometheus.NewDesc("kafka_partition_earliest_offset", "The start of a partition that is among the five worst of a flow.", []string{"cluster_name", "topic", "partition"}, nil)
	descriptions = []*prometheus.Desc{
		descRecords, descMax, descSeconds, descLow, descUnknown, descObjective, descWatched, descBad, descPartition, descPartitionS,
		descIn, descOut, descCatchUp, descHeadroom, descNoHeadroom, descExpired, descRewinds, descStatus, descCause, descMembers, descWorkers,
		descLookAge, descLookTook, descLookCalls, descFailures, descInterval, descSkew, descFlows, descLeftOff,
		aliasMax, aliasMaxS, aliasSum, aliasTopic, aliasLag, aliasLagS, aliasOffset, aliasLatest, aliasEarly,
	}
)

var burrow = map[lag.Status]float64{lag.OK: 1, lag.Warn: 2, lag.Err: 3, lag.Stop: 4, lag.Stall: 5, lag.Rewind: 6}

// collector shows the last view. It asks nobody anything.
type collector struct{ m *Monitor }

// cluster is its name in the metrics: that of the configuration, or Kafka's id of it, which is not known before the first
// look. Brokers that have none are those of the only cluster.
func (m *Monitor) cluster(v *lag.View) string {
	name := cmp.Or(m.cfg.Cluster, v.Cluster)
	if name == "" && !v.AsOf.IsZero() {
		return "default"
	}
	return name
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range descriptions {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	v := c.m.View()
	e := exporter{ch: ch, cluster: c.m.cluster(v), logs: map[logKey]bool{}}
	e.gauge(descInterval, c.m.cfg.Interval.Seconds())
	e.counter(descFailures, float64(c.m.counters.failed()))
	e.gauge(descSkew, v.Skew)
	if v.AsOf.IsZero() { // nothing was ever seen
		e.gauge(descLookAge, max(0, c.m.deps.Now().Sub(c.m.counters.start).Seconds()))
		return
	}
	e.gauge(descLookAge, max(0, c.m.deps.Now().Sub(v.AsOf).Seconds()))
	e.gauge(descLookTook, v.Took)
	e.gauge(descLookCalls, float64(v.Calls))
	e.gauge(descFlows, float64(len(v.Flows)))
	shown := min(len(v.Flows), c.m.cfg.Flows)
	e.gauge(descLeftOff, float64(len(v.Flows)-shown))
	groups := map[string]*groupSum{}
	for i := range v.Flows[:shown] {
		f := &v.Flows[i]
		e.counters(f, c.m.counters.of(f.Group, f.Topic))
		e.flow(f, i < detailedFlows)
		sum := groups[f.Group]
		if sum == nil {
			sum = &groupSum{}
			groups[f.Group] = sum
		}
		sum.add(f)
	}
	for name, sum := range groups {
		e.group(name, sum)
	}
}

type logKey struct {
	topic     string
	partition int32
}

type exporter struct {
	ch      chan<- prometheus.Metric
	cluster string
	logs    map[logKey]bool
}

// send sends a metric, whose first label is the cluster: of ours and of those under kafka-lag-exporter's names alike.
func (e *exporter) send(d *prometheus.Desc, kind prometheus.ValueType, v float64, labels []string) {
	e.ch <- prometheus.MustNewConstMetric(d, kind, v, append([]string{e.cluster}, labels...)...)
}

func (e *exporter) gauge(d *prometheus.Desc, v float64, labels ...string) {
	e.send(d, prometheus.GaugeValue, v, labels)
}

func (e *exporter) counter(d *prometheus.Desc, v float64, labels ...string) {
	e.send(d, prometheus.CounterValue, v, labels)
}

func (e *exporter) counters(f *lag.Flow, c count) {
	e.counter(descExpired, float64(f.Expired), f.Group, f.Topic)
	e.counter(descRewinds, float64(f.Rewinds), f.Group, f.Topic)
	if f.Objective > 0 {
		e.gauge(descObjective, f.Objective, f.Group, f.Topic)
		e.counter(descWatched, c.watched, f.Group, f.Topic)
		e.counter(descBad, c.bad, f.Group, f.Topic)
	}
}

// flow shows what is known of one, and nothing of what is not.
func (e *exporter) flow(f *lag.Flow, detailed bool) {
	e.gauge(descUnknown, float64(f.Unknown), f.Group, f.Topic)
	e.gauge(descNoHeadroom, float64(f.NoHeadroom), f.Group, f.Topic)
	if f.Why != "" {
		e.gauge(descCause, 1, f.Group, f.Topic, string(f.Why))
	}
	if f.Records == nil {
		return
	}
	e.gauge(descStatus, burrow[f.Status], f.Group, f.Topic)
	e.gauge(descRecords, float64(*f.Records), f.Group, f.Topic, "committed")
	e.gauge(descMax, float64(f.Most), f.Group, f.Topic)
	e.gauge(aliasTopic, float64(*f.Records), f.Group, f.Topic)
	if f.Applied != nil {
		e.gauge(descRecords, float64(*f.Applied), f.Group, f.Topic, "applied")
	}
	if f.Fetched != nil {
		e.gauge(descRecords, float64(*f.Fetched), f.Group, f.Topic, "fetched")
	}
	if f.Age.High != nil {
		e.gauge(descSeconds, *f.Age.High, f.Group, f.Topic, "committed")
	}
	if f.AppliedAge.High != nil {
		e.gauge(descSeconds, *f.AppliedAge.High, f.Group, f.Topic, "applied")
	}
	if f.Age.Low != nil {
		e.gauge(descLow, *f.Age.Low, f.Group, f.Topic)
	}
	if f.In != nil {
		e.gauge(descIn, *f.In, f.Group, f.Topic)
	}
	if f.Out != nil {
		e.gauge(descOut, *f.Out, f.Group, f.Topic)
	}
	if c := f.CatchUp; c != nil {
		if *c < 0 {
			e.gauge(descCatchUp, math.Inf(1), f.Group, f.Topic)
		} else {
			e.gauge(descCatchUp, *c, f.Group, f.Topic)
		}
	}
	if f.Headroom != nil {
		e.gauge(descHeadroom, *f.Headroom, f.Group, f.Topic)
	}
	if !detailed {
		return
	}
	for i := range f.Rows[:min(worstPartitions, len(f.Rows))] {
		if r := &f.Rows[i]; r.Records != nil && *r.Records != 0 {
			e.row(r)
		}
	}
}

func (e *exporter) row(r *lag.Row) {
	number := strconv.Itoa(int(r.Partition))
	e.gauge(descPartition, float64(*r.Records), r.Group, r.Topic, number)
	e.gauge(aliasLag, float64(*r.Records), r.Group, r.Topic, number)
	if r.Age.High != nil {
		e.gauge(descPartitionS, *r.Age.High, r.Group, r.Topic, number)
		e.gauge(aliasLagS, *r.Age.High, r.Group, r.Topic, number)
	}
	if r.Committed != nil {
		e.gauge(aliasOffset, float64(*r.Committed), r.Group, r.Topic, number)
	}
	if k := (logKey{r.Topic, r.Partition}); !e.logs[k] {
		e.logs[k] = true
		e.gauge(aliasLatest, float64(r.End), r.Topic, number)
		e.gauge(aliasEarly, float64(r.Start), r.Topic, number)
	}
}

// groupSum is a group over its topics.
type groupSum struct {
	members, workers int
	sum, most        int64
	seconds          float64
	unknown, undated bool // of a flow nothing is known, or not how old its records are
}

func (s *groupSum) add(f *lag.Flow) {
	s.members, s.workers = f.Members, max(s.workers, f.Workers)
	if f.Records == nil {
		s.unknown, s.undated = true, true
		return
	}
	s.sum += *f.Records
	s.most = max(s.most, f.Most)
	if f.Age.High == nil {
		s.undated = true
		return
	}
	s.seconds = max(s.seconds, *f.Age.High)
}

func (e *exporter) group(name string, s *groupSum) {
	e.gauge(descMembers, float64(s.members), name)
	e.gauge(descWorkers, float64(s.workers), name)
	if !s.unknown {
		e.gauge(aliasSum, float64(s.sum), name)
		e.gauge(aliasMax, float64(s.most), name)
	}
	if !s.undated {
		e.gauge(aliasMaxS, s.seconds, name)
	}
}

// count is what of a flow adds up over views.
type count struct {
	watched, bad float64
	seen         time.Time
}
