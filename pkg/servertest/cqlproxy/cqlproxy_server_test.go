package cqlproxy

import (
	"errors"
	"testing"
	"time"

	"github.com/gocql/gocql"

	"github.com/millrace/millrace/pkg/servertest"
)

// A time-out has applied the write, the others have not, and the driver takes each for what it is.
func TestFaults(t *testing.T) {
	t.Parallel()
	servers, ok := servertest.Require(t)
	if !ok {
		return
	}
	keyspace := servers.Keyspace(t)
	p, err := Start(servers.Cassandra[0], 1)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	cluster := gocql.NewCluster(p.Address())
	cluster.Keyspace, cluster.Timeout, cluster.ConnectTimeout = keyspace, 30*time.Second, 30*time.Second
	session, err := cluster.CreateSession()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(session.Close)
	if err := session.Query("CREATE TABLE t (k int PRIMARY KEY)").Exec(); err != nil {
		t.Fatal(err)
	}
	for i, c := range []struct {
		faults Faults
		stored bool
		is     func(error) bool
	}{
		{Faults{}, true, func(err error) bool { return err == nil }},
		{Faults{TimeOut: 1}, true, func(err error) bool { return errors.As(err, new(*gocql.RequestErrWriteTimeout)) }},
		{Faults{Unavailable: 1}, false, func(err error) bool { return errors.As(err, new(*gocql.RequestErrUnavailable)) }},
		{Faults{Overloaded: 1}, false, func(err error) bool {
			var re gocql.RequestError
			return errors.As(err, &re) && re.Code() == gocql.ErrCodeOverloaded
		}},
	} {
		p.Set(c.faults)
		err := session.Query("INSERT INTO t (k) VALUES (?)", i).Exec()
		p.Set(Faults{})
		if !c.is(err) {
			t.Errorf("%+v gave %v", c.faults, err)
		}
		var k int
		err = session.Query("SELECT k FROM t WHERE k = ?", i).Scan(&k)
		if stored := err == nil; stored != c.stored {
			t.Errorf("%+v: stored is %v (%v), want %v", c.faults, stored, err, c.stored)
		}
	}
	if c := p.Counts(); c.TimedOut != 1 || c.Unavailable != 1 || c.Overloaded != 1 {
		t.Errorf("%+v", c)
	}
}
