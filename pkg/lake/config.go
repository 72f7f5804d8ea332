package lake

import (
	"errors"
	"fmt"
	"time"

	"github.com/millrace/millrace/pkg/config"
)

// The catalogs, which say where each table's current state is.
const (
	Hadoop = "hadoop" // the file system itself, on a local disk
	SQL    = "sql"    // two tables in PostgreSQL
	REST   = "rest"   // a server of Iceberg's REST protocol
)

// Config says where the tables are and how their files are made.
type Config struct {
	Catalog string `yaml:"catalog"` // hadoop, sql or rest
	// URI is where the catalog answers: postgres://user@host:5432/database, or https://host/path. It is printed, and may
	// hold no password.
	URI string `yaml:"uri"`
	// Credential is the password of the sql catalog's user, or the OAuth2 client of the rest catalog as id:secret. Without
	// it PostgreSQL's own chain (PGPASSWORD, ~/.pgpass) has the password.
	Credential config.Secret `yaml:"credential"`
	Token      config.Secret `yaml:"token"`     // bearer token of the rest catalog, instead of credential
	OAuthURI   string        `yaml:"oauth_uri"` // where credential is exchanged for a token, if not at the rest catalog
	Scope      string        `yaml:"scope"`     // asked for in that exchange
	// Warehouse is under what the tables are: a folder, or s3://bucket/path. The rest catalog knows it by a name, or has
	// one of its own.
	Warehouse string    `yaml:"warehouse"`
	Storage   Storage   `yaml:"storage"`
	Namespace string    `yaml:"namespace"`
	Snapshots Snapshots `yaml:"snapshots"`
	Compact   Compact   `yaml:"compact"`
}

// Compact says how small files are merged.
type Compact struct {
	Target config.Bytes `yaml:"target"` // of a merged file
	// Memory bounds the rows that are sorted at once; the rest waits in files of the system's temporary folder. With less
	// of it the ids are read more often.
	Memory config.Bytes  `yaml:"memory"`
	After  time.Duration `yaml:"after"` // the end of a table partition's day or hour it is closed
}

// Snapshots says how long a table's earlier states are kept.
type Snapshots struct {
	Age  time.Duration `yaml:"age"`  // older ones are forgotten,
	Keep int           `yaml:"keep"` // but never the newest this many,
	Most int           `yaml:"most"` // and of more than this many the oldest: every commit writes the list of all
}

// Default is a hadoop catalog in a folder beside the process.
func Default() Config {
	return Config{
		Catalog:   Hadoop,
		Warehouse: "data/lake",
		Storage:   Storage{},
		Namespace: "millrace",
		Snapshots: Snapshots{Age: time.Hour, Keep: 20, Most: 100},
		Compact:   Compact{Target: 256 << 20, Memory: 256 << 20, After: time.Hour},
	}
}

// Validate reports every mistake at once.
func (c Config) Validate() error {
	errs := []error{c.validateCatalog(), c.Storage.validate()}
	if c.Namespace == "" {
		errs = append(errs, errors.New("lake.namespace is empty: name the namespace of the tables, as millrace"))
	}
	if c.Snapshots.Age <= 0 {
		errs = append(errs, errors.New("lake.snapshots.age is not positive: say how long earlier states are kept, as 1h"))
	}
	if c.Snapshots.Keep < 1 {
		errs = append(errs, errors.New("lake.snapshots.keep is below 1: the current state is always kept"))
	}
	if c.Snapshots.Most < c.Snapshots.Keep {
		errs = append(errs, fmt.Errorf("lake.snapshots.most is %d, below lake.snapshots.keep, which is %d", c.Snapshots.Most, c.Snapshots.Keep))
	}
	if c.Compact.Target < 64<<10 {
		errs = append(errs, fmt.Errorf("lake.compact.target is %v: at least 64KiB", c.Compact.Target))
	}
	if c.Compact.Memory < 1<<20 {
		errs = append(errs, fmt.Errorf("lake.compact.memory is %v: at least 1MiB", c.Compact.Memory))
	}
	if c.Compact.After < 0 {
		errs = append(errs, errors.New("lake.compact.after is negative: say how long after its end a partition is closed, as 1h"))
	}
	return errors.Join(errs...)
}

func (c Config) validateCatalog() error {
	switch c.Catalog {
	case Hadoop:
		return c.validateHadoop()
	case SQL:
		return c.validateSQL()
	case REST:
		return c.validateREST()
	}
	errs := []error{fmt.Errorf("lake.catalog is %q: give %s, %s or %s", c.Catalog, Hadoop, SQL, REST)}
	if c.Warehouse == "" {
		errs = append(errs, errors.New("lake.warehouse is empty: name the folder or the bucket that holds the tables"))
	}
	return errors.Join(errs...)
}
