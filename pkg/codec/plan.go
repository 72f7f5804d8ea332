package codec

import (
	"context"
	"fmt"

	"github.com/twmb/franz-go/pkg/sr"

	"github.com/millrace/millrace/pkg/provision"
	"github.com/millrace/millrace/pkg/schema"
)

// Planner compares the registry's subjects with data types.
func (c *Codec) Planner(types []*schema.Type) provision.Planner { return planner{c, types} }

type planner struct {
	codec *Codec
	types []*schema.Type
}

// Plan lists the types whose schema is not among their subject's versions. One that the registry has, even under a
// later version, is left alone: the registry's latest is the authority, a file only proposes.
func (p planner) Plan(ctx context.Context) ([]provision.Change, error) {
	var out []provision.Change
	for _, t := range p.types {
		var known bool
		var versions int
		err := p.codec.eachVersion(ctx, t.Subject(), func(s sr.SubjectSchema) error {
			versions++
			known = known || sameText(s.Schema.Schema, t.JSON)
			return nil
		})
		if err != nil {
			return nil, err
		}
		if known {
			continue
		}
		detail := "register the first version"
		if versions > 0 {
			detail = fmt.Sprintf("register a new version, compatible with the %d that exist", versions)
		}
		out = append(out, provision.Change{
			Server: "registry", Object: "subject " + t.Subject(), Detail: detail,
			Apply: func(ctx context.Context) error {
				_, err := p.codec.Register(ctx, t)
				return err
			},
		})
	}
	return out, nil
}

// eachVersion calls fn with every version of a subject, oldest first. A subject that does not exist has none.
func (c *Codec) eachVersion(ctx context.Context, subject string, fn func(sr.SubjectSchema) error) error {
	var versions []int
	err := c.ask(ctx, "versions", func(ctx context.Context) (err error) {
		versions, err = c.cl.SubjectVersions(ctx, subject)
		return err
	})
	if err != nil && !hasCode(err, sr.ErrSubjectNotFound) {
		return fmt.Errorf("listing versions of %s: %w", subject, err)
	}
	for _, v := range versions {
		var s sr.SubjectSchema
		err := c.ask(ctx, "version", func(ctx context.Context) (err error) {
			s, err = c.cl.SchemaByVersion(ctx, subject, v)
			return err
		})
		if hasCode(err, sr.ErrVersionNotFound) {
			continue // deleted meanwhile
		}
		if err != nil {
			return fmt.Errorf("fetching version %d of %s: %w", v, subject, err)
		}
		if err := fn(s); err != nil {
			return fmt.Errorf("version %d: %w", v, err)
		}
	}
	return nil
}

// Ping asks the registry for an answer.
func (c *Codec) Ping(ctx context.Context) error {
	err := c.ask(ctx, "subjects", func(ctx context.Context) error {
		_, err := c.cl.Subjects(ctx)
		return err
	})
	if err != nil {
		return fmt.Errorf("listing subjects: %w", err)
	}
	return nil
}
