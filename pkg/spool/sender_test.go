package spool

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace/pkg/telemetry"
)

// fakeTarget answers as it is told.
type fakeTarget struct {
	mu     sync.Mutex
	got    []string
	refuse func(event string) error // at once
	answer func(event string) error // later
}

func (f *fakeTarget) Publish(_ context.Context, e []byte, done func(error)) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.refuse != nil {
		if err := f.refuse(string(e)); err != nil {
			return err
		}
	}
	f.got = append(f.got, string(e))
	var err error
	if f.answer != nil {
		err = f.answer(string(e))
	}
	go func() {
		time.Sleep(time.Millisecond)
		done(err)
	}()
	return nil
}

// sending runs a sender on a target inside a bubble, and gives what is known of each event at its end.
func sending(t *testing.T, f *fakeTarget, events int, passes time.Duration) (done map[string][]error, retries int) {
	done = map[string][]error{}
	var mu sync.Mutex
	s := NewSender(f, telemetry.Discard().Log, func() {
		mu.Lock()
		defer mu.Unlock()
		retries++
	})
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { s.Run(ctx) })
	for i := range events {
		e := fmt.Sprint(i)
		s.Put([]byte(e), func(refused error) {
			mu.Lock()
			defer mu.Unlock()
			done[e] = append(done[e], refused)
		})
	}
	time.Sleep(passes)
	idle := s.Idle()
	cancel()
	wg.Wait()
	time.Sleep(time.Second)
	mu.Lock()
	defer mu.Unlock()
	if idle != (len(done) == events) {
		t.Errorf("idle %v with %d of %d events done", idle, len(done), events)
	}
	return done, retries
}

func TestSenderKeepsTheOrderAndAnswersOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeTarget{}
		done, _ := sending(t, f, 100, time.Minute)
		if !slices.IsSortedFunc(f.got, func(a, b string) int { return len(a) - len(b) }) || len(f.got) != 100 {
			t.Errorf("sent %v", f.got)
		}
		for e, answers := range done {
			if len(answers) != 1 || answers[0] != nil {
				t.Errorf("event %s was answered %v", e, answers)
			}
		}
	})
}

func TestSenderTriesAgainUntilItWorks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		down := func(string) error {
			if time.Since(start) < time.Hour {
				return errors.New("no registry")
			}
			return nil
		}
		for _, f := range []*fakeTarget{{refuse: down}, {answer: down}} {
			start = time.Now()
			done, retries := sending(t, f, 5, 2*time.Hour)
			if len(done) != 5 || retries == 0 {
				t.Errorf("%d of 5 events done, %d retries", len(done), retries)
			}
			if f.refuse != nil && retries > 3600 {
				t.Errorf("%d retries in an hour: it does not back off", retries)
			}
		}
	})
}

func TestSenderGivesUpOnlyWhatIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bad := func(e string) error {
			if e == "3" {
				return &RefusedError{Err: errors.New("field is wrong")}
			}
			return nil
		}
		for _, f := range []*fakeTarget{{refuse: bad}, {answer: bad}} {
			done, _ := sending(t, f, 5, time.Minute)
			for e, answers := range done {
				if refused := len(answers) == 1 && answers[0] != nil; refused != (e == "3") {
					t.Errorf("event %s was answered %v", e, answers)
				}
			}
			if len(done) != 5 {
				t.Errorf("%d of 5 done", len(done))
			}
		}
	})
}
