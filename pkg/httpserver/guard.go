package httpserver

import (
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Handler is the whole server as a handler: guards, routes, metrics. Run serves it; tests can call it directly.
func (s *Server) Handler() http.Handler { return s.guard(s.mux) }

// guard wraps a mux: first who is addressed and from where, then the route.
func (s *Server) guard(mux *http.ServeMux) http.Handler {
	cross := http.NewCrossOriginProtection()
	cross.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		s.m.refused.WithLabelValues("origin").Inc()
		Problem(w, http.StatusForbidden, "this request comes from a page of another origin and would change something")
	}))
	routes := cross.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { route(mux, w, r) }))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.active.Add(1)
		defer s.active.Done()
		sw := &writer{ResponseWriter: w}
		s.m.inFlight.Inc()
		defer s.observe(sw, r, time.Now())
		if !s.hostAllowed(r.Host) {
			s.m.refused.WithLabelValues("host").Inc()
			Problem(sw, http.StatusMisdirectedRequest, "this server is not known by the host name that was asked for; add it to http.allowed_hosts")
			return
		}
		routes.ServeHTTP(sw, r)
	})
}

// observe counts a request by its route's pattern, never by its path, so that the labels stay few.
func (s *Server) observe(w *writer, r *http.Request, began time.Time) {
	s.m.inFlight.Dec()
	pattern, status := r.Pattern, w.status
	if pattern == "" {
		pattern = "none"
	}
	if status == 0 {
		status = http.StatusInternalServerError // the handler panicked, or was cut off
	}
	took := time.Since(began)
	s.m.requests.WithLabelValues(pattern, strconv.Itoa(status)).Inc()
	s.m.seconds.WithLabelValues(pattern).Observe(took.Seconds())
	// Not-ready and overload answers are normal and counted above; the rest of 5xx is worth a line, a few at a time.
	if status >= 500 && status != http.StatusServiceUnavailable && s.logRate.Allow() {
		s.log.Warn("answered with an error", "method", r.Method, "route", pattern, "status", status, "took", took)
	}
}

func route(mux *http.ServeMux, w http.ResponseWriter, r *http.Request) {
	h, pattern := mux.Handler(r)
	if pattern != "" {
		mux.ServeHTTP(w, r)
		return
	}
	so := &statusOnly{header: w.Header(), status: http.StatusNotFound}
	h.ServeHTTP(so, r)
	detail := "there is nothing at this path"
	if so.status == http.StatusMethodNotAllowed {
		detail = "this path takes other methods: " + w.Header().Get("Allow")
	}
	Problem(w, so.status, detail)
}

// hostAllowed refuses names it does not know. An IP address is safe: a page can only be of that origin if it was
// served from there, whereas any name can be made to resolve to 127.0.0.1.
func (s *Server) hostAllowed(hostport string) bool {
	host := hostport
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		host = h
	}
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	if _, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil {
		return true
	}
	return slices.ContainsFunc(s.cfg.AllowedHosts, func(a string) bool { return strings.EqualFold(a, host) })
}
