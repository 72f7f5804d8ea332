// Package httpserver is the one HTTP server of a process: the parts register their routes on it, and it serves the
// metrics and the health checks beside them.
//
// It binds to loopback unless told otherwise, refuses requests that address it by a name it does not know (a page on
// the web can point its own name at 127.0.0.1 and would then be same-origin) and requests from foreign origins that
// change something.
package httpserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/time/rate"

	"github.com/millrace/millrace/pkg/telemetry"
)

// Server is the HTTP server of a process.
type Server struct {
	cfg     Config
	log     *slog.Logger
	m       *metrics
	mux     *http.ServeMux
	logRate *rate.Limiter
	active  sync.WaitGroup // handlers; a stop waits for them

	listening chan struct{}

	mu       sync.Mutex
	addr     string
	admin    string
	draining bool
	checks   []check
}

type check struct {
	name string
	f    func() error
}

// New makes a server that serves /metrics from g. It listens once Run is called.
func New(cfg Config, tel telemetry.Set, g prometheus.Gatherer) (*Server, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	tel = tel.With("http")
	m, err := newMetrics(tel.Metrics)
	if err != nil {
		return nil, err
	}
	s := &Server{
		cfg: cfg, log: tel.Log, m: m, mux: http.NewServeMux(),
		logRate: rate.NewLimiter(1, 5), listening: make(chan struct{}),
	}
	s.Handle("GET /metrics", promhttp.HandlerFor(g, promhttp.HandlerOpts{
		ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelWarn), ErrorHandling: promhttp.ContinueOnError,
		MaxRequestsInFlight: 4,
	}))
	s.Handle("GET /-/healthy", http.HandlerFunc(healthy))
	s.Handle("GET /-/ready", http.HandlerFunc(s.ready))
	return s, nil
}

// Handle registers a route, by net/http's patterns. Routes are registered before Run; two that conflict are a
// programming error, and net/http panics on it. Its pattern is the route's label in the metrics.
func (s *Server) Handle(pattern string, h http.Handler) { s.mux.Handle(pattern, h) }

// Check adds a named condition of readiness. It is asked at each request to /-/ready, so it answers at once, from what
// it knows.
func (s *Server) Check(name string, f func() error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.checks = append(s.checks, check{name, f})
}

// Listening is closed once the server accepts connections.
func (s *Server) Listening() <-chan struct{} { return s.listening }

// Addr gives host:port once the server is listening, else "".
func (s *Server) Addr() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.addr
}

// AdminAddr gives host:port of pprof once the server is listening, "" when it is off.
func (s *Server) AdminAddr() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.admin
}

// Run listens and answers until ctx ends, then lets the requests under way finish within the configured time.
func (s *Server) Run(ctx context.Context) error {
	// Requests outlive ctx on purpose: they end by themselves, or when the drain's time is over.
	base, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	servers, err := s.listen(ctx, base)
	if err != nil {
		return err
	}
	failed := make(chan error, len(servers))
	var wg sync.WaitGroup
	for _, sv := range servers {
		wg.Go(func() {
			if err := sv.http.Serve(sv.l); !errors.Is(err, http.ErrServerClosed) {
				failed <- fmt.Errorf("serving http on %s: %w", sv.l.Addr(), err)
			}
		})
	}
	close(s.listening)
	s.log.Info("listening", "addr", s.Addr(), "admin", s.AdminAddr())

	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	s.mu.Lock()
	s.draining = true
	s.mu.Unlock()
	s.shutdown(ctx, servers)
	cancel()
	wg.Wait()
	s.active.Wait()
	return err
}

type listener struct {
	http *http.Server
	l    net.Listener
}

func (s *Server) listen(ctx, base context.Context) ([]listener, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", s.cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("listening on http.listen: %w", err)
	}
	servers := []listener{{s.server(base, s.Handler(), s.cfg.Write), l}}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.addr = l.Addr().String()
	if s.cfg.Admin == "" {
		return servers, nil
	}
	al, err := lc.Listen(ctx, "tcp", s.cfg.Admin)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("listening on http.admin: %w", err), l.Close())
	}
	s.admin = al.Addr().String()
	// A CPU profile is taken for as long as its caller asks, so its write time-out is wide.
	return append(servers, listener{s.server(base, s.guard(pprofMux()), 10*time.Minute), al}), nil
}

func (s *Server) server(base context.Context, h http.Handler, write time.Duration) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: s.cfg.ReadHeader,
		ReadTimeout:       s.cfg.Read,
		WriteTimeout:      write,
		IdleTimeout:       s.cfg.Idle,
		MaxHeaderBytes:    int(s.cfg.MaxHeader),
		BaseContext:       func(net.Listener) context.Context { return base },
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelWarn),
	}
}

func (s *Server) shutdown(ctx context.Context, servers []listener) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.Drain)
	defer cancel()
	for _, sv := range servers {
		if err := sv.http.Shutdown(ctx); err != nil {
			s.log.Warn("requests were cut off by the stop", "addr", sv.l.Addr().String(), "err", err)
			_ = sv.http.Close() // it only repeats that connections were open
		}
	}
}

func pprofMux() *http.ServeMux {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	return mux
}

func healthy(w http.ResponseWriter, _ *http.Request) {
	JSON(w, http.StatusOK, map[string]string{"status": "healthy"})
}

// ready answers 200 when every check passes, else 503 with what is not ready and why.
func (s *Server) ready(w http.ResponseWriter, _ *http.Request) {
	s.mu.Lock()
	checks, draining := slices.Clone(s.checks), s.draining
	s.mu.Unlock()
	not := map[string]string{}
	if draining {
		not["process"] = "stopping"
	}
	for _, c := range checks {
		if err := c.f(); err != nil {
			not[c.name] = err.Error()
		}
	}
	if len(not) == 0 {
		JSON(w, http.StatusOK, map[string]any{"ready": true})
		return
	}
	w.Header().Set("Retry-After", "5")
	JSON(w, http.StatusServiceUnavailable, map[string]any{"ready": false, "not_ready": not})
}
