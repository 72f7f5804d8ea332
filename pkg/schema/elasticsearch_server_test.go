package schema_test

import (
	"bytes"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace/millrace/pkg/schema"
	"github.com/millrace/millrace/pkg/schema/schematest"
	"github.com/millrace/millrace/pkg/servertest"
)

// search is a bare client of Elasticsearch with a prefix for this test.
type search struct {
	url, prefix string
}

func newSearch(t *testing.T) (search, bool) {
	t.Helper()
	servers, ok := servertest.Require(t)
	if !ok {
		return search{}, false
	}
	return search{url: servers.Elasticsearch, prefix: servers.Prefix(t)}, true
}

func (s search) do(t *testing.T, method, path string, body []byte) (status int, answer []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, s.url+path, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	answer, err = io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, answer
}

func (s search) must(t *testing.T, method, path string, body []byte) []byte {
	t.Helper()
	status, answer := s.do(t, method, path, body)
	if status/100 != 2 {
		t.Fatalf("%s %s: %d: %s", method, path, status, answer)
	}
	return answer
}

func generic(t *testing.T, data []byte) (v map[string]any) {
	t.Helper()
	if err := json.Unmarshal(data, &v); err != nil {
		t.Fatalf("%v in %s", err, data)
	}
	return v
}

// TestTemplatesOnElasticsearch: Elasticsearch gives a template back as it is written here, so that a plan can compare.
func TestTemplatesOnElasticsearch(t *testing.T) {
	es, ok := newSearch(t)
	if !ok {
		return
	}
	types, err := schema.Builtin()
	if err != nil {
		t.Fatal(err)
	}
	for _, typ := range append(types, schematest.NetworkFlow(t)) {
		body := typ.IndexTemplate(es.prefix, 0)
		path := "/_index_template/" + typ.IndexPrefix(es.prefix)
		es.must(t, http.MethodPut, path, body)
		var got struct {
			Templates []struct {
				Body json.RawMessage `json:"index_template"`
			} `json:"index_templates"`
		}
		if err := json.Unmarshal(es.must(t, http.MethodGet, path, nil), &got); err != nil || len(got.Templates) != 1 {
			t.Fatalf("%d templates, %v", len(got.Templates), err)
		}
		is := generic(t, got.Templates[0].Body)
		maps.DeleteFunc(is, func(_ string, value any) bool { // composed_of is added, empty
			list, isList := value.([]any)
			return isList && len(list) == 0
		})
		if diff := cmp.Diff(generic(t, body), is); diff != "" {
			t.Errorf("%s (-want +got):\n%s", typ.Name, diff)
		}
	}
}

// TestDocumentsOnElasticsearch: nothing that a record can hold costs the document; only what no schema knows does.
func TestDocumentsOnElasticsearch(t *testing.T) {
	es, ok := newSearch(t)
	if !ok {
		return
	}
	typ := schematest.NetworkFlow(t)
	es.must(t, http.MethodPut, "/_index_template/"+typ.IndexPrefix(es.prefix), typ.IndexTemplate(es.prefix, 0))
	index := "/" + typ.IndexName(es.prefix, time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC).UnixMicro())
	long := strings.Repeat("語", 20000)
	for name, c := range map[string]struct {
		fields string
		want   int
	}{
		"plain":          {`"src_ip": "10.0.0.1", "octets": 9223372036854775807, "head": "AAEC", "note": "a b c", "attributes": {"a.b": "c", "a": "d"}`, 201},
		"empty":          {`"src_ip": "", "head": "", "attributes": {}, "headers": null`, 201},
		"long keyword":   {`"src_ip": "` + long + `"`, 201},
		"long map value": {`"attributes": {"k": "` + long + `"}`, 201},
		"long text":      {`"note": "` + long + `"`, 201},
		"not a number":   {`"rtt_ms": "NaN", "loss": "Infinity"`, 201},
		"before 1970":    {`"closed_at": "1969-12-31T23:59:59.999999Z"`, 201},
		"after 2262":     {`"closed_at": "9999-12-31T23:59:59.999999Z"`, 201},
		"wrong type":     {`"octets": "many"`, 400},
		"unknown field":  {`"unknown": 1`, 400},
	} {
		body := []byte(`{"id": "01890a5d-ac96-774b-bcce-b302099a8057", "time": "2026-03-01T12:00:00.000001Z", ` + c.fields + `}`)
		status, answer := es.do(t, http.MethodPost, index+"/_doc", body)
		if status != c.want {
			t.Errorf("%s: %d, want %d: %.300s", name, status, c.want, answer)
		}
	}
	status, answer := es.do(t, http.MethodPost, index+"/_doc", []byte(`{"time": 1772366400000}`))
	if status != 400 {
		t.Errorf("a bare number was taken for a time: %d: %s", status, answer)
	}

	newer := strings.TrimSuffix(string(typ.JSON), `]}`) + `,{"name":"vlan","type":["null","int"],"default":null}]}`
	es.must(t, http.MethodPut, index+"/_mapping", parse(t, newer).IndexMapping())
	es.must(t, http.MethodPost, index+"/_doc", []byte(`{"time": "2026-03-01T12:00:00Z", "vlan": 7}`))
}
