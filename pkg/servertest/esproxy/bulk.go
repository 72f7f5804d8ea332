package esproxy

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"maps"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// maxBulk bounds what is read of one request, and of one answer. Elasticsearch refuses requests over 100 MB.
const maxBulk = 128 << 20

// An item is one operation of a bulk request.
type item struct {
	op        string // create, index, update, delete
	index, id string
	lines     []byte // its action and its document
	answer    any    // what the proxy says of it; nil is passed on
}

// bulk passes on the items that are to live, answers the others, and puts the answers in order. What it returns before it
// has written anything is an error of the exchange with either side.
func (p *Proxy) bulk(w http.ResponseWriter, r *http.Request, f Faults) error {
	body, err := readBody(r)
	if err != nil {
		return err
	}
	items, err := parse(body)
	if err != nil {
		return err
	}
	filter, err := newFilter(r.URL.Query().Get("filter_path"))
	if err != nil {
		return err
	}
	var rest []byte
	forwarded := 0
	p.mu.Lock()
	p.counts.Bulk++
	p.counts.Items += int64(len(items))
	for i := range items {
		if items[i].answer = p.fault(f, &items[i]); items[i].answer == nil {
			rest = append(rest, items[i].lines...)
			forwarded++
		}
	}
	p.counts.Forwarded += int64(forwarded)
	p.mu.Unlock()
	if forwarded == len(items) { // the request as it came
		return p.send(w, r, r.URL.RawQuery, body, nil)
	}
	merged := map[string]any{"took": 0, "errors": true}
	answers := make([]any, 0, len(items))
	var others []any
	if forwarded > 0 {
		query := r.URL.Query()
		query.Del("filter_path") // an answer of which items may be missing cannot be put in order
		var from map[string]any
		if err := p.send(w, r, query.Encode(), rest, &from); err != nil || from == nil {
			return err
		}
		others, _ = from["items"].([]any)
		if len(others) != forwarded {
			return fmt.Errorf("the answer is of %d of %d items", len(others), forwarded)
		}
		maps.Copy(merged, from)
		merged["errors"] = true
	}
	for i := range items {
		if items[i].answer != nil {
			answers = append(answers, items[i].answer)
			continue
		}
		answers, others = append(answers, others[0]), others[1:]
	}
	merged["items"] = answers
	out, _ := filter.apply(merged)
	if out == nil {
		out = map[string]any{}
	}
	header(w)
	return json.NewEncoder(w).Encode(out)
}

// send passes a bulk request on. The answer is written to w, but for an HTTP 200 where into is given, which gets it.
func (p *Proxy) send(w http.ResponseWriter, r *http.Request, query string, body []byte, into *map[string]any) error {
	u := *p.target
	u.Path, u.RawQuery = r.URL.Path, query
	req, err := http.NewRequestWithContext(r.Context(), r.Method, u.String(), bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header = r.Header.Clone()
	for _, name := range []string{"Content-Encoding", "Accept-Encoding", "Connection"} {
		req.Header.Del(name)
	}
	res, err := p.client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	data, err := io.ReadAll(io.LimitReader(res.Body, maxBulk))
	if err != nil {
		return fmt.Errorf("reading Elasticsearch's answer: %w", err)
	}
	if into != nil && res.StatusCode == http.StatusOK {
		d := json.NewDecoder(bytes.NewReader(data))
		d.UseNumber()
		return d.Decode(into)
	}
	maps.Copy(w.Header(), res.Header)
	w.Header().Set("Content-Length", strconv.Itoa(len(data)))
	w.WriteHeader(res.StatusCode)
	_, _ = w.Write(data) // whoever asked may have gone
	return nil
}

// fault says how an item is answered, or nil to pass it on. It is called under the lock.
func (p *Proxy) fault(f Faults, it *item) any {
	key := it.index + "/" + it.id
	chance := p.chance(key, p.failed[key])
	if chance >= f.TurnAway+f.ShardLimit {
		delete(p.failed, key)
		return nil
	}
	p.failed[key]++
	if chance < f.TurnAway {
		p.counts.TurnedAway++
		return it.failure(http.StatusTooManyRequests, "es_rejected_execution_exception", rejected)
	}
	p.counts.ShardLimit++
	return it.failure(http.StatusBadRequest, "validation_exception", shardLimit)
}

// shardLimit is what Elasticsearch 8.19.0 says of an item that needs an index when there may be no other.
const shardLimit = "Validation Failed: 1: this action would add [2] shards, but this cluster currently has [1000]/[1000] maximum " +
	"normal shards open; for more information, see https://www.elastic.co/guide/en/elasticsearch/reference/8.19/" +
	"size-your-shards.html#troubleshooting-max-shards-open;"

// chance gives a number from 0 up to 1.
func (p *Proxy) chance(key string, times int) float64 {
	h := fnv.New64a()
	_ = binary.Write(h, binary.LittleEndian, []uint64{p.seed, uint64(times)}) // a hash does not fail
	_, _ = io.WriteString(h, key)
	x := h.Sum64() // mixed, since the last letters of a key hardly reach the high bits
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	x *= 0xc4ceb9fe1a85ec53
	x ^= x >> 33
	return float64(x>>11) / math.Exp2(53)
}

func (it *item) failure(status int, typ, reason string) any {
	return map[string]any{it.op: map[string]any{
		"_index": it.index, "_id": it.id, "status": status, "error": map[string]any{"type": typ, "reason": reason},
	}}
}

func readBody(r *http.Request) ([]byte, error) {
	var body io.Reader = r.Body
	if r.Header.Get("Content-Encoding") == "gzip" {
		z, err := gzip.NewReader(body)
		if err != nil {
			return nil, fmt.Errorf("reading a compressed bulk request: %w", err)
		}
		body = z
	}
	data, err := io.ReadAll(io.LimitReader(body, maxBulk+1))
	if err == nil && len(data) > maxBulk {
		err = fmt.Errorf("it is over %d bytes", maxBulk)
	}
	if err != nil {
		return nil, fmt.Errorf("reading a bulk request: %w", err)
	}
	return data, nil
}

var errBulk = errors.New("not a bulk request")

// parse cuts a bulk request into its items. All of them name their index and id.
func parse(body []byte) ([]item, error) {
	var items []item
	for len(body) > 0 {
		first := bytes.IndexByte(body, '\n') + 1
		if first == 0 {
			return nil, fmt.Errorf("%w: the last line does not end", errBulk)
		}
		var action map[string]struct {
			Index string `json:"_index"`
			ID    string `json:"_id"`
		}
		if err := json.Unmarshal(body[:first], &action); err != nil || len(action) != 1 {
			return nil, fmt.Errorf("%w: item %d begins %.100q", errBulk, len(items), body[:first])
		}
		var it item
		for op, a := range action {
			it = item{op: op, index: a.Index, id: a.ID}
		}
		if it.index == "" || it.id == "" {
			return nil, fmt.Errorf("%w that this proxy knows: item %d has no index or no id", errBulk, len(items))
		}
		length := first
		if it.op != "delete" {
			second := bytes.IndexByte(body[first:], '\n') + 1
			if second == 0 {
				return nil, fmt.Errorf("%w: item %d has no document", errBulk, len(items))
			}
			length += second
		}
		it.lines, body = body[:length], body[length:]
		items = append(items, it)
	}
	return items, nil
}

// A filter is a filter_path: patterns of names, with * for any part of a name and ** for any number of names. Nil lets
// everything through.
type filter [][]string

func newFilter(text string) (filter, error) {
	var f filter
	for pattern := range strings.SplitSeq(text, ",") {
		if pattern == "" {
			continue
		}
		if strings.HasPrefix(pattern, "-") || strings.Contains(pattern, "?") {
			return nil, fmt.Errorf("filter_path %q: this proxy knows no exclusions", url.QueryEscape(pattern))
		}
		f = append(f, strings.Split(pattern, "."))
	}
	return f, nil
}

// apply gives what is left of a value. Objects and lists of which nothing is left are left out, as Elasticsearch does.
func (f filter) apply(v any) (any, bool) {
	if len(f) == 0 {
		return v, true
	}
	switch v := v.(type) {
	case map[string]any:
		out := map[string]any{}
		for name, of := range v {
			all, below := f.enter(name)
			if all {
				out[name] = of
			} else if left, ok := below.apply(of); ok && len(below) > 0 {
				out[name] = left
			}
		}
		return out, len(out) > 0
	case []any:
		var out []any
		for _, of := range v {
			if left, ok := f.apply(of); ok {
				out = append(out, left)
			}
		}
		return out, len(out) > 0
	}
	return nil, false // a value, of which a pattern wants something below
}

// enter says whether everything below a name is wanted, and otherwise by which patterns.
func (f filter) enter(name string) (all bool, below filter) {
	for _, pattern := range f {
		if pattern[0] == "**" {
			below = append(below, pattern)
			if rest := (filter{pattern[1:]}); len(pattern) > 1 {
				a, b := rest.enter(name)
				all, below = all || a, append(below, b...)
				continue
			}
			all = true
			continue
		}
		if !matches(pattern[0], name) {
			continue
		}
		if len(pattern) == 1 || slices.Equal(pattern[1:], []string{"**"}) {
			return true, nil
		}
		below = append(below, pattern[1:])
	}
	return all, below
}

func matches(pattern, name string) bool {
	before, after, star := strings.Cut(pattern, "*")
	if !star {
		return pattern == name
	}
	if !strings.HasPrefix(name, before) {
		return false
	}
	name = name[len(before):]
	for i := range len(name) + 1 {
		if matches(after, name[i:]) {
			return true
		}
	}
	return false
}
