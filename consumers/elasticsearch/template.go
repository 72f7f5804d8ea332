package elasticsearch

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strings"

	"github.com/millrace/millrace/pkg/provision"
	"github.com/millrace/millrace/pkg/schema"
)

// known is which versions of the types the templates and indices are known to hold. The lock is a channel, so that
// whoever waits for another's requests can give up.
type known struct {
	lock  chan struct{} // holds one while a goroutine looks or changes
	types map[string]*schema.Type
}

func (k *known) acquire(ctx context.Context) error {
	select {
	case k.lock <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (k *known) release() { <-k.lock }

// forget makes the next batch look again.
func (k *known) forget(t *schema.Type) {
	k.lock <- struct{}{}
	delete(k.types, t.Name)
	<-k.lock
}

// covers says whether each field of t is in old, by the same name and kind.
func covers(old, t *schema.Type) bool {
	if old == t {
		return true
	}
	if old == nil {
		return false
	}
	for _, f := range t.Fields {
		if !slices.ContainsFunc(old.Fields, func(o schema.Field) bool { return o.Name == f.Name && o.Kind == f.Kind }) {
			return false
		}
	}
	return true
}

// ready makes sure, once per version of a type, that its template is there and that template and existing indices have
// all of its fields. It adds fields and takes none away: an older process beside a newer one changes nothing.
func (s *Store) ready(ctx context.Context, t *schema.Type) error {
	if err := s.known.acquire(ctx); err != nil {
		return err
	}
	defer s.known.release()
	if covers(s.known.types[t.Name], t) {
		return nil
	}
	have, err := s.template(ctx, t)
	if err != nil {
		return err
	}
	if have == nil {
		return fmt.Errorf("index template %s does not exist: run `millrace topics apply`", t.IndexPrefix(s.cfg.Prefix))
	}
	if missing := lacking(have.Template.Mappings.Properties, t); len(missing) > 0 {
		if err := s.putTemplate(ctx, t, have.Template.Mappings.Properties); err != nil {
			return err
		}
		s.m.evolved.WithLabelValues(t.Name).Inc()
		s.log.Info("index template has new fields", "type", t.Name, "fields", strings.Join(missing, ","))
	}
	behind, err := s.behind(ctx, t)
	if err != nil {
		return err
	}
	for _, index := range slices.Sorted(maps.Keys(behind)) {
		if err := s.putMapping(ctx, index, t, behind[index]); err != nil {
			return err
		}
		s.m.evolved.WithLabelValues(t.Name).Inc()
		s.log.Info("index has new fields", "type", t.Name, "index", index, "fields", strings.Join(behind[index], ","))
	}
	if s.known.types == nil {
		s.known.types = make(map[string]*schema.Type)
	}
	s.known.types[t.Name] = t
	return nil
}

type properties map[string]json.RawMessage

type mappings struct {
	Dynamic    any        `json:"dynamic,omitempty"`
	Properties properties `json:"properties"`
}

// template is what a plan compares of an index template.
type template struct {
	IndexPatterns []string       `json:"index_patterns"`
	Priority      int            `json:"priority"`
	Meta          map[string]any `json:"_meta,omitempty"`
	Template      struct {
		Settings map[string]any `json:"settings"`
		Mappings mappings       `json:"mappings"`
	} `json:"template"`
}

// template gives the type's index template as it is, or nil if there is none.
func (s *Store) template(ctx context.Context, t *schema.Type) (*template, error) {
	var answer struct {
		Templates []struct {
			Body template `json:"index_template"`
		} `json:"index_templates"`
	}
	err := s.client.do(ctx, http.MethodGet, pathOf("_index_template", t.IndexPrefix(s.cfg.Prefix)), nil, "", nil, &answer)
	var se *StatusError
	if errors.As(err, &se) && se.Status == http.StatusNotFound && se.Type == "resource_not_found_exception" {
		return nil, nil //nolint:nilnil // none is an answer
	}
	if err != nil {
		return nil, fmt.Errorf("reading the index template of type %s: %w", t.Name, err)
	}
	if len(answer.Templates) != 1 {
		return nil, fmt.Errorf("reading the index template of type %s: %d templates", t.Name, len(answer.Templates))
	}
	return &answer.Templates[0].Body, nil
}

// wanted gives the type's index template as it should be.
func (s *Store) wanted(t *schema.Type) (*template, error) {
	var want template
	if err := json.Unmarshal(t.IndexTemplate(s.cfg.Prefix, s.cfg.Replicas), &want); err != nil {
		return nil, fmt.Errorf("deriving the index template of type %s: %w", t.Name, err)
	}
	return &want, nil
}

// putTemplate writes the type's template, keeping fields of other versions that it has beside ours.
func (s *Store) putTemplate(ctx context.Context, t *schema.Type, keep properties) error {
	want, err := s.wanted(t)
	if err != nil {
		return err
	}
	for name, p := range keep {
		if _, ours := want.Template.Mappings.Properties[name]; !ours {
			want.Template.Mappings.Properties[name] = p
		}
	}
	body, err := json.Marshal(want)
	if err != nil {
		return fmt.Errorf("writing the index template of type %s: %w", t.Name, err)
	}
	if err := s.client.do(ctx, http.MethodPut, pathOf("_index_template", t.IndexPrefix(s.cfg.Prefix)), nil, asJSON, body, nil); err != nil {
		return fmt.Errorf("writing the index template of type %s: %w", t.Name, err)
	}
	return nil
}

// putMapping adds the fields to an existing index.
func (s *Store) putMapping(ctx context.Context, index string, t *schema.Type, fields []string) error {
	want, err := s.wanted(t)
	if err != nil {
		return err
	}
	add := mappings{Properties: make(properties, len(fields))}
	for _, f := range fields {
		add.Properties[f] = want.Template.Mappings.Properties[f]
	}
	body, err := json.Marshal(add)
	if err != nil {
		return fmt.Errorf("adding fields to index %s: %w", index, err)
	}
	err = s.client.do(ctx, http.MethodPut, pathOf(index, "_mapping"), nil, asJSON, body, nil)
	if err != nil && !isStatus(err, http.StatusNotFound) { // deleted since: the template makes the next one
		return fmt.Errorf("adding fields to index %s: %w", index, err)
	}
	return nil
}

// behind gives the type's existing indices that lack some of its fields, with those.
func (s *Store) behind(ctx context.Context, t *schema.Type) (map[string][]string, error) {
	var answer map[string]struct {
		Mappings mappings `json:"mappings"`
	}
	path := pathOf(t.IndexPattern(s.cfg.Prefix), "_mapping")
	query := url.Values{"allow_no_indices": {"true"}, "ignore_unavailable": {"true"}}
	if err := s.client.do(ctx, http.MethodGet, path, query, "", nil, &answer); err != nil {
		return nil, fmt.Errorf("reading the mappings of type %s: %w", t.Name, err)
	}
	out := make(map[string][]string)
	for index, m := range answer {
		if missing := lacking(m.Mappings.Properties, t); len(missing) > 0 && s.isOurs(t, index) {
			out[index] = missing
		}
	}
	return out, nil
}

// lacking gives the names of the type's fields that are not among the properties.
func lacking(have properties, t *schema.Type) []string {
	var missing []string
	for _, f := range t.Fields {
		if _, ok := have[f.Name]; !ok {
			missing = append(missing, f.Name)
		}
	}
	return missing
}

// Plan compares the index templates and the existing indices with what the types ask for.
func (s *Store) Plan(ctx context.Context) ([]provision.Change, error) {
	var changes []provision.Change
	for _, t := range s.types.All() {
		have, err := s.template(ctx, t)
		if err != nil {
			return nil, err
		}
		detail, err := s.templateDiff(t, have)
		if err != nil {
			return nil, err
		}
		if detail != "" {
			var keep properties
			if have != nil {
				keep = have.Template.Mappings.Properties
			}
			changes = append(changes, provision.Change{
				Server: "elasticsearch", Object: "index template " + t.IndexPrefix(s.cfg.Prefix), Detail: detail,
				Apply: func(ctx context.Context) error { return s.putTemplate(ctx, t, keep) },
			})
		}
		behind, err := s.behind(ctx, t)
		if err != nil {
			return nil, err
		}
		for _, index := range slices.Sorted(maps.Keys(behind)) {
			fields := behind[index]
			changes = append(changes, provision.Change{
				Server: "elasticsearch", Object: "index " + index, Detail: "add fields " + strings.Join(fields, ", "),
				Apply: func(ctx context.Context) error { return s.putMapping(ctx, index, t, fields) },
			})
		}
	}
	return changes, nil
}

// templateDiff says in words what differs, or nothing. Fields that only the server has are another version's and stay.
func (s *Store) templateDiff(t *schema.Type, have *template) (string, error) {
	want, err := s.wanted(t)
	if err != nil {
		return "", err
	}
	if have == nil {
		return fmt.Sprintf("create for %s with %d fields", strings.Join(want.IndexPatterns, ", "), len(t.Fields)), nil
	}
	var lines []string
	add := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	if !slices.Equal(have.IndexPatterns, want.IndexPatterns) {
		add("patterns %v become %v", have.IndexPatterns, want.IndexPatterns)
	}
	if have.Priority != want.Priority {
		add("priority %d becomes %d", have.Priority, want.Priority)
	}
	if fmt.Sprint(have.Template.Mappings.Dynamic) != fmt.Sprint(want.Template.Mappings.Dynamic) {
		add("dynamic %v becomes %v", have.Template.Mappings.Dynamic, want.Template.Mappings.Dynamic)
	}
	if !reflect.DeepEqual(have.Template.Settings, want.Template.Settings) {
		add("settings %v become %v", have.Template.Settings, want.Template.Settings)
	}
	for _, f := range t.Fields {
		is, exists := have.Template.Mappings.Properties[f.Name]
		should := want.Template.Mappings.Properties[f.Name]
		switch {
		case !exists:
			add("add field %s %s", f.Name, should)
		case !sameJSON(is, should):
			add("field %s %s becomes %s, in indices made from now on", f.Name, is, should)
		}
	}
	return strings.Join(lines, "\n"), nil
}

func sameJSON(a, b json.RawMessage) bool {
	var x, y any
	return json.Unmarshal(a, &x) == nil && json.Unmarshal(b, &y) == nil && reflect.DeepEqual(x, y)
}
