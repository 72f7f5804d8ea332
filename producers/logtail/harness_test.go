package logtail

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/millrace/millrace/pkg/telemetry"
)

// pending is an event that is on its way to Kafka, or there with the acknowledgement on its way back.
type pending struct {
	event []byte
	done  func(error)
}

// rig is a folder of logs, a Kafka that keeps events by id, and a tailer that can be killed and started again.
type rig struct {
	t    *testing.T
	dir  string
	cfg  Config
	now  time.Time
	tail *Tailer

	events  map[string]record // what Kafka has, by id
	order   []string          // ids, by first arrival
	again   int               // deliveries of ids that were there
	waiting []pending         // what was put and not acknowledged
	lost    func() bool       // whether an event that was not acknowledged by a kill is not in Kafka either
	hold    bool              // Kafka takes events and does not answer

	crashIn int // steps until the process dies; -1: it does not
	crashed bool
	torn    func(n int) int // how much of the write in which it dies reaches the disk
}

func newRig(t *testing.T, change func(*Config)) *rig {
	t.Helper()
	r := &rig{t: t, dir: t.TempDir(), now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC), events: map[string]record{}, crashIn: -1}
	r.cfg = Default()
	r.cfg.Inputs = []Input{{Paths: []string{filepath.Join(r.dir, "*.log*")}}}
	r.cfg.Host, r.cfg.State, r.cfg.Timezone = "h1", t.TempDir(), "UTC"
	if change != nil {
		change(&r.cfg)
	}
	t.Cleanup(func() {
		if r.tail != nil {
			_ = r.tail.close()
		}
	})
	return r
}

// dies counts a step and says whether the process is dead.
func (r *rig) dies() bool {
	if r.crashed {
		return true
	}
	if r.crashIn > 0 {
		r.crashIn--
	}
	r.crashed = r.crashIn == 0
	return r.crashed
}

// begin starts a tailer on what is on disk.
func (r *rig) begin() {
	r.t.Helper()
	tail, err := newTailer(r.cfg, nil, telemetry.Discard())
	if err != nil {
		r.t.Fatal(err)
	}
	tail.now = func() time.Time { return r.now }
	tail.journal.syncDir = func(string) {} // a kill does not need it, and it is slow
	tail.journal.write = func(f *os.File, b []byte, at int64) error {
		was := r.crashed
		if !r.dies() {
			_, err := f.WriteAt(b, at)
			return err
		}
		if !was { // it dies in this write
			_, _ = f.WriteAt(b[:r.torn(len(b))], at)
		}
		return errors.New("killed")
	}
	tail.put = func(e []byte, done func(error)) {
		if !r.dies() {
			r.waiting = append(r.waiting, pending{e, done})
		}
	}
	r.tail = tail
	if err := tail.start(); err != nil {
		if !r.crashed {
			r.t.Fatal(err)
		}
		r.kill()
		r.begin()
		return
	}
	tail.resume()
}

// kill drops everything that is not on disk. Of what was not acknowledged some is in Kafka.
func (r *rig) kill() {
	_ = r.tail.close()
	for _, p := range r.waiting {
		if r.lost == nil || !r.lost() {
			r.deliver(p.event)
		}
	}
	r.waiting, r.crashed, r.crashIn = nil, false, -1
}

func (r *rig) deliver(e []byte) {
	var rec record
	if err := json.Unmarshal(e, &rec); err != nil {
		r.t.Fatalf("not JSON: %s: %v", e, err)
	}
	if old, ok := r.events[rec.ID]; ok {
		r.again++
		a, _ := json.Marshal(old)
		b, _ := json.Marshal(rec)
		if string(a) != string(b) {
			r.t.Fatalf("an id came again as another event:\n%s\n%s", a, b)
		}
	} else {
		r.order = append(r.order, rec.ID)
	}
	r.events[rec.ID] = rec
}

// answer lets Kafka acknowledge n of the events that wait, from the front.
func (r *rig) answer(n int) {
	for range min(n, len(r.waiting)) {
		p := r.waiting[0]
		r.waiting = r.waiting[1:]
		r.deliver(p.event)
		p.done(nil)
	}
}

// settle lets time pass in steps until there is nothing to do.
func (r *rig) settle(passes time.Duration) {
	r.t.Helper()
	if r.tail == nil {
		r.begin()
	}
	end := r.now.Add(passes)
	for n := 0; ; n++ {
		more := r.tail.step()
		if !r.hold {
			r.answer(len(r.waiting))
		}
		if !more && !r.now.Before(end) {
			r.tail.step()
			return
		}
		r.now = r.now.Add(200 * time.Millisecond)
		if n > 100000 {
			r.t.Fatal("it never settles")
		}
	}
}

func (r *rig) path(name string) string { return filepath.Join(r.dir, name) }

func (r *rig) write(name, text string) {
	r.t.Helper()
	f, err := os.OpenFile(r.path(name), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		r.t.Fatal(err)
	}
	if _, err := io.WriteString(f, text); err != nil {
		r.t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) rename(from, to string) {
	r.t.Helper()
	if err := os.Rename(r.path(from), r.path(to)); err != nil {
		r.t.Fatal(err)
	}
}

// copyTruncate is what logrotate does so that the writer need not reopen its file.
func (r *rig) copyTruncate(from, to string) {
	r.t.Helper()
	b, err := os.ReadFile(r.path(from))
	if err != nil {
		r.t.Fatal(err)
	}
	if err := os.WriteFile(r.path(to), b, 0o600); err != nil {
		r.t.Fatal(err)
	}
	if err := os.Truncate(r.path(from), 0); err != nil {
		r.t.Fatal(err)
	}
}

// bodies gives what arrived, in the order of first arrival.
func (r *rig) bodies() []string {
	out := make([]string, 0, len(r.order))
	for _, id := range r.order {
		out = append(out, r.events[id].Body)
	}
	return out
}

func (r *rig) want(bodies ...string) {
	r.t.Helper()
	if got := r.bodies(); !slices.Equal(got, bodies) {
		r.t.Errorf("arrived:\n%s\nwant:\n%s", strings.Join(quoteAll(got), "\n"), strings.Join(quoteAll(bodies), "\n"))
	}
}

func quoteAll(in []string) []string {
	out := make([]string, len(in))
	for i, s := range in {
		b, _ := json.Marshal(s)
		out[i] = string(b)
	}
	return out
}

func (r *rig) event(body string) record {
	r.t.Helper()
	for _, e := range r.events {
		if e.Body == body {
			return e
		}
	}
	r.t.Fatalf("no event with body %q among %q", body, r.bodies())
	return record{}
}

func value(t *testing.T, m prometheus.Metric) float64 {
	t.Helper()
	var out dto.Metric
	if err := m.Write(&out); err != nil {
		t.Fatal(err)
	}
	return out.GetCounter().GetValue() + out.GetGauge().GetValue()
}
