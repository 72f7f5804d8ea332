package lag

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

const (
	configsEvery = 5 * time.Minute
	sizesEvery   = time.Minute
	stepWait     = 5 * time.Second // for what a broker is asked in one step: one that is silent does not keep the others' answers
)

// Reader looks at a cluster. It is not for concurrent use.
type Reader struct {
	client  *kgo.Client
	adm     *kadm.Client
	now     func() time.Time
	wanted  func(group string) bool
	topics  []string // looked at in any case
	calls   *Calls
	configs map[string]Topic
	read    time.Time // when configs were
	sizes   map[Partition]int64
	sized   time.Time
}

// Calls counts the requests of a client: it is one of its hooks.
type Calls struct{ n atomic.Int64 }

// OnBrokerWrite implements kgo.HookBrokerWrite.
func (c *Calls) OnBrokerWrite(kgo.BrokerMetadata, int16, int, time.Duration, time.Duration, error) {
	c.n.Add(1)
}

// NewReader looks through a client at the groups that are wanted, and at the topics that are named or that one of those
// groups has commits on. calls is a hook of the client.
func NewReader(client *kgo.Client, calls *Calls, topics []string, wanted func(group string) bool, now func() time.Time) *Reader {
	return &Reader{
		client: client, adm: kadm.NewClient(client), now: now, wanted: wanted, topics: topics, calls: calls,
		configs: map[string]Topic{}, sizes: map[Partition]int64{},
	}
}

// Look reads everything once. Its error is that nothing could be read at all; what is missing in part is in the Look.
func (r *Reader) Look(ctx context.Context) (*Look, error) {
	before := r.calls.n.Load()
	l := &Look{Begun: r.now(), Groups: map[string]*Group{}, Logs: map[Partition]*Log{}, Gone: map[string]bool{}}
	if err := r.listGroups(ctx, l); err != nil {
		return nil, err
	}
	r.describe(ctx, l)
	r.commits(ctx, l)
	if err := r.logs(ctx, l); err != nil {
		return nil, err
	}
	r.howKept(ctx, l)
	l.Ended, l.Calls = r.now(), int(r.calls.n.Load()-before)
	return l, nil
}

func (l *Look) failed(what string, err error) {
	l.Errors = append(l.Errors, fmt.Errorf("%s: %w", what, err))
}

// listGroups asks every broker for its groups, of any protocol.
func (r *Reader) listGroups(ctx context.Context, l *Look) error {
	ctx, cancel := context.WithTimeout(ctx, stepWait)
	defer cancel()
	shards := r.client.RequestSharded(ctx, kmsg.NewPtrListGroupsRequest())
	answered := false
	for _, s := range shards {
		err := s.Err
		if err == nil {
			resp := s.Resp.(*kmsg.ListGroupsResponse) //nolint:forcetypeassert // of this request
			if err = kerr.ErrorForCode(resp.ErrorCode); err == nil {
				answered = true
				for _, g := range resp.Groups {
					if (g.ProtocolType == "consumer" || g.ProtocolType == "") && g.GroupType != "share" && r.wanted(g.Group) {
						l.Groups[g.Group] = &Group{
							Name: g.Group, State: g.GroupState, New: g.GroupType == "consumer", Simple: g.ProtocolType == "", Commits: map[Partition]Commit{},
							Unseen: errUndescribed,
						}
					}
				}
			}
		}
		if err != nil {
			l.Deaf = true
			l.failed(fmt.Sprintf("listing the groups of broker %d", s.Meta.NodeID), err)
		}
	}
	if !answered {
		return fmt.Errorf("listing consumer groups: %w", cmp.Or(errors.Join(l.Errors...), errors.New("no broker answered")))
	}
	return nil
}

var errUndescribed = errors.New("its coordinator did not describe it")

func (r *Reader) describe(ctx context.Context, l *Look) {
	ctx, cancel := context.WithTimeout(ctx, stepWait)
	defer cancel()
	var classic, modern []string
	for name, g := range l.Groups {
		if g.New {
			modern = append(modern, name)
		} else {
			classic = append(classic, name)
		}
	}
	if len(classic) > 0 {
		described, err := r.adm.DescribeGroups(ctx, classic...)
		if err != nil {
			l.failed("describing groups", err)
		}
		for name, d := range described {
			g := l.Groups[name]
			if g == nil || d.Err != nil {
				continue
			}
			g.State, g.Unseen = d.State, nil
			for _, m := range d.Members {
				member := Member{ID: m.MemberID, Instance: deref(m.InstanceID), Client: m.ClientID, Host: m.ClientHost}
				if a, ok := m.Assigned.AsConsumer(); ok {
					for _, t := range a.Topics {
						for _, p := range t.Partitions {
							member.Partitions = append(member.Partitions, Partition{t.Topic, p})
						}
					}
				}
				g.Members = append(g.Members, member)
			}
		}
	}
	if len(modern) > 0 {
		described, err := r.adm.DescribeConsumerGroups(ctx, modern...)
		if err != nil {
			l.failed("describing groups of the new protocol", err)
		}
		for name, d := range described {
			g := l.Groups[name]
			if g == nil || d.Err != nil {
				continue
			}
			g.State, g.Epoch, g.Unseen = d.State, d.Epoch, nil
			for _, m := range d.Members {
				member := Member{ID: m.MemberID, Instance: deref(m.InstanceID), Client: m.ClientID, Host: m.ClientHost}
				m.Assignment.Each(func(topic string, p int32) {
					member.Partitions = append(member.Partitions, Partition{topic, p})
				})
				g.Members = append(g.Members, member)
			}
		}
	}
}

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

func (r *Reader) commits(ctx context.Context, l *Look) {
	ctx, cancel := context.WithTimeout(ctx, stepWait)
	defer cancel()
	for name, resp := range r.adm.FetchManyOffsets(ctx, slices.Sorted(maps.Keys(l.Groups))...) {
		g := l.Groups[name]
		if resp.Err != nil {
			if !errors.Is(resp.Err, kerr.GroupIDNotFound) {
				g.Err = fmt.Errorf("reading the commits of group %s: %w", name, resp.Err)
				l.Errors = append(l.Errors, g.Err)
			}
			continue
		}
		resp.Fetched.Each(func(o kadm.OffsetResponse) {
			if o.Err == nil && o.At >= 0 {
				g.Commits[Partition{o.Topic, o.Partition}] = Commit{o.At, o.Metadata}
			}
		})
	}
}

// logs finds the partitions and their offsets: one request for metadata, and three to each broker that leads some.
func (r *Reader) logs(ctx context.Context, l *Look) error {
	names := map[string]bool{}
	for _, t := range r.topics {
		names[t] = true
	}
	for _, g := range l.Groups {
		for p := range g.Commits {
			names[p.Topic] = true
		}
		for _, m := range g.Members {
			for _, p := range m.Partitions {
				names[p.Topic] = true
			}
		}
	}
	l.From = r.now()
	if len(names) == 0 {
		return nil
	}
	meta, err := r.adm.Metadata(ctx, slices.Sorted(maps.Keys(names))...)
	if err != nil {
		return fmt.Errorf("asking for topics: %w", err)
	}
	for name, t := range meta.Topics {
		if errors.Is(t.Err, kerr.UnknownTopicOrPartition) {
			l.Gone[name] = true
		}
		for _, p := range t.Partitions {
			log := &Log{TopicID: t.ID, Leader: p.Leader, Start: -1, Stable: -1, End: -1, Err: t.Err}
			if p.Leader < 0 && log.Err == nil {
				log.Err = kerr.LeaderNotAvailable
			}
			l.Logs[Partition{name, p.Partition}] = log
		}
	}
	l.From = r.now()
	const earliest, latest = -2, -1
	r.listOffsets(ctx, l, earliest, 0, func(log *Log, at int64) { log.Start = at })
	r.listOffsets(ctx, l, latest, 0, func(log *Log, at int64) { log.End = at })
	// After the other end, and so not before it without a transaction that is open.
	r.listOffsets(ctx, l, latest, 1, func(log *Log, at int64) { log.Stable, log.End = at, max(log.End, at) })
	return nil
}

// listOffsets asks for one offset of every partition that has a leader.
func (r *Reader) listOffsets(ctx context.Context, l *Look, timestamp int64, isolation int8, set func(*Log, int64)) {
	ctx, cancel := context.WithTimeout(ctx, stepWait)
	defer cancel()
	at := make(map[Partition]int64, len(l.Logs))
	for p, log := range l.Logs {
		if log.Err == nil {
			at[p] = timestamp
		}
	}
	found, failed := offsetsAt(ctx, r.client, at, isolation)
	for p, f := range found {
		set(l.Logs[p], f.offset)
	}
	said := map[string]bool{}
	for p, err := range failed {
		l.Logs[p].Err = err
		if !said[err.Error()] {
			said[err.Error()] = true
			l.failed("listing offsets of "+p.Topic, err)
		}
	}
}

// found is an offset and the timestamp of its record, in milliseconds, where that was asked for.
type found struct{ offset, timestamp int64 }

// offsetsAt gives for each partition the first offset whose timestamp, in milliseconds, is at least the given one: -1
// where there is none. The partitions of one broker are one request.
func offsetsAt(ctx context.Context, cl *kgo.Client, at map[Partition]int64, isolation int8) (all map[Partition]found, failed map[Partition]error) {
	all, failed = make(map[Partition]found, len(at)), map[Partition]error{}
	byTopic := map[string][]kmsg.ListOffsetsRequestTopicPartition{}
	for p, ts := range at {
		one := kmsg.NewListOffsetsRequestTopicPartition()
		one.Partition, one.Timestamp = p.Number, ts
		byTopic[p.Topic] = append(byTopic[p.Topic], one)
	}
	req := kmsg.NewPtrListOffsetsRequest()
	req.ReplicaID, req.IsolationLevel = -1, isolation
	for topic, partitions := range byTopic {
		t := kmsg.NewListOffsetsRequestTopic()
		t.Topic, t.Partitions = topic, partitions
		req.Topics = append(req.Topics, t)
	}
	if len(at) == 0 {
		return all, failed
	}
	for _, s := range cl.RequestSharded(ctx, req) {
		if s.Err != nil {
			for _, t := range s.Req.(*kmsg.ListOffsetsRequest).Topics { //nolint:forcetypeassert // of this request
				for _, p := range t.Partitions {
					failed[Partition{t.Topic, p.Partition}] = s.Err
				}
			}
			continue
		}
		for _, t := range s.Resp.(*kmsg.ListOffsetsResponse).Topics { //nolint:forcetypeassert // of this request
			for _, p := range t.Partitions {
				key := Partition{t.Topic, p.Partition}
				if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
					failed[key] = err
					continue
				}
				all[key] = found{p.Offset, p.Timestamp}
			}
		}
	}
	return all, failed
}

// howKept reads the topics' configurations and the sizes of logs that are bounded by size, now and then.
func (r *Reader) howKept(ctx context.Context, l *Look) {
	names := map[string]bool{}
	unknown := false
	for p := range l.Logs {
		names[p.Topic] = true
		if _, ok := r.configs[p.Topic]; !ok {
			unknown = true
		}
	}
	if now := r.now(); len(names) > 0 && (unknown || now.Sub(r.read) >= configsEvery) {
		described, err := r.adm.DescribeTopicConfigs(ctx, slices.Sorted(maps.Keys(names))...)
		if err != nil {
			l.failed("describing topics", err)
		} else {
			r.read, r.configs = now, map[string]Topic{}
			for _, d := range described {
				r.configs[d.Name] = topicOf(d)
			}
		}
	}
	l.Topics = r.configs
	bounded := kadm.TopicsSet{}
	for p := range l.Logs {
		if r.configs[p.Topic].RetentionBytes > 0 {
			bounded.Add(p.Topic, p.Number)
		}
	}
	if now := r.now(); len(bounded) > 0 && now.Sub(r.sized) >= sizesEvery {
		dirs, err := r.adm.DescribeAllLogDirs(ctx, bounded)
		if err != nil {
			l.failed("describing log directories", err)
		} else {
			r.sized, r.sizes = now, map[Partition]int64{}
			dirs.Each(func(d kadm.DescribedLogDir) {
				d.Topics.Each(func(p kadm.DescribedLogDirPartition) {
					key := Partition{p.Topic, p.Partition}
					if log := l.Logs[key]; log != nil && log.Leader == p.Broker {
						r.sizes[key] = p.Size
					}
				})
			})
		}
	}
	l.Sizes = r.sizes
}

func topicOf(d kadm.ResourceConfig) Topic {
	var t Topic
	deletes := false
	for _, c := range d.Configs {
		value := deref(c.Value)
		n, err := strconv.ParseInt(value, 10, 64)
		switch c.Key {
		case "message.timestamp.type":
			t.AppendTime = value == "LogAppendTime"
		case "cleanup.policy":
			deletes = strings.Contains(value, "delete")
		case "retention.ms":
			if err == nil && n > 0 {
				t.Retention = time.Duration(min(n, int64(1<<62)/int64(time.Millisecond))) * time.Millisecond
			}
		case "retention.bytes":
			if err == nil && n > 0 {
				t.RetentionBytes = n
			}
		}
	}
	if !deletes {
		t.Retention, t.RetentionBytes = 0, 0
	}
	return t
}
