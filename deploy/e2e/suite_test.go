package e2e

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/millrace/millrace/pkg/client"
	"github.com/millrace/millrace/pkg/codec"
	"github.com/millrace/millrace/pkg/kafka"
	"github.com/millrace/millrace/pkg/telemetry"
	"github.com/millrace/millrace/producers/loadgen"
)

// load is how much is sent, and how fast. The rate leaves time for what is done to the consumers in the middle.
type load struct {
	count int64 // of all types together
	rate  float64
}

// run sends all types while each consumer is restarted once and killed once, and judges what every destination holds.
func (w *world) run(t *testing.T, l load) journal {
	t.Helper()
	apply := []string{"topics", "apply", "--config", w.config}
	if len(w.Hosts) == 0 { // no real servers: the stores are not there
		apply = append(apply, "--server", "kafka", "--server", "registry", "--server", "lake")
	}
	command(t, nil, apply...)
	var before int64
	eventually(t, time.Minute, "Kafka has a group coordinator", func(ctx context.Context) (err error) { // a new one makes it at the first call
		before, _, err = w.positions(ctx, "millrace-lake")
		return err
	})
	if before != 0 {
		t.Fatalf("Kafka holds %d records of the data types: this suite wants it empty, `make stack-clean` makes it so", before)
	}
	var disturbers sync.WaitGroup
	for _, d := range w.destinations {
		first := start(t, d.name, "run", "--config", w.config, d.name)
		disturbers.Go(func() { w.disturb(t, d.name, first, l.count) })
	}
	sent := w.send(t, l)
	disturbers.Wait()
	if t.Failed() {
		t.FailNow()
	}
	for _, d := range w.destinations {
		w.awaitNoLag(t, d.name, 5*time.Minute)
	}
	if n := sent.acknowledged(); int64(n) != l.count {
		t.Fatalf("%d records were acknowledged, want all %d: nothing was wrong with Kafka", n, l.count)
	}
	if n := w.deadLetters(t); n != 0 {
		t.Errorf("%d dead letters: nothing was wrong with any record", n)
	}
	w.judge(t, sent)
	return sent
}

// send runs loadgen, and gives its journal.
func (w *world) send(t *testing.T, l load) journal {
	t.Helper()
	tel := telemetry.Discard()
	registry := codec.Default()
	registry.URLs = []string{w.Registry}
	types, err := codec.New(registry, w.types, tel)
	if err != nil {
		t.Fatal(err)
	}
	brokers := kafka.Default()
	brokers.Brokers = w.Brokers
	opts, err := brokers.Opts(tel)
	if err != nil {
		t.Fatal(err)
	}
	publisher, err := client.New(client.Default(), types, tel, opts)
	if err != nil {
		t.Fatal(err)
	}
	cfg := loadgen.Default()
	cfg.Count, cfg.Rate, cfg.Source = l.count, l.rate, "e2e"
	cfg.Journal = filepath.Join(t.TempDir(), "journal.ndjson")
	var summary strings.Builder
	generator, err := loadgen.New(cfg, publisher, tel, &summary)
	if err != nil {
		t.Fatal(err)
	}
	if err := generator.Run(t.Context()); err != nil {
		t.Fatalf("sending: %v\n%s", err, summary.String())
	}
	t.Log(summary.String())
	if _, err := publisher.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	file, err := os.Open(cfg.Journal)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	entries, err := loadgen.ReadJournal(file)
	if err != nil {
		t.Fatal(err)
	}
	return newJournal(t, entries)
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
	first := int64(-1)
	var last error
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
			report(t, sent.judge(d.name, typ.Name, found))
			t.Logf("%s, %s: %d found of %d sent", d.name, typ.Name, len(found), len(sent[typ.Name]))
		}
	}
}
