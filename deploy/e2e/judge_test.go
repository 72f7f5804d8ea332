package e2e

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/deploy/lakerows"
	"github.com/millrace/millrace/pkg/codec"
	"github.com/millrace/millrace/pkg/schema"
	"github.com/millrace/millrace/producers/loadgen"
)

// hashAttribute is where loadgen puts a record's own fingerprint.
const hashAttribute = "loadgen.hash"

// scanner gives the values of every record of a type that a destination holds.
type scanner func(ctx context.Context, typ string, fn func([]codec.Value) error) error

type lagError struct{ produced, committed int64 }

func (e lagError) Error() string {
	return fmt.Sprintf("%d produced, %d committed", e.produced, e.committed)
}

// journal is what was sent: type, id, loadgen's last word on it.
type journal map[string]map[string]loadgen.Entry

func newJournal(t *testing.T, entries []loadgen.Entry) journal {
	t.Helper()
	sent := journal{}
	for _, e := range entries {
		if sent[e.Type] == nil {
			sent[e.Type] = map[string]loadgen.Entry{}
		}
		if _, twice := sent[e.Type][e.ID]; twice {
			t.Fatalf("the journal has id %s twice", e.ID)
		}
		sent[e.Type][e.ID] = e
	}
	return sent
}

func (j journal) acknowledged() (n int) {
	for _, entries := range j {
		for _, e := range entries {
			if e.Outcome == loadgen.OK {
				n++
			}
		}
	}
	return n
}

// verdict collects what is wrong with one type in one place, and shows a few examples of each kind.
type verdict struct {
	where string
	wrong map[string][]string
}

func (v *verdict) note(kind, example string) {
	if v.wrong == nil {
		v.wrong = map[string][]string{}
	}
	v.wrong[kind] = append(v.wrong[kind], example)
}

func (v *verdict) sentences() []string {
	var all []string
	for _, kind := range slices.Sorted(maps.Keys(v.wrong)) {
		examples := v.wrong[kind]
		all = append(all, fmt.Sprintf("%s: %d %s, such as %v", v.where, len(examples), kind, examples[:min(3, len(examples))]))
	}
	return all
}

// judge holds what was found (id to hash, as often as it was found) against what was sent, and says what is wrong.
func (j journal) judge(where, typ string, found map[string][]string) []string {
	v := verdict{where: where + ", " + typ}
	for id, hashes := range found {
		e, sent := j[typ][id]
		switch {
		case !sent:
			v.note("never sent", id)
		case len(hashes) > 1:
			v.note("found more than once", id)
		case hashes[0] != e.Hash:
			v.note("not as they were sent", id)
		}
	}
	for id, e := range j[typ] {
		if e.Outcome == loadgen.OK && len(found[id]) == 0 {
			v.note("acknowledged and lost", id)
		}
	}
	return v.sentences()
}

func report(t *testing.T, wrong []string) {
	t.Helper()
	for _, sentence := range wrong {
		t.Error(sentence)
	}
}

// find reads a destination back. Records that loadgen did not make are left out.
func find(ctx context.Context, scan scanner, typ *schema.Type) (map[string][]string, error) {
	found := map[string][]string{}
	at := typ.Index("attributes")
	err := scan(ctx, typ.Name, func(values []codec.Value) error {
		for k := range values[at].Pairs() {
			if string(k) == hashAttribute {
				id := values[schema.ID].String()
				found[id] = append(found[id], codec.Fingerprint(typ, values, hashAttribute))
				break
			}
		}
		return nil
	})
	return found, err
}

// judgeReader runs a reader that is not ours over some types. It prints, for each record: type, id, the fingerprint that
// it computes, and the one that the record carries.
func (j journal) judgeReader(t *testing.T, where string, types []string, script string, args ...string) {
	t.Helper()
	python := os.Getenv("MILLRACE_PYTHON")
	if python == "" {
		t.Fatal("MILLRACE_PYTHON names no Python with readers/requirements.txt in it: `make test` makes one")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, python, append([]string{"-B", script}, args...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s", script, err, tail(stderr.String(), 3000))
	}
	found := map[string]map[string][]string{}
	for line := range strings.Lines(string(out)) {
		words := strings.Fields(line)
		if len(words) != 4 {
			t.Fatalf("%s printed %q", script, line)
		}
		typ, id, computed, carried := words[0], words[1], words[2], words[3]
		if computed != carried {
			t.Errorf("%s: %s %s: it computes %s, the record carries %s", where, typ, id, computed, carried)
		}
		if found[typ] == nil {
			found[typ] = map[string][]string{}
		}
		found[typ][id] = append(found[typ][id], computed)
	}
	for _, typ := range types {
		report(t, j.judge(where, typ, found[typ]))
	}
}

// scanLake reads the lake back through `millrace sql`.
func scanLake(t *testing.T, types *schema.Set, flags ...string) scanner {
	t.Helper()
	return func(ctx context.Context, name string, fn func([]codec.Value) error) error {
		return lakerows.Scan(ctx, binary(t), flags, types.Get(name), fn)
	}
}
