package lag

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"
)

const (
	configsEvery = 5 * time.Minute
	sizesEvery   = time.Minute
	// For what brokers are asked in one step: one that is silent does not keep the others' answers. Once one was, it is waited
	// for no longer in the steps that follow, or a look would take longer than what it shows holds.
	stepWait    = 3 * time.Second
	hurriedWait = time.Second
	askTries    = 3 // of what any broker answers
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
	silent  bool // a broker was, in this look
	asks    int  // which broker is asked: one that has answered is asked again
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

// Opts are what a Reader wants of its client.
func Opts(calls *Calls) []kgo.Opt {
	versions := kversion.Stable()
	versions.SetMaxKeyVersion(int16(kmsg.OffsetFetch), 9) // from the next on commits have their topics' ids in place of names
	return []kgo.Opt{kgo.WithHooks(calls), kgo.MaxVersions(versions)}
}

// Look reads everything once. Its error is that nothing could be read at all; what is missing in part is in the Look.
//
// Every request but those that any broker answers goes to a broker by its id. The client's own sharding would ask one of
// them first, for who leads and coordinates what, and a look would hang on that one if it is silent; and a broker lists
// those groups that it coordinates.
func (r *Reader) Look(ctx context.Context) (*Look, error) {
	before := r.calls.n.Load()
	r.silent = false
	l := &Look{Begun: r.now(), Groups: map[string]*Group{}, Logs: map[Partition]*Log{}, Gone: map[string]bool{}}
	meta, err := r.metadata(ctx, nil)
	if err != nil {
		return nil, fmt.Errorf("asking who the brokers are: %w", err)
	}
	l.Cluster = deref(meta.ClusterID)
	brokers := make([]int32, len(meta.Brokers))
	for i, b := range meta.Brokers {
		brokers[i] = b.NodeID
	}
	if err := r.groups(ctx, l, brokers); err != nil {
		return nil, err
	}
	if err := r.logs(ctx, l); err != nil { // after the commits
		return nil, err
	}
	r.howKept(ctx, l)
	l.Ended, l.Calls = r.now(), int(r.calls.n.Load()-before)
	return l, nil
}

// metadata gives the brokers, and the topics of these names. It is the brokers' own answer: the admin client's may be some
// seconds old, and a topic that was made anew would have its old id beside its new offsets.
func (r *Reader) metadata(ctx context.Context, topics []string) (*kmsg.MetadataResponse, error) {
	return ask[*kmsg.MetadataResponse](ctx, r, func() kmsg.Request {
		req := kmsg.NewPtrMetadataRequest()
		req.Topics = []kmsg.MetadataRequestTopic{} // nil would be all
		for _, name := range topics {
			one := kmsg.NewMetadataRequestTopic()
			one.Topic = new(name)
			req.Topics = append(req.Topics, one)
		}
		return req
	})
}

// step bounds what is asked at once. done is to be called at its end.
func (r *Reader) step(ctx context.Context) (step context.Context, done func()) {
	wait := stepWait
	if r.silent {
		wait = hurriedWait
	}
	step, cancel := context.WithTimeout(ctx, wait)
	return step, func() {
		r.silent = r.silent || step.Err() != nil
		cancel()
	}
}

// ask gives what any broker answers. Each try is with another broker, by its id: what the client asks of any does not end
// with its context while it dials one that is silent. It is with another request, too: one that was given up may be in use.
func ask[R kmsg.Response](ctx context.Context, r *Reader, req func() kmsg.Request) (answer R, err error) {
	brokers := r.client.DiscoveredBrokers()
	if len(brokers) == 0 {
		brokers = r.client.SeedBrokers()
	}
	for range min(askTries, len(brokers)) {
		step, done := r.step(ctx)
		begun := r.now()
		answer, err = request[R](step, brokers[r.asks%len(brokers)], req())
		done()
		if err == nil || ctx.Err() != nil {
			break
		}
		r.asks++
		r.silent = r.silent || r.now().Sub(begun) >= hurriedWait // the client's own patience may end before the step's
	}
	return answer, err
}

func (l *Look) failed(what string, err error) {
	l.Errors = append(l.Errors, fmt.Errorf("%s: %w", what, err))
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
	meta, err := r.metadata(ctx, slices.Sorted(maps.Keys(names)))
	if err != nil {
		return fmt.Errorf("asking for topics: %w", err)
	}
	for _, t := range meta.Topics {
		name, err := deref(t.Topic), kerr.ErrorForCode(t.ErrorCode)
		if errors.Is(err, kerr.UnknownTopicOrPartition) {
			l.Gone[name] = true
		}
		for _, p := range t.Partitions {
			log := &Log{TopicID: t.TopicID, Leader: p.Leader, Start: -1, Stable: -1, End: -1, Err: err}
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

// listOffsets asks for one offset of every partition whose leader has answered so far.
func (r *Reader) listOffsets(ctx context.Context, l *Look, timestamp int64, isolation int8, set func(*Log, int64)) {
	ctx, done := r.step(ctx)
	defer done()
	at := map[int32]map[Partition]int64{}
	for p, log := range l.Logs {
		if log.Err != nil {
			continue
		}
		if at[log.Leader] == nil {
			at[log.Leader] = map[Partition]int64{}
		}
		at[log.Leader][p] = timestamp
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
// where there is none. The partitions come by their leader, and those of one are one request.
func offsetsAt(ctx context.Context, cl *kgo.Client, at map[int32]map[Partition]int64, isolation int8) (all map[Partition]found, failed map[Partition]error) {
	all, failed = map[Partition]found{}, map[Partition]error{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for leader, of := range at {
		wg.Go(func() {
			resp, err := request[*kmsg.ListOffsetsResponse](ctx, cl.Broker(int(leader)), listing(of, isolation))
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				for p := range of {
					failed[p] = err
				}
				return
			}
			for _, t := range resp.Topics {
				for _, p := range t.Partitions {
					key := Partition{t.Topic, p.Partition}
					if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
						failed[key] = err
						continue
					}
					all[key] = found{p.Offset, p.Timestamp}
				}
			}
		})
	}
	wg.Wait()
	return all, failed
}

func listing(at map[Partition]int64, isolation int8) *kmsg.ListOffsetsRequest {
	byTopic := map[string][]kmsg.ListOffsetsRequestTopicPartition{}
	for p, ts := range at {
		one := kmsg.NewListOffsetsRequestTopicPartition()
		one.Partition, one.Timestamp, one.CurrentLeaderEpoch = p.Number, ts, -1
		byTopic[p.Topic] = append(byTopic[p.Topic], one)
	}
	req := kmsg.NewPtrListOffsetsRequest()
	req.ReplicaID, req.IsolationLevel = -1, isolation
	for topic, partitions := range byTopic {
		t := kmsg.NewListOffsetsRequestTopic()
		t.Topic, t.Partitions = topic, partitions
		req.Topics = append(req.Topics, t)
	}
	return req
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
		described, err := ask[*kmsg.DescribeConfigsResponse](ctx, r, func() kmsg.Request {
			req := kmsg.NewPtrDescribeConfigsRequest()
			for _, name := range slices.Sorted(maps.Keys(names)) {
				one := kmsg.NewDescribeConfigsRequestResource()
				one.ResourceType, one.ResourceName = kmsg.ConfigResourceTypeTopic, name
				req.Resources = append(req.Resources, one)
			}
			return req
		})
		if err != nil {
			l.failed("describing topics", err)
		} else {
			r.read, r.configs = now, map[string]Topic{}
			for _, d := range described.Resources {
				r.configs[d.ResourceName] = topicOf(d)
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
		step, done := r.step(ctx)
		dirs, err := r.adm.DescribeAllLogDirs(step, bounded)
		done()
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

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

func topicOf(d kmsg.DescribeConfigsResponseResource) Topic {
	t := Topic{Unread: d.ErrorCode != 0}
	deletes := false
	for _, c := range d.Configs {
		value := deref(c.Value)
		n, err := strconv.ParseInt(value, 10, 64)
		switch c.Name {
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
