package kafka

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// How a LagRow's Age was found.
const (
	ByAppendTime = "append_time" // the broker's stamp on the oldest unread record: exact
	ByCreateTime = "create_time" // the producer's stamp on it: as right as the producer's clock
	ByNothing    = "unknown"     // the record could not be read within the wait
)

// LagRow is how far one group is behind on one partition.
type LagRow struct {
	Group     string
	Topic     string
	Partition int32
	Start     int64         // the log's first offset
	Committed int64         // next offset of the group; -1 when it never committed
	End       int64         // the last stable offset
	Records   int64         // End - max(Committed, Start): negative when the group is ahead
	Expired   int64         // records deleted by retention before the group read them
	Age       time.Duration // of the oldest unread record; 0 when there is none
	Method    string        // how Age was found; "" when there is no unread record
}

// Lag reads how far groups are behind on topics, worst first. A group or partition without any commit is behind by the
// whole log. Commits are read before ends, so that a group that keeps up does not look ahead; a group that is ahead all
// the same (a topic made anew) is shown so. The age of the oldest unread record is read from that one record, within
// wait for all of them together.
func Lag(ctx context.Context, cl *kgo.Client, groups, topics []string, wait time.Duration, now func() time.Time) ([]LagRow, error) {
	adm := kadm.NewClient(cl)
	committed := map[string]kadm.OffsetResponses{}
	for _, g := range groups {
		offsets, err := adm.FetchOffsets(ctx, g)
		if err != nil && !errors.Is(err, kerr.GroupIDNotFound) { // a group that never was has no commits
			return nil, fmt.Errorf("reading the commits of group %s: %w", g, err)
		}
		committed[g] = offsets
	}
	starts, err := adm.ListStartOffsets(ctx, topics...)
	if err != nil {
		return nil, fmt.Errorf("reading the logs' starts: %w", err)
	}
	ends, err := adm.ListCommittedOffsets(ctx, topics...)
	if err != nil {
		return nil, fmt.Errorf("reading the logs' ends: %w", err)
	}
	if err := errors.Join(starts.Error(), ends.Error()); err != nil {
		return nil, fmt.Errorf("reading the logs' offsets: %w", err)
	}
	var rows []LagRow
	for _, g := range groups {
		ends.Each(func(end kadm.ListedOffset) {
			start, _ := starts.Lookup(end.Topic, end.Partition)
			rows = append(rows, lagRow(g, committed[g], start.Offset, end))
		})
	}
	if err := ages(ctx, cl, rows, wait, now); err != nil {
		return nil, err
	}
	slices.SortFunc(rows, func(a, b LagRow) int {
		return cmp.Or(cmp.Compare(b.Age, a.Age), cmp.Compare(b.Records, a.Records), strings.Compare(a.Group, b.Group),
			strings.Compare(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition))
	})
	return rows, nil
}

func lagRow(group string, offsets kadm.OffsetResponses, start int64, end kadm.ListedOffset) LagRow {
	r := LagRow{Group: group, Topic: end.Topic, Partition: end.Partition, Start: start, Committed: -1, End: end.Offset}
	if c, ok := offsets.Lookup(end.Topic, end.Partition); ok && c.Err == nil {
		r.Committed = c.At
		r.Expired = max(0, start-c.At)
	}
	r.Records = r.End - max(r.Committed, r.Start)
	if r.Records > 0 {
		r.Method = ByNothing
	}
	return r
}

// ages reads the oldest unread record of each row that has one, group by group: two groups may be at different offsets
// of one partition.
func ages(ctx context.Context, cl *kgo.Client, rows []LagRow, wait time.Duration, now func() time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	byGroup := map[string]map[key]*LagRow{}
	for i := range rows {
		r := &rows[i]
		if r.Records <= 0 {
			continue
		}
		if byGroup[r.Group] == nil {
			byGroup[r.Group] = map[key]*LagRow{}
		}
		byGroup[r.Group][key{r.Topic, r.Partition}] = r
	}
	for _, pending := range byGroup {
		if err := readHeads(ctx, cl, pending, now); err != nil {
			return err
		}
	}
	return nil
}

type key struct {
	topic     string
	partition int32
}

func readHeads(ctx context.Context, cl *kgo.Client, pending map[key]*LagRow, now func() time.Time) error {
	at := map[string]map[int32]kgo.Offset{}
	for k, r := range pending {
		if at[k.topic] == nil {
			at[k.topic] = map[int32]kgo.Offset{}
		}
		at[k.topic][k.partition] = kgo.NewOffset().At(max(r.Committed, r.Start))
	}
	reader, err := kgo.NewClient(append(cl.Opts(), kgo.ConsumePartitions(at), kgo.FetchMaxPartitionBytes(4<<10),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.ConsumeResetOffset(kgo.NoResetOffset()))...)
	if err != nil {
		return fmt.Errorf("making a client to read the oldest unread records: %w", err)
	}
	defer reader.Close()
	for len(pending) > 0 {
		fetches := reader.PollFetches(ctx)
		if ctx.Err() != nil || fetches.IsClientClosed() {
			return nil // what could not be read in time is marked unknown
		}
		fetches.EachPartition(func(p kgo.FetchTopicPartition) {
			k := key{p.Topic, p.Partition}
			r := pending[k]
			if r == nil || len(p.Records) == 0 {
				return
			}
			delete(pending, k)
			reader.PauseFetchPartitions(map[string][]int32{p.Topic: {p.Partition}})
			head := p.Records[0]
			r.Age = max(0, now().Sub(head.Timestamp))
			r.Method = ByCreateTime
			if head.Attrs.TimestampType() == 1 {
				r.Method = ByAppendTime
			}
		})
	}
	return nil
}
