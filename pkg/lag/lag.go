// Package lag provides the number by which the flow is judged: how far each consumer group is behind on each partition, in
// records and in seconds, with the method by which each was found, and one likely cause.
//
// A [Reader] asks a cluster for what one look needs, in a number of requests that depends on the brokers alone. A [Watcher]
// takes one look after the other, remembers what it needs, and says what it means. Neither interpolates, and what is not
// known is not 0.
//
// Offsets: committed is the next offset that a group will read after a restart; applied is the end of what its destination
// has, and fetched the end of what it holds, which only Millrace's own consumers say. An end is the log's last stable
// offset for a group that reads committed records only, as Millrace's do, and its high watermark for any other.
package lag

import (
	"time"
)

// Partition is one of a topic's.
type Partition struct {
	Topic  string
	Number int32
}

// Log is what the brokers say of one partition.
type Log struct {
	TopicID [16]byte
	Leader  int32 // -1 where there is none
	Start   int64 // the first offset
	Stable  int64 // the last stable offset: everything below is decided
	End     int64 // the high watermark
	Err     error // why nothing is known; the offsets are then void
}

// Commit is a group's on a partition.
type Commit struct {
	Offset   int64
	Metadata string
}

// Member is one of a group's.
type Member struct {
	ID         string
	Instance   string // of a static member
	Client     string
	Host       string
	Partitions []Partition
}

// Group is what its coordinator says of it.
type Group struct {
	Name    string
	State   string // as Kafka says: Stable, Empty, PreparingRebalance, ...
	New     bool   // of the protocol of KIP-848
	Epoch   int32  // of such a group; 0 of any other
	Members []Member
	Commits map[Partition]Commit
	Simple  bool  // nobody joins it: its commits are made from outside
	Unseen  error // why nothing is known of its members
	Err     error // why nothing is known of it, or not its commits
}

// Topic is how one is kept.
type Topic struct {
	AppendTime     bool          // its timestamps are the brokers'
	Retention      time.Duration // 0 is for ever, as in a topic that is only compacted
	RetentionBytes int64         // of each partition; 0 is no bound
	Unread         bool          // its configuration could not be read: how it is kept is not known
}

// Look is a cluster as it was at one time. Commits were read before ends, so that a group that keeps up does not look ahead.
type Look struct {
	Cluster string    // its id; empty where the brokers have none
	Begun   time.Time // before the first request
	Ended   time.Time // after the last answer
	From    time.Time // before the ends were asked for
	Groups  map[string]*Group
	Logs    map[Partition]*Log
	Topics  map[string]Topic
	Gone    map[string]bool     // topics that the cluster says it does not have
	Sizes   map[Partition]int64 // in bytes, of the leader's log; those that are asked for
	Errors  []error             // requests that failed, in part or as a whole
	Deaf    bool                // some broker did not say what groups it coordinates
	Calls   int                 // requests to brokers
}
