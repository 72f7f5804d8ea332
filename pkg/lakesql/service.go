package lakesql

import (
	"context"
	"errors"
	"io"

	"github.com/duckdb/duckdb-go/v2"

	"github.com/millrace/millrace/pkg/diskcache"
	"github.com/millrace/millrace/pkg/lake"
	"github.com/millrace/millrace/pkg/schema"
	"github.com/millrace/millrace/pkg/serve"
)

// Service answers SQL for the read API. Each statement sees the lake as it is when it begins.
type Service struct {
	cfg   Config
	lake  *lake.Lake
	types []*schema.Type
}

var _ serve.SQLStore = (*Service)(nil)

// NewService makes one; it does no I/O.
func NewService(cfg Config, l *lake.Lake, types []*schema.Type) *Service {
	return &Service{cfg, l, types}
}

var formats = map[string]string{
	serve.SQLDocument: Document, serve.SQLLines: JSON, serve.SQLCSV: CSV, serve.SQLParquet: Parquet,
}

// SQL implements serve.SQLStore.
func (s *Service) SQL(ctx context.Context, q serve.SQLQuery, w io.Writer) (truncated bool, err error) {
	asOf, err := lake.ParseAsOf(q.AsOf)
	if err != nil {
		return false, serve.BadQuery("as_of: %v", err)
	}
	d, err := Open(ctx, s.cfg, s.lake, s.types, asOf)
	var a Answer
	if err == nil {
		a, err = d.Query(ctx, Request{Statement: q.Statement, Limit: q.Limit}, w, formats[q.Format])
	}
	if err != nil && callers(err) {
		err = serve.BadQuery("%v", err)
	}
	return a.Cut, err
}

// callers says that an error is one of what was asked, not of what was to answer it.
func callers(err error) bool {
	if errors.Is(err, ErrRefused) || errors.Is(err, lake.ErrNoState) || errors.Is(err, ErrCut) || errors.Is(err, diskcache.ErrTooLarge) {
		return true
	}
	var duck *duckdb.Error
	if !errors.As(err, &duck) {
		return false
	}
	switch duck.Type {
	case duckdb.ErrorTypeIO, duckdb.ErrorTypeInterrupt, duckdb.ErrorTypeFatal, duckdb.ErrorTypeInternal:
		return false
	default:
		return true
	}
}
