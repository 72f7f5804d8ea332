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
)

// session is the database of one statement. All of it is one transaction: now() is the same when the statement is
// planned, which chooses the files, and when it runs.
type session struct {
	cfg       Config
	views     []view
	connector *duckdb.Connector
	db        *sql.DB
	conn      *sql.Conn
}

// stubs is the schema of empty tables with the types' columns, over which statements are planned.
const stubs = "_stubs"

// begin opens a database that is closed to the outside, with views over nothing. It may read where the tables' data files
// are, and read and write further folders.
func (d *DB) begin(ctx context.Context, folders []string) (*session, error) {
	connector, err := duckdb.NewConnector("", nil)
	if err != nil {
		return nil, fmt.Errorf("starting DuckDB: %w", err)
	}
	s := &session{cfg: d.cfg, views: d.views, connector: connector, db: sql.OpenDB(connector)}
	if s.conn, err = s.db.Conn(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("connecting to DuckDB: %w", err), s.end())
	}
	if err := s.prepare(ctx, folders); err != nil {
		return nil, errors.Join(err, s.end())
	}
	return s, nil
}

// end closes the database.
func (s *session) end() error {
	var errs []error
	if s.conn != nil {
		errs = append(errs, s.conn.Close())
	}
	return errors.Join(append(errs, s.db.Close(), s.connector.Close())...)
}

func (s *session) exec(ctx context.Context, doing string, statements ...string) error {
	for _, statement := range statements {
		if _, err := s.conn.ExecContext(ctx, statement); err != nil {
			return fmt.Errorf("%s: %w", doing, err)
		}
	}
	return nil
}

func (s *session) prepare(ctx context.Context, further []string) error {
	var folders []string
	for _, f := range further {
		folders = append(folders, literal(f))
	}
	for _, v := range s.views {
		if v.state != nil {
			folders = append(folders, literal(strings.TrimPrefix(v.state.Folder(), fileScheme)))
		}
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
	var reads []Read
	for _, v := range s.views {
		c, used := chosen[v.name]
		var files []string
		if used {
			read, paths, err := s.read(ctx, v, c)
			if err != nil {
				return nil, err
			}
			reads, files = append(reads, read), paths
		}
		from, err := v.source(files)
		if err != nil {
			return nil, err
		}
		if err := s.exec(ctx, "making view "+v.name, v.create(from)); err != nil {
			return nil, err
		}
	}
	return reads, s.exec(ctx, "locking DuckDB", "DROP SCHEMA "+stubs+" CASCADE", "SET disabled_optimizers = ''", "SET lock_configuration = true")
}

// read lists the files of a view that a statement needs.
func (s *session) read(ctx context.Context, v view, c choice) (Read, []string, error) {
	r := Read{Type: v.name}
	if v.err != nil || v.state == nil {
		return r, nil, v.err
	}
	r.Snapshot, r.Committed, _ = v.state.Snapshot()
	r.ValidThrough = v.state.ValidThrough()
	r.Of, _ = v.state.FileCount()
	locations, err := v.state.Files(ctx, c.filter)
	if err != nil {
		return r, nil, err
	}
	r.Files = len(locations)
	paths := make([]string, len(locations))
	for i, location := range locations {
		if paths[i], err = local(location); err != nil {
			return r, nil, fmt.Errorf("reading %s: %w", v.name, err)
		}
	}
	return r, paths, nil
}

const fileScheme = "file://"

// local gives the path under which DuckDB opens a data file. It is the one place that knows where files lie.
func local(location string) (string, error) {
	location = strings.TrimPrefix(strings.TrimPrefix(location, fileScheme), "file:") // Java's catalogs write the second
	if scheme, _, remote := strings.Cut(location, "://"); remote {
		return "", fmt.Errorf("data file %s: files on %s are not read here: query a lake on a local disk", location, scheme)
	}
	return location, nil
}
