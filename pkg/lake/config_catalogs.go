package lake

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/url"
	"path/filepath"
	"slices"
	"strings"

	iceio "github.com/apache/iceberg-go/io"
)

func (c Config) validateHadoop() error {
	var errs []error
	switch scheme := schemeOf(c.Warehouse); {
	case c.Warehouse == "":
		errs = append(errs, errors.New("lake.warehouse is empty: name the folder that holds the tables"))
	case scheme != "" && scheme != "file":
		errs = append(errs, fmt.Errorf("lake.warehouse is %q: the catalog hadoop is for a local disk, an object store has no renames to commit by; give lake.catalog %s or %s for it",
			c.Warehouse, SQL, REST))
	}
	errs = append(errs, c.unused("uri", c.URI != ""), c.unused("credential", c.Credential != ""), c.unusedByOthers(),
		c.unused("storage", len(c.Storage) > 0))
	return errors.Join(errs...)
}

func (c Config) validateSQL() error {
	errs := []error{c.unusedByOthers()}
	u, err := url.Parse(c.URI)
	switch {
	case err != nil || (u.Scheme != "postgres" && u.Scheme != "postgresql") || u.Host == "" || strings.Trim(u.Path, "/") == "":
		// Not printed: what cannot be taken apart may hold a password.
		errs = append(errs, errors.New("lake.uri is not the URI of a PostgreSQL database: write it as postgres://user@host:5432/database?sslmode=verify-full"))
	case hasPassword(u):
		errs = append(errs, errors.New("lake.uri holds a password, and is printed: leave it out and give lake.credential, as ${LAKE_PASSWORD} or ${file:PATH}"))
	}
	scheme := schemeOf(c.Warehouse)
	switch {
	case c.Warehouse == "" || (scheme == "" && !filepath.IsAbs(c.Warehouse)):
		errs = append(errs, fmt.Errorf("lake.warehouse is %q: the catalog sql writes it into the database, for every machine: give s3://bucket/path, or a folder by its whole path", c.Warehouse))
	case scheme != "" && !linked(scheme):
		errs = append(errs, fmt.Errorf("lake.warehouse is %q: storage %s is not in this binary, give s3:// or a local path", c.Warehouse, scheme))
	}
	return errors.Join(errs...)
}

func (c Config) validateREST() error {
	var errs []error
	u, err := url.Parse(c.URI)
	switch {
	case err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "":
		errs = append(errs, errors.New("lake.uri is not the URL of a REST catalog: write it as https://catalog:8181/path"))
	case u.User != nil:
		errs = append(errs, errors.New("lake.uri holds a user, and is printed: leave it out and give lake.credential or lake.token"))
	}
	if c.Credential != "" && !strings.Contains(string(c.Credential), ":") {
		errs = append(errs, errors.New("lake.credential has no colon: the catalog rest takes an OAuth2 client as id:secret; a bearer token is lake.token"))
	}
	if c.Credential != "" && c.Token != "" {
		errs = append(errs, errors.New("lake.credential and lake.token are both set: give one"))
	}
	if c.Credential == "" && (c.OAuthURI != "" || c.Scope != "") {
		errs = append(errs, errors.New("lake.oauth_uri and lake.scope are for lake.credential, which is empty"))
	}
	if c.Warehouse == Default().Warehouse {
		errs = append(errs, fmt.Errorf("lake.warehouse is %q, the default folder of the catalog hadoop: give the name that the REST catalog has for it, or \"\" for its own", c.Warehouse))
	}
	return errors.Join(errs...)
}

// unusedByOthers is about what only the rest catalog reads.
func (c Config) unusedByOthers() error {
	return errors.Join(c.unused("token", c.Token != ""), c.unused("oauth_uri", c.OAuthURI != ""), c.unused("scope", c.Scope != ""))
}

func (c Config) unused(key string, set bool) error {
	if !set {
		return nil
	}
	return fmt.Errorf("lake.%s is set, and the catalog %s has no use for it: take it out, or set lake.catalog", key, c.Catalog)
}

func hasPassword(u *url.URL) bool {
	if u.User != nil {
		if _, ok := u.User.Password(); ok {
			return true
		}
	}
	return u.Query().Has("password")
}

func schemeOf(location string) string {
	scheme, _, found := strings.Cut(location, "://")
	if !found {
		return ""
	}
	return scheme
}

func linked(scheme string) bool { return slices.Contains(iceio.GetRegisteredSchemes(), scheme) }

// Storage are iceberg-go's properties of the storage that the tables are on. What is not known to be public prints as ***.
type Storage map[string]string

// storageKeys are the properties that are read, and whether they may be printed.
var storageKeys = map[string]bool{ //nolint:gochecknoglobals // a constant table
	iceio.S3EndpointURL: true, iceio.S3Region: true, iceio.S3ClientRegion: true, iceio.S3ForceVirtualAddressing: true,
	iceio.S3ConnectTimeout: true, iceio.S3CompatMode: true, iceio.S3AccessKeyID: true,
	iceio.S3SecretAccessKey: false, iceio.S3SessionToken: false, iceio.S3ProxyURI: false,
}

func (s Storage) validate() error {
	var errs []error
	for _, key := range slices.Sorted(maps.Keys(s)) {
		if _, known := storageKeys[key]; !known {
			errs = append(errs, fmt.Errorf("lake.storage has %q, which is not read: give %s", key, strings.Join(slices.Sorted(maps.Keys(storageKeys)), ", ")))
		}
	}
	if (s[iceio.S3AccessKeyID] == "") != (s[iceio.S3SecretAccessKey] == "") {
		errs = append(errs, fmt.Errorf("lake.storage has one of %s and %s: give both, or none for AWS's own chain", iceio.S3AccessKeyID, iceio.S3SecretAccessKey))
	}
	if endpoint := s[iceio.S3EndpointURL]; endpoint != "" {
		if u, err := url.Parse(endpoint); err != nil || u.Host == "" || u.User != nil {
			errs = append(errs, fmt.Errorf("lake.storage: %s is not a URL without a user: write it as https://host:9000", iceio.S3EndpointURL))
		}
	}
	return errors.Join(errs...)
}

func (s Storage) masked() map[string]string {
	out := map[string]string{}
	for key, value := range s {
		if value != "" && !storageKeys[key] {
			value = "***"
		}
		out[key] = value
	}
	return out
}

func (s Storage) String() string { return fmt.Sprint(s.masked()) }

// GoString keeps %#v from printing a secret.
func (s Storage) GoString() string { return fmt.Sprintf("%#v", s.masked()) }

// LogValue keeps slog from printing a secret.
func (s Storage) LogValue() slog.Value { return slog.AnyValue(s.masked()) }

// MarshalYAML keeps YAML from printing a secret.
func (s Storage) MarshalYAML() (any, error) { return s.masked(), nil }
