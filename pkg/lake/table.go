package lake

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/apache/iceberg-go"
	"github.com/apache/iceberg-go/catalog"
	iceio "github.com/apache/iceberg-go/io"
	"github.com/apache/iceberg-go/table"

	"github.com/millrace/millrace/pkg/schema"
)

// Table is one open Iceberg table. Its methods may be called from several goroutines.
type Table struct {
	lake *Lake
	cat  catalog.Catalog
	name string
	turn chan struct{} // held while the table is being changed

	mu     sync.Mutex // never held over I/O
	ice    *table.Table
	layout *layout
	plans  map[*schema.Type]*plan
}

func newTable(l *Lake, cat catalog.Catalog, ice *table.Table, t *schema.Type) (*Table, error) {
	tb := &Table{lake: l, cat: cat, name: t.Lake.Table, turn: make(chan struct{}, 1)}
	if err := tb.set(ice); err != nil {
		return nil, err
	}
	return tb, nil
}

// set takes a newer state of the table. The layout, and with it the plans, lasts as long as the schema.
func (t *Table) set(ice *table.Table) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ice = ice
	if sc := ice.Schema(); t.layout == nil || t.layout.schemaID != sc.ID {
		l, err := newLayout(sc)
		if err != nil {
			return err
		}
		t.layout, t.plans = l, map[*schema.Type]*plan{}
	}
	return nil
}

// state is the table as it was last read or committed.
func (t *Table) state() *table.Table {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.ice
}

// MetadataLocation is the file that the state at hand was read from: with it alone other engines can read the table.
func (t *Table) MetadataLocation() string { return t.state().MetadataLocation() }

// Refresh reads the table's current state.
func (t *Table) Refresh(ctx context.Context) error {
	ice, err := t.cat.LoadTable(ctx, t.state().Identifier())
	if err != nil {
		return fmt.Errorf("reading table %s: %w", t.name, err)
	}
	return t.set(ice)
}

// acquire waits for the turn to change the table.
func (t *Table) acquire(ctx context.Context) error {
	select {
	case t.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("waiting for a change of table %s: %w", t.name, context.Cause(ctx))
	}
}

func (t *Table) release() { <-t.turn }

// Positions says where the table stands with a topic, as of the last state read.
func (t *Table) Positions(topic string) (Positions, error) {
	return positions(t.state().Metadata(), topic)
}

// ValidThrough is the time up to which the table holds everything that was appended; zero where nothing is known.
func (t *Table) ValidThrough() time.Time {
	at, err := time.Parse(time.RFC3339Nano, t.state().Properties()[keyThrough])
	if err != nil {
		return time.Time{}
	}
	return at
}

// Columns lists the current schema's columns by name, with the Iceberg type of each, in the schema's order.
func (t *Table) Columns() []Column {
	return columnsOf(t.state().Schema())
}

// Column is one column of a table.
type Column struct {
	ID       int
	Name     string
	Type     string // as Iceberg writes it: "timestamptz", "map<string, string>"
	Required bool
}

// Files lists the locations of the current snapshot's data files.
func (t *Table) Files(ctx context.Context) ([]string, error) {
	s, err := t.At(AsOf{})
	if err != nil {
		return nil, err
	}
	files, err := s.Files(ctx, nil)
	var locations []string
	for _, f := range files {
		locations = append(locations, f.Location)
	}
	return locations, err
}

// prepare gives the layout to write by and the plan for one type's records, evolving the table where it is older.
func (t *Table) prepare(ctx context.Context, typ *schema.Type) (*layout, *plan, error) {
	l, p, err := t.plan(typ)
	if !errors.Is(err, errNoColumn) {
		return l, p, err
	}
	if err := t.evolve(ctx, typ); err != nil {
		return nil, nil, err
	}
	return t.plan(typ)
}

func (t *Table) plan(typ *schema.Type) (*layout, *plan, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if p, ok := t.plans[typ]; ok {
		return t.layout, p, nil
	}
	p, err := newPlan(t.layout, typ, renamed(t.ice))
	if err != nil {
		return nil, nil, err
	}
	t.plans[typ] = p
	return t.layout, p, nil
}

// renamed gives what each column was called before.
func renamed(ice *table.Table) map[string][]string {
	m := map[string][]string{}
	if s := ice.Properties()[keyRenamed]; s != "" {
		if err := json.Unmarshal([]byte(s), &m); err != nil {
			return map[string][]string{}
		}
	}
	return m
}

func (t *Table) files(ctx context.Context, ice *table.Table) (iceio.WriteFileIO, error) {
	fs, err := ice.FS(ctx)
	if err != nil {
		return nil, fmt.Errorf("opening storage of table %s: %w", t.name, err)
	}
	w, ok := fs.(iceio.WriteFileIO)
	if !ok {
		return nil, fmt.Errorf("opening storage of table %s: %T cannot be written to", t.name, fs)
	}
	return w, nil
}

// sortColumns names the columns that rows are sorted by within a row group.
func sortColumns(ice *table.Table) []string {
	var names []string
	sc := ice.Schema()
	order := ice.SortOrder()
	for _, f := range order.Fields() {
		if name, ok := sc.FindColumnName(f.SourceID()); ok {
			names = append(names, name)
		}
	}
	return names
}

// partitioner gives the table partition, and its folder, of an event time.
type partitioner struct {
	spec iceberg.PartitionSpec
	id   int // field id
	name string
	unit int64 // microseconds
	day  bool
}

func newPartitioner(spec iceberg.PartitionSpec) (partitioner, error) {
	if spec.NumFields() != 1 {
		return partitioner{}, fmt.Errorf("reading partition spec: %d fields where one, of the time, is expected", spec.NumFields())
	}
	field := spec.Field(0)
	p := partitioner{spec: spec, id: field.FieldID, name: field.Name}
	switch field.Transform.(type) {
	case iceberg.DayTransform:
		p.unit, p.day = (24 * time.Hour).Microseconds(), true
	case iceberg.HourTransform:
		p.unit = time.Hour.Microseconds()
	default:
		return p, fmt.Errorf("reading partition spec: transform %s is neither day nor hour", field.Transform)
	}
	return p, nil
}

func (p partitioner) of(micros int64) int64 {
	q := micros / p.unit
	if micros%p.unit < 0 {
		q--
	}
	return q
}

func (p partitioner) value(q int64) map[int]any {
	if p.day {
		return map[int]any{p.id: iceberg.Date(int32(q))} //nolint:gosec // days of an int64 of microseconds fit
	}
	return map[int]any{p.id: int32(q)} //nolint:gosec // hours too, for the years until 246000
}

func (p partitioner) folder(q int64) string {
	at := time.UnixMicro(q * p.unit).UTC()
	if p.day {
		return p.name + "=" + at.Format("2006-01-02")
	}
	return p.name + "=" + at.Format("2006-01-02-15")
}

// ColumnsOf lists the columns that a type's table is made with.
func ColumnsOf(t *schema.Type) ([]Column, error) {
	s, err := shapeOf(t)
	if err != nil {
		return nil, err
	}
	return columnsOf(s.schema), nil
}

func columnsOf(sc *iceberg.Schema) []Column {
	var cs []Column
	for _, f := range sc.Fields() {
		cs = append(cs, Column{ID: f.ID, Name: f.Name, Type: f.Type.String(), Required: f.Required})
	}
	return cs
}
