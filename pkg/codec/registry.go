package codec

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/avro"
	"github.com/twmb/franz-go/pkg/sr"

	"github.com/millrace/millrace/pkg/schema"
	"github.com/millrace/millrace/pkg/telemetry"
)

// latest asks a registry for a subject's newest version.
const latest = -1

// programFor gives the program for a writer's schema id under the type's current version, with that version. A schema
// id that the type has not met yet may be of a newer version: the subject's latest is asked for before.
func (c *Codec) programFor(ctx context.Context, e *entry, id int) (*version, *program, error) {
	v := e.current.Load()
	if p, ok := e.compiled(id, v.typ); ok {
		return v, p.program, p.err
	}
	w, err := c.writer(ctx, id)
	if err != nil {
		return nil, nil, err
	}
	if v.id == 0 || v.id != id && !e.met(id) {
		if err := c.refresh(ctx, e); err != nil {
			return nil, nil, err
		}
		v = e.current.Load()
	}
	p := &compiled{}
	if w.err != nil {
		p.err = &BadRecord{Reason: ReasonIncompatible, Err: w.err}
	} else if p.program, err = compile(w.schema, v.typ); err != nil {
		p.err = &BadRecord{Reason: ReasonIncompatible, Err: fmt.Errorf("schema %d as %s: %w", id, e.name, err)}
	}
	e.mu.Lock()
	e.programs[programKey{id, v.typ}] = p
	e.mu.Unlock()
	return v, p.program, p.err
}

func (e *entry) compiled(id int, typ *schema.Type) (*compiled, bool) {
	e.mu.RLock()
	defer e.mu.RUnlock()
	p, ok := e.programs[programKey{id, typ}]
	return p, ok
}

// met says whether a program was compiled for the id before, under whatever version.
func (e *entry) met(id int) bool {
	e.mu.RLock()
	defer e.mu.RUnlock()
	for k := range e.programs {
		if k.id == id {
			return true
		}
	}
	return false
}

// writer gives the schema of an id. It is a BadRecord only where the registry says that there is none.
func (c *Codec) writer(ctx context.Context, id int) (*writer, error) {
	if id > math.MaxInt32 {
		return nil, unknown(id) // an id is a signed number of 32 bits; asking would be answered in many ways
	}
	w, err := c.knownWriter(id)
	if w != nil || err != nil {
		return w, err
	}
	err = c.flights.do(ctx, "id "+strconv.Itoa(id), func(ctx context.Context) error { return c.fetchWriter(ctx, id) })
	if err != nil {
		return nil, err
	}
	return c.knownWriter(id)
}

func unknown(id int) error {
	return &BadRecord{Reason: ReasonUnknownSchema, Err: fmt.Errorf("the registry has no schema %d", id)}
}

func (c *Codec) knownWriter(id int) (*writer, error) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if w := c.writers[id]; w != nil {
		return w, nil
	}
	if until, ok := c.absent[id]; ok && time.Now().Before(until) {
		return nil, unknown(id)
	}
	return nil, nil //nolint:nilnil // neither known nor known to be absent
}

func (c *Codec) fetchWriter(ctx context.Context, id int) error {
	if err := c.lookups.Wait(ctx); err != nil {
		return fmt.Errorf("waiting to look up schema %d: %w", id, err)
	}
	var s sr.Schema
	err := c.ask(ctx, "schema", func(ctx context.Context) (err error) {
		s, err = c.cl.SchemaByID(ctx, id)
		return err
	})
	c.mu.Lock()
	defer c.mu.Unlock()
	if hasCode(err, sr.ErrSchemaNotFound) {
		if len(c.absent) >= maxAbsent {
			clear(c.absent)
		}
		c.absent[id] = time.Now().Add(absentFor)
		return unknown(id)
	}
	if err != nil {
		return fmt.Errorf("fetching schema %d: %w", id, err)
	}
	delete(c.absent, id)
	c.writers[id] = newWriter(s)
	return nil
}

func newWriter(s sr.Schema) *writer {
	if s.Type != sr.TypeAvro {
		return &writer{err: fmt.Errorf("the schema is of type %s, not AVRO", s.Type)}
	}
	if len(s.References) > 0 {
		return &writer{err: errors.New("the schema refers to other subjects, which is not supported")}
	}
	parsed, err := avro.Parse(s.Schema)
	return &writer{schema: parsed, err: err}
}

// refresh asks for a type's latest version and makes it the current one, if it is newer.
func (c *Codec) refresh(ctx context.Context, e *entry) error {
	return c.flights.do(ctx, "latest "+e.subject, func(ctx context.Context) error {
		var s sr.SubjectSchema
		err := c.ask(ctx, "latest", func(ctx context.Context) (err error) {
			s, err = c.cl.SchemaByVersion(ctx, e.subject, latest)
			return err
		})
		switch {
		case hasCode(err, sr.ErrSubjectNotFound), hasCode(err, sr.ErrVersionNotFound):
			return nil // not registered yet: the file's version holds
		case err != nil:
			return fmt.Errorf("fetching latest version of %s: %w", e.subject, err)
		}
		c.adopt(e, s)
		return nil
	})
}

// adopt makes s the type's current version, unless it is not newer or cannot be used. A version that goes back, since
// the newest was deleted or a follower of the registry is behind, is not taken: records of the newer one are about.
func (c *Codec) adopt(e *entry, s sr.SubjectSchema) {
	cur := e.current.Load()
	if s.ID == cur.id || s.Version <= cur.number || s.ID == int(e.refused.Load()) {
		return
	}
	next, err := c.newVersion(cur, s)
	if err != nil {
		e.refused.Store(int64(s.ID))
		c.metrics.refused.WithLabelValues(e.name).Inc()
		c.tel.Log.Error("registry's latest version cannot be used", "type", e.name, "version", s.Version, "schema_id", s.ID, "err", err)
		return
	}
	next.encoder.codec, next.encoder.entry = c, e
	// The version in use is the newest: of two that come at once, the older one gives up.
	for !e.current.CompareAndSwap(cur, next) {
		if cur = e.current.Load(); cur.number >= next.number {
			return
		}
	}
	c.metrics.version.WithLabelValues(e.name).Set(float64(s.Version))
	if cur.id != 0 {
		c.tel.Log.Info("newer schema in use", "type", e.name, "version", s.Version, "schema_id", s.ID)
	}
}

func (c *Codec) newVersion(cur *version, s sr.SubjectSchema) (*version, error) {
	if s.Type != sr.TypeAvro {
		return nil, fmt.Errorf("schema is of type %s, not AVRO", s.Type)
	}
	typ, err := schema.ParseWith([]byte(s.Schema.Schema), cur.typ)
	if err != nil {
		return nil, err
	}
	if typ.Name != cur.typ.Name {
		return nil, fmt.Errorf("its record is named %s", typ.Name)
	}
	// Nothing was decoded by the file's version yet, so the registry may differ from it.
	if cur.id != 0 {
		if err := schema.Compatible(cur.typ, typ); err != nil {
			return nil, err
		}
	}
	enc, err := newEncoder(typ, s.ID)
	if err != nil {
		return nil, err
	}
	return &version{typ: typ, id: s.ID, number: s.Version, encoder: enc}, nil
}

// Register proposes t to the registry and gives its id. It refuses a version that is not compatible, both ways, with
// every version that the registry has, since not every registry checks. What is registered already is left as it is.
func (c *Codec) Register(ctx context.Context, t *schema.Type) (int, error) {
	subject := t.Subject()
	at, err := c.standing(ctx, t)
	switch {
	case err != nil:
		return 0, err
	case at.id != 0: // what is registered is not judged again by its neighbours
		return at.id, c.registered(ctx, t)
	case at.refused != nil:
		return 0, fmt.Errorf("registering %w", at.refused)
	}
	var id int
	err = c.ask(ctx, "register", func(ctx context.Context) (err error) {
		id, err = c.cl.RegisterSchema(ctx, subject, sr.Schema{Schema: string(t.JSON), Type: sr.TypeAvro}, -1, -1)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("registering %s: %w", subject, err)
	}
	return id, c.registered(ctx, t)
}

// registered makes what was just registered the current version here.
func (c *Codec) registered(ctx context.Context, t *schema.Type) error {
	if e := c.entries[t.Name]; e != nil {
		return c.refresh(ctx, e)
	}
	return nil
}

func compatible(s sr.SubjectSchema, t *schema.Type) error {
	if s.Type != sr.TypeAvro {
		return fmt.Errorf("schema is of type %s, not AVRO", s.Type)
	}
	old, err := schema.ParseWith([]byte(s.Schema.Schema), t)
	if err != nil {
		return fmt.Errorf("reading it: %w", err)
	}
	return schema.Compatible(old, t)
}

func sameText(a string, b []byte) bool {
	var compact bytes.Buffer
	return json.Compact(&compact, []byte(a)) == nil && bytes.Equal(compact.Bytes(), b)
}

// ask makes one call to the registry, with a deadline.
func (c *Codec) ask(ctx context.Context, name string, call func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	err := call(ctx)
	result := "ok"
	var re *sr.ResponseError
	switch {
	case errors.As(err, &re) && re.StatusCode == http.StatusNotFound:
		result = "not_found"
	case err != nil:
		result = "error"
	}
	c.metrics.calls.WithLabelValues(name, result).Inc()
	return err
}

// hasCode says whether the registry itself gave that error. A 404 of a proxy or of a wrong path has no such code.
func hasCode(err error, want *sr.Error) bool {
	var re *sr.ResponseError
	return errors.As(err, &re) && re.StatusCode == http.StatusNotFound && re.ErrorCode == want.Code
}

// Discover gives the data types that a registry has, by name: the latest version of every subject millrace.<type>-value
// that is an annotated schema. A subject that is not is logged and left out.
func Discover(ctx context.Context, cfg Config, tel telemetry.Set, opts ...sr.ClientOpt) ([]*schema.Type, error) {
	none, err := schema.NewSet()
	if err != nil {
		return nil, err
	}
	c, err := New(cfg, none, tel, opts...)
	if err != nil {
		return nil, err
	}
	var subjects []string
	err = c.ask(ctx, "subjects", func(ctx context.Context) (err error) {
		subjects, err = c.cl.Subjects(ctx)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listing subjects: %w", err)
	}
	slices.Sort(subjects)
	var types []*schema.Type
	for _, subject := range subjects {
		if !strings.HasPrefix(subject, "millrace.") || !strings.HasSuffix(subject, "-value") {
			continue
		}
		var s sr.SubjectSchema
		err := c.ask(ctx, "latest", func(ctx context.Context) (err error) {
			s, err = c.cl.SchemaByVersion(ctx, subject, latest)
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("fetching latest version of %s: %w", subject, err)
		}
		t, err := schema.Parse([]byte(s.Schema.Schema))
		if err != nil || t.Subject() != subject {
			c.tel.Log.Warn("subject is not a data type", "subject", subject, "err", err)
			continue
		}
		types = append(types, t)
	}
	return types, nil
}
