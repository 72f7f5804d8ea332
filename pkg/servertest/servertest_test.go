package servertest

import (
	"strings"
	"testing"
)

// Whoever asks for servers and has none is told which one and why.
func TestUnreachableServersAreNamed(t *testing.T) {
	s := Servers{Kafka: []string{""}, Registry: "", Cassandra: []string{"127.0.0.1:1"}, Elasticsearch: "http://127.0.0.1:1"}
	err := s.reach(t.Context())
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{"MILLRACE_KAFKA is empty", "MILLRACE_REGISTRY is empty", "MILLRACE_CASSANDRA: dial", "MILLRACE_ELASTICSEARCH: "} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in: %v", want, err)
		}
	}
}

func TestNamesDiffer(t *testing.T) {
	if a, b := Name(t), Name(t); a == b || len(a) > 20 {
		t.Errorf("names %q and %q", a, b)
	}
}
