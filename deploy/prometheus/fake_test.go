package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

// fake is a watcher of lag that says what a test wants: one group with topics of six partitions each.
type fake struct {
	group  string
	topics []string

	mu         sync.Mutex
	late       bool
	cause      string
	blind      time.Time // since when it has not looked
	at         time.Time
	total, bad float64
}

var fakeTopics = []string{"millrace.log", "millrace.metric"}

const fakePartitions = 6

// serve gives its address, host:port.
func (f *fake) serve(t *testing.T) string {
	t.Helper()
	f.at = time.Now()
	s := httptest.NewServer(f)
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

// set is what it says from now on.
func (f *fake) set(late bool, cause string, blind bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.count()
	f.late, f.cause, f.blind = late, cause, time.Time{}
	if blind {
		f.blind = time.Now()
	}
}

// count brings the counters up to now. It is called with the lock held.
func (f *fake) count() {
	now := time.Now()
	seconds := fakePartitions * now.Sub(f.at).Seconds()
	f.at = now
	f.total += seconds
	if f.late {
		f.bad += seconds
	}
}

func (f *fake) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.count()
	age, headroom, lag, catchUp := 0.5, 604799.0, 0.5, "0.5"
	if !f.blind.IsZero() {
		age += time.Since(f.blind).Seconds()
	}
	if f.late {
		lag, headroom, catchUp = 90, 604710, "+Inf"
	}
	const cluster = `cluster="main"`
	fmt.Fprintf(w, "millrace_lag_interval_seconds{%[1]s} 1\nmillrace_lag_look_age_seconds{%[1]s} %[2]g\n", cluster, age)
	for _, topic := range f.topics {
		flow := fmt.Sprintf("%s,group=%q,topic=%q", cluster, f.group, topic)
		for _, s := range []struct {
			name  string
			value any
		}{
			{"objective_seconds{" + flow + "}", 30},
			{"partition_seconds_total{" + flow + "}", f.total},
			{"bad_partition_seconds_total{" + flow + "}", f.bad},
			{"seconds{" + flow + `,stage="committed"}`, lag},
			{"headroom_seconds{" + flow + "}", headroom},
			{"headroom_unknown_partitions{" + flow + "}", 0},
			{"catch_up_seconds{" + flow + "}", catchUp},
			{"expired_records_total{" + flow + "}", 0},
			{"rewinds_total{" + flow + "}", 0},
		} {
			fmt.Fprintf(w, "millrace_lag_%s %v\n", s.name, s.value)
		}
		if f.cause != "" {
			fmt.Fprintf(w, "millrace_lag_cause{%s,cause=%q} 1\n", flow, f.cause)
		}
	}
}
