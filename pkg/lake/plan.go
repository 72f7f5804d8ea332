package lake

import (
	"context"
	"errors"
	"strings"

	"github.com/millrace/millrace/pkg/provision"
	"github.com/millrace/millrace/pkg/schema"
)

// planner compares the lake's tables with the types.
type planner struct {
	lake  *Lake
	types []*schema.Type
}

var _ provision.Planner = planner{}

// Planner says what is missing for the types' tables.
func (l *Lake) Planner(types []*schema.Type) provision.Planner { return planner{l, types} }

// Plan implements provision.Planner.
func (p planner) Plan(ctx context.Context) ([]provision.Change, error) {
	var changes []provision.Change
	for _, t := range p.types {
		c, ok, err := p.table(ctx, t)
		if err != nil {
			return nil, err
		}
		if ok {
			changes = append(changes, c)
		}
	}
	return changes, nil
}

func (p planner) table(ctx context.Context, t *schema.Type) (provision.Change, bool, error) {
	change := provision.Change{Server: "lake", Object: "table " + p.lake.cfg.Namespace + "." + t.Lake.Table}
	tb, err := p.lake.Open(ctx, t)
	if errors.Is(err, ErrNoTable) {
		s, err := shapeOf(t)
		if err != nil {
			return change, false, err
		}
		change.Detail = s.describe()
		change.Apply = func(ctx context.Context) error { return p.lake.Create(ctx, t) }
		return change, true, nil
	}
	if err != nil {
		return change, false, err
	}
	d, err := difference(tb.state().Schema(), t, renamed(tb.state()))
	if err != nil || d.empty() {
		return change, false, err
	}
	change.Detail = strings.Join(d.lines(), "\n")
	change.Apply = func(ctx context.Context) error { return tb.evolve(ctx, t) }
	return change, true, nil
}
