package spool

import "context"

// A Target publishes one event, given as JSON. It calls done exactly once, from any goroutine, after Kafka has
// acknowledged or has not; with an error returned the event was not accepted and done is not called. An error that is
// a *RefusedError, in either place, means that this event can never be published; any other that it can be later.
type Target interface {
	Publish(ctx context.Context, event []byte, done func(error)) error
}

// RefusedError says that an event can never be published as it is.
type RefusedError struct{ Err error }

func (e *RefusedError) Error() string { return "event refused: " + e.Err.Error() }
func (e *RefusedError) Unwrap() error { return e.Err }
