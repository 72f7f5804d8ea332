package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/millrace/millrace/pkg/lag"
)

// watcher is `millrace run lag` beside a play: what it names as the cause while something is wrong.
type watcher struct {
	cancel context.CancelFunc
	done   chan struct{}

	mu   sync.Mutex
	seen map[lag.Why]string // by cause: the first sentence
}

// alarms are causes that none of those scenarios gives that want none: no log was cut, no topic made anew, no transaction
// left open, the registry and the destinations are there, and what cannot be decoded is a dead letter and keeps nothing.
var alarms = []lag.Why{lag.DataExpired, lag.TopicRecreated, lag.TransactionOpen, lag.RegistryDown, lag.SinkDown, lag.Poison}

// watch starts one, which looks every second.
func (e *env) watch() error {
	p, err := e.start("watcher", nil, "run", "--config", e.config, "--status", "0", "lag")
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	w := &watcher{cancel: cancel, done: make(chan struct{}), seen: map[lag.Why]string{}}
	e.watcher = w
	e.onClose(func() error {
		cancel()
		<-w.done
		return nil
	})
	go func() {
		defer close(w.done)
		for sleep(ctx, 300*time.Millisecond) == nil {
			w.look(ctx, p, e.topic())
		}
	}()
	return nil
}

func (w *watcher) look(ctx context.Context, p *process, topic string) {
	body, err := p.get(ctx, "/api/v1/lag?partitions=none")
	if err != nil {
		return // it is not up yet, or is stopped
	}
	var v lag.View
	if json.Unmarshal(body, &v) != nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, f := range v.Flows {
		if _, ok := w.seen[f.Why]; !ok && f.Why != "" && f.Topic == topic {
			w.seen[f.Why] = f.Group + ": " + f.Evidence
		}
	}
}

// awaitCause waits, while the fault lasts, until the watcher has named one of the causes that the scenario wants.
func (e *env) awaitCause(ctx context.Context) error {
	if e.watcher == nil {
		return nil
	}
	return until(ctx, time.Minute, "the cause is named", func(context.Context) error {
		if _, wrong := e.watcher.named(e.causes); len(wrong) > 0 {
			return fmt.Errorf("%s", wrong[0].What)
		}
		return e.health()
	})
}

// causeNamed says whether the watcher has named one of the causes that the scenario wants.
func (e *env) causeNamed() bool {
	if e.watcher == nil {
		return true
	}
	_, wrong := e.watcher.named(e.causes)
	return len(wrong) == 0
}

// named says which causes have been, and what is wrong if it is none of those that are wanted.
func (w *watcher) named(want []lag.Why) (names []string, wrong []violation) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, why := range slices.Sorted(maps.Keys(w.seen)) {
		names = append(names, string(why))
	}
	for _, why := range want {
		if _, ok := w.seen[why]; ok {
			return names, nil
		}
	}
	if len(want) == 0 {
		for _, why := range alarms {
			if said, ok := w.seen[why]; ok {
				wrong = append(wrong, violation{Where: "lag", What: fmt.Sprintf("the watcher named %s, which it is not: %s", why, said), Count: 1})
			}
		}
		return names, wrong
	}
	return names, []violation{{
		Where: "lag", What: fmt.Sprintf("the watcher named none of %v as the cause, but %v", want, w.seen), Count: 1,
	}}
}
