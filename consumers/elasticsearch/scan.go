package elasticsearch

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/millrace/millrace/pkg/codec"
	"github.com/millrace/millrace/pkg/schema"
)

const (
	scanPage = 2000
	scanKeep = "2m" // how long the view stays open after each page
)

// Scan reads every document of the type, in no order, as it is at the start of the call, and gives each one's values
// by the type's positions. It is how a checker proves what arrived; fn's error ends it.
func (s *Store) Scan(ctx context.Context, typeName string, fn func(values []codec.Value) error) error {
	t := s.types.Get(typeName)
	if t == nil {
		return fmt.Errorf("there is no type %q", typeName)
	}
	if err := s.scan(ctx, t, fn); err != nil {
		return fmt.Errorf("scanning type %s: %w", t.Name, err)
	}
	return nil
}

type page struct {
	PIT  string `json:"pit_id"`
	Hits struct {
		Hits []struct {
			ID     string          `json:"_id"`
			Source json.RawMessage `json:"_source"`
			Sort   json.RawMessage `json:"sort"`
		} `json:"hits"`
	} `json:"hits"`
}

func (s *Store) scan(ctx context.Context, t *schema.Type, fn func([]codec.Value) error) (err error) {
	if err := s.Refresh(ctx, t.Name); err != nil {
		return err
	}
	names, err := s.indices(ctx, t)
	if err != nil || len(names) == 0 {
		return err
	}
	var view struct {
		ID string `json:"id"`
	}
	path := pathOf(t.IndexPattern(s.cfg.Prefix), "_pit")
	if err := s.client.do(ctx, http.MethodPost, path, url.Values{"keep_alive": {scanKeep}}, "", nil, &view); err != nil {
		return fmt.Errorf("opening a view: %w", err)
	}
	pit := view.ID
	defer func() {
		body, _ := json.Marshal(object{"id": pit}) //nolint:errchkjson // a string
		err = errors.Join(err, s.client.do(context.WithoutCancel(ctx), http.MethodDelete, "/_pit", nil, asJSON, body, nil))
	}()
	body := object{
		"size": scanPage, "track_total_hits": false, "sort": []object{{"_shard_doc": "asc"}},
	}
	for {
		body["pit"] = object{"id": pit, "keep_alive": scanKeep}
		text, err := json.Marshal(body)
		if err != nil {
			return err
		}
		var p page
		query := url.Values{"allow_partial_search_results": {"false"}}
		if err := s.client.do(ctx, http.MethodPost, "/_search", query, asJSON, text, &p); err != nil {
			return err
		}
		if p.PIT != "" {
			pit = p.PIT
		}
		if len(p.Hits.Hits) == 0 {
			return nil
		}
		for _, hit := range p.Hits.Hits {
			values, err := parseSource(t, hit.Source)
			if err != nil {
				return fmt.Errorf("document %s: %w", hit.ID, err)
			}
			if id := values[schema.ID].String(); id != hit.ID {
				return fmt.Errorf("document %s holds the event %s", hit.ID, id)
			}
			if err := fn(values); err != nil {
				return err
			}
			body["search_after"] = hit.Sort
		}
	}
}

// Refresh makes all that was acknowledged findable.
func (s *Store) Refresh(ctx context.Context, typeName string) error {
	t := s.types.Get(typeName)
	if t == nil {
		return fmt.Errorf("there is no type %q", typeName)
	}
	query := url.Values{"allow_no_indices": {"true"}, "ignore_unavailable": {"true"}}
	if err := s.client.do(ctx, http.MethodPost, pathOf(t.IndexPattern(s.cfg.Prefix), "_refresh"), query, "", nil, nil); err != nil {
		return fmt.Errorf("refreshing the indices of type %s: %w", t.Name, err)
	}
	return nil
}

// parseSource is the inverse of codec.AppendJSON, exact to the last bit.
func parseSource(t *schema.Type, source []byte) ([]codec.Value, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(source, &fields); err != nil {
		return nil, err
	}
	values := make([]codec.Value, len(t.Fields))
	for name, raw := range fields {
		i := t.Index(name)
		if i < 0 {
			return nil, fmt.Errorf("field %s is not one of type %s", name, t.Name)
		}
		v, err := parseValue(t.Fields[i].Kind, raw)
		if err != nil {
			return nil, fmt.Errorf("field %s: %w", name, err)
		}
		values[i] = v
	}
	return values, nil
}

func parseValue(kind schema.Kind, raw json.RawMessage) (codec.Value, error) {
	if bytes.Equal(raw, []byte("null")) {
		return codec.Value{}, nil
	}
	switch kind {
	case schema.Bool:
		var b bool
		err := json.Unmarshal(raw, &b)
		return codec.BoolValue(b), err
	case schema.Int, schema.Long:
		n, err := strconv.ParseInt(string(raw), 10, 64)
		return codec.LongValue(n), err
	case schema.Float:
		f, err := parseFloat(raw, 32)
		return codec.DoubleValue(f), err
	case schema.Double:
		f, err := parseFloat(raw, 64)
		return codec.DoubleValue(f), err
	case schema.Timestamp:
		return parseTime(raw)
	case schema.Bytes:
		var text string
		if err := json.Unmarshal(raw, &text); err != nil {
			return codec.Value{}, err
		}
		b, err := base64.StdEncoding.DecodeString(text)
		return codec.BytesValue(b), err
	case schema.Map:
		var m map[string]string
		err := json.Unmarshal(raw, &m)
		return codec.MapValue(m), err
	default:
		var text string
		err := json.Unmarshal(raw, &text)
		return codec.StringValue(text), err
	}
}

func parseFloat(raw json.RawMessage, bits int) (float64, error) {
	switch string(raw) {
	case `"NaN"`:
		return math.NaN(), nil
	case `"Infinity"`:
		return math.Inf(1), nil
	case `"-Infinity"`:
		return math.Inf(-1), nil
	}
	return strconv.ParseFloat(string(raw), bits)
}

func parseTime(raw json.RawMessage) (codec.Value, error) {
	if len(raw) > 0 && raw[0] != '"' { // a time outside of the years 0 to 9999
		n, err := strconv.ParseInt(string(raw), 10, 64)
		return codec.LongValue(n), err
	}
	var text string
	if err := json.Unmarshal(raw, &text); err != nil {
		return codec.Value{}, err
	}
	at, err := time.Parse(time.RFC3339Nano, text)
	return codec.LongValue(at.UnixMicro()), err
}
