package servertest

import (
	"context"
	"errors"
	"net/url"
	"os"
	"testing"
)

// Lake says where the servers of the lake are: a PostgreSQL and an Iceberg REST catalog, which keep where its tables
// stand, and an S3 with the bucket "lake", which keeps their files. The REST catalog's warehouse is in that bucket.
type Lake struct {
	SQL       string // URI of a database, without the password
	Password  string
	S3        string // URL
	AccessKey string
	SecretKey string
	REST      string // URL
}

// RequireLake gives the servers that MILLRACE_LAKE_SQL, _S3 and _REST name. It is false, and fails the test, as Require.
func RequireLake(t testing.TB) (Lake, bool) {
	t.Helper()
	if os.Getenv("MILLRACE_SERVERS") != "1" {
		return Lake{}, false
	}
	l := Lake{
		SQL: os.Getenv("MILLRACE_LAKE_SQL"), Password: os.Getenv("MILLRACE_LAKE_SQL_PASSWORD"),
		S3: os.Getenv("MILLRACE_LAKE_S3"), AccessKey: os.Getenv("MILLRACE_LAKE_S3_KEY"), SecretKey: os.Getenv("MILLRACE_LAKE_S3_SECRET"),
		REST: os.Getenv("MILLRACE_LAKE_REST"),
	}
	if err := l.reach(t.Context()); err != nil {
		t.Fatalf("MILLRACE_SERVERS=1 says that the lake's servers run, but (`make test-servers` starts them, .stack/test/env names them):\n%v", err)
	}
	return l, true
}

func (l Lake) reach(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	address := func(uri string) string {
		u, err := url.Parse(uri)
		if err != nil {
			return ""
		}
		return u.Host
	}
	return errors.Join(
		dial(ctx, "MILLRACE_LAKE_SQL", address(l.SQL)),
		dial(ctx, "MILLRACE_LAKE_S3", address(l.S3)),
		get(ctx, "MILLRACE_LAKE_REST", l.REST, "/v1/config"),
	)
}
