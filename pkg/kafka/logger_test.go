package kafka

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

func TestLoggerSaysEachThingOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		l := newLogger(slog.New(slog.NewTextHandler(&out, nil)))
		f := func(want int) {
			t.Helper()
			if n := strings.Count(out.String(), "\n"); n != want {
				t.Errorf("%d lines, want %d\n%s", n, want, out.String())
			}
		}
		refused := func(partition int) {
			err := fmt.Errorf("dial tcp 127.0.0.1:%d: connection refused", 40_000+partition)
			l.Log(kgo.LogLevelWarn, "produce partition load error", "broker", "1", "partition", partition, "err", err)
		}
		for range 100 { // for longer than it is remembered, but never silent
			for partition := range 24 {
				refused(partition)
			}
			time.Sleep(5 * time.Second)
		}
		f(1)
		l.Log(kgo.LogLevelError, "produce partition load error", "broker", "2", "err", errors.New("connection refused"))
		l.Log(kgo.LogLevelWarn, "produce partition load error", "broker", "1", "err", errors.New("not authorized"))
		f(3)
		time.Sleep(2 * time.Minute)
		refused(1)
		f(4)
		for i := range 10_000 {
			l.Log(kgo.LogLevelWarn, strings.Repeat("x", i))
		}
		if len(l.seen) > logStates {
			t.Errorf("%d states are remembered", len(l.seen))
		}
	})
}
