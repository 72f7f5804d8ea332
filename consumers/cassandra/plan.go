package cassandra

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gocql/gocql"

	"github.com/millrace/millrace/pkg/provision"
	"github.com/millrace/millrace/pkg/schema"
)

// copies is how many copies a data centre keeps unless the configuration says otherwise.
const copies = 3

const networkTopology = "org.apache.cassandra.locator.NetworkTopologyStrategy"

// Plan compares the keyspace and the tables with what the configuration and the types ask for. The keyspace comes
// first, since the tables need it.
func (s *Store) Plan(ctx context.Context) ([]provision.Change, error) {
	session, err := s.admin.get(ctx)
	if err != nil {
		return nil, err
	}
	changes, err := s.planKeyspace(ctx, session)
	if err != nil {
		return nil, err
	}
	for _, t := range s.types.All() {
		more, err := s.planTable(ctx, session, t)
		if err != nil {
			return nil, err
		}
		changes = append(changes, more...)
	}
	return changes, nil
}

func (s *Store) planKeyspace(ctx context.Context, session *gocql.Session) ([]provision.Change, error) {
	var have map[string]string
	err := session.Query("SELECT replication FROM system_schema.keyspaces WHERE keyspace_name = ?", s.cfg.Keyspace).WithContext(ctx).Scan(&have)
	exists := err == nil
	if err != nil && err != gocql.ErrNotFound { //nolint:errorlint // gocql gives it as it is
		return nil, fmt.Errorf("reading keyspace %s: %w", s.cfg.Keyspace, err)
	}
	want := s.cfg.Replication
	if len(want) == 0 {
		if exists { // nothing is asked for, so whatever is there is right
			return nil, nil
		}
		if want, err = defaultReplication(ctx, session); err != nil {
			return nil, err
		}
	}
	verb, detail := "CREATE KEYSPACE IF NOT EXISTS", "create with "+describe(want)
	if exists {
		if detail = replicationDiff(have, want); detail == "" {
			return nil, nil
		}
		verb = "ALTER KEYSPACE"
	}
	statement := fmt.Sprintf(`%s "%s" WITH replication = %s`, verb, s.cfg.Keyspace, replicationCQL(want))
	return []provision.Change{s.change(session, "keyspace "+s.cfg.Keyspace, detail, statement)}, nil
}

// defaultReplication asks the cluster for its data centres and gives each as many copies as is usual, or as it has
// nodes.
func defaultReplication(ctx context.Context, session *gocql.Session) (map[string]int, error) {
	iter := session.Query("SELECT data_center FROM system.peers").WithContext(ctx).Iter()
	nodes := make(map[string]int)
	if host := iter.Host(); host != nil { // the node that answers is not among its own peers
		nodes[host.DataCenter()]++
	}
	var dc string
	for iter.Scan(&dc) {
		nodes[dc]++
	}
	if err := iter.Close(); err != nil {
		return nil, fmt.Errorf("asking Cassandra for its data centres: %w", err)
	}
	for dc, n := range nodes {
		if !datacenterName.MatchString(dc) {
			return nil, fmt.Errorf("data centre %q cannot be written in a statement: set cassandra.replication", dc)
		}
		nodes[dc] = min(n, copies)
	}
	return nodes, nil
}

func replicationCQL(want map[string]int) string {
	parts := []string{"'class': 'NetworkTopologyStrategy'"}
	for _, dc := range slices.Sorted(maps.Keys(want)) {
		parts = append(parts, fmt.Sprintf("'%s': %d", dc, want[dc])) // Validate refuses a name with a quote
	}
	return "{" + strings.Join(parts, ", ") + "}"
}

func describe(want map[string]int) string {
	var parts []string
	for _, dc := range slices.Sorted(maps.Keys(want)) {
		parts = append(parts, fmt.Sprintf("%d in %s", want[dc], dc))
	}
	return "copies: " + strings.Join(parts, ", ")
}

// replicationDiff says in words what differs, or nothing.
func replicationDiff(have map[string]string, want map[string]int) string {
	should := map[string]string{"class": networkTopology}
	for dc, n := range want {
		should[dc] = strconv.Itoa(n)
	}
	if maps.Equal(have, should) {
		return ""
	}
	var is []string
	for _, k := range slices.Sorted(maps.Keys(have)) {
		is = append(is, k+" "+have[k])
	}
	return fmt.Sprintf("replication (%s) becomes %s\nrows that are there already are copied by `nodetool repair --full`",
		strings.Join(is, ", "), describe(want))
}

func (s *Store) planTable(ctx context.Context, session *gocql.Session, t *schema.Type) ([]provision.Change, error) {
	want := t.CQL(s.cfg.Keyspace)
	object := "table " + s.cfg.Keyspace + "." + t.Cassandra.Table
	have, err := s.columns(ctx, session, t.Cassandra.Table)
	if err != nil {
		return nil, err
	}
	if len(have) == 0 {
		return []provision.Change{s.change(session, object, fmt.Sprintf("create with %d columns, rows kept %s", len(want.Columns), want.TTL), want.Create)}, nil
	}
	statements, err := want.Alter(have)
	if err != nil {
		return nil, err
	}
	var changes []provision.Change
	if len(statements) > 0 {
		var lines []string
		for _, col := range want.Columns {
			if have[col.Name] == "" {
				lines = append(lines, "add column "+col.Name+" "+col.Type)
			}
		}
		changes = append(changes, s.change(session, object, strings.Join(lines, "\n"), statements...))
	}
	detail, err := s.optionsDiff(ctx, session, t, want)
	if err != nil {
		return nil, err
	}
	if detail != "" {
		changes = append(changes, s.change(session, object, detail, want.SetOptions))
	}
	return changes, nil
}

// optionsDiff says in words which of the table's options differ, or nothing.
func (s *Store) optionsDiff(ctx context.Context, session *gocql.Session, t *schema.Type, want schema.CQL) (string, error) {
	var ttl, grace int
	var comment string
	var compaction map[string]string
	err := session.Query("SELECT default_time_to_live, gc_grace_seconds, comment, compaction FROM system_schema.tables WHERE keyspace_name = ? AND table_name = ?",
		s.cfg.Keyspace, t.Cassandra.Table).WithContext(ctx).Scan(&ttl, &grace, &comment, &compaction)
	if err != nil {
		return "", fmt.Errorf("reading the options of table %s: %w", want.Table, err)
	}
	var lines []string
	add := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	if is := time.Duration(ttl) * time.Second; is != want.TTL {
		add("default time to live %s becomes %s", is, want.TTL)
	}
	if is := time.Duration(grace) * time.Second; is != want.GCGrace {
		add("grace %s becomes %s", is, want.GCGrace)
	}
	for _, k := range slices.Sorted(maps.Keys(want.Compaction)) {
		is := compaction[k]
		if k == "class" {
			is = is[strings.LastIndexByte(is, '.')+1:]
		}
		if is != want.Compaction[k] {
			add("compaction %s %s becomes %s", k, is, want.Compaction[k])
		}
	}
	if comment != want.Comment {
		add("comment %q becomes %q", comment, want.Comment)
	}
	return strings.Join(lines, "\n"), nil
}

func (s *Store) change(session *gocql.Session, object, detail string, statements ...string) provision.Change {
	return provision.Change{
		Server: "cassandra", Object: object, Detail: detail,
		Apply: func(ctx context.Context) error { return s.execAll(ctx, session, statements) },
	}
}
