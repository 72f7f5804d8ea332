package stream

import (
	"context"
	"fmt"

	"github.com/millrace/millrace/pkg/stream/ledger"
)

// anew begins a topic again that the brokers no longer know by the id under which it was read: somebody deleted it. What
// was in flight of it is void, since an offset of one log says nothing of another. Once there is a topic of that name, it
// is read from where the group's commit or the Keeper's offsets say: a commit goes with its topic, so that is the start
// of a new log; a Keeper that knows the topic by its id stops.
func (c *Consumer) anew(topic string) {
	c.mu.Lock()
	if c.deleted[topic] {
		c.mu.Unlock()
		return
	}
	c.deleted[topic] = true
	var keys []ledger.Key
	unread := int64(0)
	for k, p := range c.parts {
		if k.Topic == topic {
			keys = append(keys, k)
			unread += p.status().Lag()
		}
	}
	c.mu.Unlock()
	c.metrics.recreated.WithLabelValues(topic).Inc()
	c.tel.Log.Error("the topic was deleted while it was read; reading begins anew once it is there",
		"topic", topic, "partitions", len(keys), "not_applied", unread)
	c.spawn(func(ctx context.Context) {
		c.release(keys)
		c.client.PurgeTopicsFromConsuming(topic) // the client stays with the id that it has
		err := c.persist(ctx, "waiting for a deleted topic", func(ctx context.Context) error {
			found, err := c.admin.Metadata(ctx, topic)
			if err != nil {
				return fmt.Errorf("asking for topic %s: %w", topic, err)
			}
			if err := found.Topics[topic].Err; err != nil {
				return fmt.Errorf("topic %s: %w", topic, err)
			}
			return nil
		})
		if err != nil {
			return
		}
		c.mu.Lock()
		delete(c.deleted, topic)
		c.mu.Unlock()
		c.client.AddConsumeTopics(topic)
		c.tel.Log.Warn("the topic is there again and is read", "topic", topic)
	})
}
