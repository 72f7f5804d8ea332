// Package provision describes what `millrace topics plan` shows and `apply` makes: the difference between what the
// schemas ask for and what a server has.
package provision

import "context"

// Change is one thing to make or alter on a server.
type Change struct {
	Server string // kafka, registry, cassandra, elasticsearch, lake
	Object string // "topic millrace.log", "table telemetry.log"
	Detail string // what differs, for a person; may have several lines
	Apply  func(ctx context.Context) error
}

// RefusedError says that what is wanted can never be made: a type that is not compatible with its earlier versions. No
// server may then be changed, whatever could be made there: what the others hold is written with those versions.
type RefusedError struct{ Err error }

func (e *RefusedError) Error() string { return e.Err.Error() }
func (e *RefusedError) Unwrap() error { return e.Err }

// Planner compares one server with what is wanted. A plan changes nothing.
type Planner interface {
	Plan(ctx context.Context) ([]Change, error)
}
