package lag

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/pkg/httpserver"
	"github.com/millrace/millrace/pkg/kafka/kafkatest"
	"github.com/millrace/millrace/pkg/lag"
	"github.com/millrace/millrace/pkg/telemetry"
)

const (
	ours    = "millrace-test"
	theirs  = "billing"
	hidden  = "hidden"
	logs    = "logs"
	metrics = "metrics"
)

// world is a cluster in virtual time with a topic that ours and theirs read, and one that ours is to read.
type world struct {
	*kafkatest.Cluster

	adm *kadm.Client
}

func newWorld(t *testing.T) *world {
	c := kafkatest.NewVirtual(t, logs, metrics)
	w := &world{Cluster: c, adm: kadm.NewClient(c.Client(t))}
	w.produce(t, logs, 30)
	w.commit(t, theirs, 4)
	w.commit(t, hidden, 4)
	return w
}

// produce writes n records over the partitions.
func (w *world) produce(t *testing.T, topic string, n int) {
	t.Helper()
	var rs []*kgo.Record
	for i := range n {
		rs = append(rs, &kgo.Record{Topic: topic, Partition: int32(i % kafkatest.Partitions), Value: []byte("v")})
	}
	w.Produce(t, rs...)
}

// commit sets a group's offsets on all partitions of the logs.
func (w *world) commit(t *testing.T, group string, at int64) {
	t.Helper()
	offsets := kadm.Offsets{}
	for p := range int32(kafkatest.Partitions) {
		offsets.Add(kadm.Offset{Topic: logs, Partition: p, At: at, LeaderEpoch: -1})
	}
	if _, err := w.adm.CommitOffsets(t.Context(), group, offsets); err != nil {
		t.Fatal(err)
	}
}

func (w *world) deps() Deps {
	return Deps{
		Kafka: w.Opts(), Own: map[string][]string{ours: {logs, metrics}}, Objectives: map[string]time.Duration{ours: 30 * time.Second},
		ClientStamps: true, Telemetry: telemetry.Discard(), Now: time.Now,
	}
}

// run runs a monitor until the test's bubble ends.
func run(t *testing.T, m *Monitor) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	return func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func flowOf(v *lag.View, group, topic string) *lag.Flow {
	for i := range v.Flows {
		if f := &v.Flows[i]; f.Group == group && f.Topic == topic {
			return f
		}
	}
	return nil
}

func config() Config {
	cfg := Default()
	cfg.ExcludeGroups = []string{hidden}
	return cfg
}

// TestMonitor: our group that never ran, another that stands still, and one that nobody wants to see.
func TestMonitor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		m, err := New(config(), w.deps())
		if err != nil {
			t.Fatal(err)
		}
		if err := m.Ready(); err == nil {
			t.Error("it is ready before its first look")
		}
		stop := run(t, m)
		defer stop()
		time.Sleep(2*time.Minute + time.Second)
		v := m.View()
		if err := m.Ready(); err != nil || len(v.Errors) > 0 {
			t.Fatalf("%v, %v", err, v.Errors)
		}
		if meta, err := w.adm.BrokerMetadata(t.Context()); err != nil || meta.Cluster == "" || v.Cluster != meta.Cluster {
			t.Errorf("the cluster is %q to the watcher and %q to Kafka, error %v", v.Cluster, meta.Cluster, err)
		}
		if f := flowOf(v, ours, logs); f == nil || *f.Records != 30 || !f.Past || f.Why != lag.GroupDead || f.Status != lag.Stop {
			t.Errorf("a group that never ran: %+v", f)
		} else if *f.Age.Low < 119 || *f.Age.High > 122 {
			t.Errorf("its oldest record is from the beginning of the test, 2 minutes ago: %g to %g", *f.Age.Low, *f.Age.High)
		}
		if f := flowOf(v, ours, metrics); f == nil || *f.Records != 0 || f.Past || f.Why != "" {
			t.Errorf("a topic without records: %+v", f)
		}
		if f := flowOf(v, theirs, logs); f == nil || *f.Records != 18 || f.Past {
			t.Errorf("a foreign group: %+v", f)
		}
		if f := flowOf(v, hidden, logs); f != nil {
			t.Errorf("a group that is excluded is watched: %+v", f)
		}
		if got := m.history.read(subject{theirs, logs, -1}, time.Time{}, time.Now()); len(got) < 12 || *got[0].Records != 18 {
			t.Errorf("its history has %d points: %+v", len(got), got)
		}
		if got := m.history.read(subject{ours, logs, 0}, time.Time{}, time.Now()); len(got) < 8 {
			t.Errorf("a partition past its objective has a history of %d points", len(got))
		}
	})
}

// TestMonitorIsBlind when no broker answers, says so within three intervals, and sees again by itself.
func TestMonitorIsBlind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		link := w.Link()
		deps := w.deps()
		deps.Kafka = link.Opts()
		m, err := New(config(), deps)
		if err != nil {
			t.Fatal(err)
		}
		stop := run(t, m)
		defer stop()
		time.Sleep(time.Minute)
		seen := m.View().AsOf
		link.Cut()
		time.Sleep(time.Minute)
		v := m.View()
		if m.Ready() == nil || v.Blind == "" || v.AsOf.Sub(seen) > 10*time.Second {
			t.Fatalf("a minute after the brokers were gone it is blind by %q, as of %s, seen %s", v.Blind, v.AsOf, seen)
		}
		for _, f := range v.Flows {
			if f.Why != lag.MonitorBlind || f.Age.Low != nil || f.Age.High != nil || f.Records != nil {
				t.Errorf("while nothing is known: %+v", f)
			}
		}
		link.Mend()
		time.Sleep(time.Minute)
		if err := m.Ready(); err != nil {
			t.Errorf("a minute after they are back: %v", err)
		}
	})
}

// TestMonitorHearsReports: what a consumer says of itself explains its lag, until it has stopped.
func TestMonitorHearsReports(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		deps := w.deps()
		says := make(chan *lag.Report)
		deps.Follow = func(ctx context.Context, fn func(group, instance string, r *lag.Report)) error {
			for {
				select {
				case r := <-says:
					fn(ours, "one", r)
				case <-ctx.Done():
					return ctx.Err()
				}
			}
		}
		m, err := New(config(), deps)
		if err != nil {
			t.Fatal(err)
		}
		stop := run(t, m)
		defer stop()
		time.Sleep(5 * time.Second)
		says <- &lag.Report{Group: ours, Instance: "one", Every: 60, At: time.Now(), Partitions: []lag.PartitionReport{
			{Topic: logs, Partition: 0, Fetched: 9, Applied: 6, Committed: 6, State: "running"},
		}}
		time.Sleep(10 * time.Second)
		r := rowOf(flowOf(m.View(), ours, logs), 0)
		if r.Applied == nil || *r.Applied != 6 || *r.AppliedRecords != 4 || *r.FetchedRecords != 1 {
			t.Errorf("what the consumer says is not shown: %+v", r)
		}
		says <- nil
		time.Sleep(10 * time.Second)
		if r := rowOf(flowOf(m.View(), ours, logs), 0); r.Applied != nil {
			t.Errorf("what a consumer said before it stopped is still shown: %+v", r)
		}
	})
}

func rowOf(f *lag.Flow, partition int32) lag.Row {
	for _, r := range f.Rows {
		if r.Partition == partition {
			return r
		}
	}
	return lag.Row{}
}

// TestOnce needs no memory: the heads are read.
func TestOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		time.Sleep(time.Minute)
		v, err := Once(t.Context(), config(), w.deps(), time.Second)
		if err != nil {
			t.Fatal(err)
		}
		f := flowOf(v, ours, logs)
		if *f.Records != 30 || f.Age.Method != lag.ByRecord || *f.Age.Low != *f.Age.High || *f.Age.Low < 60 || *f.Age.Low > 61 || f.Why != lag.GroupDead {
			t.Errorf("%+v", f)
		}
		link := w.Link()
		deps := w.deps()
		deps.Kafka = link.Opts()
		link.Cut()
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		if v, err := Once(ctx, config(), deps, time.Second); err == nil {
			t.Errorf("without brokers there is %+v", v)
		}
	})
}

func TestConfig(t *testing.T) {
	if err := Default().Validate(); err != nil {
		t.Error(err)
	}
	bad := Config{
		Interval: time.Millisecond, Groups: []string{"("}, ExcludeGroups: []string{"["}, ReadCommitted: []string{"*"},
		Objectives: map[string]time.Duration{"g": -1}, Objective: -1, Flows: 0,
	}
	err := bad.Validate()
	for _, key := range []string{"lag.interval", "lag.groups", "lag.exclude_groups", "lag.read_committed", "lag.objectives", "lag.objective is", "lag.flows"} {
		if err == nil || !strings.Contains(err.Error(), key) {
			t.Errorf("%s is not named in %v", key, err)
		}
	}
}

// serveOne gives the API of a monitor that has one view.
func serveOne(t *testing.T) (*Monitor, *httptest.Server) {
	t.Helper()
	now := noon
	m, _ := monitorAt(t, Default(), &now)
	s, err := httpserver.New(httpserver.Default(), telemetry.Discard(), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	m.Register(s)
	server := httptest.NewServer(s.Handler())
	t.Cleanup(server.Close)
	v := viewAt(noon.Add(-time.Minute), 1000, 12.5)
	v.Flows = append(v.Flows, lag.Flow{Group: "other", Topic: "t", Rows: make([]lag.Row, 9)})
	m.show(v)
	return m, server
}

// get is a request to the API.
func get(t *testing.T, server *httptest.Server, path string) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+path, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := server.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

func ask(t *testing.T, server *httptest.Server, path string, into any) int {
	t.Helper()
	resp := get(t, server, path)
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(into); err != nil {
		t.Errorf("%s: %v", path, err)
	}
	return resp.StatusCode
}

func TestAPI(t *testing.T) {
	_, server := serveOne(t)
	var v lag.View
	if code := ask(t, server, "/api/v1/lag", &v); code != http.StatusOK || len(v.Flows) != 2 || !v.AsOf.Equal(noon.Add(-time.Minute)) || len(v.Flows[1].Rows) != worstPartitions {
		t.Errorf("%d, %+v", code, v)
	}
	v = lag.View{}
	if ask(t, server, "/api/v1/lag?group=other&partitions=all", &v); len(v.Flows) != 1 || len(v.Flows[0].Rows) != 9 {
		t.Errorf("of one group with all partitions: %+v", v)
	}
	v = lag.View{}
	if ask(t, server, "/api/v1/lag?topic=t&partitions=none", &v); len(v.Flows) != 2 || v.Flows[1].Rows != nil {
		t.Errorf("of one topic without partitions: %+v", v)
	}
	var h historyAnswer
	if code := ask(t, server, "/api/v1/lag/history?group=g&topic=t", &h); code != http.StatusOK || len(h.Points) != 1 || *h.Points[0].Records != 1000 || h.AsOf.IsZero() {
		t.Errorf("%d, %+v", code, h)
	}
	h = historyAnswer{}
	if ask(t, server, "/api/v1/lag/history?group=g&topic=t&partition=3&from=-2m&to=-90s", &h); len(h.Points) != 0 || *h.Partition != 3 {
		t.Errorf("of another time: %+v", h)
	}
	for path, want := range map[string]int{
		"/api/v1/lag?partitions=some":                        http.StatusBadRequest,
		"/api/v1/lag/history?group=g":                        http.StatusBadRequest,
		"/api/v1/lag/history?group=g&topic=t&partition=x":    http.StatusBadRequest,
		"/api/v1/lag/history?group=g&topic=t&from=yesterday": http.StatusBadRequest,
		"/api/v1/lag/history?group=g&topic=none":             http.StatusNotFound,
		"/api/v1/lag/events?partitions=some":                 http.StatusBadRequest,
	} {
		var problem struct{ Detail string }
		if code := ask(t, server, path, &problem); code != want || problem.Detail == "" {
			t.Errorf("%s: %d %q, want %d and why", path, code, problem.Detail, want)
		}
	}
}

// TestEvents: the view there is, each that comes, and the end.
func TestEvents(t *testing.T) {
	m, server := serveOne(t)
	resp := get(t, server, "/api/v1/lag/events?group=g")
	defer resp.Body.Close()
	if got := resp.Header.Get("Content-Type"); got != "text/event-stream" {
		t.Errorf("content type %s", got)
	}
	events := bufio.NewScanner(resp.Body)
	next := func() (lag.View, error) {
		for events.Scan() {
			if data, ok := strings.CutPrefix(events.Text(), "data: "); ok {
				var v lag.View
				return v, json.Unmarshal([]byte(data), &v)
			}
		}
		return lag.View{}, errors.Join(errors.New("over"), events.Err())
	}
	if v, err := next(); err != nil || len(v.Flows) != 1 || v.Flows[0].Records == nil || *v.Flows[0].Records != 1000 {
		t.Fatalf("the first: %+v, %v", v, err)
	}
	for i := range int64(3) {
		m.show(viewAt(noon.Add(time.Duration(i)*time.Second), i, 1))
		if v, err := next(); err != nil || *v.Flows[0].Records != i {
			t.Fatalf("number %d: %+v, %v", i, v, err)
		}
	}
	m.views.close()
	if _, err := next(); err != nil && !strings.HasPrefix(err.Error(), "over") {
		t.Errorf("at the end: %v", err)
	}
}

func TestEventsAreBounded(t *testing.T) {
	m, server := serveOne(t)
	m.followers.Store(maxFollowers)
	var problem struct{ Detail string }
	if code := ask(t, server, "/api/v1/lag/events", &problem); code != http.StatusServiceUnavailable || problem.Detail != fmt.Sprintf("%d clients follow already", maxFollowers) {
		t.Errorf("%d %q", code, problem.Detail)
	}
	if n := m.followers.Load(); n != maxFollowers {
		t.Errorf("%d follow after one was turned away", n)
	}
}
