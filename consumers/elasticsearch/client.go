package elasticsearch

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"sync/atomic"
	"time"

	es "github.com/elastic/go-elasticsearch/v8"
)

// maxAnswer bounds what is read of one answer: a bulk answer is far smaller, a page of hits is bounded by its size.
const maxAnswer = 256 << 20

// client makes requests. It retries nothing by itself.
type client struct {
	transport *es.BaseClient // its Perform alone: it also checks that Elasticsearch itself answers
	http      *http.Transport
	timeout   time.Duration
}

func newClient(cfg Config) (*client, error) {
	ht := &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: min(cfg.Timeout, 10*time.Second), KeepAlive: 15 * time.Second}).DialContext,
		TLSHandshakeTimeout:   min(cfg.Timeout, 10*time.Second),
		ResponseHeaderTimeout: cfg.Timeout,
		IdleConnTimeout:       90 * time.Second,
		DisableCompression:    !cfg.Gzip, // of answers
		MaxIdleConnsPerHost:   cfg.InFlight + 4,
		MaxConnsPerHost:       4 * (cfg.InFlight + 4),
	}
	tc := es.Config{
		Addresses:           cfg.URLs,
		Username:            cfg.User,
		Password:            string(cfg.Password),
		APIKey:              string(cfg.APIKey),
		Transport:           ht,
		DisableRetry:        true,
		CompressRequestBody: cfg.Gzip,
		PoolCompressor:      cfg.Gzip,
	}
	if cfg.CA != "" {
		pem, err := os.ReadFile(cfg.CA)
		if err != nil {
			return nil, fmt.Errorf("reading elasticsearch.ca: %w", err)
		}
		tc.CACert = pem
	}
	t, err := es.NewBaseClient(tc)
	if err != nil {
		return nil, fmt.Errorf("setting up the connection to Elasticsearch: %w", err)
	}
	return &client{transport: t, http: ht, timeout: cfg.Timeout}, nil
}

// StatusError is an answer that is not a success.
type StatusError struct {
	Status int
	Type   string // Elasticsearch's name of the error, such as index_not_found_exception
	Reason string // Elasticsearch's own words
}

func (e *StatusError) Error() string {
	if e.Type == "" {
		return fmt.Sprintf("Elasticsearch answered %d", e.Status)
	}
	return fmt.Sprintf("Elasticsearch answered %d %s: %s", e.Status, e.Type, e.Reason)
}

// isStatus says whether err is an answer with that status.
func isStatus(err error, status int) bool {
	var se *StatusError
	return errors.As(err, &se) && se.Status == status
}

const (
	asJSON   = "application/json"
	asNDJSON = "application/x-ndjson"
)

// do makes one request, within the client's time-out and ctx, and decodes the answer into out unless that is nil.
// An answer from 300 on is a *StatusError.
func (c *client) do(ctx context.Context, method, path string, query url.Values, contentType string, body []byte, out any) error {
	var rd *payload
	if body != nil {
		rd = newPayload(body)
	}
	data, err := c.exchange(ctx, method, path, query, contentType, rd)
	if err != nil || out == nil {
		return err
	}
	return readJSON(data, out)
}

func readJSON(data []byte, out any) error {
	if err := json.Unmarshal(data, out); err != nil {
		return fmt.Errorf("reading Elasticsearch's answer: %w", err)
	}
	return nil
}

// payload is the body of a request. It knows when nothing reads it any more: net/http may go on for a while after it gave
// an answer or an error.
type payload struct {
	bytes.Reader
	data   []byte
	closed atomic.Bool
	copied atomic.Bool // net/http has begun again, on another connection
}

func newPayload(data []byte) *payload {
	p := &payload{data: data}
	p.Reset(data)
	return p
}

func (p *payload) Close() error {
	p.closed.Store(true)
	return nil
}

func (p *payload) again() (io.ReadCloser, error) {
	p.copied.Store(true)
	return newPayload(p.data), nil
}

// isIdle says whether the bytes may be written over.
func (p *payload) isIdle() bool { return p.closed.Load() && !p.copied.Load() }

// exchange makes one request and gives the answer.
func (c *client) exchange(ctx context.Context, method, path string, query url.Values, contentType string, body *payload) ([]byte, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, c.timeout, fmt.Errorf("no answer from Elasticsearch within %s", c.timeout))
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, path, http.NoBody)
	if err != nil {
		return nil, err
	}
	req.URL.RawQuery = query.Encode()
	if body != nil {
		req.Body, req.GetBody, req.ContentLength = body, body.again, body.Size()
		req.Header.Set("Content-Type", contentType)
	}
	req.Header.Set("Accept", asJSON)
	res, err := c.transport.Perform(req)
	if err != nil {
		return nil, because(ctx, err)
	}
	defer func() { _ = res.Body.Close() }()
	data, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer+1))
	if err != nil {
		return nil, because(ctx, fmt.Errorf("reading Elasticsearch's answer: %w", err))
	}
	if len(data) > maxAnswer {
		return nil, fmt.Errorf("the answer is over %d bytes", maxAnswer)
	}
	if res.StatusCode >= 300 {
		return nil, statusError(res.StatusCode, data)
	}
	return data, nil
}

// because adds why the context ended, where that is what stopped the request.
func because(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil && !errors.Is(err, cause) {
		return fmt.Errorf("%w (%w)", err, cause)
	}
	return err
}

func statusError(status int, data []byte) error {
	var answer struct {
		Error json.RawMessage `json:"error"`
	}
	e := &StatusError{Status: status}
	if json.Unmarshal(data, &answer) != nil || len(answer.Error) == 0 {
		return e // a proxy's page
	}
	var detail itemError
	if json.Unmarshal(answer.Error, &detail) == nil {
		e.Type, e.Reason = detail.Type, detail.reason()
		return e
	}
	var text string
	if json.Unmarshal(answer.Error, &text) == nil { // "Incorrect HTTP method for uri …"
		e.Type, e.Reason = "error", text
	}
	return e
}

// pathOf joins parts, each escaped, so that no name becomes syntax.
func pathOf(parts ...string) string {
	var b []byte
	for _, p := range parts {
		b = append(b, '/')
		b = append(b, url.PathEscape(p)...)
	}
	return string(b)
}
