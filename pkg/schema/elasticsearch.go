package schema

import (
	"slices"
	"strconv"
	"strings"
	"time"
)

// indexDay is how the day stands in an index's name.
const indexDay = "2006.01.02"

// maxKeyword is the longest keyword that is indexed, in UTF-16 units. Lucene refuses a term over 32,766 bytes and with
// it the whole document; this many units are at most 24,573 bytes, which leaves a flattened field room for the key that
// stands before each value. A longer value is stored and returned like any other but not found by its exact value: the
// document's _ignored field names it.
const maxKeyword = 8191

// IndexPrefix is what the names of the type's daily indices begin with: <prefix>-<type>.
func (t *Type) IndexPrefix(prefix string) string { return prefix + "-" + t.Name }

// IndexName is the index of an event time in microseconds: <prefix>-<type>-YYYY.MM.DD, UTC.
func (t *Type) IndexName(prefix string, micros int64) string {
	return t.IndexPrefix(prefix) + "-" + time.UnixMicro(micros).UTC().Format(indexDay)
}

// IndexPattern matches the type's daily indices.
func (t *Type) IndexPattern(prefix string) string { return t.IndexPrefix(prefix) + "-*" }

// IndexExpired tells whether an index is one of the type's and all that it can hold is past the retention.
func (t *Type) IndexExpired(prefix, index string, now time.Time) bool {
	text, ok := strings.CutPrefix(index, t.IndexPrefix(prefix)+"-")
	if !ok {
		return false
	}
	start, err := time.Parse(indexDay, text)
	return err == nil && now.Sub(start.Add(day)) > t.Elasticsearch.Retention
}

// IndexTemplate is the body of PUT _index_template/<prefix>-<type>. Settings are written as Elasticsearch gives them
// back, so that a plan can compare. Most documents are written once and never read, hence best_compression.
func (t *Type) IndexTemplate(prefix string, replicas int) []byte {
	return toJSON(map[string]any{
		"index_patterns": []string{t.IndexPattern(prefix)},
		"priority":       200,
		"_meta":          map[string]string{"description": t.Doc, "type": t.Name},
		"template": map[string]any{
			"settings": map[string]any{"index": map[string]string{
				"codec":              "best_compression",
				"number_of_shards":   strconv.Itoa(t.Elasticsearch.Shards),
				"number_of_replicas": strconv.Itoa(replicas),
			}},
			"mappings": t.mappings(),
		},
	})
}

// IndexMapping is the body of PUT <index>/_mapping, which brings an existing index up to this version. Fields can only
// be added; a renamed field is another field here, and older documents keep the old one.
func (t *Type) IndexMapping() []byte { return toJSON(t.mappings()) }

func (t *Type) mappings() map[string]any {
	properties := make(map[string]any, len(t.Fields))
	for i, f := range t.Fields {
		properties[f.Name] = t.property(i, f.Kind)
	}
	return map[string]any{"dynamic": "strict", "properties": properties}
}

// property maps one field. What Elasticsearch cannot index (a NaN, a date before 1970 or after 2262) it ignores in the
// fields where that can occur: the document is stored whole all the same, like those with too long a keyword.
func (t *Type) property(i int, k Kind) map[string]any {
	switch k {
	case Bool:
		return map[string]any{"type": "boolean"}
	case Int:
		return map[string]any{"type": "integer"}
	case Long:
		return map[string]any{"type": "long"}
	case Float:
		return map[string]any{"type": "float", "ignore_malformed": true}
	case Double:
		return map[string]any{"type": "double", "ignore_malformed": true}
	case Bytes:
		return map[string]any{"type": "binary"}
	case Timestamp:
		// Without epoch_millis, which the default format has: a bare number would be taken for milliseconds.
		date := map[string]any{"type": "date_nanos", "format": "strict_date_optional_time_nanos"}
		if i != Time {
			date["ignore_malformed"] = true
		}
		return date
	case Map:
		return map[string]any{"type": "flattened", "ignore_above": maxKeyword}
	case String, UUID:
		if slices.Contains(t.Elasticsearch.Text, i) {
			return map[string]any{"type": "text"}
		}
	}
	return map[string]any{"type": "keyword", "ignore_above": maxKeyword}
}
