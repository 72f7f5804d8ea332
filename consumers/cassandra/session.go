package cassandra

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/gocql/gocql"

	"github.com/millrace/millrace/pkg/stream"
)

// connector makes a session when one is first needed. Connecting blocks inside gocql, which takes no context, so it
// goes on in a goroutine of its own and whoever waits can give up.
type connector struct {
	cfg      Config
	keyspace string // "" for the session that makes the keyspace
	log      *slog.Logger

	mu      sync.Mutex
	session *gocql.Session
	dialing chan struct{} // closed when the attempt under way has ended
	err     error         // of the last attempt
	closed  bool
}

// get gives the session, connecting if there is none. After a connection that did not come about the next call tries
// again.
func (c *connector) get(ctx context.Context) (*gocql.Session, error) {
	for {
		c.mu.Lock()
		switch {
		case c.closed:
			c.mu.Unlock()
			return nil, fmt.Errorf("the connection to Cassandra: %w", stream.ErrClosed)
		case c.session != nil:
			s := c.session
			c.mu.Unlock()
			return s, nil
		case c.dialing == nil:
			c.dialing = make(chan struct{})
			go c.dial(c.dialing)
		}
		dialing := c.dialing
		c.mu.Unlock()
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("connecting to Cassandra: %w", context.Cause(ctx))
		case <-dialing:
		}
		c.mu.Lock()
		s, err := c.session, c.err
		c.mu.Unlock()
		if s == nil && err != nil {
			return nil, err
		}
	}
}

func (c *connector) dial(done chan struct{}) {
	cluster, err := clusterConfig(c.cfg, c.keyspace, c.log)
	var s *gocql.Session
	if err == nil {
		s, err = cluster.CreateSession()
	}
	if err != nil {
		err = fmt.Errorf("connecting to Cassandra at %v: %w", c.cfg.Hosts, err)
	}
	c.mu.Lock()
	c.session, c.err, c.dialing = s, err, nil
	if c.closed && s != nil {
		c.session = nil
		c.mu.Unlock()
		s.Close()
		close(done)
		return
	}
	c.mu.Unlock()
	close(done)
}

// close ends the session, waiting for an attempt to connect that is under way.
func (c *connector) close() {
	c.mu.Lock()
	c.closed = true
	s, dialing := c.session, c.dialing
	c.session = nil
	c.mu.Unlock()
	if s != nil {
		s.Close()
	}
	if dialing != nil {
		<-dialing
	}
}

// clusterConfig sets every bound that gocql leaves open or sets for another purpose.
func clusterConfig(cfg Config, keyspace string, log *slog.Logger) (*gocql.ClusterConfig, error) {
	consistency, err := cfg.consistency()
	if err != nil {
		return nil, err
	}
	c := gocql.NewCluster(cfg.Hosts...)
	// Nodes that are found through others are known by their address alone: they are taken to use the same port.
	if _, port, err := net.SplitHostPort(cfg.Hosts[0]); err == nil {
		if c.Port, err = strconv.Atoi(port); err != nil {
			return nil, fmt.Errorf("reading the port of cassandra.hosts[0]: %w", err)
		}
	}
	c.Keyspace = keyspace
	c.ProtoVersion = 4 // unset values need 4; gocql has no complete 5
	c.Consistency = consistency
	c.SerialConsistency = gocql.LocalSerial
	c.Timeout, c.ConnectTimeout, c.WriteTimeout = cfg.Timeout, cfg.Timeout, cfg.Timeout
	c.MaxWaitSchemaAgreement = max(cfg.Timeout, 30*time.Second)
	c.NumConns = cfg.Connections
	c.ReconnectInterval = 2 * time.Second
	c.SocketKeepalive = 15 * time.Second
	c.DefaultTimestamp = false // every insert carries its record's own
	c.Logger = logger{log}
	// gocql 1.7.0 applies a retry policy to every query, idempotent or not, and to errors that a retry makes worse.
	// The runtime retries, under a budget and a circuit breaker.
	c.RetryPolicy = never{}
	fallback := gocql.RoundRobinHostPolicy()
	if cfg.Datacenter != "" {
		fallback = gocql.DCAwareRoundRobinPolicy(cfg.Datacenter)
	}
	c.PoolConfig.HostSelectionPolicy = gocql.TokenAwareHostPolicy(fallback, gocql.ShuffleReplicas())
	if cfg.User != "" {
		c.Authenticator = gocql.PasswordAuthenticator{Username: cfg.User, Password: string(cfg.Password)}
	}
	if cfg.TLS.Enabled {
		t, err := cfg.TLS.config()
		if err != nil {
			return nil, err
		}
		c.SslOpts = &gocql.SslOptions{Config: t, EnableHostVerification: true}
	}
	return c, nil
}

func (t TLS) config() (*tls.Config, error) {
	out := &tls.Config{MinVersion: tls.VersionTLS12}
	if t.CA != "" {
		pem, err := os.ReadFile(t.CA)
		if err != nil {
			return nil, fmt.Errorf("reading cassandra.tls.ca: %w", err)
		}
		out.RootCAs = x509.NewCertPool()
		if !out.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("reading cassandra.tls.ca: no certificate in %s", t.CA)
		}
	}
	if t.Cert != "" {
		pair, err := tls.LoadX509KeyPair(t.Cert, t.Key)
		if err != nil {
			return nil, fmt.Errorf("reading cassandra.tls.cert and key: %w", err)
		}
		out.Certificates = []tls.Certificate{pair}
	}
	return out, nil
}

// never is a retry policy that does not retry.
type never struct{}

func (never) Attempt(gocql.RetryableQuery) bool  { return false }
func (never) GetRetryType(error) gocql.RetryType { return gocql.Rethrow }

// logger takes what gocql would print. It is for who looks for a fault: what matters comes back as an error, too, but
// without the reason why a node was given up.
type logger struct{ log *slog.Logger }

func (l logger) Print(v ...any)                 { l.line(fmt.Sprint(v...)) }
func (l logger) Printf(format string, v ...any) { l.line(fmt.Sprintf(format, v...)) }
func (l logger) Println(v ...any)               { l.line(fmt.Sprintln(v...)) }

func (l logger) line(text string) { l.log.Debug("from gocql", "line", strings.TrimSpace(text)) }
