package lake

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/apache/iceberg-go"
	"github.com/apache/iceberg-go/table"

	"github.com/millrace/millrace/pkg/schema"
)

// evolveAttempts bounds how often a change of the schema is tried against others who change it.
const evolveAttempts = 20

// delta is what a table lacks for a type.
type delta struct {
	add     []iceberg.NestedField
	rename  map[string]string // column to its new name
	relax   []string          // columns that may be null from now on
	renamed map[string][]string
}

func (d delta) empty() bool { return len(d.add) == 0 && len(d.rename) == 0 && len(d.relax) == 0 }

// lines says what would change, for a person.
func (d delta) lines() []string {
	var out []string
	for _, f := range d.add {
		out = append(out, fmt.Sprintf("add column %s %s", f.Name, f.Type))
	}
	for from, to := range d.rename {
		out = append(out, fmt.Sprintf("rename column %s to %s", from, to))
	}
	for _, name := range d.relax {
		out = append(out, fmt.Sprintf("let column %s be null", name))
	}
	slices.Sort(out)
	return out
}

// difference compares a table with a type. Columns that the type no longer has stay: rows written before are kept, and
// records of older versions still come. former holds the names that columns had before, so that an older type does not
// bring a renamed column back.
func difference(have *iceberg.Schema, t *schema.Type, former map[string][]string) (delta, error) {
	want, err := shapeOf(t)
	if err != nil {
		return delta{}, err
	}
	d := delta{rename: map[string]string{}, renamed: map[string][]string{}}
	for name, names := range former {
		d.renamed[name] = slices.Clone(names)
	}
	for _, w := range want.schema.Fields() {
		name, found := currentName(have, w.Name, former)
		if !found {
			name, found = aliasColumn(have, t, w.Name)
			if found {
				d.rename[name] = w.Name
				d.renamed[w.Name] = append(append(d.renamed[w.Name], d.renamed[name]...), name)
				delete(d.renamed, name)
			}
		}
		if !found {
			w.Required = false // rows from before have none
			d.add = append(d.add, w)
			continue
		}
		h, _ := have.FindFieldByName(name)
		if !sameType(h.Type, w.Type) {
			return delta{}, fmt.Errorf("comparing column %s: the table has %s, the type asks for %s; a wider type is a new field", name, h.Type, w.Type)
		}
		if h.Required && !w.Required {
			d.relax = append(d.relax, name)
		}
	}
	return d, nil
}

// sameType compares types without the ids of a map's parts.
func sameType(a, b iceberg.Type) bool {
	ma, aok := a.(*iceberg.MapType)
	mb, bok := b.(*iceberg.MapType)
	if aok && bok {
		return ma.KeyType.Equals(mb.KeyType) && ma.ValueType.Equals(mb.ValueType)
	}
	return a.Equals(b)
}

// currentName finds the column of a field by its name, or the column that once had it.
func currentName(have *iceberg.Schema, name string, former map[string][]string) (string, bool) {
	if _, ok := have.FindFieldByName(name); ok {
		return name, true
	}
	for now, names := range former {
		if slices.Contains(names, name) {
			return now, true
		}
	}
	return "", false
}

// aliasColumn finds the column that holds a field under one of its earlier names.
func aliasColumn(have *iceberg.Schema, t *schema.Type, name string) (string, bool) {
	i := t.Index(name)
	if i < 0 {
		return "", false
	}
	for _, alias := range t.Fields[i].Aliases {
		if _, ok := have.FindFieldByName(alias); ok {
			return alias, true
		}
	}
	return "", false
}

// evolve brings the table up to a type. Another process may do the same: whoever comes second finds nothing to do.
func (t *Table) evolve(ctx context.Context, typ *schema.Type) error {
	if err := t.acquire(ctx); err != nil {
		return err
	}
	defer t.release()
	var last error
	for range evolveAttempts {
		if err := t.Refresh(ctx); err != nil {
			return err
		}
		ice := t.state()
		d, err := difference(ice.Schema(), typ, renamed(ice))
		if err != nil {
			return fmt.Errorf("evolving table %s: %w", t.name, err)
		}
		if d.empty() {
			return nil
		}
		evolved, err := d.apply(ctx, ice)
		if err == nil {
			t.lake.tel.Log.Info("evolved table", "table", t.name, "changes", d.lines())
			return t.set(evolved)
		}
		if !isConflict(err) {
			return fmt.Errorf("evolving table %s: %w", t.name, err)
		}
		last = err
		if err := wait(ctx, minPause); err != nil {
			return fmt.Errorf("evolving table %s: %w", t.name, err)
		}
	}
	return fmt.Errorf("evolving table %s: %w", t.name, last)
}

func (d delta) apply(ctx context.Context, ice *table.Table) (*table.Table, error) {
	tx := ice.NewTransaction()
	u := tx.UpdateSchema(true, false)
	for from, to := range d.rename {
		u.RenameColumn([]string{from}, to)
	}
	for _, f := range d.add {
		u.AddColumn([]string{f.Name}, f.Type, f.Doc, false, nil)
	}
	for _, name := range d.relax {
		u.UpdateColumn([]string{name}, table.ColumnUpdate{Required: iceberg.Optional[bool]{Valid: true}})
	}
	if err := u.Commit(); err != nil {
		return nil, err
	}
	if len(d.rename) > 0 {
		names, err := json.Marshal(d.renamed)
		if err != nil {
			return nil, err
		}
		if err := tx.SetProperties(iceberg.Properties{keyRenamed: string(names)}); err != nil {
			return nil, err
		}
	}
	return tx.Commit(ctx)
}
