// Package kafka holds what every Kafka client of Millrace shares: its options with explicit bounds and time-outs, and
// the plan of topics.
//
// franz-go's defaults are made for throughput on a healthy network. Left alone they take 15 to 20 s to notice a broker
// whose connections are up but silent, buffer without a bound in bytes, and decompress a hostile batch to 1 GiB.
package kafka

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"

	"github.com/millrace/millrace/pkg/telemetry"
)

const (
	saslPlain    = "plain"
	saslScram256 = "scram-sha-256"
	saslScram512 = "scram-sha-512"
)

// The bounds that every client has. They are constants because a wrong value breaks a guarantee; TestBounds holds them.
const (
	dialTimeout     = 5 * time.Second
	requestOverhead = 3 * time.Second  // beyond a request's own time-out, until a silent connection is given up
	retryTimeout    = 30 * time.Second // of an admin or group request with all its retries
	connIdle        = 4 * time.Minute  // under the brokers' connections.max.idle.ms (10 m), over any commit interval
	metadataMaxAge  = time.Minute      // until a new partition is seen

	fetchMaxWait  = time.Second
	fetchMaxBytes = 16 << 20 // per broker; what one fetch can put on the heap, before decompression
	// A partition that is paused loses what was fetched of it and not polled yet: at 1 MiB compressed, the records of a
	// sink slower than Kafka were fetched 1.6 times.
	fetchMaxPartitionBytes = 256 << 10
	brokerMaxReadBytes     = 64 << 20
	maxDecompressBatch     = 64 << 20

	produceRequestTimeout = 5 * time.Second
	maxBufferedRecords    = 50_000
	maxBufferedBytes      = 64 << 20
	produceLinger         = 10 * time.Millisecond
)

// Opts are the options of every client, producers and consumers alike. Metrics of clients made with the options of
// one call are counted together; call it once per client to keep them apart.
func (c Config) Opts(tel telemetry.Set) ([]kgo.Opt, error) {
	opts := []kgo.Opt{
		kgo.SeedBrokers(c.Brokers...),
		kgo.ClientID(c.ClientID),
		kgo.SoftwareNameAndVersion("millrace", "1"),
		kgo.DialTimeout(dialTimeout),
		kgo.RequestTimeoutOverhead(requestOverhead),
		kgo.RetryTimeoutFn(retryTimeoutOf),
		kgo.ConnIdleTimeout(connIdle),
		kgo.MetadataMaxAge(metadataMaxAge),
		kgo.FetchMaxWait(fetchMaxWait),
		kgo.FetchMaxBytes(fetchMaxBytes),
		kgo.FetchMaxPartitionBytes(fetchMaxPartitionBytes),
		kgo.BrokerMaxReadBytes(brokerMaxReadBytes),
		kgo.MaxDecompressBatchBytes(maxDecompressBatch),
		kgo.DisableClientMetrics(), // nothing is pushed to brokers unasked
		kgo.WithLogger(newLogger(tel.Log)),
		kgo.WithHooks(newClientMetrics(tel.Metrics)),
	}
	if c.TLS.used() {
		conf, err := c.TLS.config()
		if err != nil {
			return nil, err
		}
		opts = append(opts, kgo.DialTLSConfig(conf))
	}
	switch c.SASL.Mechanism {
	case saslPlain:
		opts = append(opts, kgo.SASL(plain.Auth{User: c.SASL.User, Pass: string(c.SASL.Password)}.AsMechanism()))
	case saslScram256:
		opts = append(opts, kgo.SASL(scram.Auth{User: c.SASL.User, Pass: string(c.SASL.Password)}.AsSha256Mechanism()))
	case saslScram512:
		opts = append(opts, kgo.SASL(scram.Auth{User: c.SASL.User, Pass: string(c.SASL.Password)}.AsSha512Mechanism()))
	}
	return opts, nil
}

// ProducerOpts are added by whoever produces. A record that is in flight is never cancelled: no answer would tell
// whether it was written, and a second try would double it. Whoever cannot wait sheds before it produces.
func (c Config) ProducerOpts() []kgo.Opt {
	return []kgo.Opt{
		kgo.RequiredAcks(kgo.AllISRAcks()), // idempotence is the default and stays on
		kgo.ProducerBatchCompression(kgo.ZstdCompression(), kgo.Lz4Compression(), kgo.NoCompression()),
		kgo.ProduceRequestTimeout(produceRequestTimeout),
		kgo.MaxBufferedRecords(maxBufferedRecords),
		kgo.MaxBufferedBytes(maxBufferedBytes),
		kgo.ProducerLinger(produceLinger),
	}
}

// retryTimeoutOf bounds each request with its retries. Joining and syncing a group take as long as its slowest member
// may, so they keep the session's time-out.
func retryTimeoutOf(key int16) time.Duration {
	const join, sync, heartbeat = 11, 14, 12
	if key == join || key == sync || key == heartbeat {
		return 45 * time.Second
	}
	return retryTimeout
}

func (t TLS) config() (*tls.Config, error) {
	conf := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: t.ServerName}
	if t.CA != "" {
		pem, err := os.ReadFile(t.CA)
		if err != nil {
			return nil, fmt.Errorf("reading kafka.tls.ca: %w", err)
		}
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("kafka.tls.ca: %s holds no certificate", t.CA)
		}
	}
	if t.Cert != "" {
		if _, err := tls.LoadX509KeyPair(t.Cert, t.Key); err != nil {
			return nil, fmt.Errorf("reading kafka.tls.cert and kafka.tls.key: %w", err)
		}
		// Read again at each handshake, so that a renewed certificate needs no restart.
		conf.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			cert, err := tls.LoadX509KeyPair(t.Cert, t.Key)
			if err != nil {
				return nil, fmt.Errorf("reading kafka.tls.cert and kafka.tls.key: %w", err)
			}
			return &cert, nil
		}
	}
	return conf, nil
}
