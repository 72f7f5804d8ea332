package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/millrace/millrace/pkg/lag"
)

const runbooksDir = "../../docs/runbooks"

func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(runbooksDir, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// causesOf reads the constants of type Why, in their order, so that a new one cannot be forgotten here.
func causesOf(t *testing.T) []string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "../../pkg/lag/cause.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		if name, ok := spec.Type.(*ast.Ident); !ok || name.Name != "Why" {
			return true
		}
		for _, v := range spec.Values {
			if literal, ok := v.(*ast.BasicLit); ok {
				value, err := strconv.Unquote(literal.Value)
				if err != nil {
					t.Fatal(err)
				}
				all = append(all, value)
			}
		}
		return true
	})
	if len(all) < 2 {
		t.Fatalf("pkg/lag/cause.go has the causes %v", all)
	}
	return all
}

// Of a cause that was forgotten no alert would say anything.
func TestEveryCauseHasItsPlace(t *testing.T) {
	want := causesOf(t)
	want = append(want[1:], want[0])
	var have []string
	for _, why := range causesInOrder {
		have = append(have, string(why))
	}
	if !slices.Equal(have, want) || want[len(want)-1] != string(lag.MonitorBlind) {
		t.Errorf("the causes are looked for in the order %v, and the alerts name them in %v", want, have)
	}
}

func headings(text string) []string {
	var all []string
	for line := range strings.Lines(text) {
		if h, ok := strings.CutPrefix(line, "## "); ok {
			all = append(all, strings.TrimSpace(h))
		}
	}
	return all
}

func TestEveryAlertHasARunbookAndEveryRunbookAnAlert(t *testing.T) {
	want := []string{"README.md", "causes.md"}
	index := read(t, "README.md")
	for _, a := range alerts(defaults()) {
		name := a.name + ".md"
		if slices.Contains(want, name) {
			continue // an alert may have two rules
		}
		want = append(want, name)
		text := read(t, name)
		if !strings.HasPrefix(text, "# "+a.name+"\n") {
			t.Errorf("%s is not headed by its alert", name)
		}
		if got := headings(text); !slices.Equal(got, []string{"What it means", "Tell the causes apart", "What to do", "How to know that it is over"}) {
			t.Errorf("%s has the sections %v", name, got)
		}
		if !strings.Contains(index, "| ["+a.name+"]("+name+") |") {
			t.Errorf("docs/runbooks/README.md does not list %s", a.name)
		}
	}
	slices.Sort(want)
	var have []string
	entries, err := os.ReadDir(runbooksDir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		have = append(have, e.Name())
	}
	if !slices.Equal(have, want) {
		t.Errorf("docs/runbooks has %v, the alerts want %v", have, want)
	}
}

func TestEveryCauseHasASectionAndEverySectionACause(t *testing.T) {
	text := read(t, "causes.md")
	have := headings(text)
	slices.Sort(have)
	want := causesOf(t)
	slices.Sort(want)
	if !slices.Equal(have, want) {
		t.Errorf("causes.md has sections for %v, the causes are %v", have, want)
	}
	for section := range strings.SplitSeq(text, "\n## ") {
		name, body, _ := strings.Cut(section, "\n")
		if strings.HasPrefix(name, "#") {
			continue
		}
		for _, part := range []string{"**For whom.**", "**Tell it apart.**", "**Do.**", "**Over when:**"} {
			if strings.Count(body, part) != 1 {
				t.Errorf("the section on %s has not one %s", name, part)
			}
		}
	}
	for _, w := range handNeeded {
		if !slices.Contains(have, string(w)) {
			t.Errorf("%s needs a hand, and is no cause", w)
		}
	}
}

var link = regexp.MustCompile(`\]\(([^)#]*)(?:#([^)]*))?\)`)

func TestLinksOfRunbooksLead(t *testing.T) {
	paths, err := filepath.Glob(filepath.Join(runbooksDir, "*.md"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("found %v, error %v", paths, err)
	}
	for _, path := range paths {
		for _, m := range link.FindAllStringSubmatch(read(t, filepath.Base(path)), -1) {
			to := path
			if m[1] != "" {
				to = filepath.Join(runbooksDir, m[1])
			}
			text, err := os.ReadFile(to)
			if info, statErr := os.Stat(to); statErr == nil && info.IsDir() {
				continue
			}
			if err != nil {
				t.Errorf("%s: %v", filepath.Base(path), err)
			}
			if m[2] != "" && filepath.Base(to) == "causes.md" && !slices.Contains(headings(string(text)), m[2]) {
				t.Errorf("%s: causes.md has no section %s", filepath.Base(path), m[2])
			}
		}
	}
}
