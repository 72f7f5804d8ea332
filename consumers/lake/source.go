package lake

import (
	"context"
	"fmt"
	"sync"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace/millrace/pkg/lake"
)

// sources asks Kafka who it is.
type sources struct {
	opts []kgo.Opt
	fake func(topic string) lake.Source // in tests

	mu sync.Mutex
	cl *kgo.Client
}

// of gives the cluster's id and the topic's. They are asked for at each assignment: a topic can be made anew.
func (s *sources) of(ctx context.Context, topic string) (lake.Source, error) {
	if s.fake != nil {
		return s.fake(topic), nil
	}
	cl, err := s.client()
	if err != nil {
		return lake.Source{}, err
	}
	req := kmsg.NewPtrMetadataRequest()
	req.Topics = []kmsg.MetadataRequestTopic{{Topic: &topic}}
	resp, err := req.RequestWith(ctx, cl) // kadm's answer can be 5 s old, and be about a topic deleted since
	if err != nil {
		return lake.Source{}, fmt.Errorf("asking for the id of topic %s: %w", topic, err)
	}
	if resp.ClusterID == nil || len(resp.Topics) != 1 {
		return lake.Source{}, fmt.Errorf("asking for the id of topic %s: the answer has no cluster id, or %d topics", topic, len(resp.Topics))
	}
	t := resp.Topics[0]
	if err := kerr.ErrorForCode(t.ErrorCode); err != nil {
		return lake.Source{}, fmt.Errorf("asking for the id of topic %s: %w", topic, err)
	}
	return lake.Source{Cluster: *resp.ClusterID, TopicID: kadm.TopicID(t.TopicID).String()}, nil
}

func (s *sources) client() (*kgo.Client, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cl == nil {
		cl, err := kgo.NewClient(s.opts...)
		if err != nil {
			return nil, fmt.Errorf("opening a Kafka client: %w", err)
		}
		s.cl = cl
	}
	return s.cl, nil
}

func (s *sources) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cl != nil {
		s.cl.Close()
		s.cl = nil
	}
}
