package lag

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// coordinated is what one broker says of the groups that it coordinates.
type coordinated struct {
	groups map[string]*Group
	listed bool
	errs   []error
}

// groups asks every broker for its groups, of any protocol, for their members, then for their commits.
func (r *Reader) groups(ctx context.Context, l *Look, brokers []int32) error {
	ctx, done := r.step(ctx)
	defer done()
	all := make([]coordinated, len(brokers))
	var wg sync.WaitGroup
	for i, id := range brokers {
		wg.Go(func() { all[i] = r.coordinated(ctx, r.client.Broker(int(id))) })
	}
	wg.Wait()
	answered := false
	for i, c := range all {
		for _, err := range c.errs {
			l.failed(fmt.Sprintf("broker %d", brokers[i]), err)
		}
		answered = answered || c.listed
		l.Deaf = l.Deaf || !c.listed
		for name, g := range c.groups {
			if other := l.Groups[name]; other == nil || other.Err != nil { // one that moves is listed twice
				l.Groups[name] = g
			}
		}
	}
	if !answered {
		return fmt.Errorf("listing consumer groups: %w", cmp.Or(errors.Join(l.Errors...), errors.New("no broker answered")))
	}
	return nil
}

func (r *Reader) coordinated(ctx context.Context, b *kgo.Broker) (c coordinated) {
	c.groups = map[string]*Group{}
	resp, err := request[*kmsg.ListGroupsResponse](ctx, b, kmsg.NewPtrListGroupsRequest())
	if err == nil {
		err = kerr.ErrorForCode(resp.ErrorCode)
	}
	if err != nil {
		c.errs = append(c.errs, fmt.Errorf("listing groups: %w", err))
		return c
	}
	c.listed = true
	for _, g := range resp.Groups {
		if (g.ProtocolType == "consumer" || g.ProtocolType == "") && g.GroupType != "share" && r.wanted(g.Group) {
			c.groups[g.Group] = &Group{
				Name: g.Group, State: g.GroupState, New: g.GroupType == "consumer", Simple: g.ProtocolType == "", Commits: map[Partition]Commit{},
				Unseen: errUndescribed,
			}
		}
	}
	if len(c.groups) == 0 {
		return c
	}
	for _, err := range []error{c.describe(ctx, b), c.describeNew(ctx, b), c.commits(ctx, b)} {
		if err != nil {
			c.errs = append(c.errs, err)
		}
	}
	return c
}

// request sends one to one broker.
func request[R kmsg.Response](ctx context.Context, b *kgo.Broker, req kmsg.Request) (R, error) {
	resp, err := b.RetriableRequest(ctx, req)
	if err != nil {
		var none R
		return none, err
	}
	return resp.(R), nil //nolint:forcetypeassert // of this request
}

var errUndescribed = errors.New("its coordinator did not describe it")

// names are those of the groups of the one or the other protocol.
func (c *coordinated) names(modern bool) (names []string) {
	for name, g := range c.groups {
		if g.New == modern {
			names = append(names, name)
		}
	}
	return names
}

func (c *coordinated) describe(ctx context.Context, b *kgo.Broker) error {
	req := kmsg.NewPtrDescribeGroupsRequest()
	if req.Groups = c.names(false); len(req.Groups) == 0 {
		return nil
	}
	resp, err := request[*kmsg.DescribeGroupsResponse](ctx, b, req)
	if err != nil {
		return fmt.Errorf("describing groups: %w", err)
	}
	for _, d := range resp.Groups {
		g := c.groups[d.Group]
		if g == nil || d.ErrorCode != 0 {
			continue
		}
		g.State, g.Unseen = d.State, nil
		for _, m := range d.Members {
			member := Member{ID: m.MemberID, Instance: deref(m.InstanceID), Client: m.ClientID, Host: m.ClientHost}
			var a kmsg.ConsumerMemberAssignment
			if d.ProtocolType == "consumer" && a.ReadFrom(m.MemberAssignment) == nil {
				for _, t := range a.Topics {
					for _, p := range t.Partitions {
						member.Partitions = append(member.Partitions, Partition{t.Topic, p})
					}
				}
			}
			g.Members = append(g.Members, member)
		}
	}
	return nil
}

func (c *coordinated) describeNew(ctx context.Context, b *kgo.Broker) error {
	req := kmsg.NewPtrConsumerGroupDescribeRequest()
	if req.Groups = c.names(true); len(req.Groups) == 0 {
		return nil
	}
	resp, err := request[*kmsg.ConsumerGroupDescribeResponse](ctx, b, req)
	if err != nil {
		return fmt.Errorf("describing groups of the new protocol: %w", err)
	}
	for _, d := range resp.Groups {
		g := c.groups[d.Group]
		if g == nil || d.ErrorCode != 0 {
			continue
		}
		g.State, g.Epoch, g.Unseen = d.State, d.Epoch, nil
		for _, m := range d.Members {
			member := Member{ID: m.MemberID, Instance: deref(m.InstanceID), Client: m.ClientID, Host: m.ClientHost}
			for _, t := range m.Assignment.TopicPartitions {
				for _, p := range t.Partitions {
					member.Partitions = append(member.Partitions, Partition{t.Topic, p})
				}
			}
			g.Members = append(g.Members, member)
		}
	}
	return nil
}

// commits reads those of all the broker's groups at once. A group whose commits cannot be read has the error.
func (c *coordinated) commits(ctx context.Context, b *kgo.Broker) error {
	req := kmsg.NewPtrOffsetFetchRequest()
	for name := range c.groups {
		one := kmsg.NewOffsetFetchRequestGroup()
		one.Group, one.Topics = name, nil // all
		req.Groups = append(req.Groups, one)
	}
	resp, err := request[*kmsg.OffsetFetchResponse](ctx, b, req)
	if err == nil && resp.Version < 8 {
		err = errors.New("brokers before Kafka 3.0 give one group's commits at a time, and are not watched")
	}
	if err != nil {
		err = fmt.Errorf("reading commits: %w", err)
		for _, g := range c.groups {
			g.Err = err
		}
		return err
	}
	for _, of := range resp.Groups {
		g := c.groups[of.Group]
		if g == nil {
			continue
		}
		if err := kerr.ErrorForCode(of.ErrorCode); err != nil {
			if !errors.Is(err, kerr.GroupIDNotFound) {
				g.Err = fmt.Errorf("reading the commits of group %s: %w", of.Group, err)
			}
			continue
		}
		for _, t := range of.Topics {
			for _, p := range t.Partitions {
				if p.ErrorCode == 0 && p.Offset >= 0 {
					g.Commits[Partition{t.Topic, p.Partition}] = Commit{p.Offset, deref(p.Metadata)}
				}
			}
		}
	}
	return nil
}
