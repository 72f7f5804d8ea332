package dlq

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/millrace/millrace/pkg/httpserver"
)

const (
	httpTimeout  = 25 * time.Second // within the server's own
	httpAtATime  = 2                // each reads whole topics
	httpBody     = 256 << 10        // of an order: addresses, mostly
	httpLimit    = 1000             // letters of one order: each is in the answer
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

// Register mounts the routes. Those that change something rest on the server's guard: its hosts, its own pages only.
func (b *Box) Register(mux Mux) {
	reads := make(chan struct{}, httpAtATime)
	turn := make(chan struct{}, 1) // two orders that replay the same letter would publish it twice
	get := func(query func(context.Context, *http.Request) (any, error)) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			answer(w, r, func(ctx context.Context) (any, error) { return query(ctx, r) }, reads)
		})
	}
	post := func(how string, do func(context.Context, Order) (Report, error)) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			r.Body = http.MaxBytesReader(w, r.Body, httpBody)
			o, err := readOrder(r, how)
			if err != nil {
				reply(r.Context(), w, nil, err)
				return
			}
			answer(w, r, func(ctx context.Context) (any, error) { return b.obey(ctx, o, how, do) }, turn, reads)
		})
	}
	mux.Handle("GET /api/v1/dlq", get(b.list))
	mux.Handle("GET /api/v1/dlq"+routePattern, get(b.show))
	mux.Handle("POST /api/v1/dlq/replay", post(Replayed, b.Replay))
	mux.Handle("POST /api/v1/dlq/discard", post(Discarded, b.Discard))
}

// answer does what is asked once it has a place in each of the queues.
func answer(w http.ResponseWriter, r *http.Request, do func(context.Context) (any, error), queues ...chan struct{}) {
	ctx, cancel := context.WithTimeout(r.Context(), httpTimeout)
	defer cancel()
	for _, q := range queues {
		select {
		case q <- struct{}{}:
			defer func() { <-q }()
		case <-ctx.Done():
			httpserver.Problem(w, http.StatusServiceUnavailable, "the dead letters are being read for others: try again")
			return
		}
	}
	out, err := do(ctx)
	reply(ctx, w, out, err)
}

func reply(ctx context.Context, w http.ResponseWriter, out any, err error) {
	var large *http.MaxBytesError
	switch {
	case err == nil:
		httpserver.JSON(w, http.StatusOK, out)
	case errors.As(err, &large):
		httpserver.Problem(w, http.StatusRequestEntityTooLarge, fmt.Sprintf("the body is over %d bytes", large.Limit))
	case errors.Is(err, errMediaType):
		httpserver.Problem(w, http.StatusUnsupportedMediaType, err.Error())
	case errors.Is(err, ErrQuery):
		httpserver.Problem(w, http.StatusBadRequest, err.Error())
	case errors.Is(err, ErrNotFound):
		httpserver.Problem(w, http.StatusNotFound, err.Error())
	case ctx.Err() != nil:
		httpserver.Problem(w, http.StatusServiceUnavailable, fmt.Sprintf("not done within %s: name a topic, or use millrace dlq --wait: %v", httpTimeout, err))
	default:
		httpserver.Problem(w, http.StatusServiceUnavailable, err.Error())
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

// orderBody is what POST takes.
type orderBody struct {
	Letters     []string `json:"letters"`
	Topic       string   `json:"topic"`
	Destination string   `json:"destination"`
	Reason      string   `json:"reason"`
	By          string   `json:"by"`
	Why         string   `json:"why"`
	DryRun      bool     `json:"dry_run"`
	Limit       *int     `json:"limit"`
	MaxLoops    *int     `json:"max_loops"` // replay
	Force       bool     `json:"force"`     // replay
}

var errMediaType = errors.New("the body must be application/json")

func readOrder(r *http.Request, how string) (Order, error) {
	// A form on a page of the web cannot send this type without asking first.
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		return Order{}, errMediaType
	}
	var body orderBody
	in := json.NewDecoder(r.Body)
	in.DisallowUnknownFields()
	var large *http.MaxBytesError
	if err := in.Decode(&body); errors.As(err, &large) {
		return Order{}, err
	} else if err != nil {
		return Order{}, mistake("the body is no order: %v", err)
	}
	if _, err := in.Token(); !errors.Is(err, io.EOF) {
		return Order{}, mistake("the body is more than one JSON object")
	}
	from, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		from = r.RemoteAddr
	}
	o := Order{
		Filter: Filter{Topic: body.Topic, Destination: body.Destination, Reason: body.Reason},
		By:     body.By, Why: body.Why, From: from, DryRun: body.DryRun, Force: body.Force, Limit: httpLimit, MaxLoops: DefaultMaxLoops,
	}
	if body.Limit != nil {
		o.Limit = *body.Limit
	}
	if body.MaxLoops != nil {
		o.MaxLoops = *body.MaxLoops
	}
	switch {
	case o.Limit > httpLimit:
		return Order{}, mistake("limit is %d: give at most %d, and ask again while there are more", o.Limit, httpLimit)
	case how == Discarded && (body.MaxLoops != nil || body.Force):
		return Order{}, mistake("max_loops and force are of replay")
	}
	for _, s := range body.Letters {
		a, err := ParseAddress(s)
		if err != nil {
			return Order{}, err
		}
		o.Filter.Letters = append(o.Filter.Letters, a)
	}
	return o, nil
}

// Outcome is what POST answers.
type Outcome struct {
	Report

	DryRun  bool            `json:"dry_run"`
	Letters []LetterOutcome `json:"letters"`
}

// LetterOutcome is what was done about one letter.
type LetterOutcome struct {
	Letter      string `json:"letter"`
	Destination string `json:"destination"`
	Reason      string `json:"reason"`
	Error       string `json:"error,omitempty"` // why nothing was
}

// obey does what is asked, and leaves a line of it in the log, since the request says by itself who asks.
func (b *Box) obey(ctx context.Context, o Order, how string, do func(context.Context, Order) (Report, error)) (any, error) {
	out := Outcome{DryRun: o.DryRun, Letters: []LetterOutcome{}}
	o.Said = func(l *Letter, err error) {
		said := LetterOutcome{Letter: l.String(), Destination: l.Destination, Reason: l.Reason}
		if err != nil {
			said.Error = err.Error()
		}
		out.Letters = append(out.Letters, said)
	}
	var err error
	out.Report, err = do(ctx, o)
	if errors.Is(err, ErrQuery) {
		return nil, err
	}
	b.Log.Info("dead letters: an order over HTTP", "order", how, "by", o.By, "from", o.From, "why", o.Why, "dry_run", o.DryRun,
		"force", o.Force, "topic", o.Filter.Topic, "destination", o.Filter.Destination, "reason", o.Filter.Reason,
		"letters", o.Filter.Letters, "done", out.Done, "refused", out.Refused, "err", err)
	if err != nil && out.Done > 0 {
		err = fmt.Errorf("%d letters were %s, then: %w", out.Done, how, err)
	}
	return out, err
}
