package cassandra

import (
	"testing"
	"time"

	"github.com/millrace/millrace/pkg/schema/schematest"
	"github.com/millrace/millrace/pkg/servertest"
	"github.com/millrace/millrace/pkg/servertest/cqlproxy"
)

// A third of the writes time out after they were applied, some are refused as too many: what was turned away comes again
// with fewer requests at once, within the same batch, and each row is there once.
func TestTurnedAway(t *testing.T) {
	t.Parallel()
	servers, ok := servertest.Require(t)
	if !ok {
		return
	}
	typ := schematest.Type(t, "log")
	direct, s, p := behindProxy(t, servers, typ, 7)
	m := maker(typ)
	if err := store(t, s, m.Batch(0, 0, 10)); err != nil {
		t.Fatal(err)
	}
	p.Set(cqlproxy.Faults{TimeOut: 0.3, Overloaded: 0.1})
	lowest := s.limit.Limit()
	for next := int64(10); next < 2010; next += 500 {
		if err := store(t, s, m.Batch(0, next, next+500)); err != nil {
			t.Fatalf("done got %v: what is turned away is no outage", err)
		}
		lowest = min(lowest, s.limit.Limit())
	}
	if c := p.Counts(); c.TimedOut == 0 || c.Overloaded == 0 {
		t.Errorf("nothing was turned away: %+v", c)
	}
	if lowest == s.cfg.InFlight {
		t.Errorf("the limit of requests stayed at %d", lowest)
	}
	p.Set(cqlproxy.Faults{Unavailable: 1})
	if err := store(t, s, m.Batch(0, 2010, 2020)); err == nil {
		t.Error("unavailable is no error")
	}
	p.Set(cqlproxy.Faults{})
	if err := store(t, s, m.Batch(0, 2010, 2020)); err != nil {
		t.Fatal(err)
	}
	if n := len(rows(t, direct, typ)); n != 2020 {
		t.Errorf("%d rows, want 2020", n)
	}
	for deadline := time.Now().Add(time.Minute); s.limit.Limit() < s.cfg.InFlight; {
		if err := store(t, s, m.Batch(0, 2010, 2020)); err != nil {
			t.Fatal(err)
		}
		if time.Now().After(deadline) {
			t.Fatalf("the limit is still %d", s.limit.Limit())
		}
	}
}
