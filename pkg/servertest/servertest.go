// Package servertest gives tests the real servers that `make stack` starts, and cleans up behind them.
//
// Such a test is an ordinary one in a file named *_server_test.go that begins
//
//	servers, ok := servertest.Require(t)
//	if !ok {
//		return
//	}
//
// Under `make test`, which sets MILLRACE_SERVERS=1, an unreachable server fails it. Otherwise it has nothing to do and
// passes at once: what a machine without servers can say about them is nothing.
package servertest

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/gocql/gocql"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// Servers says where the real servers are.
type Servers struct {
	Kafka         []string // host:port
	Registry      string   // URL of the Confluent API
	Cassandra     []string // host:port
	Elasticsearch string   // URL
}

// timeout bounds one question to one server. A busy machine may take long to delete an index or drop a keyspace.
const timeout = 60 * time.Second

// Require gives the servers that MILLRACE_KAFKA, MILLRACE_REGISTRY, MILLRACE_CASSANDRA and MILLRACE_ELASTICSEARCH name.
// It is false when MILLRACE_SERVERS is not 1: the test is to return. A server that is not named or does not answer fails
// the test.
func Require(t testing.TB) (Servers, bool) {
	t.Helper()
	if os.Getenv("MILLRACE_SERVERS") != "1" {
		return Servers{}, false
	}
	s := Servers{
		Kafka:         strings.Split(os.Getenv("MILLRACE_KAFKA"), ","),
		Registry:      os.Getenv("MILLRACE_REGISTRY"),
		Cassandra:     strings.Split(os.Getenv("MILLRACE_CASSANDRA"), ","),
		Elasticsearch: os.Getenv("MILLRACE_ELASTICSEARCH"),
	}
	if err := s.reach(t.Context()); err != nil {
		t.Fatalf("MILLRACE_SERVERS=1 says that the real servers run, but (`make stack` starts them, .stack/env names them):\n%v", err)
	}
	return s, true
}

func (s Servers) reach(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return errors.Join(
		dial(ctx, "MILLRACE_KAFKA", s.Kafka[0]),
		get(ctx, "MILLRACE_REGISTRY", s.Registry, "/subjects"),
		dial(ctx, "MILLRACE_CASSANDRA", s.Cassandra[0]),
		get(ctx, "MILLRACE_ELASTICSEARCH", s.Elasticsearch, "/_cluster/health"),
	)
}

func dial(ctx context.Context, variable, address string) error {
	if address == "" {
		return fmt.Errorf("%s is empty: name at least one host:port", variable)
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return fmt.Errorf("%s: %w", variable, err)
	}
	return conn.Close()
}

func get(ctx context.Context, variable, base, path string) error {
	if base == "" {
		return fmt.Errorf("%s is empty: name a URL", variable)
	}
	if err := request(ctx, http.MethodGet, base+path); err != nil {
		return fmt.Errorf("%s: %w", variable, err)
	}
	return nil
}

// request wants an answer in the 200s; 404 is an error that errNotFound matches.
func request(ctx context.Context, method, address string) error {
	req, err := http.NewRequestWithContext(ctx, method, address, http.NoBody)
	if err != nil {
		return err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	switch {
	case err != nil:
		return fmt.Errorf("%s %s: %w", method, address, err)
	case res.StatusCode == http.StatusNotFound:
		return fmt.Errorf("%s %s: %w", method, address, errNotFound)
	case res.StatusCode/100 != 2:
		return fmt.Errorf("%s %s: %s: %s", method, address, res.Status, body)
	}
	return nil
}

var errNotFound = errors.New("404 Not Found")

// Name gives a name that no other test and no other run has, of lower-case letters, digits and underscores, beginning
// with a letter: fit for a topic, a consumer group, a keyspace and the prefix of an index.
func Name(t testing.TB) string {
	t.Helper()
	var b [6]byte
	_, _ = rand.Read(b[:]) // never fails: see crypto/rand
	return "t" + hex.EncodeToString(b[:])
}

// Prefix gives a Name for topics, groups and index prefixes. At the end of the test all topics, indices and
// index templates whose names begin with it are deleted.
func (s Servers) Prefix(t testing.TB) string {
	t.Helper()
	name := Name(t)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), timeout)
		defer cancel()
		if err := errors.Join(s.cleanKafka(ctx, name), s.cleanElasticsearch(ctx, name)); err != nil {
			t.Errorf("cleaning up %s: %v", name, err)
		}
	})
	return name
}

func (s Servers) cleanKafka(ctx context.Context, prefix string) error {
	client, err := kgo.NewClient(kgo.SeedBrokers(s.Kafka...))
	if err != nil {
		return err
	}
	defer client.Close()
	adm := kadm.NewClient(client)
	topics, err := adm.ListTopics(ctx)
	if err != nil {
		return fmt.Errorf("listing topics: %w", err)
	}
	var mine []string
	for _, name := range topics.Names() {
		if strings.HasPrefix(name, prefix) {
			mine = append(mine, name)
		}
	}
	if len(mine) == 0 {
		return nil
	}
	deleted, err := adm.DeleteTopics(ctx, mine...)
	if err != nil {
		return fmt.Errorf("deleting topics: %w", err)
	}
	return deleted.Error()
}

func (s Servers) cleanElasticsearch(ctx context.Context, prefix string) error {
	indices := request(ctx, http.MethodDelete, s.Elasticsearch+"/"+url.PathEscape(prefix)+"*?ignore_unavailable=true")
	templates := request(ctx, http.MethodDelete, s.Elasticsearch+"/_index_template/"+url.PathEscape(prefix)+"*")
	if errors.Is(templates, errNotFound) {
		templates = nil
	}
	return errors.Join(indices, templates)
}

// Keyspace makes a Cassandra keyspace on one node's worth of replicas and drops it at the end of the test.
func (s Servers) Keyspace(t testing.TB) string {
	t.Helper()
	name := Name(t)
	s.cql(t, "CREATE KEYSPACE "+name+" WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 1}")
	t.Cleanup(func() { s.cql(t, "DROP KEYSPACE IF EXISTS "+name) })
	return name
}

func (s Servers) cql(t testing.TB, statement string) {
	t.Helper()
	cluster := gocql.NewCluster(s.Cassandra...)
	cluster.Timeout, cluster.ConnectTimeout = timeout, timeout
	cluster.NumConns = 1
	session, err := cluster.CreateSession()
	if err != nil {
		t.Fatalf("connecting to Cassandra at %s: %v", s.Cassandra, err)
	}
	defer session.Close()
	if err := session.Query(statement).Exec(); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
}
