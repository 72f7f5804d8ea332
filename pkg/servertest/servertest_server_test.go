package servertest

import (
	"net/http"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

func TestWhatATestMadeIsGoneAfterIt(t *testing.T) {
	servers, ok := Require(t)
	if !ok {
		return
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(servers.Kafka...))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	adm := kadm.NewClient(client)
	var prefix string
	t.Run("inner", func(t *testing.T) {
		servers.Keyspace(t)
		prefix = servers.Prefix(t)
		if _, err := adm.CreateTopic(t.Context(), 1, 1, nil, prefix+".log"); err != nil {
			t.Fatal(err)
		}
		if err := request(t.Context(), http.MethodPut, servers.Elasticsearch+"/"+prefix+"-1"); err != nil {
			t.Fatal(err)
		}
	})
	topics, err := adm.ListTopics(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if topics.Has(prefix + ".log") {
		t.Error("the topic is still there")
	}
	if err := request(t.Context(), http.MethodGet, servers.Elasticsearch+"/"+prefix+"-1"); err == nil {
		t.Error("the index is still there")
	}
}
