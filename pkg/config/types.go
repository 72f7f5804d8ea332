// Package config reads the one strict YAML file: unknown keys are errors with their line, secrets come from the
// environment or from files and are never printed.
package config

import "log/slog"

// Secret is a string that prints as ***.
type Secret string

func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return "***"
}

// GoString keeps %#v from printing the secret.
func (s Secret) GoString() string { return `"` + s.String() + `"` }

// LogValue keeps slog from printing the secret.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText keeps JSON and YAML from printing the secret.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Bytes is a size. In YAML: 512, 64KiB, 128MiB, 1GiB.
type Bytes int64
