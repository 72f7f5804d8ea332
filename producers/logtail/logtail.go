// Package logtail follows log files and publishes their lines.
//
// A file is known by its device, inode and first bytes, so a renamed file is the same file; one that was truncated, or
// written anew, is the next generation. Where a truncated file was copied first (logrotate's copytruncate), reading
// goes on in the copy. Positions are remembered on disk.
//
// Guarantee: each line is published at least once, always with the same id and time. A range of a file and the time of
// its reading are written to the journal before its events are sent, and the position moves only when Kafka has
// acknowledged them; after a crash the same range is read again, and ids are derived from host, file and offset.
// The files themselves are the buffer: while Kafka is away reading stops, and nothing is copied. What is truncated
// without a copy, or deleted, before it is read is lost, as for everybody; what was read and vanished before it was
// acknowledged, with this process killed in between, is counted as lost.
package logtail

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/millrace/millrace/pkg/spool"
	"github.com/millrace/millrace/pkg/telemetry"
)

// Publisher is what is needed of the SDK. *client.Client is one.
type Publisher = spool.Publisher

// typeName is the data type that is published.
const typeName = "log"

// input is a group of files, ready for use.
type input struct {
	paths   []string
	service string
	format  string
	start   *regexp.Regexp // nil: every line is an event
}

// Tailer follows files. Its files are touched by one goroutine only.
type Tailer struct {
	cfg    Config
	host   string
	inputs []*input
	loc    *time.Location
	target spool.Target
	log    *slog.Logger
	m      *metrics
	now    func() time.Time
	put    func(event []byte, done func(refused error)) // to Kafka, and until it is there

	journal *journal
	lock    *os.File
	files   map[string]*file   // by key
	byID    map[identity]*file // the generation that a file has now
	binary  map[identity]bool  // skipped
	text    map[identity]bool  // was text before it was truncated
	refused map[identity]bool  // cannot be opened: said once
	unacked int64
	open    int
	changed map[*file]bool // acknowledged further than the journal says
	down    bool           // the journal cannot be written: said once

	mu   sync.Mutex
	done []answer
	wake chan struct{}
}

type answer struct {
	s       *span
	refused error
}

// New makes a tailer. It touches nothing until Run.
func New(cfg Config, pub Publisher, tel telemetry.Set) (*Tailer, error) {
	return newTailer(cfg, spool.To(pub, typeName), tel)
}

func newTailer(cfg Config, target spool.Target, tel telemetry.Set) (*Tailer, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	loc, err := time.LoadLocation(cfg.Timezone)
	if err != nil {
		return nil, fmt.Errorf("loading logtail.timezone: %w", err)
	}
	m, err := newMetrics(tel.Metrics)
	if err != nil {
		return nil, err
	}
	host := cfg.Host
	if host == "" {
		if host, err = os.Hostname(); err != nil {
			return nil, fmt.Errorf("asking for the host's name (logtail.host can say it): %w", err)
		}
	}
	t := &Tailer{
		cfg: cfg, host: host, loc: loc, target: target, log: tel.With("logtail").Log, m: m, now: time.Now,
		journal: &journal{path: filepath.Join(cfg.State, "journal"), write: writeAt, syncDir: syncDir},
		files:   map[string]*file{}, byID: map[identity]*file{}, binary: map[identity]bool{}, text: map[identity]bool{}, refused: map[identity]bool{},
		changed: map[*file]bool{}, wake: make(chan struct{}, 1),
	}
	for _, in := range cfg.Inputs {
		i := &input{paths: in.Paths, service: in.Service, format: in.Format}
		if in.Multiline != "" {
			if i.start, err = regexp.Compile(in.Multiline); err != nil {
				return nil, fmt.Errorf("compiling multiline: %w", err)
			}
		}
		t.inputs = append(t.inputs, i)
	}
	return t, nil
}

// Run follows the files until ctx ends. Then it waits at most cfg.Drain for Kafka's acknowledgements, so that less is
// sent again at the next start.
func (t *Tailer) Run(ctx context.Context) (err error) {
	if err := t.start(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.close()) }()
	sender := spool.NewSender(t.target, t.log, t.m.retries.Inc)
	t.put = sender.Put
	sending, stop := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	wg.Go(func() { sender.Run(sending) })
	defer func() { stop(); wg.Wait() }()

	t.resume()
	tick := time.NewTicker(t.cfg.Poll)
	defer tick.Stop()
	for ctx.Err() == nil {
		if t.step() {
			continue
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
		case <-t.wake:
		}
	}
	t.drain()
	return nil
}

// start takes the state directory and reads the journal.
func (t *Tailer) start() error {
	if err := os.MkdirAll(t.cfg.State, 0o750); err != nil {
		return fmt.Errorf("making the state directory of logtail: %w", err)
	}
	lock, err := spool.Lock(t.cfg.State)
	if err != nil {
		return err
	}
	t.lock = lock
	if err = t.journal.load(t.recall); err == nil {
		err = t.journal.rewrite(t.snapshot()) // without the torn tail
	}
	if err != nil {
		return errors.Join(err, t.close())
	}
	return nil
}

// step looks at the files once. It says whether there is more to read at once.
func (t *Tailer) step() (more bool) {
	t.takeAnswers()
	now := t.now()
	t.scan(now)
	for _, f := range t.inOrder() {
		for range 4 { // so that no file holds up the others
			if t.unacked >= int64(t.cfg.MaxUnacked) {
				break
			}
			progress, err := t.read(f, now)
			t.report(f, err)
			if !progress || err != nil {
				break
			}
			more = true
		}
	}
	t.takeAnswers()
	t.remember(now)
	t.gauges()
	return more && t.unacked < int64(t.cfg.MaxUnacked) && !t.down
}

// inOrder gives the files that can be read: renamed ones first, since their lines are older than those of the file
// that took their place, then those that waited longest.
func (t *Tailer) inOrder() []*file {
	out := make([]*file, 0, len(t.byID))
	for _, f := range t.byID {
		if !f.gone && !f.closed {
			out = append(out, f)
		}
	}
	slices.SortFunc(out, func(a, b *file) int {
		switch renamed := a.path != a.source; {
		case renamed == (b.path != b.source):
		case renamed:
			return -1
		default:
			return 1
		}
		if d := a.used.Compare(b.used); d != 0 {
			return d
		}
		return strings.Compare(a.key, b.key)
	})
	return out
}

// report logs the first of a row of failures of a file.
func (t *Tailer) report(f *file, err error) {
	if err == nil {
		f.failed = false
		return
	}
	if !f.failed {
		t.log.Warn("reading a file fails; trying again", "path", f.path, "err", err)
	}
	f.failed = true
}

// answered is called when Kafka has an event, from any goroutine.
func (t *Tailer) answered(s *span, refused error) {
	t.mu.Lock()
	t.done = append(t.done, answer{s, refused})
	t.mu.Unlock()
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// takeAnswers moves positions over what Kafka has.
func (t *Tailer) takeAnswers() {
	t.mu.Lock()
	done := t.done
	t.done = nil
	t.mu.Unlock()
	for _, a := range done {
		if a.refused != nil {
			t.m.refused.Inc()
			t.log.Error("an event can never be published; given up", "source", a.s.f.source, "err", a.refused)
		} else {
			t.m.published.Inc()
		}
		if a.s.left--; a.s.left == 0 {
			t.finish(a.s)
		}
	}
}

// finish ends a span whose events Kafka has, and moves the position if it is the first.
func (t *Tailer) finish(s *span) {
	t.unacked -= s.cost
	f := s.f
	for len(f.spans) > 0 && f.spans[0].left == 0 {
		f.acked = f.spans[0].end
		f.spans = f.spans[1:]
		t.changed[f] = true
	}
}

// drain waits for what is out.
func (t *Tailer) drain() {
	end := time.NewTimer(t.cfg.Drain)
	defer end.Stop()
	for waiting := true; waiting && t.unacked > 0; {
		select {
		case <-end.C:
			waiting = false
		case <-t.wake:
		}
		t.takeAnswers()
	}
	t.takeAnswers()
	t.remember(t.now())
	t.gauges()
}

func (t *Tailer) close() error {
	var errs []error
	for _, f := range t.files {
		t.closeFile(f)
	}
	errs = append(errs, t.journal.close())
	if t.lock != nil {
		errs = append(errs, t.lock.Close())
	}
	t.lock = nil
	return errors.Join(errs...)
}

func (t *Tailer) gauges() {
	var behind int64
	for _, f := range t.byID {
		behind += max(f.size-f.next.at, 0)
	}
	t.m.behind.Set(float64(behind))
	t.m.files.Set(float64(len(t.byID)))
	t.m.open.Set(float64(t.open))
	t.m.unacked.Set(float64(t.unacked))
}
