package reporttopic_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/pkg/kafka"
	"github.com/millrace/millrace/pkg/kafka/kafkatest"
	"github.com/millrace/millrace/pkg/lag"
	"github.com/millrace/millrace/pkg/lag/reporttopic"
	"github.com/millrace/millrace/pkg/telemetry"
)

const every = 5 * time.Second

// conf is of one broker.
func conf() kafka.Config {
	c := kafka.Default()
	c.Replication, c.MinISR = 1, 1
	return c
}

func says(group string, applied int64) reporttopic.Source {
	return func(now time.Time) *lag.Report {
		return &lag.Report{Group: group, At: now, Partitions: []lag.PartitionReport{{Topic: "t", Applied: applied, State: "running"}}}
	}
}

// seen is what a follower was given last, by group and instance.
type seen struct {
	mu    sync.Mutex
	last  map[string]*lag.Report
	calls int
}

func (s *seen) take(group, instance string, r *lag.Report) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls++
	if s.last == nil {
		s.last = map[string]*lag.Report{}
	}
	s.last[group+"|"+instance] = r
}

func (s *seen) of(group, instance string) (*lag.Report, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok := s.last[group+"|"+instance]
	return r, ok
}

// start runs f until the test's end, or until stop.
func start(t *testing.T, f func(context.Context) error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := f(ctx); err != nil {
			t.Error(err)
		}
	}()
	stop = func() { cancel(); <-done }
	t.Cleanup(stop)
	return stop
}

func until(t *testing.T, what string, within time.Duration, ok func() bool) {
	t.Helper()
	for begun := time.Now(); time.Since(begun) < within; time.Sleep(50 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("in %v it was not seen that %s", within, what)
}

type logs struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logs) count(s string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.b.String(), s)
}

func set(l *logs) telemetry.Set {
	tel := telemetry.Discard()
	tel.Log = slog.New(slog.NewTextHandler(l, nil))
	return tel
}

// Reports go from one to the other over a topic that was not there, and a stop in order takes them away.
func TestReportsArrive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := kafkatest.NewVirtual(t)
		var got seen
		start(t, func(ctx context.Context) error { return reporttopic.Follow(ctx, c.Opts(), got.take) })
		time.Sleep(10 * time.Minute) // without the topic
		p := reporttopic.NewPublisher(c.Opts(), conf(), every, telemetry.Discard(), says("a/b", 7), says("c", 8))
		stop := start(t, p.Run)
		until(t, "both arrive", 30*time.Second, func() bool {
			_, ok1 := got.of("a/b", p.Instance())
			_, ok2 := got.of("c", p.Instance())
			return ok1 && ok2
		})
		time.Sleep(time.Minute)
		r, _ := got.of("a/b", p.Instance())
		if r.Every != 5 || r.Host == "" || r.Instance != p.Instance() || r.Group != "a/b" || len(r.Partitions) != 1 || r.Partitions[0].Applied != 7 {
			t.Errorf("got %+v", r)
		}
		if age := time.Since(r.At); age < 0 || age > 2*every {
			t.Errorf("the last report is %v old", age)
		}
		got.mu.Lock()
		if got.calls < 20 || got.calls > 40 {
			t.Errorf("%d reports in a minute of two consumers", got.calls)
		}
		got.mu.Unlock()
		described, err := kadm.NewClient(c.Client(t)).DescribeTopicConfigs(t.Context(), lag.StatusTopic)
		if err != nil {
			t.Fatal(err)
		}
		settings := map[string]string{}
		for _, s := range described[0].Configs {
			settings[s.Key] = s.MaybeValue()
		}
		if settings["cleanup.policy"] != "compact,delete" || settings["segment.ms"] != "600000" || settings["min.insync.replicas"] != "1" {
			t.Errorf("the topic's settings are %v", settings)
		}
		stop()
		until(t, "it has stopped in order", every, func() bool { r, ok := got.of("c", p.Instance()); return ok && r == nil })
		var late seen
		start(t, func(ctx context.Context) error { return reporttopic.Follow(ctx, c.Opts(), late.take) })
		until(t, "one that comes later knows as much", every, func() bool { r, ok := late.of("a/b", p.Instance()); return ok && r == nil })
	})
}

// Whatever happens to the topic or to the brokers, both go on by themselves, and say so in few words.
func TestBothSurvive(t *testing.T) {
	for name, harm := range map[string]struct {
		begin, end func(c *kafkatest.Cluster, adm *kadm.Client, links []*kafkatest.Link) error
	}{
		"the topic deleted": {begin: func(_ *kafkatest.Cluster, adm *kadm.Client, _ []*kafkatest.Link) error {
			_, err := adm.DeleteTopic(context.Background(), lag.StatusTopic)
			return err
		}},
		"an outage": {
			begin: func(_ *kafkatest.Cluster, _ *kadm.Client, links []*kafkatest.Link) error {
				for _, l := range links {
					l.Cut()
				}
				return nil
			},
			end: func(_ *kafkatest.Cluster, _ *kadm.Client, links []*kafkatest.Link) error {
				for _, l := range links {
					l.Mend()
				}
				return nil
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := kafkatest.NewVirtual(t)
				adm := kadm.NewClient(c.Client(t))
				links := []*kafkatest.Link{c.Link(), c.Link()}
				var got seen
				var log logs
				p := reporttopic.NewPublisher(links[0].Opts(), conf(), every, set(&log), says("a", 7))
				start(t, p.Run)
				start(t, func(ctx context.Context) error { return reporttopic.Follow(ctx, links[1].Opts(), got.take) })
				fresh := func() bool {
					r, ok := got.of("a", p.Instance())
					return ok && time.Since(r.At) < 2*every
				}
				until(t, "it arrives", time.Minute, fresh)
				if err := harm.begin(c, adm, links); err != nil {
					t.Fatal(err)
				}
				time.Sleep(20 * time.Minute)
				if harm.end != nil {
					if fresh() {
						t.Error("nothing was harmed")
					}
					if err := harm.end(c, adm, links); err != nil {
						t.Fatal(err)
					}
				}
				until(t, "it arrives again", time.Minute, fresh)
				if n := log.count("publishing the reports"); n > 5 {
					t.Errorf("%d lines in 20 minutes", n)
				}
			})
		})
	}
}

// A stop does not wait for brokers that are not there.
func TestAStopIsShort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := kafkatest.NewVirtual(t)
		link := c.Link()
		p := reporttopic.NewPublisher(link.Opts(), conf(), every, telemetry.Discard(), says("a", 7))
		stop := start(t, p.Run)
		time.Sleep(time.Minute)
		link.Cut()
		time.Sleep(time.Minute)
		begun := time.Now()
		stop()
		if took := time.Since(begun); took > 2*time.Second {
			t.Errorf("it took %v", took)
		}
	})
}

// Records that are no reports disturb nobody.
func TestOthersRecordsArePassedOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := kafkatest.NewVirtual(t)
		c.Create(t, lag.StatusTopic, 1)
		c.Produce(t,
			&kgo.Record{Topic: lag.StatusTopic, Value: []byte("no key")},
			&kgo.Record{Topic: lag.StatusTopic, Key: []byte("noslash"), Value: []byte("{}")},
			&kgo.Record{Topic: lag.StatusTopic, Key: []byte("a/b"), Value: []byte("no JSON")},
			&kgo.Record{Topic: lag.StatusTopic, Key: []byte("clock/b")},
			&kgo.Record{Topic: lag.StatusTopic, Key: []byte("a/c"), Value: []byte("{}")},
		)
		var got seen
		start(t, func(ctx context.Context) error { return reporttopic.Follow(ctx, c.Opts(), got.take) })
		until(t, "the last is seen", time.Minute, func() bool { _, ok := got.of("a", "c"); return ok })
		if got.calls != 1 {
			t.Errorf("%d were taken for reports, want 1", got.calls)
		}
	})
}

// Where stamps are the producers', the clocks cannot be compared, and that is said.
func TestSkewNeedsTheBrokersTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := kafkatest.NewVirtual(t)
		clock, err := reporttopic.NewClock(c.Opts(), "w", time.Now)
		if err != nil {
			t.Fatal(err)
		}
		defer clock.Close()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, _, err := clock.Skew(ctx); err == nil {
			t.Error("without the topic there is a skew")
		}
		c.Create(t, lag.StatusTopic, 1)
		ctx, cancel = context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		by, _, err := clock.Skew(ctx)
		if !errors.Is(err, reporttopic.ErrCreateTime) || by != 0 {
			t.Errorf("got %v, %v", by, err)
		}
	})
}
