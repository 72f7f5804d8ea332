package schema

import (
	"testing"
	"time"
)

func TestDuration(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"7d": 7 * day, "1h": time.Hour, "10m": 10 * time.Minute, "1d12h": 36 * time.Hour, "90s": 90 * time.Second, "0d": 0, "36500d": 36500 * day,
	} {
		got, err := ParseDuration(text)
		if err != nil || got != want {
			t.Errorf("ParseDuration(%q) = %v, %v, want %v", text, got, err, want)
		}
		if back, err := ParseDuration(formatDuration(got)); err != nil || back != got {
			t.Errorf("%q is written as %q, which is %v, %v", text, formatDuration(got), back, err)
		}
	}
	for _, text := range []string{"", "7", "d", "-1d", "1.5d", "1d-1h", "-1h", "1w", "1h1d", "106752d", "99999999999d", "106751d24h", " 1d", "1 d"} {
		if got, err := ParseDuration(text); err == nil {
			t.Errorf("ParseDuration(%q) = %v, want an error", text, got)
		}
	}
}
