package codec

import (
	"context"
	"errors"
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
// later version, is left alone: the registry's latest is the authority, a file only proposes. A type that cannot follow
// the versions that exist is a *provision.RefusedError.
func (p planner) Plan(ctx context.Context) ([]provision.Change, error) {
	var out []provision.Change
	var refused []error
	for _, t := range p.types {
		at, err := p.codec.standing(ctx, t)
		if err != nil {
			return nil, err
		}
		switch {
		case at.id != 0:
			continue
		case at.refused != nil:
			refused = append(refused, at.refused)
			continue
		}
		detail := "register the first version"
		if at.versions > 0 {
			detail = fmt.Sprintf("register a new version, compatible with the %d that exist", at.versions)
		}
		out = append(out, provision.Change{
			Server: "registry", Object: "subject " + t.Subject(), Detail: detail,
			Apply: func(ctx context.Context) error {
				_, err := p.codec.Register(ctx, t)
				return err
			},
		})
	}
	if len(refused) > 0 {
		return out, &provision.RefusedError{Err: errors.Join(refused...)}
	}
	return out, nil
}

// standing is how a type stands to the versions that the registry has of it.
type standing struct {
	id       int   // of the version that it is; 0 if it is none of them
	versions int   // how many there are
	refused  error // the first that it is not compatible with; of no account if it is registered
}

func (c *Codec) standing(ctx context.Context, t *schema.Type) (standing, error) {
	var at standing
	err := c.eachVersion(ctx, t.Subject(), func(v sr.SubjectSchema) error {
		at.versions++
		if sameText(v.Schema.Schema, t.JSON) {
			at.id = v.ID
		} else if err := compatible(v, t); err != nil && at.refused == nil {
			at.refused = fmt.Errorf("%s: version %d: %w", t.Subject(), v.Version, err)
		}
		return nil
	})
	return at, err
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
