package e2e

import (
	"context"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"
)

// load is how much is sent, and how fast. The rate leaves time for what is done to the consumers in the middle.
type load struct {
	perType int
	rate    int // of each type, per second
}

// run sends all types while each consumer is restarted once and killed once, and judges what every destination holds.
func (w *world) run(t *testing.T, l load) journal {
	t.Helper()
	command(t, nil, "topics", "apply", "--config", w.config)
	if produced, _, err := w.positions(t.Context(), "millrace-lake"); err != nil || produced != 0 {
		t.Fatalf("Kafka holds %d records of the data types (%v): this suite wants it empty, `make stack-clean` makes it so", produced, err)
	}
	total := int64(l.perType * len(w.types.All()))
	senders := make([]*process, 0, len(w.types.All()))
	journals := make([]string, 0, len(w.types.All()))
	var wait sync.WaitGroup
	for _, d := range w.destinations {
		first := start(t, d.name, "run", "--config", w.config, d.name)
		wait.Go(func() { w.disturb(t, d.name, first, total) })
	}
	for _, typ := range w.types.All() {
		path := filepath.Join(t.TempDir(), typ.Name+".ndjson")
		journals = append(journals, path)
		senders = append(senders, start(t, "loadgen "+typ.Name, "loadgen", "--config", w.config, "--type", typ.Name,
			"--count", strconv.Itoa(l.perType), "--rate", strconv.Itoa(l.rate), "--journal", path))
	}
	for _, s := range senders {
		if err := s.wait(5 * time.Minute); err != nil {
			t.Fatal(err)
		}
	}
	wait.Wait()
	if t.Failed() {
		t.FailNow()
	}
	for _, d := range w.destinations {
		w.awaitNoLag(t, d.name, 5*time.Minute)
	}
	sent := journal{}
	for _, path := range journals {
		for typ, entries := range readJournal(t, path) {
			sent[typ] = entries
		}
	}
	if n := sent.acknowledged(); int64(n) != total {
		t.Fatalf("%d records were acknowledged, want all %d: nothing was wrong with Kafka", n, total)
	}
	if n := w.deadLetters(t); n != 0 {
		t.Errorf("%d dead letters: nothing was wrong with any record", n)
	}
	w.judge(t, sent)
	return sent
}

// disturb stops a consumer when it is at work on the first half, and kills the one after it in the second half. Both
// find it behind: otherwise nothing was disturbed.
func (w *world) disturb(t *testing.T, name string, p *process, total int64) {
	t.Helper()
	if !w.awaitShare(t, name, p, total, 0.25) {
		return
	}
	if err := p.stop(syscall.SIGTERM); err != nil {
		t.Error(err)
		return
	}
	p, err := launch(t, name+" after a restart", "run", "--config", w.config, name)
	if err != nil {
		t.Error(err)
		return
	}
	if !w.awaitShare(t, name, p, total, 0.6) {
		return
	}
	p.kill()
	if _, err := launch(t, name+" after a kill", "run", "--config", w.config, name); err != nil {
		t.Error(err)
	}
}

// awaitShare waits until that share of the records was produced and the consumer has committed some of them since it
// started, and wants it to be behind: what is now done to it finds it in the middle of its work.
func (w *world) awaitShare(t *testing.T, name string, p *process, total int64, share float64) bool {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	first, last := int64(-1), error(nil)
	for {
		produced, committed, err := w.positions(ctx, "millrace-"+name)
		if err == nil && first < 0 {
			first = committed
		}
		switch {
		case err != nil:
			last = err
		case float64(produced) < share*float64(total) || committed <= first:
			last = lagError{produced, committed}
		case committed == total:
			t.Errorf("%s had done all its work before it could be disturbed: send more, or slower", name)
			return false
		default:
			return true
		}
		select {
		case <-p.done:
			t.Errorf("%s ended by itself: %v", name, p.err)
			return false
		case <-ctx.Done():
			t.Errorf("%s did not come to %.0f %% of the work: %v", name, share*100, last)
			return false
		case <-tick.C:
		}
	}
}

// judge reads every destination back.
func (w *world) judge(t *testing.T, sent journal) {
	t.Helper()
	for _, d := range w.destinations {
		for _, typ := range w.types.All() {
			found, err := find(t.Context(), d.scan, typ)
			if err != nil {
				t.Errorf("%s, %s: reading it back: %v", d.name, typ.Name, err)
				continue
			}
			sent.judge(t, d.name, typ.Name, found)
			t.Logf("%s, %s: %d found of %d sent", d.name, typ.Name, len(found), len(sent[typ.Name]))
		}
	}
}
