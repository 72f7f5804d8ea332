package schema

import (
	"strconv"
	"time"
)

// TopicName is the Kafka topic of the type's records: millrace.<type>.
func (t *Type) TopicName() string { return "millrace." + t.Name }

// DLQName is the topic of the type's dead letters: millrace.<type>.dlq.
func (t *Type) DLQName() string { return t.TopicName() + ".dlq" }

// Subject is the registry's name for the schema of the topic's values.
func (t *Type) Subject() string { return t.TopicName() + "-value" }

// TopicSpec is a topic as it should be. Replication and min.insync.replicas belong to the cluster, not to the type:
// who makes the topic sets them.
type TopicSpec struct {
	Name       string
	Partitions int
	Configs    map[string]string
}

const (
	// Kafka's own default, stated so that no broker's setting refuses what another's accepts.
	maxRecordBytes = 1048588
	// A dead letter is the whole record and the headers that say why it is one.
	maxDeadLetterBytes = 2 * maxRecordBytes
	minDeadRetention   = 30 * day
)

// TopicSpec is the topic of the type's records. Its timestamps are append times: lag in seconds is exact, and a
// producer's wrong clock can neither keep data past its retention nor delete it before.
func (t *Type) TopicSpec() TopicSpec {
	return TopicSpec{Name: t.TopicName(), Partitions: t.Topic.Partitions, Configs: topicConfigs(t.Topic.Retention, maxRecordBytes)}
}

// DLQSpec is the topic of the type's dead letters. They are few and wait for a person, so one partition, and kept at
// least twice as long as the records; append time counts from when a record was given up, and the headers say when it
// was first written.
func (t *Type) DLQSpec() TopicSpec {
	keep := min(max(minDeadRetention, 2*t.Topic.Retention), maxRetention)
	return TopicSpec{Name: t.DLQName(), Partitions: 1, Configs: topicConfigs(keep, maxDeadLetterBytes)}
}

func topicConfigs(retention time.Duration, maxBytes int) map[string]string {
	return map[string]string{
		"cleanup.policy":         "delete",
		"compression.type":       "producer",
		"max.message.bytes":      strconv.Itoa(maxBytes),
		"message.timestamp.type": "LogAppendTime",
		"retention.ms":           strconv.FormatInt(retention.Milliseconds(), 10),
	}
}
