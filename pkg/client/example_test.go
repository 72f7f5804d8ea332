package client_test

import (
	"context"
	"fmt"
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
		fmt.Println(err)
		return
	}

	// Typed.
	severity := "ERROR"
	logs := client.For[Log](c, "log")
	err = logs.Send(ctx, Log{Service: "billing", Severity: &severity, Body: "disk full"}, func(err error) {
		fmt.Println("log:", client.OutcomeOf(err)) // after Kafka's acknowledgement
	})
	if err != nil {
		fmt.Println(err) // it was not taken
	}

	// Untyped: a map, or JSON.
	err = c.Send(ctx, "metric", map[string]any{"name": "queue.length", "value": 17.0}, nil)
	if err != nil {
		fmt.Println(err)
	}

	// What does not fit the schema is refused at once, by the field's name.
	fmt.Println(c.Send(ctx, "log", []byte(`{"body": 5}`), nil))
	if err := c.Flush(ctx); err != nil {
		fmt.Println(err)
	}

	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	report, err := c.Close(ctx)
	fmt.Println("acknowledged:", report.Acknowledged, "unknown:", report.Unknown, "error:", err)
	// Unordered output:
	// field "body" must be a string, not a number
	// log: acknowledged
	// acknowledged: 2 unknown: 0 error: <nil>
}

// demo starts a Kafka and a registry in this process.
func demo() (brokers, registry []string, stop func()) {
	check := func(err error) {
		if err != nil {
			panic(err)
		}
	}
	kafka, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "millrace.log", "millrace.metric"))
	check(err)
	reg := srfake.New()
	types, err := schema.Builtin()
	check(err)
	set, err := schema.NewSet(types...)
	check(err)
	cfg := codec.Default()
	cfg.URLs = []string{reg.URL()}
	c, err := codec.New(cfg, set, telemetry.Discard())
	check(err)
	for _, t := range types {
		_, err := c.Register(context.Background(), t)
		check(err)
	}
	return kafka.ListenAddrs(), cfg.URLs, func() { kafka.Close(); reg.Close() }
}
