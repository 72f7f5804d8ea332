// Package devstore is the store of dev mode: one DuckDB file in place of Cassandra and Elasticsearch, behind the same
// interfaces. It is for trying, developing and tests.
//
// What it promises: a batch whose done came with nil is on disk, also after a kill; a record that comes again, known by
// id and time, changes nothing.
package devstore

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/duckdb/duckdb-go/v2"

	"github.com/millrace/millrace/pkg/schema"
	"github.com/millrace/millrace/pkg/serve"
	"github.com/millrace/millrace/pkg/stream"
	"github.com/millrace/millrace/pkg/telemetry"
)

// Store is a DuckDB file with one table per type.
type Store struct {
	cfg   Config
	types *schema.Set
	log   *slog.Logger
	m     *metrics
	now   func() time.Time

	mu     sync.RWMutex // guards the fields below; not held while DuckDB works, but for opening and DDL
	db     *sql.DB
	closed bool
	tables map[string]*table

	queue  queue
	writer chan struct{} // held by the one who writes, and with it conn
	conn   *sql.Conn
}

var (
	_ stream.Sink       = (*Store)(nil)
	_ serve.SeriesStore = (*Store)(nil)
	_ serve.SearchStore = (*Store)(nil)
)

// New makes a store. The file is opened at its first use.
func New(cfg Config, types *schema.Set, tel telemetry.Set) (*Store, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	tel = tel.With("devstore")
	m, err := newMetrics(tel.Metrics)
	if err != nil {
		return nil, err
	}
	return &Store{
		cfg: cfg, types: types, log: tel.Log, m: m, now: time.Now,
		tables: map[string]*table{}, writer: make(chan struct{}, 1),
	}, nil
}

var errClosed = errors.New("the store is closed")

// Ping opens the store if it is not open and asks it something.
func (s *Store) Ping(ctx context.Context) error {
	db, err := s.open(ctx)
	if err != nil {
		return err
	}
	return db.PingContext(ctx)
}

// Run deletes expired rows from time to time until ctx ends, and then closes the store; what is written at that moment
// is finished first.
func (s *Store) Run(ctx context.Context) error {
	tick := time.NewTicker(s.cfg.Retention)
	defer tick.Stop()
	for {
		if err := s.expire(ctx); err != nil && ctx.Err() == nil {
			s.log.Warn("expired rows could not be deleted", "err", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return s.close(ctx)
		}
	}
}

// open gives the database, with a table for every known type.
func (s *Store) open(ctx context.Context) (*sql.DB, error) {
	s.mu.RLock()
	db, closed := s.db, s.closed
	s.mu.RUnlock()
	if closed {
		return nil, errClosed
	}
	if db != nil {
		return db, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.db != nil {
		return s.db, cond(s.closed, errClosed)
	}
	db, err := s.openFile(ctx)
	if err != nil {
		return nil, err
	}
	tables := map[string]*table{}
	for _, t := range s.types.All() {
		if tables[t.Name], err = loadTable(ctx, db, t); err != nil {
			return nil, errors.Join(fmt.Errorf("opening the dev store: %w", err), db.Close())
		}
	}
	s.db, s.tables = db, tables
	return db, nil
}

func cond(is bool, err error) error {
	if is {
		return err
	}
	return nil
}

func (s *Store) openFile(ctx context.Context) (*sql.DB, error) {
	if err := os.MkdirAll(filepath.Dir(s.cfg.Path), 0o750); err != nil { //nolint:gosec // the operator says where
		return nil, fmt.Errorf("making the dev store's folder: %w", err)
	}
	opts := url.Values{
		"threads":                      {strconv.Itoa(s.cfg.Threads)},
		"memory_limit":                 {strconv.FormatInt(int64(s.cfg.Memory)>>20, 10) + "MiB"},
		"preserve_insertion_order":     {"false"},
		"autoinstall_known_extensions": {"false"},
	}
	c, err := duckdb.NewConnector(s.cfg.Path+"?"+opts.Encode(), nil)
	if err != nil {
		if strings.Contains(err.Error(), "Could not set lock") || strings.Contains(err.Error(), "Conflicting lock") {
			return nil, fmt.Errorf("opening %s: another process has it open, and only one can: %w", s.cfg.Path, err)
		}
		return nil, fmt.Errorf("opening %s: %w", s.cfg.Path, err)
	}
	db := sql.OpenDB(c)
	db.SetMaxOpenConns(6)
	if err := db.PingContext(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("opening %s: %w", s.cfg.Path, err), db.Close())
	}
	return db, nil
}

func (s *Store) close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.Drain)
	defer cancel()
	s.mu.Lock()
	s.closed = true
	db := s.db
	s.mu.Unlock()
	if db == nil {
		return nil
	}
	if err := s.lockWriter(ctx); err != nil {
		s.log.Warn("closing while something is being written; it will come again")
	} else {
		if s.conn != nil {
			_ = s.conn.Close() // goes back to the pool, which is closed next
			s.conn = nil
		}
		s.unlockWriter() // whoever comes next finds the store closed
	}
	if err := db.Close(); err != nil {
		return fmt.Errorf("closing %s: %w", s.cfg.Path, err)
	}
	return nil
}

// expire deletes the rows whose longest retention among the destinations that this store stands for is over.
func (s *Store) expire(ctx context.Context) error {
	if _, err := s.open(ctx); err != nil {
		return err
	}
	var errs []error
	for _, t := range s.types.All() {
		keep := max(t.Cassandra.Retention, t.Elasticsearch.Retention)
		if keep <= 0 {
			continue
		}
		n, err := s.expireType(ctx, t.Name, s.now().Add(-keep).UnixMicro())
		if err != nil {
			errs = append(errs, fmt.Errorf("deleting expired rows of %s: %w", t.Name, err))
		}
		s.m.expired.WithLabelValues(t.Name).Add(float64(n))
	}
	return errors.Join(errs...)
}

func (s *Store) expireType(ctx context.Context, name string, before int64) (int64, error) {
	if err := s.lockWriter(ctx); err != nil {
		return 0, err
	}
	defer s.unlockWriter()
	conn, err := s.writerConn(ctx)
	if err != nil {
		return 0, err
	}
	res, err := conn.ExecContext(ctx, `DELETE FROM `+quote(name)+` WHERE "time" < ?`, before) //nolint:gosec // quoted
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}

func (s *Store) lockWriter(ctx context.Context) error {
	select {
	case s.writer <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *Store) unlockWriter() { <-s.writer }

// writerConn gives the one connection that writes. The caller holds the writer.
func (s *Store) writerConn(ctx context.Context) (*sql.Conn, error) {
	if s.conn != nil {
		return s.conn, nil
	}
	db, err := s.open(ctx)
	if err != nil {
		return nil, err
	}
	if s.conn, err = db.Conn(ctx); err != nil {
		return nil, fmt.Errorf("connecting to the dev store: %w", err)
	}
	return s.conn, nil
}

// dropConn gives a connection up whose state is not known after an error.
func (s *Store) dropConn() {
	if s.conn == nil {
		return
	}
	_ = s.conn.Raw(func(any) error { return driver.ErrBadConn }) // the pool throws it away
	_ = s.conn.Close()
	s.conn = nil
}
