// Package serve is the read API over the speed layer: series and search, over HTTP, from whichever store holds them.
package serve

import (
	"context"
	"encoding/json"
	"time"

	"github.com/millrace/millrace/pkg/schema"
)

// SeriesQuery asks for the points of one metric in [From, To).
type SeriesQuery struct {
	Metric   string
	From, To time.Time
	Tenant   string
	Service  string            // "" is any
	Host     string            // "" is any
	Labels   map[string]string // attributes that must be equal
	Limit    int               // of points in all; the newest are kept
}

// Series is the points of one combination of service, host, datacenter and attributes, oldest first.
type Series struct {
	Metric string            `json:"metric"`
	Unit   string            `json:"unit,omitempty"`
	Labels map[string]string `json:"labels"` // service, host, datacenter, tenant where set, and the attributes
	Points []Point           `json:"points"`
}

// Point is one measured value.
type Point struct {
	Time  time.Time `json:"time"`
	Value float64   `json:"value"`
}

// SeriesStore answers series queries. Truncated says that Limit cut points off.
type SeriesStore interface {
	Series(ctx context.Context, q SeriesQuery) (series []Series, truncated bool, err error)
}

// SearchQuery asks for records of one type, newest first.
type SearchQuery struct {
	Type     string
	Version  *schema.Type // of Type, whose fields Filters name; nil is the one that the store was made with
	Text     string       // words that must all occur in a full-text field; "" matches all
	From, To time.Time
	Filters  map[string]string // field name to its exact value, for keyword fields; attributes as "attributes.<name>"
	Limit    int
}

// SearchResult holds each hit as a JSON object by field names, times in RFC 3339 with microseconds.
type SearchResult struct {
	Total int64             `json:"total"` // of all that match, as far as counted
	Exact bool              `json:"exact"` // whether Total was counted to the end
	Hits  []json.RawMessage `json:"hits"`
}

// SearchStore answers search queries.
type SearchStore interface {
	Search(ctx context.Context, q SearchQuery) (SearchResult, error)
}
