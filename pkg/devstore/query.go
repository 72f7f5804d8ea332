package devstore

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/millrace/millrace/pkg/codec"
	"github.com/millrace/millrace/pkg/schema"
	"github.com/millrace/millrace/pkg/serve"
)

// metricType is the type that series are made of.
const metricType = "metric"

// where collects the conditions of a query.
type where struct {
	conditions []string
	args       []any
}

func (w *where) add(condition string, args ...any) {
	w.conditions = append(w.conditions, condition)
	w.args = append(w.args, args...)
}

func (w *where) between(from, to time.Time) {
	if !from.IsZero() {
		w.add(`"time" >= ?`, from.UnixMicro())
	}
	if !to.IsZero() {
		w.add(`"time" < ?`, to.UnixMicro())
	}
}

func (w *where) String() string {
	if len(w.conditions) == 0 {
		return ""
	}
	return "WHERE " + strings.Join(w.conditions, " AND ")
}

// Series answers from the metric table.
func (s *Store) Series(ctx context.Context, q serve.SeriesQuery) ([]serve.Series, bool, error) {
	db, t, err := s.reader(ctx, metricType)
	if err != nil {
		return nil, false, err
	}
	var w where
	w.between(q.From, q.To)
	w.add(`"name" = ?`, q.Metric)
	w.add(`"tenant" = ?`, q.Tenant)
	if q.Service != "" {
		w.add(`"service" = ?`, q.Service)
	}
	if q.Host != "" {
		w.add(`"host" = ?`, q.Host)
	}
	for k, v := range q.Labels {
		w.add(`"attributes"[?] = ?`, k, v)
	}
	w.add(`isfinite("value")`) // JSON has no word for NaN: one such point would cost the caller the whole answer
	rest := w.String() + ` ORDER BY "time" DESC, "id" DESC`
	if q.Limit > 0 {
		rest += " LIMIT " + strconv.Itoa(q.Limit+1)
	}
	g := newGrouper(t)
	if err := each(ctx, db, t, rest, w.args, func(values []codec.Value) error { g.add(values, q.Limit); return nil }); err != nil {
		return nil, false, err
	}
	return g.series(), g.truncated, nil
}

// grouper makes series out of points that come newest first.
type grouper struct {
	value, unit, attributes, name int
	by                            map[string]*serve.Series
	points                        int
	truncated                     bool
}

func newGrouper(t *schema.Type) *grouper {
	return &grouper{
		value: t.Index("value"), unit: t.Index("unit"), attributes: t.Index("attributes"), name: t.Index("name"),
		by: map[string]*serve.Series{},
	}
}

func (g *grouper) add(values []codec.Value, limit int) {
	if limit > 0 && g.points == limit {
		g.truncated = true
		return
	}
	g.points++
	labels := map[string]string{}
	for k, v := range values[g.attributes].Pairs() {
		labels[string(k)] = string(v)
	}
	for name, i := range map[string]int{"service": schema.Service, "host": schema.Host, "datacenter": schema.Datacenter, "tenant": schema.Tenant} {
		if v := values[i].String(); v != "" {
			labels[name] = v
		}
	}
	key := labelKey(labels)
	sr := g.by[key]
	if sr == nil {
		sr = &serve.Series{Metric: values[g.name].String(), Unit: values[g.unit].String(), Labels: labels}
		g.by[key] = sr
	}
	sr.Points = append(sr.Points, serve.Point{
		Time: time.UnixMicro(values[schema.Time].Long()).UTC(), Value: values[g.value].Double(),
	})
}

// labelKey is one string per combination of labels, in an order that people expect of a list.
func labelKey(labels map[string]string) string {
	var b strings.Builder
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		fmt.Fprintf(&b, "%q=%q,", k, labels[k])
	}
	return b.String()
}

func (g *grouper) series() []serve.Series {
	out := make([]serve.Series, 0, len(g.by))
	for _, k := range slices.Sorted(maps.Keys(g.by)) {
		slices.Reverse(g.by[k].Points)
		out = append(out, *g.by[k])
	}
	return out
}

// Search answers from the type's table. A word is a run of letters, digits and underscores.
func (s *Store) Search(ctx context.Context, q serve.SearchQuery) (serve.SearchResult, error) {
	db, t, err := s.reader(ctx, q.Type)
	if err != nil {
		return serve.SearchResult{}, err
	}
	w, err := searchWhere(t, q)
	if err != nil {
		return serve.SearchResult{}, err
	}
	res := serve.SearchResult{Exact: true, Hits: []json.RawMessage{}}
	count := "SELECT count(*) FROM " + quote(t.Name) + " " + w.String()
	if err := db.QueryRowContext(ctx, count, w.args...).Scan(&res.Total); err != nil {
		return serve.SearchResult{}, fmt.Errorf("counting %s: %w", t.Name, err)
	}
	rest := w.String() + ` ORDER BY "time" DESC, "id" DESC LIMIT ` + strconv.Itoa(max(0, q.Limit))
	err = each(ctx, db, t, rest, w.args, func(values []codec.Value) error {
		res.Hits = append(res.Hits, codec.AppendJSON(nil, &codec.Record{Type: t, Values: values}))
		return nil
	})
	if err != nil {
		return serve.SearchResult{}, err
	}
	return res, nil
}

func searchWhere(t *schema.Type, q serve.SearchQuery) (*where, error) {
	w := &where{}
	w.between(q.From, q.To)
	if q.Text != "" {
		if len(t.Elasticsearch.Text) == 0 {
			return nil, serve.BadQuery("type %s has no full-text field: leave the text out and filter by fields", t.Name)
		}
		fullText(w, t, words(q.Text))
	}
	for name, value := range q.Filters {
		if err := filter(w, t, name, value); err != nil {
			return nil, err
		}
	}
	return w, nil
}

// fullText asks for all words in one of the full-text fields. A text without a word is found nowhere, as in
// Elasticsearch.
func fullText(w *where, t *schema.Type, list []string) {
	if len(list) == 0 {
		w.add("false")
		return
	}
	var fields []string
	var args []any
	for _, i := range t.Elasticsearch.Text {
		var all []string
		for _, word := range list {
			all = append(all, "regexp_matches("+quote(t.Fields[i].Name)+", ?)")
			args = append(args, `(?i)(^|[^\p{L}\p{N}_])`+regexp.QuoteMeta(word)+`($|[^\p{L}\p{N}_])`)
		}
		fields = append(fields, "("+strings.Join(all, " AND ")+")")
	}
	w.add("("+strings.Join(fields, " OR ")+")", args...)
}

func filter(w *where, t *schema.Type, name, value string) error {
	if key, ok := strings.CutPrefix(name, "attributes."); ok {
		if i := t.Index("attributes"); i < 0 || t.Fields[i].Kind != schema.Map {
			return serve.BadQuery("%s has no attributes", t.Name)
		}
		w.add(`"attributes"[?] = ?`, key, value)
		return nil
	}
	i := t.Index(name)
	if i < 0 || slices.Contains(t.Elasticsearch.Text, i) {
		return serve.BadQuery("%s is not a keyword field of %s", name, t.Name)
	}
	column := quote(t.Fields[i].Name)
	if t.Fields[i].Kind == schema.UUID {
		column, value = "CAST("+column+" AS VARCHAR)", strings.ToLower(value)
	} else if t.Fields[i].Kind != schema.String {
		return serve.BadQuery("%s is not a keyword field of %s", name, t.Name)
	}
	w.add(column+" = ?", value)
	return nil
}

// words cuts a text as full-text search does.
func words(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool {
		return !unicode.IsLetter(r) && !unicode.IsNumber(r) && r != '_'
	})
}
