package serve

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/millrace/millrace/pkg/httpserver"
	"github.com/millrace/millrace/pkg/schema"
)

// Bounds of one answer.
const (
	defaultHits   = 100
	maxHits       = 1000
	defaultPoints = 10_000
	maxPoints     = 100_000
)

// API answers queries over HTTP. A store that is nil is a part that this process does not run against; its route says
// so.
type API struct {
	Types   *schema.Set
	Current func(ctx context.Context, name string) (*schema.Type, error) // the version of one of Types that is in force; nil: as it is there
	Series  SeriesStore
	Search  SearchStore
	SQL     SQLStore
	Timeout time.Duration // of one query
	Now     func() time.Time
}

// Mux is where routes are mounted: http.ServeMux or httpserver.Server.
type Mux interface {
	Handle(pattern string, handler http.Handler)
}

// Register mounts the routes.
func (a *API) Register(mux Mux) {
	mux.Handle("GET /api/v1/search", a.answer(a.search))
	mux.Handle("GET /api/v1/series", a.answer(a.series))
	mux.Handle("GET /api/v1/types", a.answer(a.types))
	sql := a.sql()
	mux.Handle("GET /api/v1/sql", sql)
	mux.Handle("POST /api/v1/sql", sql)
}

// badRequestError is an error in what was asked; all other errors are the store's.
type badRequestError struct{ msg string }

func (e badRequestError) Error() string { return e.msg }

// BadQuery makes an error that is the caller's mistake. Stores return it for what only they can tell.
func BadQuery(format string, args ...any) error { return badRequestError{fmt.Sprintf(format, args...)} }

var errNoStore = errors.New("this process has no such store: name its section in the configuration, or ask the process that has it")

func (a *API) answer(query func(ctx context.Context, v url.Values) (any, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), a.Timeout)
		defer cancel()
		v, err := url.ParseQuery(r.URL.RawQuery)
		if err != nil {
			httpserver.Problem(w, http.StatusBadRequest, "the query string cannot be parsed: "+err.Error())
			return
		}
		out, err := query(ctx, v)
		if err != nil {
			a.refuse(ctx, w, err)
			return
		}
		httpserver.JSON(w, http.StatusOK, out)
	})
}

// refuse answers with an error.
func (a *API) refuse(ctx context.Context, w http.ResponseWriter, err error) {
	var bad badRequestError
	switch {
	case errors.As(err, &bad):
		httpserver.Problem(w, http.StatusBadRequest, bad.msg)
	case errors.Is(err, errNoStore):
		httpserver.Problem(w, http.StatusNotFound, err.Error())
	case ctx.Err() != nil:
		httpserver.Problem(w, http.StatusGatewayTimeout, fmt.Sprintf("the store did not answer within %s: narrow the time range", a.Timeout))
	case errors.Is(err, ErrTooLong):
		httpserver.Problem(w, http.StatusGatewayTimeout, err.Error())
	default:
		httpserver.Problem(w, http.StatusBadGateway, err.Error())
	}
}

func (a *API) search(ctx context.Context, v url.Values) (any, error) {
	if a.Search == nil {
		return nil, errNoStore
	}
	name := first(v, "type", "log")
	t := a.current(ctx, a.Types.Get(name))
	if t == nil {
		return nil, BadQuery("type=%s is not a data type; there are: %s", name, strings.Join(a.typeNames(), ", "))
	}
	q := SearchQuery{Type: name, Version: t, Text: v.Get("q"), Filters: map[string]string{}}
	var err error
	if q.From, q.To, err = TimeRange(v, a.Now(), 24*time.Hour); err != nil {
		return nil, err
	}
	if q.Limit, err = limit(v, defaultHits, maxHits); err != nil {
		return nil, err
	}
	for key := range v {
		switch {
		case slices.Contains([]string{"type", "q", "from", "to", "limit"}, key):
		case strings.HasPrefix(key, "attributes."), isKeyword(t, key):
			q.Filters[key] = v.Get(key)
		default:
			return nil, BadQuery("%s is neither an option (type, q, from, to, limit) nor a keyword field of %s nor attributes.NAME", key, name)
		}
	}
	return a.Search.Search(ctx, q)
}

// isKeyword says whether a field can be compared for equality by its text.
func isKeyword(t *schema.Type, name string) bool {
	i := t.Index(name)
	return i >= 0 && !slices.Contains(t.Elasticsearch.Text, i) &&
		(t.Fields[i].Kind == schema.String || t.Fields[i].Kind == schema.UUID)
}

// SeriesAnswer is what /api/v1/series answers.
type SeriesAnswer struct {
	Series    []Series  `json:"series"`
	From      time.Time `json:"from"`
	To        time.Time `json:"to"`
	Truncated bool      `json:"truncated"` // the limit cut older points off
}

func (a *API) series(ctx context.Context, v url.Values) (any, error) {
	if a.Series == nil {
		return nil, errNoStore
	}
	q := SeriesQuery{
		Metric: v.Get("metric"), Tenant: v.Get("tenant"), Service: v.Get("service"), Host: v.Get("host"),
		Labels: map[string]string{},
	}
	if q.Metric == "" {
		return nil, BadQuery("metric is missing: name one, like metric=system.cpu.utilization")
	}
	var err error
	if q.From, q.To, err = TimeRange(v, a.Now(), time.Hour); err != nil {
		return nil, err
	}
	if q.Limit, err = limit(v, defaultPoints, maxPoints); err != nil {
		return nil, err
	}
	for key := range v {
		switch name, isLabel := strings.CutPrefix(key, "attributes."); {
		case isLabel:
			q.Labels[name] = v.Get(key)
		case !slices.Contains([]string{"metric", "tenant", "service", "host", "from", "to", "limit"}, key):
			return nil, BadQuery("%s is not an option (metric, tenant, service, host, from, to, limit, attributes.NAME)", key)
		}
	}
	series, truncated, err := a.Series.Series(ctx, q)
	if series == nil {
		series = []Series{} // an empty list, not null
	}
	return SeriesAnswer{Series: series, From: q.From, To: q.To, Truncated: truncated}, err
}

// TypeAnswer is one data type as /api/v1/types lists it.
type TypeAnswer struct {
	Name   string          `json:"name"`
	Doc    string          `json:"doc"`
	Topic  string          `json:"topic"`
	Schema json.RawMessage `json:"schema"`
}

func (a *API) types(ctx context.Context, _ url.Values) (any, error) {
	out := []TypeAnswer{}
	for _, t := range a.Types.All() {
		t = a.current(ctx, t)
		out = append(out, TypeAnswer{Name: t.Name, Doc: t.Doc, Topic: t.Topic.Name, Schema: t.JSON})
	}
	return out, nil
}

// current gives the version of a type that is in force: a type can change while the process runs. Where that cannot be
// told, the one that the process began with serves.
func (a *API) current(ctx context.Context, t *schema.Type) *schema.Type {
	if t == nil || a.Current == nil {
		return t
	}
	if newer, err := a.Current(ctx, t.Name); err == nil {
		return newer
	}
	return t
}

func (a *API) typeNames() []string {
	var names []string
	for _, t := range a.Types.All() {
		names = append(names, t.Name)
	}
	return names
}

// TimeRange reads from and to of a request's options: to is now unless given, and from lies back before it.
func TimeRange(v url.Values, now time.Time, back time.Duration) (from, to time.Time, err error) {
	now = now.UTC()
	if to, err = parseTime(first(v, "to", "now"), now); err != nil {
		return from, to, BadQuery("to: %v", err)
	}
	if s := v.Get("from"); s == "" {
		from = to.Add(-back)
	} else if from, err = parseTime(s, now); err != nil {
		return from, to, BadQuery("from: %v", err)
	}
	if !from.Before(to) {
		return from, to, BadQuery("from (%s) is not before to (%s)", from.Format(time.RFC3339), to.Format(time.RFC3339))
	}
	return from, to, nil
}

// parseTime reads now, -5m, -2d, a day, RFC 3339 or seconds since 1970.
func parseTime(s string, now time.Time) (time.Time, error) {
	if s == "now" {
		return now, nil
	}
	if strings.HasPrefix(s, "-") {
		d, err := schema.ParseDuration(s[1:])
		if err == nil {
			return now.Add(-d), nil
		}
	}
	for _, layout := range []string{time.RFC3339Nano, time.DateOnly} {
		if t, err := time.Parse(layout, s); err == nil {
			return t.UTC(), nil
		}
	}
	if n, err := strconv.ParseInt(s, 10, 64); err == nil && n > 0 && n < 1<<33 {
		return time.Unix(n, 0).UTC(), nil
	}
	return time.Time{}, fmt.Errorf("%q is not a time: write now, -5m, -2d, 2006-01-02, 2006-01-02T15:04:05Z, or seconds since 1970", s)
}

func limit(v url.Values, normal, highest int) (int, error) {
	s := v.Get("limit")
	if s == "" {
		return normal, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 || n > highest {
		return 0, BadQuery("limit=%s is not a number from 1 to %d", s, highest)
	}
	return n, nil
}

func first(v url.Values, key, fallback string) string {
	if s := v.Get(key); s != "" {
		return s
	}
	return fallback
}
