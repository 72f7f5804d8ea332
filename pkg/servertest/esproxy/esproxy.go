// Package esproxy is Elasticsearch with faults: an HTTP proxy in front of a real one that turns items of bulk requests
// away, answers errors to everything, or does not answer at all, as it is told while it runs, and counts what it did.
//
// An item that it answers itself is never seen by Elasticsearch. Which items those are follows from the seed, the item's
// id and how often it came before, and not from the order of requests: a run can be repeated.
package esproxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strconv"
	"sync"
	"time"
)

// Faults is what a Proxy does; the zero value is nothing, every request is passed on.
type Faults struct {
	// TurnAway is the share, from 0 to 1, of items in bulk requests that are answered 429 inside of an HTTP 200.
	TurnAway float64
	// ShardLimit is the share of items that are answered as when the cluster may not have more shards.
	ShardLimit float64
	// Status, unless 0, answers every request: 401, 403, 429 or 503.
	Status int
	// Delay is how long a bulk request takes before it is read: a slow Elasticsearch.
	Delay time.Duration
	// Refuse closes the port and all connections.
	Refuse bool
}

func (f Faults) validate() error {
	if f.TurnAway < 0 || f.ShardLimit < 0 || f.TurnAway+f.ShardLimit > 1 {
		return fmt.Errorf("the shares of items are %g and %g: they must be between 0 and 1 together", f.TurnAway, f.ShardLimit)
	}
	if _, known := answers[f.Status]; f.Status != 0 && !known {
		return fmt.Errorf("the status is %d: there is an answer for 401, 403, 429 and 503", f.Status)
	}
	return nil
}

// Counts is what a Proxy has done.
type Counts struct {
	Bulk       int64         // bulk requests that were read and not answered with Status
	Items      int64         // in them
	Forwarded  int64         // items that were sent to Elasticsearch
	TurnedAway int64         // items answered 429
	ShardLimit int64         // items answered 400
	Status     map[int]int64 // requests answered with Faults.Status, by it
	Refused    int64         // connections that were cut when Refuse was set; those refused later are not seen here
}

// A Proxy stands in front of one Elasticsearch. Its methods are safe for concurrent use.
type Proxy struct {
	target  *url.URL
	address string
	seed    uint64
	pass    *httputil.ReverseProxy
	client  *http.Client

	change sync.Mutex // held by Set and Close
	closed bool

	mu     sync.Mutex
	faults Faults
	counts Counts
	failed map[string]int // how often an item failed since it was last passed on, by index and id
	server *http.Server   // nil while connections are refused
	conns  int64
	served sync.WaitGroup
}

// timeout bounds a bulk request to Elasticsearch, and the wait for requests under way when the port is closed.
const timeout = time.Minute

// Start listens on a free port of 127.0.0.1 and passes everything on to the Elasticsearch at target, a URL.
func Start(target string, seed uint64) (*Proxy, error) {
	u, err := url.Parse(target)
	if err != nil || u.Host == "" {
		return nil, fmt.Errorf("%q is not the URL of an Elasticsearch", target)
	}
	transport := &http.Transport{MaxIdleConnsPerHost: 32, DisableCompression: true}
	p := &Proxy{
		target: u, seed: seed, failed: map[string]int{},
		pass: &httputil.ReverseProxy{
			Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(u) }, Transport: transport,
			ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) { badGateway(w, err) },
		},
		client: &http.Client{Transport: transport, Timeout: timeout},
		counts: Counts{Status: map[int]int64{}},
	}
	if err := p.listen("127.0.0.1:0"); err != nil {
		return nil, err
	}
	return p, nil
}

// URL is the proxy's address, the same for its whole life.
func (p *Proxy) URL() string { return "http://" + p.address }

// Counts gives what was done so far.
func (p *Proxy) Counts() Counts {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := p.counts
	c.Status = maps.Clone(c.Status)
	return c
}

// Set changes the faults, from the next request on.
func (p *Proxy) Set(f Faults) error {
	if err := f.validate(); err != nil {
		return err
	}
	p.change.Lock()
	defer p.change.Unlock()
	if p.closed {
		return errors.New("the proxy is closed")
	}
	p.mu.Lock()
	p.faults = f
	open := p.server != nil
	p.mu.Unlock()
	switch {
	case f.Refuse && open:
		return p.shut()
	case !f.Refuse && !open:
		return p.listen(p.address)
	}
	return nil
}

// Close cuts all connections and ends the proxy.
func (p *Proxy) Close() error {
	p.change.Lock()
	defer p.change.Unlock()
	p.closed = true
	err := p.shut()
	p.client.CloseIdleConnections()
	return err
}

// listen opens the port, which may be the one that was closed a moment ago.
func (p *Proxy) listen(address string) error {
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", address)
	if err != nil {
		return fmt.Errorf("listening as Elasticsearch's proxy: %w", err)
	}
	s := &http.Server{Handler: p, ReadHeaderTimeout: timeout, ConnState: p.connState}
	p.mu.Lock()
	p.address, p.server = l.Addr().String(), s
	p.mu.Unlock()
	p.served.Go(func() { _ = s.Serve(l) }) // ends by shut, with an error that says so
	return nil
}

func (p *Proxy) connState(_ net.Conn, state http.ConnState) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch state {
	case http.StateNew:
		p.conns++
	case http.StateClosed, http.StateHijacked:
		p.conns--
	case http.StateActive, http.StateIdle:
	}
}

// shut closes the port and every connection, in the middle of whatever goes over it.
func (p *Proxy) shut() error {
	p.mu.Lock()
	s := p.server
	p.server = nil
	p.counts.Refused += p.conns
	p.mu.Unlock()
	if s == nil {
		return nil
	}
	err := s.Close()
	p.served.Wait()
	return err
}

// ServeHTTP answers one request.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	f := p.faults
	if f.Status != 0 {
		p.counts.Status[f.Status]++
	}
	p.mu.Unlock()
	switch {
	case f.Status != 0:
		answer(w, f.Status)
	case r.URL.Path == "/_bulk" && r.Method != http.MethodGet:
		if !slow(r.Context(), f.Delay) {
			return
		}
		if err := p.bulk(w, r, f); err != nil {
			badGateway(w, err)
		}
	default:
		p.pass.ServeHTTP(w, r)
	}
}

// slow waits, and says whether whoever asked still does.
func slow(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return true
	}
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

// answers are Elasticsearch's own, by status.
var answers = map[int]string{
	http.StatusUnauthorized: `{"error":{"root_cause":[{"type":"security_exception",` + noCredentials + `}],"type":"security_exception",` + noCredentials + `},"status":401}`,
	http.StatusForbidden:    `{"error":{"root_cause":[{"type":"security_exception",` + noPrivilege + `}],"type":"security_exception",` + noPrivilege + `},"status":403}`,
	http.StatusTooManyRequests: `{"error":{"root_cause":[{"type":"es_rejected_execution_exception","reason":"` + rejected + `"}],` +
		`"type":"es_rejected_execution_exception","reason":"` + rejected + `"},"status":429}`,
	http.StatusServiceUnavailable: `{"error":{"root_cause":[{"type":"cluster_block_exception",` + noMaster + `}],"type":"cluster_block_exception",` + noMaster + `},"status":503}`,
}

const (
	noCredentials = `"reason":"unable to authenticate user [millrace] for REST request [/_bulk]"`
	noPrivilege   = `"reason":"action [indices:data/write/bulk] is unauthorized for user [millrace] with effective roles [none]"`
	noMaster      = `"reason":"blocked by: [SERVICE_UNAVAILABLE/2/no master];"`
	rejected      = `rejected execution of coordinating operation [coordinating_and_primary_bytes=53687091, replica_bytes=0, ` +
		`all_bytes=53687091, coordinating_operation_bytes=1024, max_coordinating_and_primary_bytes=53687091]`
)

func answer(w http.ResponseWriter, status int) {
	header(w)
	if status == http.StatusUnauthorized {
		w.Header().Set("Www-Authenticate", `Basic realm="security", charset="UTF-8"`)
	}
	body := answers[status]
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	_, _ = io.WriteString(w, body) // whoever asked has gone
}

func header(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Elastic-Product", "Elasticsearch") // clients look for it
}

// badGateway answers as proxies do when the server behind them does not. A request that its client gave up needs none.
func badGateway(w http.ResponseWriter, err error) {
	if errors.Is(err, context.Canceled) {
		return
	}
	http.Error(w, "esproxy: "+err.Error(), http.StatusBadGateway)
}
