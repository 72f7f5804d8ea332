package cassandra

import (
	"testing"

	"github.com/gocql/gocql"

	"github.com/millrace/millrace/pkg/telemetry"
)

// TestTheDriverNeverRetries: with one node its usual policy does not either, so no test on a server would show it.
func TestTheDriverNeverRetries(t *testing.T) {
	c, err := clusterConfig(Default(), "k", telemetry.Discard().Log)
	if err != nil {
		t.Fatal(err)
	}
	if c.RetryPolicy == nil || c.RetryPolicy.Attempt(nil) || c.RetryPolicy.GetRetryType(gocql.ErrTimeoutNoResponse) != gocql.Rethrow {
		t.Error("the driver tries writes again by itself: outside of the budget, and errors that it makes worse")
	}
	if c.DefaultTimestamp {
		t.Error("the driver gives a write time of its own")
	}
}
