package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/pkg/lag"
)

// sample is what the log and the commits were between two times.
type sample struct {
	begun, ended time.Time
	ends         kadm.ListedOffsets
	commits      map[string]kadm.OffsetResponses // by group
}

// partition names one of a topic.
type partition struct {
	topic  string
	number int32
}

// truth is the log itself: positions, sampled every second, and the brokers' stamp of every record.
type truth struct {
	mu      sync.Mutex
	samples []sample
	stamps  map[partition]map[int64]time.Time // by offset
}

// lagIsTrue runs all consumers and the watcher in one process while loadgen sends, and holds what the watcher says against
// the log, every second.
func (w *world) lagIsTrue(t *testing.T, l load) {
	t.Helper()
	p := start(t, "watched", "run", "--config", w.config, "--status", "0", "cassandra", "elasticsearch", "lake", "lag")
	address := p.address(t, time.Minute)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	of := &truth{stamps: map[partition]map[int64]time.Time{}}
	wg.Go(func() { of.read(ctx, t, w) })
	wg.Go(func() { of.sample(ctx, t, w) })
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		w.send(t, l)
	}()
	var views []*lag.View
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for sending := true; sending; {
		select {
		case <-sent:
			sending = false
		case <-tick.C:
			v, err := viewOf(ctx, address)
			if err != nil {
				t.Error(err)
				continue
			}
			if v.Blind == "" && (len(views) == 0 || !views[len(views)-1].AsOf.Equal(v.AsOf)) {
				views = append(views, v)
			}
		}
	}
	for _, d := range w.destinations {
		w.awaitNoLag(t, d.name, time.Minute)
	}
	of.awaitSample(t, time.Now())
	if len(views) < 10 {
		t.Fatalf("%d views were seen", len(views))
	}
	of.judge(t, views)
	if err := p.stop(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
}

func viewOf(ctx context.Context, address string) (*lag.View, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	body, err := get(ctx, address+"/api/v1/lag?partitions=all")
	if err != nil {
		return nil, err
	}
	v := &lag.View{}
	return v, json.Unmarshal(body, v)
}

// sample looks every second until ctx ends.
func (of *truth) sample(ctx context.Context, t *testing.T, w *world) {
	for ctx.Err() == nil {
		s := sample{begun: time.Now(), commits: map[string]kadm.OffsetResponses{}}
		var errs []error
		for _, d := range w.destinations {
			group := "millrace-" + d.name
			commits, err := w.adm.FetchOffsets(ctx, group)
			s.commits[group] = commits
			errs = append(errs, err)
		}
		ends, err := w.adm.ListCommittedOffsets(ctx, w.topics()...)
		if err := errors.Join(append(errs, err, ends.Error())...); err != nil && ctx.Err() == nil {
			t.Errorf("sampling the log: %v", err)
		}
		s.ends, s.ended = ends, time.Now()
		of.mu.Lock()
		of.samples = append(of.samples, s)
		of.mu.Unlock()
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

// awaitSample waits until one was begun after at.
func (of *truth) awaitSample(t *testing.T, at time.Time) {
	t.Helper()
	eventually(t, time.Minute, "the log is sampled once more", func(context.Context) error {
		of.mu.Lock()
		defer of.mu.Unlock()
		if n := len(of.samples); n == 0 || of.samples[n-1].begun.Before(at) {
			return errors.New("it is not yet")
		}
		return nil
	})
}

// read takes down the stamp of every record that comes.
func (of *truth) read(ctx context.Context, t *testing.T, w *world) {
	cl, err := kgo.NewClient(kgo.SeedBrokers(w.Brokers...), kgo.ConsumeTopics(w.topics()...), kgo.ConsumeStartOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		t.Error(err)
		return
	}
	defer cl.Close()
	for ctx.Err() == nil {
		fetches := cl.PollFetches(ctx)
		of.mu.Lock()
		fetches.EachRecord(func(r *kgo.Record) {
			p := partition{r.Topic, r.Partition}
			if of.stamps[p] == nil {
				of.stamps[p] = map[int64]time.Time{}
			}
			of.stamps[p][r.Offset] = r.Timestamp
		})
		of.mu.Unlock()
	}
}

// judge prints the largest errors. In records they are to be no more than what comes between two looks, in seconds no more
// than 1.
func (of *truth) judge(t *testing.T, views []*lag.View) {
	t.Helper()
	of.mu.Lock()
	defer of.mu.Unlock()
	var rows, behind int
	var offRecords, inflow int64
	var offSeconds float64
	for i, v := range views {
		before, after := of.around(v)
		if before == nil || after == nil {
			continue
		}
		for _, f := range v.Flows {
			if _, ours := before.commits[f.Group]; !ours {
				continue
			}
			for _, r := range f.Rows {
				p := partition{r.Topic, r.Partition}
				e0, ok := before.ends.Lookup(r.Topic, r.Partition)
				e1, _ := after.ends.Lookup(r.Topic, r.Partition)
				if !ok {
					continue // a topic of others
				}
				c0, _ := before.commits[f.Group].Lookup(r.Topic, r.Partition)
				c1, _ := after.commits[f.Group].Lookup(r.Topic, r.Partition)
				if r.Records == nil || r.Committed == nil {
					if c0.At >= 0 && c0.Topic != "" {
						t.Errorf("view %d: %s on %s, partition %d: its lag is not known: %s", i, f.Group, r.Topic, r.Partition, r.Evidence)
					}
					continue
				}
				rows++
				inflow = max(inflow, e1.Offset-e0.Offset)
				offRecords = max(offRecords, *r.Records-(e1.Offset-max(0, c0.At)), (e0.Offset-max(0, c1.At))-*r.Records)
				stamp, known := of.stamps[p][*r.Committed]
				if *r.Records <= 0 || !known {
					continue
				}
				behind++
				if r.Age.Low == nil || r.Age.High == nil {
					t.Errorf("view %d: %s on %s, partition %d: the age of %d records is not known", i, f.Group, r.Topic, r.Partition, *r.Records)
					continue
				}
				is := v.AsOf.Sub(stamp).Seconds()
				offSeconds = max(offSeconds, *r.Age.Low-is, is-*r.Age.High)
			}
		}
	}
	t.Logf("%d views, %d rows, %d of them with lag: at most %d records and %.3f s off what the log says; up to %d records came to a partition between two samples",
		len(views), rows, behind, offRecords, offSeconds, inflow)
	if rows == 0 || behind == 0 || inflow == 0 {
		t.Error("that is no load")
	}
	if offRecords > inflow {
		t.Errorf("%d records off", offRecords)
	}
	if offSeconds > 1 {
		t.Errorf("%g s off", offSeconds)
	}
}

// around gives the last sample before a view's look began, and the first after it ended.
func (of *truth) around(v *lag.View) (before, after *sample) {
	begun := v.AsOf.Add(-time.Duration(v.Took * float64(time.Second)))
	for i := range of.samples {
		s := &of.samples[i]
		if s.ended.Before(begun) {
			before = s
		}
		if s.begun.After(v.AsOf) {
			return before, s
		}
	}
	return before, nil
}
