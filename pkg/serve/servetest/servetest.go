// Package servetest is the contract of serve.SeriesStore and serve.SearchStore as a test suite: what is written through
// a sink is found through the stores, with the same answers from each of them. It runs on the dev store and on the
// real pair.
package servetest

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/pkg/codec"
	"github.com/millrace/millrace/pkg/event"
	"github.com/millrace/millrace/pkg/schema"
	"github.com/millrace/millrace/pkg/serve"
	"github.com/millrace/millrace/pkg/stream"
)

// Harness is one pair of stores, empty, and what writes into them. A store that is nil is not tested.
type Harness struct {
	Types  *schema.Set // holds metric and log
	Sinks  []stream.Sink
	Series serve.SeriesStore
	Search serve.SearchStore
	// Visible bounds how long a written record may take to be found; 0 is 15 s.
	Visible time.Duration
}

// Test runs the suite.
func Test(t *testing.T, newHarness func(t *testing.T) Harness) {
	t.Helper()
	h := newHarness(t)
	if h.Visible == 0 {
		h.Visible = 15 * time.Second
	}
	s := &suite{Harness: h, base: time.Now().UTC().Add(-10 * time.Minute).Truncate(time.Second)}
	if h.Series != nil {
		s.writeMetrics(t)
		t.Run("Series", s.series)
	}
	if h.Search != nil {
		s.writeLogs(t)
		t.Run("Search", s.search)
	}
}

type suite struct {
	Harness

	base time.Time
	next int64
}

// record makes a record from JSON field names to values.
func (s *suite) record(t *testing.T, typeName string, at time.Time, fields map[string]any) codec.Record {
	t.Helper()
	typ := s.Types.Get(typeName)
	if typ == nil {
		t.Fatalf("the harness has no type %s", typeName)
	}
	values := make([]codec.Value, len(typ.Fields))
	for i, f := range typ.Fields {
		switch {
		case f.Kind == schema.Map:
			values[i] = codec.MapValue(nil)
		case f.Kind == schema.String && !f.Nullable:
			values[i] = codec.StringValue("")
		}
	}
	for name, v := range fields {
		i := typ.Index(name)
		if i < 0 {
			t.Fatalf("%s has no field %s", typeName, name)
		}
		switch v := v.(type) {
		case string:
			values[i] = codec.StringValue(v)
		case float64:
			values[i] = codec.DoubleValue(v)
		case map[string]string:
			values[i] = codec.MapValue(v)
		}
	}
	s.next++
	values[schema.ID] = codec.StringValue(event.DeriveID(at, "servetest", typeName, strconv.FormatInt(s.next, 10)))
	values[schema.Time] = codec.LongValue(at.UnixMicro())
	return codec.Record{
		Type: typ, Values: values,
		Source: &kgo.Record{Topic: typ.TopicName(), Offset: s.next, Timestamp: time.Now()},
	}
}

// write stores records through every sink.
func (s *suite) write(t *testing.T, records ...codec.Record) {
	t.Helper()
	typ := records[0].Type
	b := stream.Batch{
		Topic: typ.TopicName(), Type: typ, Records: records,
		First: records[0].Source.Offset, Next: records[len(records)-1].Source.Offset + 1,
	}
	for _, sink := range s.Sinks {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		done := make(chan error, 1)
		if err := sink.Write(ctx, b, func(err error) { done <- err }); err != nil {
			t.Fatalf("writing: %v", err)
		}
		select {
		case err := <-done:
			if err != nil {
				t.Fatalf("storing: %v", err)
			}
		case <-ctx.Done():
			t.Fatal("the sink did not call done within a minute")
		}
	}
}

// eventually asks until the answer is the wanted one, and fails with the difference when it does not become so.
func eventually[T any](t *testing.T, within time.Duration, want T, ask func() (T, error)) {
	t.Helper()
	deadline := time.Now().Add(within)
	for {
		got, err := ask()
		diff := cmp.Diff(want, got)
		if err == nil && diff == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("not within %v: error %v, difference (-want +got):\n%s", within, err, diff)
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func (s *suite) at(seconds int) time.Time { return s.base.Add(time.Duration(seconds) * time.Second) }

func (s *suite) writeMetrics(t *testing.T) {
	t.Helper()
	point := func(sec int, name, tenant, service, host string, v float64, attrs map[string]string) codec.Record {
		return s.record(t, "metric", s.at(sec), map[string]any{
			"name": name, "tenant": tenant, "service": service, "host": host, "value": v, "unit": "1", "attributes": attrs,
		})
	}
	s.write(
		t,
		point(0, "m.cpu", "", "api", "h1", 0.5, map[string]string{"state": "user"}),
		point(1, "m.cpu", "", "api", "h1", 0.25, map[string]string{"state": "system"}),
		point(2, "m.cpu", "", "api", "h2", 0.75, map[string]string{"state": "user"}),
		point(3, "m.cpu", "", "api", "h1", 1.5, map[string]string{"state": "user"}),
		point(4, "m.cpu", "acme", "api", "h1", 9, map[string]string{"state": "user"}),
		point(5, "m.other", "", "api", "h1", 7, nil),
		point(6, "m.cpu", "", "db", "h3", 2, nil),
		point(7, "m.cpu", "", "db", "h3", math.NaN(), nil),
		point(8, "m.cpu", "", "db", "h3", math.Inf(1), nil),
		point(9, "m.cpu", "", "cache", "h4", math.Inf(-1), nil),
	)
}

// flat is a series in one line, so that a difference is easy to read. The order of series is not part of the contract.
func flat(list []serve.Series, base time.Time) []string {
	out := []string{}
	for _, sr := range list {
		labels, _ := json.Marshal(sr.Labels) // maps are written in the order of their keys
		var line strings.Builder
		line.WriteString(sr.Metric + " " + sr.Unit + " " + string(labels))
		for _, p := range sr.Points {
			fmt.Fprintf(&line, " %d:%v", int(p.Time.Sub(base)/time.Second), p.Value)
		}
		out = append(out, line.String())
	}
	slices.Sort(out)
	return out
}

func (s *suite) series(t *testing.T) {
	f := func(name string, q serve.SeriesQuery, truncated bool, want ...string) {
		t.Run(name, func(t *testing.T) {
			if q.From.IsZero() {
				q.From, q.To = s.at(-60), s.at(60)
			}
			if q.Limit == 0 {
				q.Limit = 1000
			}
			want := append([]string{fmt.Sprint("truncated ", truncated)}, want...)
			eventually(t, s.Visible, want, func() ([]string, error) {
				list, cut, err := s.Series.Series(t.Context(), q)
				return append([]string{fmt.Sprint("truncated ", cut)}, flat(list, s.base)...), err
			})
		})
	}
	const (
		dbH3     = `m.cpu 1 {"host":"h3","service":"db"} 6:2`
		h1System = `m.cpu 1 {"host":"h1","service":"api","state":"system"} 1:0.25`
		h1User   = `m.cpu 1 {"host":"h1","service":"api","state":"user"} 0:0.5 3:1.5`
		h2User   = `m.cpu 1 {"host":"h2","service":"api","state":"user"} 2:0.75`
	)
	// What JSON has no word for, NaN and the infinities, is in no answer and counts for no limit.
	f("All", serve.SeriesQuery{Metric: "m.cpu"}, false, h1System, h1User, h2User, dbH3)
	f("Service", serve.SeriesQuery{Metric: "m.cpu", Service: "db"}, false, dbH3)
	f("Host", serve.SeriesQuery{Metric: "m.cpu", Host: "h1"}, false, h1System, h1User)
	f("Labels", serve.SeriesQuery{Metric: "m.cpu", Labels: map[string]string{"state": "user"}}, false, h1User, h2User)
	f("OtherTenant", serve.SeriesQuery{Metric: "m.cpu", Tenant: "acme"}, false,
		`m.cpu 1 {"host":"h1","service":"api","state":"user","tenant":"acme"} 4:9`)
	f("FromIsIncludedToIsNot", serve.SeriesQuery{Metric: "m.cpu", From: s.at(1), To: s.at(3)}, false, h1System, h2User)
	f("LimitKeepsTheNewest", serve.SeriesQuery{Metric: "m.cpu", Limit: 2}, true,
		`m.cpu 1 {"host":"h1","service":"api","state":"user"} 3:1.5`, dbH3)
	f("Nothing", serve.SeriesQuery{Metric: "m.none"}, false)
}

func (s *suite) writeLogs(t *testing.T) {
	t.Helper()
	entry := func(sec int, severity, service, body string, attrs map[string]string) codec.Record {
		return s.record(t, "log", s.at(sec), map[string]any{
			"severity": severity, "service": service, "body": body, "attributes": attrs,
		})
	}
	s.write(
		t,
		entry(0, "ERROR", "billing", "Disk full on volume seven", map[string]string{"code": "ENOSPC"}),
		entry(1, "INFO", "billing", "disk check passed", nil),
		entry(2, "ERROR", "orders", "diskette found: disk full", map[string]string{"code": "ENOSPC", "zone.name": "a"}),
		entry(3, "WARN", "orders", "Größe der Übertragung überschritten", nil),
		entry(4, "INFO", "orders", "quotes \" and (brackets) [and] stars* + 100%", nil),
		entry(5, "INFO", "", "", nil),
	)
}

func (s *suite) search(t *testing.T) {
	f := func(name string, q serve.SearchQuery, want ...int) {
		t.Run(name, func(t *testing.T) {
			q.Type = "log"
			if q.From.IsZero() {
				q.From, q.To = s.at(-60), s.at(60)
			}
			if q.Limit == 0 {
				q.Limit = 100
			}
			total := int64(len(want))
			want = want[:min(len(want), q.Limit)]
			eventually(t, s.Visible, fmt.Sprint(total, " ", want), func() (string, error) {
				res, err := s.Search.Search(t.Context(), q)
				if err != nil {
					return "", err
				}
				got, err := s.seconds(res.Hits)
				return fmt.Sprint(res.Total, " ", got), err
			})
		})
	}
	filters := func(kv ...string) map[string]string {
		m := map[string]string{}
		for i := range len(kv) / 2 {
			m[kv[2*i]] = kv[2*i+1]
		}
		return m
	}
	f("AllNewestFirst", serve.SearchQuery{}, 5, 4, 3, 2, 1, 0)
	f("Word", serve.SearchQuery{Text: "disk"}, 2, 1, 0)
	f("WordsInAnyOrder", serve.SearchQuery{Text: "full  disk"}, 2, 0)
	f("Case", serve.SearchQuery{Text: "DISK Volume"}, 0)
	f("CaseBeyondASCII", serve.SearchQuery{Text: "übertragung GRÖSSE"})
	f("UmlautCase", serve.SearchQuery{Text: "übertragung größe"}, 3)
	f("AllMustOccur", serve.SearchQuery{Text: "disk absent"})
	f("WholeWordsOnly", serve.SearchQuery{Text: "dis"})
	f("PunctuationIsNoSyntax", serve.SearchQuery{Text: `(brackets) AND* [stars "quotes`}, 4)
	f("NoWord", serve.SearchQuery{Text: "!!!"})
	f("BlankIsNoWord", serve.SearchQuery{Text: " "})
	f("Filter", serve.SearchQuery{Filters: filters("severity", "ERROR")}, 2, 0)
	f("Filters", serve.SearchQuery{Filters: filters("severity", "ERROR", "service", "orders")}, 2)
	f("FilterIsExact", serve.SearchQuery{Filters: filters("severity", "error")})
	f("FilterOnAttribute", serve.SearchQuery{Filters: filters("attributes.code", "ENOSPC")}, 2, 0)
	f("FilterOnDottedAttribute", serve.SearchQuery{Filters: filters("attributes.zone.name", "a")}, 2)
	f("TextAndFilter", serve.SearchQuery{Text: "disk", Filters: filters("service", "billing")}, 1, 0)
	f("FromIsIncludedToIsNot", serve.SearchQuery{From: s.at(1), To: s.at(3)}, 2, 1)
	f("LimitKeepsTheNewest", serve.SearchQuery{Limit: 2}, 5, 4, 3, 2, 1, 0)
	t.Run("Hits", s.hits)
}

// seconds gives each hit's time, as seconds since the base.
func (s *suite) seconds(hits []json.RawMessage) ([]int, error) {
	out := []int{}
	for _, h := range hits {
		var doc struct {
			Time time.Time `json:"time"`
		}
		if err := json.Unmarshal(h, &doc); err != nil {
			return nil, fmt.Errorf("reading a hit: %w", err)
		}
		out = append(out, int(doc.Time.Sub(s.base)/time.Second))
	}
	return out, nil
}

// hits checks a hit's form.
func (s *suite) hits(t *testing.T) {
	want := map[string]any{
		"time": s.at(0).Format("2006-01-02T15:04:05.000000Z"), "severity": "ERROR", "service": "billing",
		"body": "Disk full on volume seven", "attributes": map[string]any{"code": "ENOSPC"},
	}
	eventually(t, s.Visible, want, func() (map[string]any, error) {
		res, err := s.Search.Search(t.Context(), serve.SearchQuery{
			Type: "log", Text: "seven", From: s.at(-60), To: s.at(60), Limit: 1,
		})
		if err != nil || len(res.Hits) != 1 {
			return nil, err
		}
		got := map[string]any{}
		if err := json.Unmarshal(res.Hits[0], &got); err != nil {
			return nil, fmt.Errorf("reading a hit: %w", err)
		}
		if id, _ := got["id"].(string); len(id) != event.Len || strings.ToLower(id) != id {
			return nil, fmt.Errorf("id %q", id)
		}
		for k := range got {
			if _, ok := want[k]; !ok {
				delete(got, k)
			}
		}
		return got, nil
	})
}
