package stream

import (
	"errors"

	"github.com/millrace/millrace/pkg/codec"
)

// A Class says what an error means for the records it came of. The class alone decides what is done.
type Class string

// The classes. Whatever nobody has named is an outage, so that a mistake delays and never drops.
const (
	// ClassRecord is a record's own fault: a *PartialError or a *codec.BadRecord. It is a dead letter.
	ClassRecord Class = "record"
	// ClassThrottle is ErrThrottle: the destination is up, and the same comes again, later and with fewer at once.
	ClassThrottle Class = "throttle"
	// ClassBug is a panic or ErrBatch: one of several records is to blame, and they are written in smaller parts.
	ClassBug Class = "bug"
	// ClassOutage is everything else: the same comes again until it succeeds.
	ClassOutage Class = "outage"
)

// Classify gives an error's class.
func Classify(err error) Class {
	var partial *PartialError
	var bad *codec.BadRecord
	switch {
	case errors.As(err, &partial), errors.As(err, &bad):
		return ClassRecord
	case isPanic(err), errors.Is(err, ErrBatch):
		return ClassBug
	case errors.Is(err, ErrThrottle):
		return ClassThrottle
	}
	return ClassOutage
}

// errGone ends the work on a batch whose partition was given up.
var errGone = errors.New("the partition was given up")

// failed gives the class of a write's end; it is false where that is no failure of the destination.
func failed(err error) (Class, bool) {
	if err == nil || errors.Is(err, ErrReseek) || errors.Is(err, errGone) {
		return "", false
	}
	return Classify(err), true
}

// again says whether the same write comes again. A Keeper's batches are never split, since it must see each range once
// and whole; so for a Keeper a bug comes again, too.
func (c *Consumer) again(err error) bool {
	class, ok := failed(err)
	return ok && (class == ClassOutage || class == ClassThrottle || class == ClassBug && c.keeper != nil)
}
