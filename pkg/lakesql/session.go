package lakesql

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/duckdb/duckdb-go/v2"

	"github.com/millrace/millrace/pkg/diskcache"
	"github.com/millrace/millrace/pkg/lake"
)

// session is the database of one statement. All of it is one transaction: now() is the same when the statement is
// planned, which chooses the files, and when it runs.
type session struct {
	cfg       Config
	views     []view
	perEvent  int64 // memory, when events are counted
	connector *duckdb.Connector
	db        *sql.DB
	conn      *sql.Conn
	remote    *diskcache.Session // the files of object stores; nil: all tables are on a local disk
}

// stubs is the schema of empty tables with the types' columns, over which statements are planned.
const stubs = "_stubs"

// begin opens a database that is closed to the outside, with views over nothing. It may read where the tables' data files
// are, those of object stores in a folder of its own, and read and write further folders.
func (d *DB) begin(ctx context.Context, folders []string) (*session, error) {
	connector, err := duckdb.NewConnector("", nil)
	if err != nil {
		return nil, fmt.Errorf("starting DuckDB: %w", err)
	}
	s := &session{cfg: d.cfg, views: d.views, perEvent: d.eventMemory, connector: connector, db: sql.OpenDB(connector)}
	if s.conn, err = s.db.Conn(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("connecting to DuckDB: %w", err), s.end())
	}
	readable, remote := d.folders()
	if remote {
		if s.remote, err = d.cache.Begin(ctx); err != nil {
			return nil, errors.Join(fmt.Errorf("beginning with sql.cache: %w", err), s.end())
		}
		readable = append(readable, s.remote.Dir())
	}
	if err := s.prepare(ctx, append(readable, folders...)); err != nil {
		return nil, errors.Join(err, s.end())
	}
	return s, nil
}

// folders gives those on this machine's disk that tables have their data files in, and whether others are elsewhere.
func (d *DB) folders() (local []string, remote bool) {
	for _, v := range d.views {
		if v.state == nil {
			continue
		}
		if path, ok := (lake.File{Location: v.state.Folder()}).Local(); ok {
			local = append(local, path)
		} else {
			remote = true
		}
	}
	return local, remote
}

// end closes the database, and gives the files of object stores back.
func (s *session) end() error {
	var errs []error
	if s.conn != nil {
		errs = append(errs, s.conn.Close())
	}
	errs = append(errs, s.db.Close(), s.connector.Close())
	if s.remote != nil {
		errs = append(errs, s.remote.End())
	}
	return errors.Join(errs...)
}

func (s *session) exec(ctx context.Context, doing string, statements ...string) error {
	for _, statement := range statements {
		if _, err := s.conn.ExecContext(ctx, statement); err != nil {
			return fmt.Errorf("%s: %w", doing, err)
		}
	}
	return nil
}

func (s *session) prepare(ctx context.Context, folders []string) error {
	for i, f := range folders {
		folders[i] = literal(f)
	}
	slices.Sort(folders)
	err := s.exec(ctx, "closing DuckDB to the outside",
		fmt.Sprintf("SET memory_limit = '%d B'", s.cfg.Memory),
		fmt.Sprintf("SET threads = %d", s.cfg.Threads),
		"SET TimeZone = 'UTC'",
		"SET temp_directory = ''",
		"SET autoinstall_known_extensions = false",
		"SET autoload_known_extensions = false",
		"SET allowed_directories = ["+strings.Join(slices.Compact(folders), ", ")+"]",
		"SET enable_external_access = false", // for good: DuckDB takes it back no more, nor what is allowed
		"SET disabled_optimizers = "+literal(strings.Join(unplanned, ",")),
		"BEGIN TRANSACTION",
		"CREATE SCHEMA "+stubs,
	)
	if err != nil {
		return err
	}
	for _, v := range s.views {
		columns := make([]string, len(v.columns))
		for i, c := range v.columns {
			typ, err := duckType(c.Type)
			if err != nil {
				return fmt.Errorf("reading column %s of %s: %w", c.Name, v.name, err)
			}
			columns[i] = identifier(c.Name) + " " + typ
		}
		stub := stubs + "." + identifier(v.name)
		if err := s.exec(ctx, "making view "+v.name, "CREATE TABLE "+stub+" ("+strings.Join(columns, ", ")+")", v.create(stub)); err != nil {
			return err
		}
	}
	return nil
}

// set makes the variables that getvariable gives. Values are quoted here, never part of a statement that is given.
func (s *session) set(ctx context.Context, variables map[string]any) error {
	for name, value := range variables {
		var text string
		switch value := value.(type) {
		case nil:
			text = "NULL"
		case string:
			text = literal(value)
		case time.Time:
			text = "TIMESTAMPTZ " + literal(value.UTC().Format("2006-01-02 15:04:05.000000-07"))
		default:
			return fmt.Errorf("setting variable %s: a %T is none", name, value)
		}
		if err := s.exec(ctx, "setting variable "+name, "SET VARIABLE "+identifier(name)+" = "+text); err != nil {
			return err
		}
	}
	return nil
}

// show puts the chosen files under the views, takes the stubs away and locks what is set.
func (s *session) show(ctx context.Context, statement string) ([]Read, error) {
	chosen := s.choose(ctx, statement)
	var reads []*reading
	byView := map[string]*reading{}
	for _, v := range s.views {
		if c, used := chosen[v.name]; used {
			r, err := list(ctx, v, c)
			if err != nil {
				return nil, err
			}
			reads, byView[v.name] = append(reads, r), r
		}
	}
	// All of them before the first byte is fetched: what a statement needs has to fit.
	if err := s.fetch(ctx, reads); err != nil {
		return nil, err
	}
	if err := s.planned(ctx); err != nil {
		return nil, err
	}
	for _, v := range s.views {
		var paths []string
		if r := byView[v.name]; r != nil {
			paths = r.paths
		}
		from, err := v.source(paths)
		if err != nil {
			return nil, err
		}
		repeated := ""
		if v.deduplicate && len(paths) > 0 {
			if repeated, err = s.findRepeats(ctx, v, from); err != nil {
				return nil, err
			}
		}
		if err := s.exec(ctx, "making view "+v.name, v.show(from, repeated)); err != nil {
			return nil, err
		}
	}
	out := make([]Read, len(reads))
	for i, r := range reads {
		out[i] = r.Read
	}
	return out, s.lock(ctx)
}

// planned takes the stubs away; from here on statements run as DuckDB would have them.
func (s *session) planned(ctx context.Context) error {
	return s.exec(ctx, "ending the planning", "DROP SCHEMA "+stubs+" CASCADE", "SET disabled_optimizers = ''")
}

// lock ends all changes of what is set.
func (s *session) lock(ctx context.Context) error {
	return s.exec(ctx, "locking DuckDB", "SET lock_configuration = true")
}

// reading is what is read of a view: files, and the paths by which DuckDB opens them.
type reading struct {
	Read
	state *lake.State
	files []lake.File
	paths []string
}

// list gives the files of a view that a statement needs.
func list(ctx context.Context, v view, c choice) (*reading, error) {
	r := &reading{Read: Read{Type: v.name}, state: v.state}
	if v.err != nil || v.state == nil {
		return r, v.err
	}
	r.Snapshot, r.Committed, _ = v.state.Snapshot()
	r.ValidThrough = v.state.ValidThrough()
	r.Of, _ = v.state.FileCount()
	var err error
	if r.files, err = v.state.Files(ctx, c.filter); err != nil {
		return nil, err
	}
	r.Files, r.paths = len(r.files), make([]string, len(r.files))
	return r, nil
}
