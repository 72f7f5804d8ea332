// Package reporttopic carries what consumers say of themselves to whoever watches the lag, over the topic millrace.status.
//
// It promises nothing to anybody else: a report that cannot be published is lost, and the next one says more. Nothing waits
// for it, and without the topic all goes on but that less is known.
package reporttopic

import (
	"bytes"
	"strings"

	"github.com/millrace/millrace/pkg/lag"
	"github.com/millrace/millrace/pkg/schema"
)

// Spec is the topic: one partition, since reports are few, and compacted, so that it stays small. Its timestamps are the
// brokers', by which a report's age is known and clocks are compared.
func Spec() schema.TopicSpec {
	return schema.TopicSpec{Name: lag.StatusTopic, Partitions: 1, Configs: map[string]string{
		"cleanup.policy":         "compact,delete", // what a process said that was killed goes after a week
		"retention.ms":           "604800000",
		"compression.type":       "producer",
		"message.timestamp.type": "LogAppendTime",
		"segment.ms":             "600000", // what is compacted are whole segments that are closed
	}}
}

// clockPrefix is of the keys of records that only compare clocks.
const clockPrefix = "clock/"

// split takes a key apart. Group names may contain slashes, names of instances do not.
func split(key []byte) (group, instance string, ok bool) {
	if bytes.HasPrefix(key, []byte(clockPrefix)) {
		return "", "", false
	}
	i := bytes.LastIndexByte(key, '/')
	if i < 0 {
		return "", "", false
	}
	return string(key[:i]), string(key[i+1:]), true
}

// instanceName makes a name of a process fit for a key.
func instanceName(s string) string { return strings.ReplaceAll(s, "/", "-") }
