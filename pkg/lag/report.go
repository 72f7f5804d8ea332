package lag

import (
	"encoding/json"
	"fmt"
	"time"
)

// StatusTopic is where Millrace's consumers say how they do: compacted, one partition, a record per consumer process and
// group. What a dead one said last stays for a week, with its time.
const StatusTopic = "millrace.status"

// Report is what one process says of its consumer of one group.
type Report struct {
	Group      string            `json:"group"`
	Instance   string            `json:"instance"` // of the process: its name in the topic
	Host       string            `json:"host"`
	Every      float64           `json:"every_seconds"` // until the next one
	Blocked    Blocked           `json:"blocked"`       // share of the time since the last one
	Partitions []PartitionReport `json:"partitions"`

	At time.Time `json:"-"` // the record's own, by the brokers' clock
}

// Blocked is what a consumer with a backlog waited for, as shares from 0 to 1 of its partitions' time.
type Blocked struct {
	Sink   float64 `json:"sink"`
	Fetch  float64 `json:"fetch"`
	Decode float64 `json:"decode"`
	Commit float64 `json:"commit"`
}

// PartitionReport is how far a consumer is on one partition. Offsets that are not known are -1.
type PartitionReport struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	Fetched   int64  `json:"fetched"`
	Applied   int64  `json:"applied"`
	Committed int64  `json:"committed"`
	Head      int64  `json:"head_ms,omitempty"` // timestamp of the oldest record held that is not applied; 0 if none is
	State     string `json:"state"`             // as pkg/stream says
	Waits     string `json:"waits,omitempty"`   // for what, where that is an outage
	Failures  int    `json:"failures,omitempty"`
	Error     string `json:"error,omitempty"` // the last
}

// What a partition waits for in an outage.
const (
	WaitsWriting   = "writing"     // writes fail
	WaitsThrottled = "throttled"   // the destination turns work away
	WaitsDecoding  = "decoding"    // the registry does not answer
	WaitsPanics    = "sink panics" // at every record
)

// The states of a partition that explain its lag.
const (
	StateRecreated = "recreated" // stopped: the topic is not the one it was
	StateHalted    = "halted"    // stopped: the destination's own offsets wait for an operator, as a table rolled back
	StateWedged    = "wedged"    // the sink or the decoder does not come back
)

// Key is the record's in the topic.
func (r *Report) Key() []byte { return []byte(r.Group + "/" + r.Instance) }

// ParseReport reads a record's value. A nil Report is that the process has stopped in order.
func ParseReport(value []byte, at time.Time) (*Report, error) {
	if len(value) == 0 {
		return nil, nil //nolint:nilnil // that it is over is no error
	}
	var r Report
	if err := json.Unmarshal(value, &r); err != nil {
		return nil, fmt.Errorf("reading a report of %s: %w", StatusTopic, err)
	}
	r.At = at
	return &r, nil
}

// oldest is how old a report may be that is still believed, at least: on a busy machine it takes seconds to arrive.
const oldest = 10 * time.Second

// stale says that a report is older than three of its kind should be.
func (r *Report) stale(now time.Time) bool {
	return now.Sub(r.At) > max(3*time.Duration(r.Every*float64(time.Second)), oldest)
}
