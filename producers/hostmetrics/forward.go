package hostmetrics

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace/pkg/spool"
)

// maxOut bounds the bytes of events that were read from the spool and are not acknowledged.
const maxOut = 4 << 20

// forwarder moves events from the spool to Kafka.
type forwarder struct {
	sp     *spool.Spool
	sender *spool.Sender
	agent  *Agent
	wake   chan struct{}
	idle   chan struct{} // an answer came
	out    atomic.Int64  // bytes
}

func (f *forwarder) signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func (f *forwarder) answered() {
	f.signal(f.wake)
	f.signal(f.idle)
}

func (f *forwarder) run(ctx context.Context) {
	failing := false
	for {
		if f.out.Load() < maxOut {
			entries, err := f.sp.Next(maxOut / 8)
			if err != nil {
				f.agent.m.spoolErrors.Inc()
				if !failing {
					f.agent.log.Error("reading the spool fails", "err", err)
				}
			}
			failing = err != nil
			for _, e := range entries {
				f.send(e)
			}
			f.gauge()
			if len(entries) > 0 {
				continue
			}
		}
		// The time-out retries a disk that could not be read; all else wakes.
		select {
		case <-ctx.Done():
			return
		case <-f.wake:
		case <-time.After(time.Minute):
		}
	}
}

func (f *forwarder) send(e spool.Entry) {
	n := int64(len(e.Data))
	f.out.Add(n)
	f.sender.Put(e.Data, func(refused error) {
		f.out.Add(-n)
		f.agent.count(refused)
		if err := f.sp.Ack(e.Seq); err != nil {
			f.agent.m.spoolErrors.Inc() // the event may be sent again after a restart, with the same id
		}
		f.answered()
	})
}

func (f *forwarder) gauge() {
	records, bytes := f.sp.Waiting()
	f.agent.m.waiting.Set(float64(records))
	f.agent.m.waitingBytes.Set(float64(bytes))
}

// drain waits until Kafka has acknowledged everything, or for as long as is allowed.
func (f *forwarder) drain(most time.Duration) {
	end := time.NewTimer(most)
	defer end.Stop()
	for {
		if n, _ := f.sp.Waiting(); n <= 0 && f.sender.Idle() {
			f.gauge()
			return
		}
		select {
		case <-end.C:
			f.gauge()
			return
		case <-f.idle:
		case <-time.After(100 * time.Millisecond): // between the answer and the sender's own count
		}
	}
}
