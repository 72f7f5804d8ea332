package elasticsearch

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/millrace/millrace/pkg/schema"
	"github.com/millrace/millrace/pkg/serve"
)

const (
	defaultHits = 100
	maxHits     = 10000 // index.max_result_window's default
)

// Search answers from the daily indices, newest first. What the caller gives is only ever a value in the request's
// JSON: it is not parsed as a query language.
func (s *Store) Search(ctx context.Context, q serve.SearchQuery) (serve.SearchResult, error) {
	t := q.Version
	if t == nil {
		t = s.types.Get(q.Type)
	}
	if t == nil {
		return serve.SearchResult{}, serve.BadQuery("type=%s is not a data type", q.Type)
	}
	body, err := s.searchBody(t, q)
	if err != nil {
		return serve.SearchResult{}, err
	}
	var answer struct {
		Hits struct {
			Total struct {
				Value    int64  `json:"value"`
				Relation string `json:"relation"`
			} `json:"total"`
			Hits []struct {
				Source json.RawMessage `json:"_source"`
			} `json:"hits"`
		} `json:"hits"`
	}
	query := url.Values{
		"allow_no_indices": {"true"}, "ignore_unavailable": {"true"}, "allow_partial_search_results": {"false"},
		"filter_path": {"hits.total,hits.hits._source"},
	}
	path := pathOf(t.IndexPattern(s.cfg.Prefix), "_search")
	if err := s.client.do(ctx, http.MethodPost, path, query, asJSON, body, &answer); err != nil {
		return serve.SearchResult{}, fmt.Errorf("searching type %s: %w", t.Name, err)
	}
	out := serve.SearchResult{
		Total: answer.Hits.Total.Value,
		Exact: answer.Hits.Total.Relation != "gte",
		Hits:  make([]json.RawMessage, len(answer.Hits.Hits)),
	}
	for i := range answer.Hits.Hits {
		out.Hits[i] = answer.Hits.Hits[i].Source
	}
	return out, nil
}

type object map[string]any

func (s *Store) searchBody(t *schema.Type, q serve.SearchQuery) ([]byte, error) {
	window := object{}
	if !q.From.IsZero() {
		window["gte"] = q.From.UTC().Format(time.RFC3339Nano)
	}
	if !q.To.IsZero() {
		window["lt"] = q.To.UTC().Format(time.RFC3339Nano)
	}
	filters := []object{}
	if len(window) > 0 {
		filters = append(filters, object{"range": object{"time": window}})
	}
	for _, name := range slices.Sorted(maps.Keys(q.Filters)) {
		f, err := termFilter(t, name, q.Filters[name])
		if err != nil {
			return nil, err
		}
		filters = append(filters, f)
	}
	match := object{"filter": filters}
	if q.Text != "" {
		if len(t.Elasticsearch.Text) == 0 {
			return nil, serve.BadQuery("type %s has no full-text field: leave the text out and filter by fields", t.Name)
		}
		var fields []string
		for _, pos := range t.Elasticsearch.Text {
			fields = append(fields, namesOf(t.Fields[pos])...)
		}
		match["must"] = []object{{"multi_match": object{"query": q.Text, "fields": fields, "operator": "and"}}}
	}
	size := q.Limit
	if size <= 0 {
		size = defaultHits
	}
	return json.Marshal(object{
		"size":             min(size, maxHits),
		"query":            object{"bool": match},
		"track_total_hits": s.cfg.Count,
		"sort": []object{
			{"time": object{"order": "desc", "unmapped_type": "date_nanos"}},
			{"id": object{"order": "desc", "unmapped_type": "keyword"}},
		},
	})
}

// termFilter makes the filter for one field's exact value. Documents that were stored before the field was renamed have
// it under an earlier name.
func termFilter(t *schema.Type, name, value string) (object, error) {
	field, key, isMap := strings.Cut(name, ".")
	i := t.Index(field)
	if i < 0 || isMap != (t.Fields[i].Kind == schema.Map) || isMap && key == "" {
		return nil, serve.BadQuery("type %s has no field %q to filter by", t.Name, name)
	}
	v, err := termValue(t, i, value)
	if err != nil {
		return nil, err
	}
	var either []object
	for _, one := range namesOf(t.Fields[i]) {
		if isMap {
			one += "." + key
		}
		either = append(either, object{"term": object{one: object{"value": v}}})
	}
	if len(either) == 1 {
		return either[0], nil
	}
	return object{"bool": object{"should": either, "minimum_should_match": 1}}, nil
}

// namesOf gives all names that a field is or was stored under.
func namesOf(f schema.Field) []string { return append([]string{f.Name}, f.Aliases...) }

// termValue reads a value as the field's kind wants it.
func termValue(t *schema.Type, i int, value string) (any, error) {
	name := t.Fields[i].Name
	switch t.Fields[i].Kind {
	case schema.Map:
		return value, nil
	case schema.String, schema.UUID:
		if slices.Contains(t.Elasticsearch.Text, i) {
			return nil, serve.BadQuery("field %q of type %s is full text: search its words instead of filtering", name, t.Name)
		}
		return value, nil
	case schema.Bool:
		v, err := strconv.ParseBool(value)
		if err != nil {
			return nil, serve.BadQuery("field %q of type %s is true or false, not %q", name, t.Name, value)
		}
		return v, nil
	case schema.Int, schema.Long:
		v, err := strconv.ParseInt(value, 10, 64)
		if err != nil {
			return nil, serve.BadQuery("field %q of type %s is a whole number, not %q", name, t.Name, value)
		}
		return v, nil
	default:
		return nil, serve.BadQuery("field %q of type %s is a %s: it cannot be filtered by", name, t.Name, t.Fields[i].Kind)
	}
}
