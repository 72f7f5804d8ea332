package lake

import (
	"strings"
	"testing"
)

func TestValidateReportsEverything(t *testing.T) {
	if err := Default().Validate(); err != nil {
		t.Error(err)
	}
	err := Config{}.Validate()
	for _, key := range []string{"lake.catalog", "lake.age", "lake.bytes", "lake.memory", "lake.group_rows", "lake.timeout"} {
		if err == nil || !strings.Contains(err.Error(), key) {
			t.Errorf("%v does not name %s", err, key)
		}
	}
}
