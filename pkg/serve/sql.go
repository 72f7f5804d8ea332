package serve

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"

	"github.com/millrace/millrace/pkg/httpserver"
)

// Bounds of SQL over HTTP.
const (
	defaultRows  = 10_000
	maxRows      = 100_000
	maxStatement = 1 << 20 // bytes
	sqlAtATime   = 2       // each may take all of sql.memory
)

// The formats of an answer to SQL.
const (
	SQLDocument = "json"    // one object: columns, rows, truncated, tables
	SQLLines    = "ndjson"  // an object per row
	SQLCSV      = "csv"     //
	SQLParquet  = "parquet" //
)

var sqlTypes = map[string]string{
	SQLDocument: "application/json", SQLLines: "application/x-ndjson", SQLCSV: "text/csv; charset=utf-8",
	SQLParquet: "application/vnd.apache.parquet",
}

// ErrTooLong says that a statement has had its time.
var ErrTooLong = errors.New("the statement took too long")

// SQLQuery is one statement over the lake.
type SQLQuery struct {
	Statement string
	Format    string
	AsOf      string // a snapshot's id or a time; "" is now
	Limit     int    // rows
}

// SQLStore answers SQL. It writes rows as they come, in bounded memory, and nothing before the statement is known to be
// one that runs. An answer that the limit has cut says so at its end.
type SQLStore interface {
	SQL(ctx context.Context, q SQLQuery, w io.Writer) (truncated bool, err error)
}

// Trailers of an answer to SQL: what is known once the rows are out.
const trailerTruncated = "Millrace-Truncated"

// sql answers GET, with the statement as the option q, and POST, with the statement as the body.
func (a *API) sql() http.Handler {
	turns := make(chan struct{}, sqlAtATime)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// A statement costs memory and time. A page of another origin cannot read the answer, and is not to ask.
		if site := r.Header.Get("Sec-Fetch-Site"); site == "cross-site" || site == "same-site" {
			httpserver.Problem(w, http.StatusForbidden, "this request comes from a page of another origin")
			return
		}
		q, err := a.sqlQuery(w, r)
		if err != nil {
			a.refuse(r.Context(), w, err)
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), a.Timeout)
		defer cancel()
		select {
		case turns <- struct{}{}:
			defer func() { <-turns }()
		case <-ctx.Done():
			w.Header().Set("Retry-After", "5")
			httpserver.Problem(w, http.StatusServiceUnavailable, fmt.Sprintf("%d other statements are running: try again", sqlAtATime))
			return
		}
		out := &late{w: w, contentType: sqlTypes[q.Format]}
		truncated, err := a.SQL.SQL(ctx, q, out)
		if err != nil && !out.begun {
			a.refuse(ctx, w, err)
			return
		}
		if err != nil {
			_, _ = fmt.Fprintf(w, "\nmillrace: %v\n", err) // for whoever looks; no format has it
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler) //nolint:forbidigo // net/http's way to end an answer as one that is not whole
		}
		w.Header().Set(trailerTruncated, strconv.FormatBool(truncated))
	})
}

func (a *API) sqlQuery(w http.ResponseWriter, r *http.Request) (SQLQuery, error) {
	var q SQLQuery
	if a.SQL == nil {
		return q, errNoStore
	}
	v, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return q, BadQuery("the query string cannot be parsed: %v", err)
	}
	options := []string{"format", "limit", "as_of"}
	if r.Method == http.MethodGet {
		options = append(options, "q")
	}
	for key := range v {
		if !slices.Contains(options, key) {
			return q, BadQuery("%s is not an option of %s (%v)", key, r.Method, options)
		}
	}
	q = SQLQuery{Statement: v.Get("q"), Format: first(v, "format", SQLDocument), AsOf: v.Get("as_of")}
	if sqlTypes[q.Format] == "" {
		return q, BadQuery("format=%s is none of json, ndjson, csv, parquet", q.Format)
	}
	if q.Limit, err = limit(v, defaultRows, maxRows); err != nil {
		return q, err
	}
	if r.Method == http.MethodPost {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxStatement))
		if err != nil {
			return q, BadQuery("reading the statement: %v", err)
		}
		q.Statement = string(body)
	}
	if q.Statement == "" {
		return q, BadQuery("there is no statement: give it as q, or as the body of a POST")
	}
	return q, nil
}

// late sends the header of an answer with the first of its body: until then an error can still be one.
type late struct {
	w           http.ResponseWriter
	contentType string
	begun       bool
}

func (l *late) Write(b []byte) (int, error) {
	if !l.begun {
		l.begun = true
		h := l.w.Header()
		h.Set("Content-Type", l.contentType)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Trailer", trailerTruncated)
		l.w.WriteHeader(http.StatusOK)
	}
	return l.w.Write(b)
}
