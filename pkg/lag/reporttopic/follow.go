package reporttopic

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/pkg/lag"
)

// anewAfter is between two clients, each of which reads the topic from its start.
const anewAfter = 2 * time.Second

// Follow gives fn what is in the topic, from its start, then what comes, until ctx ends; nil is that an instance has
// stopped in order. It waits for a topic that is not there, and reads one that was made anew from its start. What is no
// report is passed over. Its error is that opts make no client.
func Follow(ctx context.Context, opts []kgo.Opt, fn func(group, instance string, r *lag.Report)) error {
	for ctx.Err() == nil {
		cl, err := kgo.NewClient(append(append([]kgo.Opt{}, opts...),
			kgo.ConsumeTopics(lag.StatusTopic), kgo.ConsumeStartOffset(kgo.NewOffset().AtStart()),
			kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.MetadataMinAge(anewAfter), kgo.MetadataMaxAge(4*anewAfter),
		)...)
		if err != nil {
			return fmt.Errorf("making the Kafka client that follows %s: %w", lag.StatusTopic, err)
		}
		follow(ctx, cl, fn)
		cl.Close()
		select {
		case <-ctx.Done():
		case <-time.After(anewAfter):
		}
	}
	return nil
}

// follow reads until ctx ends, or until the client must be another: it stays with the id of a topic that was deleted.
func follow(ctx context.Context, cl *kgo.Client, fn func(group, instance string, r *lag.Report)) {
	for ctx.Err() == nil {
		fetches := cl.PollFetches(ctx)
		fetches.EachRecord(func(r *kgo.Record) {
			group, instance, ok := split(r.Key)
			if !ok {
				return
			}
			report, err := lag.ParseReport(r.Value, r.Timestamp)
			if err != nil {
				return // not ours
			}
			fn(group, instance, report)
		})
		failed, gone := false, false
		fetches.EachError(func(_ string, _ int32, err error) {
			failed = true
			gone = gone || errors.Is(err, kerr.UnknownTopicID) || errors.Is(err, kerr.InconsistentTopicID) ||
				errors.Is(err, kerr.UnknownTopicOrPartition) || errors.Is(err, kgo.ErrClientClosed)
		})
		if gone {
			return
		}
		if failed { // some errors come back at once
			select {
			case <-ctx.Done():
			case <-time.After(anewAfter / 4):
			}
		}
	}
}
