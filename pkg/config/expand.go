package config

import (
	"fmt"
	"os"
	"strings"

	"go.yaml.in/yaml/v3"
)

// expand replaces ${NAME} and ${file:PATH} in every scalar below n. It reports whether all could be replaced.
func (r *reader) expand(n *yaml.Node, key string) bool {
	if n.Kind == yaml.AliasNode {
		return r.expand(n.Alias, key)
	}
	ok := true
	for _, c := range n.Content {
		ok = r.expand(c, key) && ok
	}
	if n.Kind != yaml.ScalarNode || !strings.Contains(n.Value, "$") {
		return ok
	}
	value, err := expandString(n.Value)
	if err != nil {
		r.fail(n.Line, key, "%s", err)
		return false
	}
	n.Value = value
	if n.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle|yaml.LiteralStyle|yaml.FoldedStyle) == 0 {
		n.Tag = "" // a number or a duration may come from the environment
	}
	return ok
}

func expandString(s string) (string, error) {
	var out strings.Builder
	for {
		before, rest, found := strings.Cut(s, "$")
		out.WriteString(before)
		if !found {
			return out.String(), nil
		}
		switch {
		case strings.HasPrefix(rest, "$"):
			out.WriteByte('$')
			s = rest[1:]
		case strings.HasPrefix(rest, "{"):
			name, after, closed := strings.Cut(rest[1:], "}")
			if !closed {
				return "", fmt.Errorf("%q has no closing brace", "$"+rest)
			}
			value, err := lookup(name)
			if err != nil {
				return "", err
			}
			out.WriteString(value)
			s = after
		default:
			out.WriteByte('$')
			s = rest
		}
	}
}

// lookup resolves what stands between the braces: NAME, NAME:-default or file:PATH.
func lookup(name string) (string, error) {
	if path, isFile := strings.CutPrefix(name, "file:"); isFile {
		data, err := readBounded(path)
		if err != nil {
			return "", fmt.Errorf("reading ${%s}: %w", name, err)
		}
		return strings.TrimSuffix(strings.TrimSuffix(string(data), "\n"), "\r"), nil
	}
	name, fallback, hasFallback := strings.Cut(name, ":-")
	if value, ok := os.LookupEnv(name); ok {
		return value, nil
	}
	if hasFallback {
		return fallback, nil
	}
	return "", fmt.Errorf("environment variable %s is not set: set it, or write ${%s:-default}", name, name)
}
