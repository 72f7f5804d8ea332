package lake

import (
	"errors"
	"fmt"
	"time"

	"github.com/apache/iceberg-go"
)

// Hadoop is the catalog that is the file system itself, on a local disk.
const Hadoop = "hadoop"

// Config says where the tables are and how their files are made.
type Config struct {
	Catalog   string    `yaml:"catalog"`   // hadoop
	Warehouse string    `yaml:"warehouse"` // folder under which the tables are
	Namespace string    `yaml:"namespace"`
	Snapshots Snapshots `yaml:"snapshots"`
}

// Snapshots says how long a table's earlier states are kept.
type Snapshots struct {
	Age  time.Duration `yaml:"age"`  // older ones are forgotten,
	Keep int           `yaml:"keep"` // but never the newest this many
}

// Default is a hadoop catalog in a folder beside the process.
func Default() Config {
	return Config{
		Catalog:   Hadoop,
		Warehouse: "data/lake",
		Namespace: "millrace",
		Snapshots: Snapshots{Age: time.Hour, Keep: 20},
	}
}

// Validate reports every mistake at once.
func (c Config) Validate() error {
	var errs []error
	if c.Catalog != Hadoop {
		errs = append(errs, fmt.Errorf("lake.catalog is %q: only %s is there so far", c.Catalog, Hadoop))
	}
	if c.Warehouse == "" {
		errs = append(errs, errors.New("lake.warehouse is empty: name the folder that holds the tables"))
	}
	if c.Namespace == "" {
		errs = append(errs, errors.New("lake.namespace is empty: name the namespace of the tables, as millrace"))
	}
	if c.Snapshots.Age <= 0 {
		errs = append(errs, errors.New("lake.snapshots.age is not positive: say how long earlier states are kept, as 1h"))
	}
	if c.Snapshots.Keep < 1 {
		errs = append(errs, errors.New("lake.snapshots.keep is below 1: the current state is always kept"))
	}
	return errors.Join(errs...)
}

// properties gives what iceberg-go's catalogs are configured by.
func (c Config) properties() iceberg.Properties {
	return iceberg.Properties{"type": c.Catalog, "warehouse": c.Warehouse}
}
