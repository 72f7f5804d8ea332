package client

import (
	"errors"

	"github.com/twmb/franz-go/pkg/kerr"
)

// Outcome is what became of a record that was taken.
type Outcome string

// The outcomes.
const (
	Acknowledged Outcome = "acknowledged" // written to all in-sync replicas
	Failed       Outcome = "failed"       // certainly not written
	Unknown      Outcome = "unknown"      // perhaps written
)

// refusals are the errors by which Kafka, or the client before it, says that it did not write the record.
var refusals = []error{
	kerr.MessageTooLarge, kerr.RecordListTooLarge, kerr.InvalidRecord, kerr.InvalidTimestamp, kerr.CorruptMessage,
	kerr.InvalidTopicException, kerr.UnknownTopicOrPartition, kerr.TopicAuthorizationFailed,
	kerr.ClusterAuthorizationFailed, kerr.PolicyViolation, kerr.UnsupportedForMessageFormat,
}

// OutcomeOf reads the error that a callback of Produce or Send was given. Unless the error says that the record was
// refused it is unknown: the acknowledgement may have been lost, and the record not.
func OutcomeOf(err error) Outcome {
	if err == nil {
		return Acknowledged
	}
	for _, r := range refusals {
		if errors.Is(err, r) {
			return Failed
		}
	}
	return Unknown
}
