package schema_test

import (
	"strings"
	"testing"
	"time"

	"github.com/gocql/gocql"
	"github.com/google/go-cmp/cmp"

	"github.com/millrace/millrace/pkg/schema"
	"github.com/millrace/millrace/pkg/schema/schematest"
	"github.com/millrace/millrace/pkg/servertest"
)

// cassandraTimeout is for a busy machine, where making a table takes seconds.
const cassandraTimeout = time.Minute

func cassandra(t *testing.T) (session *gocql.Session, keyspace string, ok bool) {
	t.Helper()
	servers, ok := servertest.Require(t)
	if !ok {
		return nil, "", false
	}
	keyspace = servers.Keyspace(t)
	cluster := gocql.NewCluster(servers.Cassandra...)
	cluster.Timeout, cluster.ConnectTimeout, cluster.NumConns = cassandraTimeout, cassandraTimeout, 1
	session, err := cluster.CreateSession()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(session.Close)
	return session, keyspace, true
}

func execute(t *testing.T, session *gocql.Session, statements ...string) {
	t.Helper()
	for _, statement := range statements {
		if err := session.Query(statement).Exec(); err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
	}
}

// tableColumns gives the types by name, as a planner reads them.
func tableColumns(t *testing.T, session *gocql.Session, keyspace, table string) map[string]string {
	t.Helper()
	have := map[string]string{}
	rows := session.Query("SELECT column_name, type FROM system_schema.columns WHERE keyspace_name = ? AND table_name = ?", keyspace, table).Iter()
	var name, kind string
	for rows.Scan(&name, &kind) {
		have[name] = kind
	}
	if err := rows.Close(); err != nil {
		t.Fatal(err)
	}
	return have
}

// TestTablesOnCassandra: what is made is what a plan then finds, so that applying twice changes nothing.
func TestTablesOnCassandra(t *testing.T) {
	session, keyspace, ok := cassandra(t)
	if !ok {
		return
	}
	types, err := schema.Builtin()
	if err != nil {
		t.Fatal(err)
	}
	for _, typ := range append(types, schematest.NetworkFlow(t)) {
		c := typ.CQL(keyspace)
		execute(t, session, c.Create)
		if diff := cmp.Diff(c.Types(), tableColumns(t, session, keyspace, typ.Name)); diff != "" {
			t.Errorf("%s: columns (-want +got):\n%s", typ.Name, diff)
		}
		for range 2 { // as made, and after the options were set again
			var ttl, grace int
			var comment string
			compaction := map[string]string{}
			err := session.Query(`SELECT default_time_to_live, gc_grace_seconds, comment, compaction FROM system_schema.tables WHERE keyspace_name = ? AND table_name = ?`,
				keyspace, typ.Name).Scan(&ttl, &grace, &comment, &compaction)
			if err != nil {
				t.Fatal(err)
			}
			compaction["class"] = strings.TrimPrefix(compaction["class"], "org.apache.cassandra.db.compaction.")
			for key := range compaction {
				if _, ours := c.Compaction[key]; !ours {
					delete(compaction, key) // thresholds that Cassandra adds
				}
			}
			if diff := cmp.Diff(c.Compaction, compaction); diff != "" {
				t.Errorf("%s: compaction (-want +got):\n%s", typ.Name, diff)
			}
			if time.Duration(ttl)*time.Second != c.TTL || time.Duration(grace)*time.Second != c.GCGrace || comment != c.Comment {
				t.Errorf("%s: time to live %d s, grace %d s, comment %q", typ.Name, ttl, grace, comment)
			}
			execute(t, session, c.SetOptions)
		}
	}
}

// TestEvolveOnCassandra: a newer version's columns are added, and a rename reads and writes the column it had.
func TestEvolveOnCassandra(t *testing.T) {
	session, keyspace, ok := cassandra(t)
	if !ok {
		return
	}
	first := parse(t, record(`{}`, `, {"name": "body", "type": "string", "default": ""}`)).CQL(keyspace)
	execute(t, session, first.Create)
	second := parse(t, record(`{}`, `, {"name": "text", "type": "string", "default": "", "aliases": ["body"]},
		{"name": "select", "type": ["null", "double"], "default": null}`)).CQL(keyspace)
	statements, err := second.Alter(tableColumns(t, session, keyspace, "sample"))
	if err != nil {
		t.Fatal(err)
	}
	execute(t, session, statements...)
	execute(t, session, statements...) // two processes may evolve a table at the same time
	if diff := cmp.Diff(second.Types(), tableColumns(t, session, keyspace, "sample")); diff != "" {
		t.Errorf("columns (-want +got):\n%s", diff)
	}
	if left, err := second.Alter(tableColumns(t, session, keyspace, "sample")); err != nil || len(left) != 0 {
		t.Errorf("still to do: %v, %v", left, err)
	}
}

// TestValuesOnCassandra: the column types keep what records hold, down to the difference between nothing and empty.
func TestValuesOnCassandra(t *testing.T) {
	session, keyspace, ok := cassandra(t)
	if !ok {
		return
	}
	typ := schematest.NetworkFlow(t)
	c := typ.CQL(keyspace)
	execute(t, session, c.Create)
	at := time.Now().UnixMicro()
	binds := make([]any, 0, len(c.Columns)+2)
	for _, col := range c.Columns {
		switch {
		case col.Field == schema.BucketColumn:
			binds = append(binds, typ.Bucket(at))
		case col.Field == schema.ShardColumn:
			binds = append(binds, 3)
		case col.Field == schema.Time:
			binds = append(binds, at)
		case col.Field == schema.ID:
			binds = append(binds, "01890a5d-ac96-774b-bcce-b302099a8057")
		case col.Name == "attributes":
			binds = append(binds, map[string]string{})
		case col.Name == "tenant", col.Name == "src_ip":
			binds = append(binds, "")
		default:
			binds = append(binds, gocql.UnsetValue)
		}
	}
	if err := session.Query(c.Insert, append(binds, 3600, at)...).Exec(); err != nil {
		t.Fatal(err)
	}
	var micros, written int64
	var bucket time.Time
	var headers, attributes map[string]string
	err := session.Query(`SELECT time, bucket, headers, attributes, writetime(attributes) FROM `+c.Table+` WHERE tenant = '' AND src_ip = '' AND bucket = ? AND shard = 3`,
		typ.Bucket(at)).Scan(&micros, &bucket, &headers, &attributes, &written)
	if err != nil {
		t.Fatal(err)
	}
	if micros != at || written != at || !bucket.Equal(typ.Bucket(at)) {
		t.Errorf("time %d in bucket %v written at %d, want %d in %v", micros, bucket, written, at, typ.Bucket(at))
	}
	if headers != nil || attributes == nil || len(attributes) != 0 {
		t.Errorf("an unset map came back as %v, an empty one as %v", headers, attributes)
	}
}
