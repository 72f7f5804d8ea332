package dlq

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/millrace/millrace/pkg/httpserver"
)

const (
	httpTimeout  = 25 * time.Second // within the server's own
	httpAtATime  = 2                // each reads whole topics
	routePattern = "/{topic}/{partition}/{offset}"
)

// Answer is what GET /api/v1/dlq answers.
type Answer struct {
	AsOf   time.Time `json:"as_of"`
	Groups []Group   `json:"groups"`
}

// Mux is where routes are mounted: http.ServeMux or httpserver.Server.
type Mux interface {
	Handle(pattern string, handler http.Handler)
}

// Register mounts the routes, which only read: who resolves a letter is known on the command line, not here.
func (b *Box) Register(mux Mux) {
	free := make(chan struct{}, httpAtATime)
	answer := func(query func(context.Context, *http.Request) (any, error)) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			ctx, cancel := context.WithTimeout(r.Context(), httpTimeout)
			defer cancel()
			select {
			case free <- struct{}{}:
				defer func() { <-free }()
			case <-ctx.Done():
				httpserver.Problem(w, http.StatusServiceUnavailable, "the dead letters are being read for others: try again")
				return
			}
			out, err := query(ctx, r)
			reply(ctx, w, out, err)
		})
	}
	mux.Handle("GET /api/v1/dlq", answer(b.list))
	mux.Handle("GET /api/v1/dlq"+routePattern, answer(b.show))
}

func reply(ctx context.Context, w http.ResponseWriter, out any, err error) {
	switch {
	case err == nil:
		httpserver.JSON(w, http.StatusOK, out)
	case errors.Is(err, ErrQuery):
		httpserver.Problem(w, http.StatusBadRequest, err.Error())
	case errors.Is(err, ErrNotFound):
		httpserver.Problem(w, http.StatusNotFound, err.Error())
	case ctx.Err() != nil:
		httpserver.Problem(w, http.StatusGatewayTimeout, fmt.Sprintf("the dead letters were not read within %s: name a topic, or use millrace dlq --wait", httpTimeout))
	default:
		httpserver.Problem(w, http.StatusBadGateway, err.Error())
	}
}

func (b *Box) list(ctx context.Context, r *http.Request) (any, error) {
	v, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, mistake("the query string cannot be parsed: %v", err)
	}
	for name := range v {
		if name != "topic" && name != "destination" && name != "reason" {
			return nil, mistake("%s is none of topic, destination, reason", name)
		}
	}
	asOf := b.Now().UTC()
	groups, err := b.List(ctx, Filter{Topic: v.Get("topic"), Destination: v.Get("destination"), Reason: v.Get("reason")})
	return Answer{AsOf: asOf, Groups: groups}, err
}

func (b *Box) show(ctx context.Context, r *http.Request) (any, error) {
	a, err := ParseAddress(r.PathValue("topic") + "/" + r.PathValue("partition") + "/" + r.PathValue("offset"))
	if err != nil {
		return nil, err
	}
	l, err := b.Get(ctx, a)
	if err != nil {
		return nil, err
	}
	return b.View(ctx, l), nil
}
