package config_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/pkg/config"
)

type tree struct {
	Name  string            `yaml:"name"`
	Part  part              `yaml:"part"`
	List  []part            `yaml:"list"`
	Tags  map[string]string `yaml:"tags"`
	Extra []string          `yaml:"extra"`
}

type part struct {
	Hosts    []string      `yaml:"hosts"`
	Wait     time.Duration `yaml:"wait"`
	Size     config.Bytes  `yaml:"size"`
	Count    int           `yaml:"count"`
	Password config.Secret `yaml:"password"`
}

func (t *tree) Validate() error {
	var errs []error
	if len(t.Part.Hosts) == 0 {
		errs = append(errs, errors.New("part.hosts is empty: name at least one"))
	}
	if t.Part.Count < 0 {
		errs = append(errs, fmt.Errorf("part.count is %d: give 0 or more", t.Part.Count))
	}
	return errors.Join(errs...)
}

func defaults() *tree {
	return &tree{Name: "n", Part: part{Hosts: []string{"a:1"}, Wait: time.Second, Size: 64 << 10}, Tags: map[string]string{"a": "b"}}
}

func TestParse(t *testing.T) {
	t.Setenv("MR_COUNT", "7")
	t.Setenv("MR_PASS", `p"w: {x}`)
	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte("from file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	got := defaults()
	err := config.Parse("c.yaml", []byte(`
name: ${MR_NAME:-fallback}
part:
  hosts: [b:2, "${MR_COUNT}"]
  size: 128MiB
  count: ${MR_COUNT}
  password: ${MR_PASS}
list:
  - {wait: 3s, password: "${file:`+file+`}"}
tags: {c: $$d}
`), got)
	if err != nil {
		t.Fatal(err)
	}
	want := tree{
		Name: "fallback",
		Part: part{Hosts: []string{"b:2", "7"}, Wait: time.Second, Size: 128 << 20, Count: 7, Password: `p"w: {x}`},
		List: []part{{Wait: 3 * time.Second, Password: "from file"}},
		Tags: map[string]string{"c": "$d"},
	}
	if g, w := fmt.Sprint(*got, string(got.Part.Password), string(got.List[0].Password)), fmt.Sprint(want, string(want.Part.Password), string(want.List[0].Password)); g != w {
		t.Errorf("got  %s\nwant %s", g, w)
	}
}

func TestParseKeepsDefaults(t *testing.T) {
	for _, in := range []string{"", "# nothing\n", "part:\n", "{}"} {
		got := defaults()
		if err := config.Parse("c.yaml", []byte(in), got); err != nil {
			t.Errorf("%q: %v", in, err)
		}
		if got.Part.Wait != time.Second || len(got.Part.Hosts) != 1 {
			t.Errorf("%q lost defaults: %+v", in, got)
		}
	}
}

func TestParseErrors(t *testing.T) {
	f := func(in string, want ...string) {
		t.Helper()
		err := config.Parse("c.yaml", []byte(in), defaults())
		if err == nil {
			t.Errorf("%q was accepted", in)
			return
		}
		for _, w := range want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%q: error %q does not say %q", in, err, w)
			}
		}
	}
	f("part:\n  hsots: [a]\n", "c.yaml:2: part.hsots: unknown key", "hosts")
	f("nam: x\npart:\n  wait: 5\n  count: x\n", "c.yaml:1: nam: unknown key", "c.yaml:3: part.wait", "c.yaml:4: part.count")
	f("name: a\nname: b\n", "c.yaml:2: name: is set twice")
	f("name: a\n---\nname: b\n", "more than one YAML document")
	f("part:\n  wait: soon\n", `c.yaml:2: part.wait: "soon" is not a duration: write it like`)
	f("part:\n  count: three\n  hosts: a\n", `c.yaml:2: part.count: "three" is not a whole number`, `c.yaml:3: part.hosts: "a" is one value where a list`)
	f("part:\n  count: x\n  hosts: []\n", "c.yaml:2: part.count", "c.yaml:3: part.hosts is empty") // both at once
	f("part: 3\n", "c.yaml:1: part: must be a section")
	f("part:\n  count: 1\n  hosts: []\n", "c.yaml:3: part.hosts is empty")
	f("part:\n  count: -1\n  hosts: []\n", "c.yaml:2: part.count is -1", "c.yaml:3: part.hosts")
	f("part:\n  size: 12 parsecs\n", "c.yaml:2: part.size", "64KiB")
	f("name: ${MR_NOT_SET}\n", "c.yaml:1: name", "MR_NOT_SET is not set")
	f("name: ${file:/does/not/exist}\n", "c.yaml:1: name", "/does/not/exist")
	f("name: ${OPEN\n", "no closing brace")
	f("name: [\n", "c.yaml")
	f("list:\n  - {wait: 1s}\n  - {wiat: 1s}\n", "c.yaml:3: list[1].wiat: unknown key")
}

func TestSecretsAreNeverPrinted(t *testing.T) {
	const canary = "hunter2"
	c := part{Password: canary}
	var out bytes.Buffer
	if err := config.Print(&out, c); err != nil {
		t.Fatal(err)
	}
	slog.New(slog.NewJSONHandler(&out, nil)).Info("m", "p", c.Password, "c", c)
	slog.New(slog.NewTextHandler(&out, nil)).Info("m", "p", c.Password, "c", c)
	fmt.Fprintf(&out, "%v %+v %#v %s %q", c, c, c, c.Password, c.Password)
	if strings.Contains(out.String(), canary) {
		t.Errorf("the secret was printed: %s", &out)
	}
	if !strings.Contains(out.String(), "***") {
		t.Errorf("nothing says that there is a secret: %s", &out)
	}
}

func TestBytesRoundTrip(t *testing.T) {
	for _, s := range []string{"0", "512", "64KiB", "128MiB", "3GiB", "2TiB", "1025"} {
		var b config.Bytes
		if err := b.UnmarshalText([]byte(s)); err != nil {
			t.Fatal(err)
		}
		if b.String() != s {
			t.Errorf("%s became %s", s, b)
		}
	}
	for _, s := range []string{"", "-1", "1.5GiB", "9999999999TiB", "GiB", "1 PiB"} {
		var b config.Bytes
		if err := b.UnmarshalText([]byte(s)); err == nil {
			t.Errorf("%q became %d", s, b)
		}
	}
}

func TestBytesAreRoundedForAPerson(t *testing.T) {
	for b, want := range map[config.Bytes]string{0: "0B", 1023: "1023B", 1536: "1.5KiB", 10 << 30: "10.0GiB", 1<<30 + 1<<29: "1.5GiB"} {
		if got := b.Rounded(); got != want {
			t.Errorf("%d: %s, want %s", b, got, want)
		}
	}
}
