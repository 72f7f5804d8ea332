package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/millrace/millrace/pkg/lag"
)

// scenario is one thing that goes wrong.
type scenario struct {
	number int
	name   string
	what   string // the fault, in a few words
	// run starts consumers and sources, does the fault, and returns when the system may recover. The sources are stopped
	// then, the destinations catch up, the processes stop, and everything is read back.
	run func(ctx context.Context, e *env) (evidence, error)
	// causes are what the watcher of lag may name while it lasts: one of them it has to. Without any it must not name what is
	// plainly not so.
	causes []lag.Why
}

// evidence is what shows that the fault hit something.
type evidence struct {
	Did string `json:"did"` // what was done, and what it did
	// Bites are counts of which each must be more than 0. Otherwise the scenario has shown nothing, and fails.
	Bites map[string]int64 `json:"bites"`
	Notes map[string]any   `json:"notes,omitempty"`
	Named []string         `json:"causes_named,omitempty"` // by the watcher of lag
	// After looks at the processes when all have caught up, before they stop.
	After func(context.Context) error `json:"-"`
	// Verdict looks at what was found beyond what always must hold, and gives what is wrong.
	Verdict func(map[string]*finding) []violation `json:"-"`
}

// result is what is written as JSON.
type result struct {
	Number       int                 `json:"number"`
	Name         string              `json:"name"`
	Build        string              `json:"build"`
	Verdict      string              `json:"verdict"`
	Seed         uint64              `json:"seed"`
	Options      options             `json:"options"`
	Begun        time.Time           `json:"begun"`
	Seconds      map[string]float64  `json:"seconds"` // by phase
	Counts       counts              `json:"counts"`
	NotOK        map[string]int64    `json:"not_acknowledged,omitempty"`
	Destinations map[string]*finding `json:"destinations"`
	Evidence     evidence            `json:"evidence"`
	Violations   []violation         `json:"violations"`
	Error        string              `json:"error,omitempty"`
	Logs         string              `json:"logs,omitempty"` // where they are kept
}

const (
	passed = "ok"
	failed = "FAILED"
)

func (r *result) ok() bool { return r.Verdict == passed }

func (r *result) line() string {
	s := fmt.Sprintf("%-6s %2d %-20s seed %d, %d records (%d ok, %d failed, %d unknown), ", r.Verdict, r.Number, r.Name,
		r.Seed, r.Counts.Sent, r.Counts.OK, r.Counts.Failed, r.Counts.Unknown)
	if r.Evidence.Did != "" {
		s += r.Evidence.Did + ", "
	}
	if len(r.Evidence.Named) > 0 {
		s += "named as " + strings.Join(r.Evidence.Named, ", ") + ", "
	}
	s += fmt.Sprintf("%.0f s", r.total())
	parts := []string{s}
	for _, v := range r.Violations {
		parts = append(parts, v.String())
	}
	if r.Error != "" {
		text := strings.ReplaceAll(r.Error, "\n", " | ")
		if len(text) > 500 { // the whole of it is in the JSON
			text = text[:250] + " … " + text[len(text)-250:]
		}
		parts = append(parts, text)
	}
	if r.Logs != "" {
		parts = append(parts, "see "+r.Logs)
	}
	return strings.Join(parts, "; ")
}

func (r *result) total() (sum float64) {
	for _, s := range r.Seconds {
		sum += s
	}
	return sum
}

// play runs a scenario once, with a binary and a seed, and leaves the servers as healthy as it found them.
func (w *world) play(ctx context.Context, s scenario, b build_, seed uint64) (r result) {
	r = result{
		Number: s.number, Name: s.name, Build: b.name, Seed: seed, Options: w.opts, Begun: time.Now().UTC(),
		Seconds: map[string]float64{}, Violations: []violation{}, Verdict: failed,
	}
	var e *env
	phase := func(name string, f func() error) error {
		begun := time.Now()
		err := f()
		r.Seconds[name] += time.Since(begun).Seconds()
		return err
	}
	err := phase("setup", func() (err error) {
		e, err = newEnv(ctx, w, &s, b, seed)
		return err
	})
	if err == nil {
		err = r.play(ctx, s, e, phase)
	}
	if e != nil {
		r.Counts, r.NotOK = e.ledger.settled(), e.ledger.refused
		cleaning, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Minute)
		err = errors.Join(err, phase("cleaning up", func() error {
			return errors.Join(w.heal(cleaning), e.close(cleaning))
		}))
		cancel()
	}
	r.conclude(err)
	if e != nil {
		if r.ok() {
			err = os.RemoveAll(e.dir)
		} else {
			r.Logs = e.dir
		}
		if err := errors.Join(err, r.write(w.opts.out)); err != nil {
			r.Verdict, r.Error = failed, err.Error()
		}
	}
	return r
}

// play goes through the phases.
func (r *result) play(ctx context.Context, s scenario, e *env, phase func(string, func() error) error) error {
	limit, cancel := context.WithTimeout(ctx, pick(e, 8*time.Minute, time.Hour))
	defer cancel()
	if err := phase("fault", func() (err error) {
		r.Evidence, err = s.run(limit, e)
		return err
	}); err != nil {
		return err
	}
	if err := phase("sources end", func() error { return e.stopSources(limit) }); err != nil {
		return err
	}
	if err := phase("recovery", func() error { return e.awaitCaughtUp(limit) }); err != nil {
		// What is there can be judged all the same, and says more than that something is missing.
		return errors.Join(err, phase("check", func() error { return r.check(limit, e) }))
	}
	if r.Evidence.After != nil {
		if err := phase("recovery", func() error { return r.Evidence.After(limit) }); err != nil {
			return err
		}
	}
	if err := phase("stop", func() error { return e.stopProcesses(limit) }); err != nil {
		return err
	}
	return phase("check", func() error { return r.check(limit, e) })
}

func (r *result) check(ctx context.Context, e *env) (err error) {
	r.Destinations, r.Violations, err = e.check(ctx)
	if err == nil && r.Evidence.Verdict != nil {
		r.Violations = append(r.Violations, r.Evidence.Verdict(r.Destinations)...)
	}
	if e.watcher != nil {
		names, wrong := e.watcher.named(e.causes)
		r.Evidence.Named, r.Violations = names, append(r.Violations, wrong...)
	}
	return err
}

// conclude decides.
func (r *result) conclude(err error) {
	if err == nil && len(r.Violations) == 0 {
		err = r.Evidence.bitten()
	}
	if err != nil {
		r.Error = err.Error()
	}
	if err == nil && len(r.Violations) == 0 {
		r.Verdict = passed
	}
}

// bitten says whether the fault hit anything.
func (e *evidence) bitten() error {
	if len(e.Bites) == 0 {
		return errors.New("did not bite: the scenario gives no evidence of its fault")
	}
	var missing []string
	for _, name := range slices.Sorted(maps.Keys(e.Bites)) {
		if e.Bites[name] <= 0 {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("did not bite: %s: 0", strings.Join(missing, ", "))
	}
	return nil
}

func (r *result) write(out string) error {
	if r.Violations == nil {
		r.Violations = []violation{}
	}
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	name := strconv.Itoa(r.Number) + "-" + r.Name
	if r.Build != sound.name {
		name += "-" + r.Build
	}
	return os.WriteFile(filepath.Join(out, name+".json"), append(data, '\n'), 0o644) //nolint:gosec // results are for everybody
}
