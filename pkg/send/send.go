// Package send publishes records through a gateway: NDJSON in, one result for each line.
package send

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Bounds of one request. A gateway takes more; small requests keep a refusal cheap.
const (
	maxRecords = 1000
	maxBytes   = 1 << 20
	maxLine    = 16 << 20
	maxWait    = 30 * time.Second // for an overloaded gateway, per try
	maxTries   = 5
)

const byteOrderMark = "\xef\xbb\xbf"

// Sender publishes to one gateway.
type Sender struct {
	URL    string // of the gateway: http://127.0.0.1:9470
	Tenant string // sent as X-Millrace-Tenant where set
	HTTP   *http.Client
	Errors io.Writer // one line for each record that was not published
}

// CheckURL says what is wrong with a gateway's address. A command asks it before it reads any input.
func CheckURL(address string) error {
	u, err := url.Parse(address)
	switch {
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.Hostname() == "":
		return fmt.Errorf("%q is not the address of a gateway: give http://host:port or https://host:port", address)
	case u.RawQuery != "" || u.Fragment != "":
		return fmt.Errorf("%q has a query or a fragment: give http://host:port, with a path where the gateway is behind one", address)
	}
	return nil
}

// Result counts lines of input that held a record.
type Result struct {
	Published int
	Refused   int // each was explained on Sender.Errors
	Unknown   int // sent, but no answer tells whether they were published
}

// Send reads records of one type, one JSON object per line, and publishes them in order. An error means that the rest
// was not sent; refused records alone are no error.
func (s *Sender) Send(ctx context.Context, typeName string, in io.Reader) (Result, error) {
	var res Result
	if err := CheckURL(s.URL); err != nil {
		return res, err
	}
	c := chunk{}
	lines := bufio.NewReaderSize(in, 64<<10)
	// Some editors put a byte order mark before UTF-8. It means nothing.
	if b, _ := lines.Peek(len(byteOrderMark)); string(b) == byteOrderMark { // an error comes again with the next read
		_, _ = lines.Discard(len(b)) // it is buffered
	}
	for n := 1; ; n++ {
		line, err := readLine(lines)
		if err != nil && !errors.Is(err, io.EOF) {
			return res, fmt.Errorf("reading line %d: %w", n, err)
		}
		if len(bytes.TrimSpace(line)) > 0 {
			c.add(n, line)
		}
		atEnd := errors.Is(err, io.EOF)
		if len(c.lines) > 0 && (atEnd || len(c.lines) >= maxRecords || c.body.Len() >= maxBytes) {
			if err := s.post(ctx, typeName, &c, &res); err != nil {
				return res, err
			}
			c.reset()
		}
		if atEnd {
			return res, nil
		}
	}
}

// chunk is the records of one request and the input lines that they came from.
type chunk struct {
	body  bytes.Buffer
	lines []int
}

func (c *chunk) add(line int, record []byte) {
	c.lines = append(c.lines, line)
	c.body.Write(bytes.TrimRight(record, "\r\n"))
	c.body.WriteByte('\n')
}

func (c *chunk) reset() {
	c.body.Reset()
	c.lines = c.lines[:0]
}

func readLine(r *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		line = append(line, part...)
		if len(line) > maxLine {
			return nil, fmt.Errorf("longer than %d bytes", maxLine)
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return line, err
		}
	}
}

// itemResult is the gateway's word on one record.
type itemResult struct {
	Index  int    `json:"index"`
	Status int    `json:"status"`
	Error  string `json:"error"`
}

type answer struct {
	Results []itemResult `json:"results"`
	Title   string       `json:"title"`
	Detail  string       `json:"detail"`
}

// post sends one chunk. Only an answer that promises that nothing was taken (429) is tried again: a record without an
// id would be another event the second time.
func (s *Sender) post(ctx context.Context, typeName string, c *chunk, res *Result) error {
	for try := 1; ; try++ {
		status, wait, a, err := s.request(ctx, typeName, c.body.Bytes())
		switch {
		case err != nil:
			var dial *net.OpError
			if !errors.As(err, &dial) || dial.Op != "dial" { // nobody was there to take them
				res.Unknown += len(c.lines)
			}
			return err
		case status == http.StatusTooManyRequests && try < maxTries:
			if err := sleep(ctx, min(wait, maxWait)); err != nil {
				return err
			}
		case status == http.StatusAccepted:
			res.Published += len(c.lines)
			return nil
		case len(a.Results) > 0:
			s.results(c, a, res)
			return nil
		default:
			return fmt.Errorf("publishing lines %d to %d: the gateway answered %d: %s", c.lines[0], c.lines[len(c.lines)-1], status,
				strings.TrimSpace(a.Title+": "+a.Detail))
		}
	}
}

func (s *Sender) results(c *chunk, a answer, res *Result) {
	refused := 0
	for _, r := range a.Results {
		switch {
		case r.Index < 0 || r.Index >= len(c.lines) || r.Status < 300:
			continue
		case r.Status >= 500:
			res.Unknown++
		default:
			res.Refused++
		}
		refused++
		fmt.Fprintf(s.Errors, "line %d: %s\n", c.lines[r.Index], r.Error)
	}
	res.Published += len(c.lines) - refused
}

func (s *Sender) request(ctx context.Context, typeName string, body []byte) (status int, wait time.Duration, a answer, err error) {
	target, err := url.JoinPath(s.URL, "v1", "events", url.PathEscape(typeName))
	if err != nil {
		return 0, 0, a, fmt.Errorf("making the gateway's address from %q: %w", s.URL, err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, target, bytes.NewReader(body))
	if err != nil {
		return 0, 0, a, fmt.Errorf("making the request: %w", err)
	}
	req.Header.Set("Content-Type", "application/x-ndjson")
	if s.Tenant != "" {
		req.Header.Set("X-Millrace-Tenant", s.Tenant)
	}
	resp, err := s.HTTP.Do(req)
	if err != nil {
		return 0, 0, a, fmt.Errorf("asking the gateway at %s (is it running? `millrace dev` or `millrace run gateway` starts one): %w", s.URL, err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, 16<<20))
	if err != nil {
		return 0, 0, a, fmt.Errorf("reading the gateway's answer: %w", err)
	}
	seconds, _ := strconv.Atoi(resp.Header.Get("Retry-After"))
	if ct, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type")); strings.HasSuffix(ct, "json") {
		if err := json.Unmarshal(data, &a); err != nil {
			return 0, 0, a, fmt.Errorf("reading the gateway's answer: %w", err)
		}
	} else {
		a.Detail = string(bytes.TrimSpace(data[:min(len(data), 200)]))
	}
	return resp.StatusCode, time.Duration(max(seconds, 1)) * time.Second, a, nil
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
