package kafka

import (
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	logQuiet  = time.Minute // what was not said again for so long has ended
	logStates = 256         // that are remembered
)

// logger passes the client's warnings and errors on; its other levels tell every request. The client repeats itself
// for every partition and every try. Here each thing is said once, and again only if it had ended in between.
type logger struct {
	log *slog.Logger

	mu   sync.Mutex
	seen map[string]time.Time // when it was said last, also if it was not passed on
}

func newLogger(log *slog.Logger) *logger { return &logger{log: log, seen: map[string]time.Time{}} }

// Level is kgo.Logger's.
func (*logger) Level() kgo.LogLevel { return kgo.LogLevelWarn }

// Log is kgo.Logger's.
func (l *logger) Log(level kgo.LogLevel, msg string, keyvals ...any) {
	if !l.isNew(msg, keyvals, time.Now()) {
		return
	}
	args := append([]any{"event", msg}, keyvals...)
	if level == kgo.LogLevelError {
		l.log.Error("Kafka client", args...)
		return
	}
	l.log.Warn("Kafka client", args...)
}

// isNew says whether this was not said lately of the same broker with the same error.
func (l *logger) isNew(msg string, keyvals []any, now time.Time) bool {
	parts := []string{msg}
	for i := 0; i+1 < len(keyvals); i += 2 {
		switch keyvals[i] {
		case "broker", "group":
			parts = append(parts, fmt.Sprint(keyvals[i+1]))
		case "err": // without its ports and offsets, which are others each time
			parts = append(parts, strings.Map(withoutDigits, fmt.Sprint(keyvals[i+1])))
		}
	}
	state := strings.Join(parts, "|")
	l.mu.Lock()
	defer l.mu.Unlock()
	last, known := l.seen[state]
	if len(l.seen) >= logStates {
		clear(l.seen)
	}
	l.seen[state] = now
	return !known || now.Sub(last) > logQuiet
}

func withoutDigits(r rune) rune {
	if r >= '0' && r <= '9' {
		return -1
	}
	return r
}
