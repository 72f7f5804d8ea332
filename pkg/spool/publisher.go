package spool

import (
	"context"
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/pkg/codec"
)

// Publisher is what an agent needs of the SDK. *client.Client is one.
type Publisher interface {
	Encoder(ctx context.Context, typeName string) (*codec.Encoder, error)
	Produce(ctx context.Context, r *kgo.Record, done func(error)) error
}

// To makes a Target of a publisher: events of one type, encoded by the schema that is current when they are sent.
func To(pub Publisher, typeName string) Target { return &target{pub: pub, typeName: typeName} }

type target struct {
	pub      Publisher
	typeName string
}

// Publish encodes and produces one event.
func (t *target) Publish(ctx context.Context, event []byte, done func(error)) error {
	enc, err := t.pub.Encoder(ctx, t.typeName)
	if err != nil {
		return fmt.Errorf("getting the encoder of %s: %w", t.typeName, err)
	}
	rec, err := enc.EncodeJSON(event)
	if err != nil {
		return &RefusedError{Err: err}
	}
	return t.pub.Produce(ctx, rec, func(err error) {
		if errors.Is(err, kerr.MessageTooLarge) || errors.Is(err, kerr.InvalidRecord) {
			err = &RefusedError{Err: err}
		}
		done(err)
	})
}
