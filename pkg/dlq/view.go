package dlq

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"time"
	"unicode/utf8"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/pkg/codec"
)

// View is a letter as it is shown: its record decoded, or its bytes in hex where it cannot be.
type View struct {
	Letter       string          `json:"letter"` // its address
	At           time.Time       `json:"at"`
	State        string          `json:"state"` // open, replaying, replayed, refused again, discarded
	Resolution   *Resolution     `json:"resolution,omitempty"`
	Waits        string          `json:"waits_for,omitempty"` // of one that is replaying, or open in spite of a replay
	Became       string          `json:"became,omitempty"`    // of one that was refused again: the letter that is open in its place
	Destination  string          `json:"destination"`
	Class        string          `json:"class"`
	Reason       string          `json:"reason"`
	Error        string          `json:"error"`
	FirstFailure string          `json:"first_failure,omitempty"`
	Attempts     int             `json:"attempts"`
	Replays      int             `json:"replays"`
	Origin       Origin          `json:"origin"`
	First        *Origin         `json:"first_origin,omitempty"` // of a record that was replayed
	Key          *Text           `json:"key,omitempty"`
	Headers      []Header        `json:"headers"` // all, also those that Millrace wrote
	Record       json.RawMessage `json:"record,omitempty"`
	Undecodable  string          `json:"undecodable,omitempty"` // why there is no record
	Bytes        int             `json:"bytes"`
	Hex          string          `json:"value_hex,omitempty"`
}

// Header is one header of a letter.
type Header struct {
	Name  string `json:"name"`
	Value Text   `json:"value"`
}

// Text is bytes: as they are where they are text, else in hex.
type Text []byte

// String shows what is no text as 0x and hex.
func (t Text) String() string {
	if utf8.Valid(t) {
		return string(t)
	}
	return "0x" + hex.EncodeToString(t)
}

// MarshalText implements encoding.TextMarshaler.
func (t Text) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// View decodes a letter. One that cannot be decoded is no error: that may be why it is there.
func (b *Box) View(ctx context.Context, l *Letter) View {
	v := View{
		Letter: l.String(), At: l.At.UTC(), State: l.State.String(), Resolution: l.Resolution, Waits: l.Waits, Destination: l.Destination,
		Class: l.Class, Reason: l.Reason, Error: l.Error, FirstFailure: l.FirstFailure, Attempts: l.Attempts,
		Replays: l.Loops, Origin: l.Origin, Headers: []Header{}, Bytes: len(l.Record.Value),
	}
	if l.State == RefusedAgain && l.Became != nil {
		v.Became = l.Became.String()
	}
	if l.First != l.Origin {
		v.First = &l.First
	}
	if l.Record.Key != nil {
		key := Text(l.Record.Key)
		v.Key = &key
	}
	for _, h := range l.Record.Headers {
		v.Headers = append(v.Headers, Header{h.Key, h.Value})
	}
	for _, t := range b.Types {
		if t.DLQName() != l.Topic {
			continue
		}
		// Without an append time: a record is shown also when its time is out of bounds.
		rec, err := b.Decoder(t.Name).Decode(ctx, &kgo.Record{Topic: t.TopicName(), Key: l.Record.Key, Value: l.Record.Value})
		if err != nil {
			v.Undecodable = err.Error()
			break
		}
		v.Record = codec.AppendJSON(nil, &rec)
	}
	if !json.Valid(v.Record) {
		v.Record, v.Hex = nil, hex.EncodeToString(l.Record.Value)
	}
	return v
}
