package cassandra

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/gocql/gocql"

	"github.com/millrace/millrace/pkg/schema"
)

// tables is which versions of the types the tables are known to hold. The lock is a channel, so that whoever waits for
// another's requests can give up.
type tables struct {
	lock  chan struct{} // holds one while a goroutine looks or changes
	types map[*schema.Type]*insert
}

// ready makes sure, once per version of a type, that its table has all of its columns. It adds columns and takes none
// away: an older process beside a newer one writes fewer columns and changes nothing.
func (s *Store) ready(ctx context.Context, session *gocql.Session, t *schema.Type) (*insert, error) {
	select {
	case s.tables.lock <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	defer func() { <-s.tables.lock }()
	if known := s.tables.types[t]; known != nil {
		return known, nil
	}
	cql := t.CQL(s.cfg.Keyspace)
	have, err := s.columns(ctx, session, t.Cassandra.Table)
	if err != nil {
		return nil, err
	}
	if len(have) == 0 {
		return nil, fmt.Errorf("table %s does not exist: run `millrace topics apply`", cql.Table)
	}
	statements, err := cql.Alter(have)
	if err != nil {
		return nil, err
	}
	if len(statements) > 0 {
		if err := s.execAll(ctx, session, statements); err != nil {
			return nil, err
		}
		added := slices.Sorted(maps.Keys(cql.Types()))
		added = slices.DeleteFunc(added, func(name string) bool { return have[name] != "" })
		s.m.evolved.WithLabelValues(t.Name).Add(float64(len(statements)))
		s.log.Info("table has new columns", "type", t.Name, "columns", strings.Join(added, ","))
	}
	if s.tables.types == nil {
		s.tables.types = make(map[*schema.Type]*insert)
	}
	out := newInsert(t, &cql)
	s.tables.types[t] = out
	return out, nil
}

// forget makes the next batch look at the table again: it is not as it was.
func (s *Store) forget(ctx context.Context, t *schema.Type) {
	select {
	case s.tables.lock <- struct{}{}:
		maps.DeleteFunc(s.tables.types, func(known *schema.Type, _ *insert) bool { return known.Name == t.Name })
		<-s.tables.lock
	case <-ctx.Done(): // whoever has the lock looks at this moment
	}
}

// connect gives a session in the keyspace. That there is none of it gocql does not say.
func (s *Store) connect(ctx context.Context) (*gocql.Session, error) {
	session, err := s.data.get(ctx)
	if !errors.Is(err, gocql.ErrNoConnectionsStarted) {
		return session, err
	}
	admin, other := s.admin.get(ctx)
	if other != nil {
		return nil, err
	}
	var name string
	const query = "SELECT keyspace_name FROM system_schema.keyspaces WHERE keyspace_name = ?"
	other = admin.Query(query, s.cfg.Keyspace).WithContext(ctx).Scan(&name)
	if errors.Is(other, gocql.ErrNotFound) {
		return nil, fmt.Errorf("keyspace %s does not exist: run `millrace topics apply`", s.cfg.Keyspace)
	}
	return nil, err
}

// columns gives the table's columns, name to type. None means that there is no table.
func (s *Store) columns(ctx context.Context, session *gocql.Session, name string) (map[string]string, error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	const query = "SELECT column_name, type FROM system_schema.columns WHERE keyspace_name = ? AND table_name = ?"
	iter := session.Query(query, s.cfg.Keyspace, name).WithContext(ctx).Iter()
	have := make(map[string]string)
	var column, kind string
	for iter.Scan(&column, &kind) {
		have[column] = kind
	}
	if err := iter.Close(); err != nil {
		return nil, fmt.Errorf("reading the columns of table %s: %w", name, err)
	}
	return have, nil
}

// execAll runs statements that change the schema, each until all nodes agree on it.
func (s *Store) execAll(ctx context.Context, session *gocql.Session, statements []string) error {
	for _, statement := range statements {
		err := session.Query(statement).WithContext(ctx).Consistency(gocql.All).Exec()
		if err == nil {
			err = session.AwaitSchemaAgreement(ctx)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", firstLine(statement), err)
		}
	}
	return nil
}

func firstLine(s string) string {
	s, _, _ = strings.Cut(s, "\n")
	return s
}

// The messages by which Cassandra refuses a row for what it holds. They were found by experiment on 5.0.4 (see
// TestRefusedRows); the code alone, 0x2200, is also a table that is not there.
var faults = []struct{ message, reason string }{
	{"Key length of ", "key_too_long"},              // over 65,535 bytes
	{"String didn't validate", "invalid_text"},      // not UTF-8
	{"Request is too big: length ", "too_large"},    // over native_transport_max_request_data or the frame's bound
	{"Rejected an oversized mutation", "too_large"}, // over max_mutation_size
}

// fault says why a request for a single row can never succeed, or "".
func fault(err error) string {
	var re gocql.RequestError
	if !errors.As(err, &re) || re.Code() != gocql.ErrCodeInvalid {
		return ""
	}
	for _, f := range faults {
		if strings.HasPrefix(re.Message(), f.message) {
			return f.reason
		}
	}
	return ""
}

// invalid says whether Cassandra found fault with the request itself, so that it is worth to try its rows one by one.
func invalid(err error) bool {
	var re gocql.RequestError
	return errors.As(err, &re) && re.Code() == gocql.ErrCodeInvalid
}

// turnedAway says that Cassandra is up and has more to do than it can. Of a write that timed out nobody knows whether it
// was applied: it comes again with the same timestamp, which changes nothing then.
func turnedAway(err error) bool {
	var re gocql.RequestError
	return errors.As(err, &re) && (re.Code() == gocql.ErrCodeOverloaded || re.Code() == gocql.ErrCodeWriteTimeout)
}

func kindOf(err error) string {
	var re gocql.RequestError
	switch {
	case errors.Is(err, context.Canceled):
		return "cancelled"
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, gocql.ErrTimeoutNoResponse):
		return "timeout"
	case errors.As(err, &re):
		switch re.Code() {
		case gocql.ErrCodeWriteTimeout, gocql.ErrCodeReadTimeout:
			return "server_timeout"
		case gocql.ErrCodeUnavailable:
			return "unavailable"
		case gocql.ErrCodeOverloaded:
			return "overloaded"
		case gocql.ErrCodeInvalid:
			return "invalid"
		}
		return "server"
	}
	return "connection"
}
