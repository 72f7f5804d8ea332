package cassandra

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/gocql/gocql"

	"github.com/millrace/millrace/pkg/schema/schematest"
	"github.com/millrace/millrace/pkg/servertest"
	"github.com/millrace/millrace/pkg/servertest/cqlproxy"
	"github.com/millrace/millrace/pkg/stream"
)

// TestClassOfAnAnswer: what Cassandra answers a write with is a class, and the class alone decides.
func TestClassOfAnAnswer(t *testing.T) {
	t.Parallel()
	servers, ok := servertest.Require(t)
	if !ok {
		return
	}
	typ := schematest.Type(t, "log")
	direct, s, p := behindProxy(t, servers, typ, 1)
	m := maker(typ)
	invalid := func(message string) cqlproxy.Answer {
		return cqlproxy.Answer{Code: gocql.ErrCodeInvalid, Message: message}
	}
	for _, c := range []struct {
		answer cqlproxy.Answer
		want   stream.Class
	}{
		{invalid("Key length of 70000 is longer than maximum of 65535"), stream.ClassRecord},
		{invalid("String didn't validate."), stream.ClassRecord},
		{invalid("Request is too big: length 20973443 exceeds maximum allowed length 16777216."), stream.ClassRecord},
		{invalid("Rejected an oversized mutation (8388944/4194304) for keyspace: x."), stream.ClassRecord},
		{invalid("table log does not exist"), stream.ClassOutage},
		{invalid("Undefined column name region in table x.log"), stream.ClassOutage},
		{invalid("Keyspace x does not exist"), stream.ClassOutage},
		{invalid("something new"), stream.ClassOutage},
		{cqlproxy.Answer{Code: gocql.ErrCodeOverloaded, Message: "overloaded"}, stream.ClassThrottle},
		{cqlproxy.Answer{Code: gocql.ErrCodeWriteTimeout, Message: "timed out"}, stream.ClassThrottle},
		{cqlproxy.Answer{Code: gocql.ErrCodeUnavailable, Message: "unavailable"}, stream.ClassOutage},
		{cqlproxy.Answer{Code: gocql.ErrCodeWriteFailure, Message: "failed"}, stream.ClassOutage},
		{cqlproxy.Answer{Code: gocql.ErrCodeServer, Message: "String didn't validate."}, stream.ClassOutage},
		{cqlproxy.Answer{Code: gocql.ErrCodeProtocol, Message: "protocol"}, stream.ClassOutage},
		{cqlproxy.Answer{Code: gocql.ErrCodeCredentials, Message: "who"}, stream.ClassOutage},
		{cqlproxy.Answer{Code: gocql.ErrCodeBootstrapping, Message: "bootstrapping"}, stream.ClassOutage},
		{cqlproxy.Answer{Code: gocql.ErrCodeTruncate, Message: "truncate"}, stream.ClassOutage},
		{cqlproxy.Answer{Code: gocql.ErrCodeSyntax, Message: "syntax"}, stream.ClassOutage},
		{cqlproxy.Answer{Code: gocql.ErrCodeUnauthorized, Message: "no permission"}, stream.ClassOutage},
		{cqlproxy.Answer{Code: gocql.ErrCodeConfig, Message: "config"}, stream.ClassOutage},
	} {
		p.Set(cqlproxy.Faults{}) // so that the table is known again, of which an invalid request makes one doubt
		if err := store(t, s, m.Batch(0, 0, 3)); err != nil {
			t.Fatal(err)
		}
		p.Set(cqlproxy.Faults{Answer: &c.answer})
		before := p.Counts().Writes
		got, refused := classOf(t, s, m.Batch(0, 10, 11))
		if got != c.want || (c.want == stream.ClassRecord) != (len(refused) == 1) {
			t.Errorf("0x%04x %s: class %q, refused %v; want %q", c.answer.Code, c.answer.Message, got, refused, c.want)
		}
		if n := p.Counts().Writes - before; (n > 1) != (c.want == stream.ClassThrottle) {
			t.Errorf("0x%04x %s: %d writes; only what is turned away is tried again here, not by the driver", c.answer.Code, c.answer.Message, n)
		}
	}
	p.Set(cqlproxy.Faults{})
	if err := store(t, s, m.Batch(0, 10, 11)); err != nil {
		t.Errorf("the same batch, once nothing fails: %v", err)
	}
	if n := len(rows(t, direct, typ)); n != 4 {
		t.Errorf("%d rows, want 4", n)
	}
}

// classOf stores a batch for as long as a request may be turned away here, and gives the class of what came of it.
func classOf(t *testing.T, s *Store, b stream.Batch) (stream.Class, map[int]error) {
	t.Helper()
	ctx, cancel := context.WithTimeoutCause(t.Context(), 3*time.Second, errors.New("the test's patience"))
	defer cancel()
	result := make(chan error, 1)
	if err := s.Write(ctx, b, func(err error) { result <- err }); err != nil {
		t.Fatal(err)
	}
	err := <-result
	if err == nil {
		return "", nil
	}
	if partial, ok := errors.AsType[*stream.PartialError](err); ok {
		return stream.Classify(err), partial.Failed
	}
	return stream.Classify(err), nil
}
