package lag

import (
	"bytes"
	"fmt"
	"math"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"

	"github.com/millrace/millrace/pkg/lag"
	"github.com/millrace/millrace/pkg/telemetry"
)

// monitorAt is one that has not run, at a time that the test sets.
func monitorAt(t *testing.T, cfg Config, now *time.Time) (*Monitor, *prometheus.Registry) {
	t.Helper()
	reg := prometheus.NewRegistry()
	tel := telemetry.Discard()
	tel.Metrics = reg
	m, err := New(cfg, Deps{Own: map[string][]string{}, Telemetry: tel, Now: func() time.Time { return *now }})
	if err != nil {
		t.Fatal(err)
	}
	return m, reg
}

func TestMetrics(t *testing.T) {
	now := noon
	m, reg := monitorAt(t, Default(), &now)
	v := viewAt(noon, 1000, 12.5)
	v.Flows[0].CatchUp, v.Flows[0].Headroom, v.Flows[0].Expired, v.Flows[0].Rewinds = new(-1.0), new(3600.0), 7, 2
	v.Flows[0].Rows[0].Start, v.Flows[0].Rows[0].End, v.Flows[0].Rows[0].Committed = 10, 2010, new(int64(1010))
	v.Flows[0].Members, v.Flows[0].Workers, v.Flows[0].Most, v.Flows[0].NoHeadroom = 2, 3, 1000, 1
	m.show(v)
	later := *v
	later.AsOf = noon.Add(10 * time.Second)
	m.show(&later)
	now = noon.Add(14 * time.Second)
	want := `
kafka_consumergroup_group_lag{cluster_name="kafka-1",group="g",partition="3",topic="t"} 1000
kafka_consumergroup_group_lag_seconds{cluster_name="kafka-1",group="g",partition="3",topic="t"} 12.5
kafka_consumergroup_group_max_lag{cluster_name="kafka-1",group="g"} 1000
kafka_consumergroup_group_max_lag_seconds{cluster_name="kafka-1",group="g"} 12.5
kafka_consumergroup_group_offset{cluster_name="kafka-1",group="g",partition="3",topic="t"} 1010
kafka_consumergroup_group_sum_lag{cluster_name="kafka-1",group="g"} 1000
kafka_consumergroup_group_topic_sum_lag{cluster_name="kafka-1",group="g",topic="t"} 1000
kafka_partition_earliest_offset{cluster_name="kafka-1",partition="3",topic="t"} 10
kafka_partition_latest_offset{cluster_name="kafka-1",partition="3",topic="t"} 2010
millrace_lag_bad_partition_seconds_total{cluster="kafka-1",group="g",topic="t"} 10
millrace_lag_catch_up_seconds{cluster="kafka-1",group="g",topic="t"} +Inf
millrace_lag_cause{cause="sink_slow",cluster="kafka-1",group="g",topic="t"} 1
millrace_lag_expired_records_total{cluster="kafka-1",group="g",topic="t"} 7
millrace_lag_headroom_seconds{cluster="kafka-1",group="g",topic="t"} 3600
millrace_lag_headroom_unknown_partitions{cluster="kafka-1",group="g",topic="t"} 1
millrace_lag_look_age_seconds{cluster="kafka-1"} 4
millrace_lag_members{cluster="kafka-1",group="g"} 2
millrace_lag_objective_seconds{cluster="kafka-1",group="g",topic="t"} 10
millrace_lag_partition_records{cluster="kafka-1",group="g",partition="3",topic="t"} 1000
millrace_lag_partition_seconds{cluster="kafka-1",group="g",partition="3",topic="t"} 12.5
millrace_lag_partition_seconds_total{cluster="kafka-1",group="g",topic="t"} 10
millrace_lag_records{cluster="kafka-1",group="g",stage="applied",topic="t"} 500
millrace_lag_records{cluster="kafka-1",group="g",stage="committed",topic="t"} 1000
millrace_lag_rewinds_total{cluster="kafka-1",group="g",topic="t"} 2
millrace_lag_seconds{cluster="kafka-1",group="g",stage="committed",topic="t"} 12.5
millrace_lag_seconds_low{cluster="kafka-1",group="g",topic="t"} 6.25
millrace_lag_status{cluster="kafka-1",group="g",topic="t"} 2
millrace_lag_unknown_partitions{cluster="kafka-1",group="g",topic="t"} 0
millrace_lag_workers_wanted{cluster="kafka-1",group="g"} 3
`
	got := gather(t, reg)
	for line := range strings.Lines(strings.TrimSpace(want)) {
		if line = strings.TrimSpace(line); !got[line] {
			t.Errorf("%s is missing", line)
		}
	}
	if t.Failed() {
		t.Logf("%v", got)
	}
}

// TestMetricsOfTheUnknown: what is not known has no series, and is never 0.
func TestMetricsOfTheUnknown(t *testing.T) {
	now := noon.Add(time.Hour)
	m, reg := monitorAt(t, Default(), &now)
	if got := gather(t, reg); !got[`millrace_lag_look_age_seconds{cluster=""} 0`] {
		t.Errorf("before the first look: %v", got)
	}
	now = now.Add(time.Minute)
	if got := gather(t, reg); !got[`millrace_lag_look_age_seconds{cluster=""} 60`] {
		t.Errorf("a minute later, still before the first look: %v", got)
	}
	unknown := lag.Seconds{Method: lag.Unknown}
	m.show(&lag.View{AsOf: noon, Blind: "no broker", Flows: []lag.Flow{
		{Group: "g", Topic: "t", Partitions: 2, Unknown: 2, Age: unknown, AppliedAge: unknown, Status: lag.OK, Cause: lag.Cause{Why: lag.MonitorBlind}},
	}})
	for line := range gather(t, reg) {
		for _, bad := range []string{"millrace_lag_records", "millrace_lag_seconds", "millrace_lag_status", "millrace_lag_max", "kafka_"} {
			if strings.HasPrefix(line, bad) {
				t.Errorf("of what is not known there is %s", line)
			}
		}
	}
	m.show(&lag.View{AsOf: noon, Flows: []lag.Flow{
		{Group: "g", Topic: "t", Partitions: 2, Unknown: 1, Records: new(int64(7)), Age: unknown, AppliedAge: unknown, Status: lag.OK},
	}})
	got := gather(t, reg)
	if !got[`millrace_lag_records{cluster="default",group="g",stage="committed",topic="t"} 7`] || !got[`kafka_consumergroup_group_sum_lag{cluster_name="default",group="g"} 7`] {
		t.Errorf("lag of unknown age is not shown: %v", got)
	}
	for line := range got {
		if strings.HasPrefix(line, "millrace_lag_seconds") || strings.HasPrefix(line, "kafka_consumergroup_group_max_lag_seconds") {
			t.Errorf("of an unknown age there is %s", line)
		}
	}
}

// TestTheNameOfTheCluster in the metrics is the configured one, else Kafka's id of it; it is there before the first look only
// where it was configured.
func TestTheNameOfTheCluster(t *testing.T) {
	for configured, want := range map[string][2]string{"": {"", "kafka-1"}, "main": {"main", "main"}} {
		now := noon
		cfg := Default()
		cfg.Cluster = configured
		m, reg := monitorAt(t, cfg, &now)
		if got := gather(t, reg); !got[fmt.Sprintf("millrace_lag_interval_seconds{cluster=%q} 10", want[0])] {
			t.Errorf("lag.cluster is %q, before the first look: %v", configured, got)
		}
		m.show(viewAt(noon, 1000, 12.5))
		got := gather(t, reg)
		for _, line := range []string{"millrace_lag_interval_seconds{cluster=%q} 10", `kafka_consumergroup_group_sum_lag{cluster_name=%q,group="g"} 1000`} {
			if line = fmt.Sprintf(line, want[1]); !got[line] {
				t.Errorf("lag.cluster is %q: %s is missing of %v", configured, line, got)
			}
		}
		for line := range got {
			if strings.HasPrefix(line, "millrace_lag_") && !strings.Contains(line, fmt.Sprintf("cluster=%q", want[1])) {
				t.Errorf("lag.cluster is %q, and there is %s", configured, line)
			}
		}
	}
}

// TestMetricsAreBounded: the worst flows have series, and how many have none is said.
func TestMetricsAreBounded(t *testing.T) {
	now := noon
	cfg := Default()
	cfg.Flows = 2
	m, reg := monitorAt(t, cfg, &now)
	v := &lag.View{AsOf: noon}
	for _, g := range []string{"a", "b", "c"} {
		f := lag.Flow{Group: g, Topic: "t", Partitions: 40, Records: new(int64(200)), Status: lag.OK, Age: lag.Seconds{Low: new(0.0), High: new(0.0)}}
		for p := range int32(40) {
			f.Rows = append(f.Rows, lag.Row{Group: g, Topic: "t", Partition: p, Records: new(int64(5)), Age: lag.Seconds{Low: new(1.0), High: new(1.0), Method: lag.ByRecord}})
		}
		v.Flows = append(v.Flows, f)
	}
	m.show(v)
	got := gather(t, reg)
	if !got[`millrace_lag_flows{cluster="default"} 3`] || !got[`millrace_lag_flows_left_off{cluster="default"} 1`] || got[`millrace_lag_members{cluster="default",group="c"} 0`] {
		t.Errorf("of three flows, two are to be shown: %v", got)
	}
	n := 0
	for line := range got {
		if strings.HasPrefix(line, "millrace_lag_partition_records") {
			n++
		}
	}
	if n != 2*worstPartitions {
		t.Errorf("%d partitions have series", n)
	}
}

// TestBlindnessIsNoEvidence against a flow: the time in which nothing was known counts neither way.
func TestBlindnessIsNoEvidence(t *testing.T) {
	c := newCounters(noon)
	c.add(viewAt(noon, 1, 20))
	c.add(viewAt(noon.Add(10*time.Second), 1, 20))
	blind := viewAt(noon.Add(20*time.Second), 1, 20)
	blind.Blind = "no broker"
	c.add(blind)
	if got := c.of("g", "t"); got.watched != 10 || got.bad != 10 {
		t.Errorf("counted %+v", got)
	}
	good := viewAt(noon.Add(30*time.Second), 1, 2)
	good.Flows[0].Rows[0].Past = false
	c.add(good)
	if got := c.of("g", "t"); got.watched != 10 || got.bad != 10 {
		t.Errorf("counted %+v", got)
	}
	good.AsOf = noon.Add(40 * time.Second)
	c.add(good)
	if got := c.of("g", "t"); got.watched != 20 || got.bad != 10 {
		t.Errorf("counted %+v", got)
	}
}

// gather gives what /metrics would show, a line each.
func gather(t *testing.T, reg *prometheus.Registry) map[string]bool {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]bool{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, l.GetName()+`="`+l.GetValue()+`"`)
			}
			name := f.GetName()
			if len(labels) > 0 {
				name += "{" + strings.Join(labels, ",") + "}"
			}
			value := m.GetGauge().GetValue() + m.GetCounter().GetValue()
			text := "+Inf"
			if !math.IsInf(value, 1) {
				text = number(value)
			}
			out[name+" "+text] = true
		}
	}
	return out
}

func number(f float64) string { return strconv.FormatFloat(f, 'f', -1, 64) }

// TestMetricsAtScale: 500 groups with 100 partitions each, all behind, are less than 2 MB, and Kafka is not asked.
func TestMetricsAtScale(t *testing.T) {
	now := noon
	m, reg := monitorAt(t, Default(), &now)
	v := &lag.View{AsOf: noon}
	for g := range 500 {
		f := lag.Flow{
			Group: fmt.Sprintf("some-service-consumer-%03d", g), Topic: fmt.Sprintf("some.topic.name-%03d", g%100), Partitions: 100,
			Records: new(int64(123_456)), Age: lag.Seconds{Low: new(1.25), High: new(12.25), Method: lag.ByHistory}, In: new(1234.5), Out: new(1234.5),
			Objective: 30, Status: lag.Stall, Cause: lag.Cause{Why: lag.StuckMember}, CatchUp: new(12.5), Headroom: new(86_400.5),
		}
		for p := range int32(100) {
			f.Rows = append(f.Rows, lag.Row{
				Group: f.Group, Topic: f.Topic, Partition: p, Records: new(int64(1234)), Committed: new(int64(1_234_567_890)), End: 1_234_569_124,
				Age: lag.Seconds{Low: new(1.25), High: new(12.25), Method: lag.ByHistory},
			})
		}
		v.Flows = append(v.Flows, f)
	}
	m.show(v)
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var text bytes.Buffer
	for _, f := range families {
		if _, err := expfmt.MetricFamilyToText(&text, f); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d bytes", text.Len())
	if text.Len() > 2<<20 {
		t.Errorf("/metrics has %d bytes", text.Len())
	}
}
