package client_test

import (
	"context"
	"fmt"
	"log"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/sr/srfake"

	"github.com/millrace/millrace/pkg/client"
	"github.com/millrace/millrace/pkg/codec"
	"github.com/millrace/millrace/pkg/schema"
	"github.com/millrace/millrace/pkg/telemetry"
)

// Log is what this service knows of the type log. Fields that it leaves out take their defaults.
type Log struct {
	Service    string            `avro:"service"`
	Severity   *string           `avro:"severity"` // null where nil
	Body       string            `avro:"body"`
	Attributes map[string]string `avro:"attributes"`
}

func Example() {
	brokers, registry, stop := demo() // yours: []string{"kafka-1:9092"}, []string{"http://registry:8081"}
	defer stop()
	ctx := context.Background()
	c, err := client.Dial(ctx, brokers, registry)
	if err != nil {
		log.Fatal(err)
	}

	// Typed.
	severity := "ERROR"
	logs := client.For[Log](c, "log")
	err = logs.Send(ctx, Log{Service: "billing", Severity: &severity, Body: "disk full"}, func(err error) {
		fmt.Println("log:", client.OutcomeOf(err))
	})
	if err != nil {
		log.Fatal(err)
	}

	// Untyped: a map, or JSON.
	err = c.Send(ctx, "metric", map[string]any{"name": "queue.length", "value": 17.0}, nil)
	if err != nil {
		log.Fatal(err)
	}

	// What does not fit the schema is refused at once, by the field's name.
	fmt.Println(c.Send(ctx, "log", []byte(`{"body": 5}`), nil))

	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	report, err := c.Close(ctx)
	fmt.Println("acknowledged:", report.Acknowledged, "unknown:", report.Unknown, "error:", err)
	// Output:
	// field "body" must be a string, not a number
	// log: acknowledged
	// acknowledged: 2 unknown: 0 error: <nil>
}

// demo starts a Kafka and a registry in this process.
func demo() (brokers, registry []string, stop func()) {
	kafka, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "millrace.log", "millrace.metric"))
	if err != nil {
		log.Fatal(err)
	}
	reg := srfake.New()
	types, err := schema.Builtin()
	if err != nil {
		log.Fatal(err)
	}
	set, err := schema.NewSet(types...)
	if err != nil {
		log.Fatal(err)
	}
	cfg := codec.Default()
	cfg.URLs = []string{reg.URL()}
	c, err := codec.New(cfg, set, telemetry.Discard())
	if err != nil {
		log.Fatal(err)
	}
	for _, t := range types {
		if _, err := c.Register(context.Background(), t); err != nil {
			log.Fatal(err)
		}
	}
	return kafka.ListenAddrs(), cfg.URLs, func() { kafka.Close(); reg.Close() }
}
