package stream

import (
	"testing"
	"testing/synctest"

	"github.com/twmb/franz-go/pkg/kgo"
)

// Replayed records for another destination are passed over, whatever is in them, and the offset goes on past them even
// where there is nothing else.
func TestReplayedRecordsAreForOneDestination(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		replayed := func(value, destination string, before ...kgo.RecordHeader) *kgo.Record {
			before = append(before, kgo.RecordHeader{Key: HeaderReplayFor, Value: []byte(destination)})
			return &kgo.Record{Topic: topic, Value: []byte(value), Headers: before}
		}
		other := kgo.RecordHeader{Key: "traceparent", Value: []byte("elsewhere")}
		w.cluster.Produce(t, replayed("0/0", "mem"), replayed("0/9", "elsewhere"), replayed("bad", "elsewhere"),
			replayed("0/1", "elsewhere", other), // a header that is not the first decides nothing
			&kgo.Record{Topic: topic, Value: []byte("0/2"), Headers: []kgo.RecordHeader{other}},
			replayed("0/8", "elsewhere"))
		m := w.join(w.sink)
		w.until("the lag is 0", func() bool { return w.lag() == 0 })
		w.stop(m)
		w.want(3)
		if n := m.metric("passed_over_records_total"); n != 3 {
			t.Errorf("%v records were passed over, want 3", n)
		}
		if n := len(w.cluster.Records(t, topic+".dlq")); n != 0 {
			t.Errorf("%d dead letters of another's records", n)
		}
	})
}

// A replayed record that is refused again is a letter again, and keeps what says how often it was replayed.
func TestAReplayedRecordCanDieAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.cluster.Produce(t, &kgo.Record{Topic: topic, Value: []byte("bad"), Headers: []kgo.RecordHeader{
			{Key: HeaderReplayFor, Value: []byte("mem")}, {Key: "millrace.replay.count", Value: []byte("2")},
		}})
		m := w.join(w.sink)
		w.until("the lag is 0", func() bool { return w.lag() == 0 })
		w.stop(m)
		letters := w.cluster.Records(t, topic+".dlq")
		if len(letters) != 1 || len(letters[0].Headers) < 2 || string(letters[0].Headers[1].Value) != "2" {
			t.Errorf("dead letters %v, want one with the count of replays", letters)
		}
	})
}
