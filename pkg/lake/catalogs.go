package lake

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"os"
	"slices"
	"time"

	"github.com/apache/iceberg-go"
	"github.com/apache/iceberg-go/catalog"
	"github.com/apache/iceberg-go/catalog/hadoop"
	"github.com/apache/iceberg-go/catalog/rest"
	sqlcatalog "github.com/apache/iceberg-go/catalog/sql"
	iceio "github.com/apache/iceberg-go/io"
	"github.com/apache/iceberg-go/io/gocloud/blobfs"
	"github.com/apache/iceberg-go/io/gocloud/s3" // with it, storage on S3
	"github.com/apache/iceberg-go/table"
	"github.com/apache/iceberg-go/utils"
	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
)

const (
	catalogName = "millrace" // by which the sql catalog's rows are known
	// requestTimeout is for one request to an object store or a REST catalog: a part of a file at most.
	requestTimeout = time.Minute
	connectTimeout = 10 * time.Second
	// statementTimeout is PostgreSQL's own, in milliseconds: a lock that is never released must not hold a commit for ever.
	statementTimeout = "30000"
)

// openCatalog opens the catalog that is configured.
func openCatalog(ctx context.Context, cfg Config) (catalog.Catalog, error) {
	if cfg.Catalog == Hadoop {
		return hadoop.NewCatalog(catalogName, cfg.Warehouse, nil)
	}
	client, err := cfg.s3Client(ctx)
	if err != nil {
		return nil, err
	}
	ctx = utils.WithAwsConfig(ctx, client)
	var cat catalog.Catalog
	if cfg.Catalog == SQL {
		cat, err = cfg.openSQL(ctx)
	} else {
		cat, err = cfg.openREST(ctx)
	}
	if err != nil {
		return nil, err
	}
	return &served{Catalog: cat, client: client}, nil
}

// openSQL opens the catalog in PostgreSQL. It makes its two tables where they are missing.
func (c Config) openSQL(ctx context.Context) (catalog.Catalog, error) {
	pg, err := pgx.ParseConfig(c.URI)
	if err != nil {
		return nil, fmt.Errorf("reading lake.uri: %w", err)
	}
	if c.Credential != "" {
		pg.Password = string(c.Credential)
	}
	if pg.ConnectTimeout == 0 {
		pg.ConnectTimeout = connectTimeout
	}
	if pg.RuntimeParams["statement_timeout"] == "" {
		pg.RuntimeParams["statement_timeout"] = statementTimeout
	}
	// The catalog writes values into its statements: each would be prepared for one use.
	pg.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol
	db := stdlib.OpenDB(*pg)
	db.SetMaxOpenConns(8)
	db.SetConnMaxIdleTime(time.Minute)
	if err := db.PingContext(ctx); err != nil { // NewCatalog has no context
		return nil, errors.Join(fmt.Errorf("connecting to PostgreSQL at %s: %w", pg.Host, err), db.Close())
	}
	props := iceberg.Properties(maps.Clone(c.Storage))
	if props == nil {
		props = iceberg.Properties{}
	}
	props["warehouse"] = c.Warehouse
	cat, err := sqlcatalog.NewCatalog(catalogName, db, sqlcatalog.Postgres, props)
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return cat, nil
}

func (c Config) openREST(ctx context.Context) (catalog.Catalog, error) {
	transport := &http.Transport{
		Proxy: http.ProxyFromEnvironment, MaxIdleConnsPerHost: 8, IdleConnTimeout: time.Minute,
		TLSHandshakeTimeout: connectTimeout, ResponseHeaderTimeout: requestTimeout,
	}
	opts := []rest.Option{
		rest.WithCustomTransport(transport), rest.WithAdditionalProps(iceberg.Properties(c.Storage)),
		rest.WithWarehouseLocation(c.Warehouse), rest.WithCredential(string(c.Credential)),
		rest.WithOAuthToken(string(c.Token)), rest.WithScope(c.Scope),
	}
	if c.OAuthURI != "" {
		u, err := url.Parse(c.OAuthURI)
		if err != nil {
			return nil, errors.New("lake.oauth_uri is not a URL: write it as https://host/path")
		}
		opts = append(opts, rest.WithAuthURI(u))
	}
	return rest.NewCatalog(ctx, catalogName, c.URI, opts...)
}

// s3Client is what all requests to S3 are made by: one pool of connections, one look for credentials, which AWS's own
// chain has where the configuration has none, and an end to each request. iceberg-go would make one for each commit.
func (c Config) s3Client(ctx context.Context) (*aws.Config, error) {
	client, err := s3.ParseAWSConfig(ctx, c.Storage)
	if err != nil {
		return nil, fmt.Errorf("setting up S3: %w", err)
	}
	if c.Catalog == SQL && slices.Contains([]string{"s3", "s3a", "s3n"}, schemeOf(c.Warehouse)) && client.Region == "" {
		return nil, errors.New("setting up S3: no region is known: set s3.region in lake.storage, or AWS_REGION")
	}
	base, ok := client.HTTPClient.(*awshttp.BuildableClient)
	if !ok {
		base = awshttp.NewBuildableClient()
	}
	client.HTTPClient = base.WithTimeout(requestTimeout).WithTransportOptions(func(t *http.Transport) { t.MaxIdleConnsPerHost = 16 })
	return client, nil
}

// served is a catalog that is a server's. Its tables reach their storage through one client.
type served struct {
	catalog.Catalog
	client *aws.Config
}

func (s *served) with(ctx context.Context) context.Context { return utils.WithAwsConfig(ctx, s.client) }

// LoadTable implements catalog.Catalog.
func (s *served) LoadTable(ctx context.Context, id table.Identifier) (*table.Table, error) {
	return s.table(s.Catalog.LoadTable(s.with(ctx), id))
}

// CreateTable implements catalog.Catalog.
func (s *served) CreateTable(ctx context.Context, id table.Identifier, sc *iceberg.Schema, opts ...catalog.CreateTableOpt) (*table.Table, error) {
	return s.table(s.Catalog.CreateTable(s.with(ctx), id, sc, opts...))
}

// CommitTable implements catalog.Catalog.
func (s *served) CommitTable(ctx context.Context, id table.Identifier, reqs []table.Requirement, updates []table.Update) (table.Metadata, string, error) {
	return s.Catalog.CommitTable(s.with(ctx), id, reqs, updates)
}

// table gives a table that commits through s. iceberg-go's storage keeps the context that it is opened under, for all that
// is later done with it, and the rest catalog keeps the storage: the context of one call must not end that.
func (s *served) table(t *table.Table, err error) (*table.Table, error) {
	if err != nil {
		return nil, err
	}
	open := t.FS
	return table.New(t.Identifier(), t.Metadata(), t.MetadataLocation(), func(ctx context.Context) (iceio.IO, error) {
		fs, err := open(s.with(context.WithoutCancel(ctx)))
		if store, ok := fs.(*blobfs.FileIO); ok {
			return bucket{store}, err
		}
		return fs, err
	}, s), nil
}

// bucket is storage in which a file that is not there counts as removed. A REST catalog's server removes old metadata,
// and iceberg-go does it after it, with a line on standard error for each.
type bucket struct{ *blobfs.FileIO }

// Remove implements iceio.IO.
func (b bucket) Remove(name string) error {
	if err := b.FileIO.Remove(name); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
