package elasticsearch

import (
	"testing"

	"github.com/millrace/millrace/pkg/schema"
	"github.com/millrace/millrace/pkg/serve/servetest"
	"github.com/millrace/millrace/pkg/servertest"
	"github.com/millrace/millrace/pkg/stream"
)

// TestServeContract holds the search store against the suite that the dev store passes too.
func TestServeContract(t *testing.T) {
	servers, ok := servertest.Require(t)
	if !ok {
		return
	}
	types, err := schema.Builtin()
	if err != nil {
		t.Fatal(err)
	}
	servetest.Test(t, func(t *testing.T) servetest.Harness {
		s := open(t, servers, types...)
		return servetest.Harness{Types: s.types, Sinks: []stream.Sink{s}, Search: s}
	})
}
