package elasticsearch

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"

	"github.com/millrace/millrace/pkg/schema"
)

var indexDate = regexp.MustCompile(`^-\d{4}\.\d{2}\.\d{2}$`)

// isOurs says whether the name is that of one of the type's daily indices, and not of something that only begins alike.
func (s *Store) isOurs(t *schema.Type, index string) bool {
	date, ok := strings.CutPrefix(index, t.IndexPrefix(s.cfg.Prefix))
	return ok && indexDate.MatchString(date)
}

// DeleteExpired deletes the daily indices of which everything is past its type's retention. Each is named in full:
// no pattern ever deletes.
func (s *Store) DeleteExpired(ctx context.Context) error {
	var errs []error
	for _, t := range s.types.All() {
		names, err := s.indices(ctx, t)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		now := s.Now()
		for _, index := range names {
			if !t.IndexExpired(s.cfg.Prefix, index, now) {
				continue
			}
			err := s.client.do(ctx, http.MethodDelete, pathOf(index), nil, "", nil, nil)
			if isStatus(err, http.StatusNotFound) { // another process was first
				continue
			}
			if err != nil {
				errs = append(errs, fmt.Errorf("deleting expired index %s: %w", index, err))
				continue
			}
			s.m.deleted.WithLabelValues(t.Name).Inc()
			s.log.Info("deleted an expired index", "index", index, "retention", t.Elasticsearch.Retention)
		}
	}
	return errors.Join(errs...)
}

// indices gives the type's daily indices, closed ones among them.
func (s *Store) indices(ctx context.Context, t *schema.Type) ([]string, error) {
	var answer map[string]struct{}
	query := url.Values{"allow_no_indices": {"true"}, "ignore_unavailable": {"true"}, "expand_wildcards": {"open,closed"}, "features": {"aliases"}}
	if err := s.client.do(ctx, http.MethodGet, pathOf(t.IndexPattern(s.cfg.Prefix)), query, "", nil, &answer); err != nil {
		return nil, fmt.Errorf("listing the indices of type %s: %w", t.Name, err)
	}
	var names []string
	for index := range answer {
		if s.isOurs(t, index) {
			names = append(names, index)
		}
	}
	return names, nil
}
