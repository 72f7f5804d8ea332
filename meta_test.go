package main_test

// The repository's own rules, those that no linter knows.

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const (
	maxFileLines     = 600
	maxFunctionLines = 100
	longFunction     = 40
	maxLongFunctions = 0.05 // share of all functions
)

// ignored are folders that hold what is made here, not what is written.
var ignored = []string{".git", ".stack", ".millrace", "bin"}

// walk calls fn for every file of the tree, by its slash-separated path.
func walk(t *testing.T, fn func(path string)) {
	t.Helper()
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && slices.Contains(ignored, d.Name()):
			return filepath.SkipDir
		case d.IsDir(), strings.HasSuffix(path, ".test"): // what git ignores
			return nil
		}
		fn(filepath.ToSlash(path))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

type goFile struct {
	path  string
	set   *token.FileSet
	ast   *ast.File
	lines int
}

func (f goFile) test() bool { return strings.HasSuffix(f.path, "_test.go") }

func (f goFile) at(n ast.Node) string { return f.set.Position(n.Pos()).String() }

func (f goFile) linesOf(n ast.Node) int {
	return f.set.Position(n.End()).Line - f.set.Position(n.Pos()).Line + 1
}

func goFiles(t *testing.T) []goFile {
	t.Helper()
	var files []goFile
	walk(t, func(path string) {
		if !strings.HasSuffix(path, ".go") {
			return
		}
		set := token.NewFileSet()
		parsed, err := parser.ParseFile(set, path, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, goFile{path, set, parsed, set.File(parsed.Pos()).LineCount()})
	})
	return files
}

func TestEveryPackageIsDocumentedOnce(t *testing.T) {
	docs := map[string][]string{}
	for _, f := range goFiles(t) {
		if strings.Contains(f.path, "/testdata/") {
			continue
		}
		dir := filepath.Dir(f.path)
		if _, ok := docs[dir]; !ok {
			docs[dir] = nil
		}
		if f.ast.Doc != nil {
			docs[dir] = append(docs[dir], f.path)
		}
	}
	for dir, files := range docs {
		if len(files) != 1 {
			t.Errorf("%s: the package is documented in %d files %v, want 1", dir, len(files), files)
		}
	}
}

func TestFilesAndFunctionsAreShort(t *testing.T) {
	all, long := 0, []string{}
	for _, f := range goFiles(t) {
		if f.lines > maxFileLines {
			t.Errorf("%s has %d lines, more than %d: more than one idea in a room?", f.path, f.lines, maxFileLines)
		}
		if f.test() {
			continue
		}
		for _, d := range f.ast.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok {
				continue
			}
			all++
			n := f.linesOf(fn)
			if n > maxFunctionLines {
				t.Errorf("%s: %s has %d lines, more than %d", f.at(fn), fn.Name.Name, n, maxFunctionLines)
			}
			if n > longFunction {
				long = append(long, fmt.Sprintf("%s %s: %d lines", f.at(fn), fn.Name.Name, n))
			}
		}
	}
	if budget := int(maxLongFunctions * float64(all)); len(long) > budget {
		t.Errorf("%d of %d functions have more than %d lines, the budget is %d:\n%s", len(long), all, longFunction, budget, strings.Join(long, "\n"))
	}
}

func TestErrorsSayWhatWasDone(t *testing.T) {
	for _, f := range goFiles(t) {
		if f.test() {
			continue
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING && strings.Contains(strings.ToLower(lit.Value), "failed"+" to") {
				t.Errorf("%s: %s: name what was being done (\"writing the batch: …\")", f.at(lit), lit.Value)
			}
			return true
		})
	}
}

func TestNothingRunsBeforeMain(t *testing.T) {
	for _, f := range goFiles(t) {
		for _, d := range f.ast.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
				t.Errorf("%s: init", f.at(fn))
			}
		}
	}
}

// A test that cannot run fails with a reason. One that needs the real servers says so by its file's name.
func TestTestsAreNotSkipped(t *testing.T) {
	for _, f := range goFiles(t) {
		// There it means that a random step does not apply.
		rapid := slices.ContainsFunc(f.ast.Imports, func(i *ast.ImportSpec) bool { return i.Path.Value == `"pgregory.net/rapid"` })
		ast.Inspect(f.ast, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			sel, ok := call.Fun.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			x, ok := sel.X.(*ast.Ident)
			if !ok {
				return true
			}
			switch {
			case f.test() && !rapid && (x.Name == "t" || x.Name == "b" || x.Name == "tb") && strings.HasPrefix(sel.Sel.Name, "Skip"):
				t.Errorf("%s: a skipped test", f.at(call))
			case x.Name == "servertest" && sel.Sel.Name == "Require" && !strings.HasSuffix(f.path, "_server_test.go"):
				t.Errorf("%s: a test on real servers outside of a *_server_test.go file", f.at(call))
			}
			return true
		})
	}
}

// Every component has the same shape, so that whoever has read one knows all.
func TestComponentsHaveTheSameFiles(t *testing.T) {
	for _, kind := range []string{"producers", "consumers"} {
		entries, err := os.ReadDir(kind)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			for _, file := range []string{e.Name() + ".go", "config.go", "metrics.go"} {
				if _, err := os.Stat(filepath.Join(kind, e.Name(), file)); err != nil {
					t.Errorf("%s/%s has no %s", kind, e.Name(), file)
				}
			}
		}
	}
}

func TestEveryTypeHasGoldenFiles(t *testing.T) {
	types, err := filepath.Glob("schemas/*.avsc")
	if err != nil || len(types) < 4 {
		t.Fatalf("schemas: %v, %v", types, err)
	}
	for _, path := range types {
		name := strings.TrimSuffix(filepath.Base(path), ".avsc")
		golden, err := filepath.Glob("pkg/schema/testdata/" + name + ".*")
		if err != nil || len(golden) < 4 {
			t.Errorf("%s: golden files %v: want topic, CQL, index template and Iceberg; `make generate` writes them", path, golden)
		}
	}
}

func TestModuleBuildsForOthers(t *testing.T) {
	mod, err := os.ReadFile("go.mod")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mod)) {
		if word, _, _ := strings.Cut(strings.TrimSpace(line), " "); word == "replace" || word == "exclude" {
			t.Errorf("go.mod: %q is not seen by whoever imports the module", strings.TrimSpace(line))
		}
	}
}

func TestChangelogIsThere(t *testing.T) {
	text, err := os.ReadFile("CHANGELOG.md")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), "\n## ") {
		t.Error("CHANGELOG.md has no section")
	}
}

// A path into somebody's home works on one machine only.
func TestNoPathsOfOneMachine(t *testing.T) {
	banned := regexp.MustCompile(`(^|[^A-Za-z0-9_.~}])/(root|home)/`)
	walk(t, func(path string) {
		if path == "go.sum" {
			return
		}
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for line := range strings.Lines(string(data)) {
			n++
			if found := banned.FindString(line); found != "" {
				t.Errorf("%s:%d: %q", path, n, found)
			}
		}
	})
}

// A link that leads nowhere costs its reader's trust in the others.
func TestLinksInDocumentsLeadSomewhere(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)#:\s"]+)(#[^)]*)?\)`)
	walk(t, func(path string) {
		if !strings.HasSuffix(path, ".md") {
			return
		}
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range link.FindAllStringSubmatch(string(data), -1) {
			target := filepath.Join(filepath.Dir(path), m[1])
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s: a link to %s, which is not there", path, m[1])
			}
		}
	})
}

// The Makefile's targets that documents name exist.
func TestNamedTargetsExist(t *testing.T) {
	makefile, err := os.ReadFile("Makefile")
	if err != nil {
		t.Fatal(err)
	}
	named := regexp.MustCompile("(?m)(?:^|`)make ([a-z-]+)")
	walk(t, func(path string) {
		if !strings.HasSuffix(path, ".md") {
			return
		}
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range named.FindAllStringSubmatch(string(data), -1) {
			if !strings.Contains(string(makefile), "\n"+m[1]+":") {
				t.Errorf("%s: the Makefile has no target %s", path, m[1])
			}
		}
	})
}

// A page that says which test holds a promise must not go on saying so when the test is gone.
func TestTestsThatDocsNameExist(t *testing.T) {
	there := map[string]bool{}
	for _, f := range goFiles(t) {
		for _, d := range f.ast.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && f.test() {
				there[fn.Name.Name] = true
			}
		}
	}
	name := regexp.MustCompile("`(Test[A-Z][A-Za-z0-9]*)`")
	walk(t, func(path string) {
		if filepath.Ext(path) != ".md" {
			return
		}
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range name.FindAllStringSubmatch(string(text), -1) {
			if !there[m[1]] {
				t.Errorf("%s names %s, which is not there", path, m[1])
			}
		}
	})
}
