package kafka_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/pkg/config"
	"github.com/millrace/millrace/pkg/kafka"
	"github.com/millrace/millrace/pkg/kafka/kafkatest"
	"github.com/millrace/millrace/pkg/telemetry"
)

func TestBounds(t *testing.T) {
	conf := kafka.Default()
	opts, err := conf.Opts(telemetry.Discard())
	if err != nil {
		t.Fatal(err)
	}
	cl, err := kgo.NewClient(append(opts, conf.ProducerOpts()...)...)
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	for _, want := range []struct {
		opt   any
		name  string
		value any
	}{
		{kgo.DialTimeout, "DialTimeout", 5 * time.Second},
		{kgo.RequestTimeoutOverhead, "RequestTimeoutOverhead", 3 * time.Second},
		{kgo.FetchMaxWait, "FetchMaxWait", time.Second},
		{kgo.FetchMaxBytes, "FetchMaxBytes", int32(16 << 20)},
		{kgo.FetchMaxPartitionBytes, "FetchMaxPartitionBytes", int32(256 << 10)},
		{kgo.BrokerMaxReadBytes, "BrokerMaxReadBytes", int32(64 << 20)},
		{kgo.MaxDecompressBatchBytes, "MaxDecompressBatchBytes", 64 << 20},
		{kgo.ProduceRequestTimeout, "ProduceRequestTimeout", 5 * time.Second},
		{kgo.MaxBufferedRecords, "MaxBufferedRecords", int64(50_000)},
		{kgo.MaxBufferedBytes, "MaxBufferedBytes", int64(64 << 20)},
		{kgo.RequiredAcks, "RequiredAcks", kgo.AllISRAcks()},
		{kgo.DisableIdempotentWrite, "DisableIdempotentWrite", false},
		{kgo.AllowIdempotentProduceCancellation, "AllowIdempotentProduceCancellation", false},
		{kgo.RecordDeliveryTimeout, "RecordDeliveryTimeout", time.Duration(0)},
	} {
		if got := cl.OptValue(want.opt); got != want.value {
			t.Errorf("%s is %v (%T), want %v (%T)", want.name, got, got, want.value, want.value)
		}
	}
	retry := cl.OptValue(kgo.RetryTimeoutFn).(func(int16) time.Duration)
	if got := retry(3); got != 30*time.Second {
		t.Errorf("a metadata request is retried for %v, want 30s", got)
	}
}

func TestClientsShareARegistry(t *testing.T) {
	tel := telemetry.Discard()
	reg := prometheus.NewRegistry()
	tel.Metrics = reg
	opts, err := kafka.Default().Opts(tel)
	if err != nil {
		t.Fatal(err)
	}
	other, err := kafka.Default().Opts(tel)
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range [][]kgo.Opt{opts, opts, other} {
		cl, err := kgo.NewClient(o...)
		if err != nil {
			t.Fatal(err)
		}
		defer cl.Close()
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var seen []string
	for _, f := range families {
		if f.GetName() == "millrace_kafka_buffered_produce_records_total" {
			for _, m := range f.GetMetric() {
				for _, l := range m.GetLabel() {
					if l.GetName() == "client" {
						seen = append(seen, l.GetValue())
					}
				}
			}
		}
	}
	if got := strings.Join(seen, ","); got != "1,2" {
		t.Errorf("clients %q, want 1,2 (two sets of options)", got)
	}
}

func TestValidateNamesEveryMistake(t *testing.T) {
	conf := kafka.Config{
		Replication: 1, MinISR: 2,
		TLS:  kafka.TLS{Cert: "client.pem"},
		SASL: kafka.SASL{Mechanism: "gssapi", Password: config.Secret("hush")},
	}
	err := conf.Validate()
	if err == nil {
		t.Fatal("no error")
	}
	for _, key := range []string{"kafka.brokers", "kafka.client_id", "kafka.min_isr", "kafka.tls.cert", "kafka.sasl.mechanism"} {
		if !strings.Contains(err.Error(), key) {
			t.Errorf("%s is not named in: %v", key, err)
		}
	}
	if strings.Contains(err.Error(), "hush") {
		t.Errorf("the password is in: %v", err)
	}
	if err := kafka.Default().Validate(); err != nil {
		t.Errorf("the default is refused: %v", err)
	}
}

func TestVirtualCluster(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := kafkatest.NewVirtual(t, "a")
		c.Produce(t, &kgo.Record{Topic: "a", Partition: 1, Value: []byte("x")})
		if got := c.Records(t, "a"); len(got) != 1 || got[0].Partition != 1 {
			t.Errorf("read %v, want one record of partition 1", got)
		}
	})
}

func TestLoopbackCluster(t *testing.T) {
	c := kafkatest.New(t, "a")
	c.Produce(t, &kgo.Record{Topic: "a", Partition: 1, Value: []byte("x")})
	if got := c.Records(t, "a"); len(got) != 1 {
		t.Errorf("read %v, want one record", got)
	}
	if c.RegistryURL(t) == "" {
		t.Error("no registry")
	}
}
