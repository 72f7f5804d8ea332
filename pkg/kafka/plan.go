package kafka

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/millrace/millrace/pkg/provision"
	"github.com/millrace/millrace/pkg/schema"
)

const server = "kafka"

// NewPlanner compares a cluster's topics with those that are wanted. New topics get the replication and the
// min.insync.replicas; of a topic that exists the replication is left alone, since changing it moves data.
func NewPlanner(adm *kadm.Client, specs []schema.TopicSpec, replication, minISR int) provision.Planner {
	p := planner{adm: adm, replication: replication}
	for _, s := range specs {
		p.specs = append(p.specs, withMinISR(s, minISR))
	}
	return p
}

type planner struct {
	adm         *kadm.Client
	specs       []schema.TopicSpec
	replication int
}

// Plan lists topics to make, partitions to add and settings to change.
func (p planner) Plan(ctx context.Context) ([]provision.Change, error) {
	names := make([]string, len(p.specs))
	for i, s := range p.specs {
		names[i] = s.Name
	}
	// With authorized operations kadm asks the cluster; without them it may answer from what the client remembers.
	meta, err := p.adm.Metadata(kadm.WithAuthorizedOps(ctx), names...)
	if err != nil {
		return nil, fmt.Errorf("reading the topics of the cluster: %w", err)
	}
	var existing []string
	for _, n := range names {
		if t, ok := meta.Topics[n]; ok && t.Err == nil {
			existing = append(existing, n)
		}
	}
	configs, err := p.configs(ctx, existing)
	if err != nil {
		return nil, err
	}
	var out []provision.Change
	for _, s := range p.specs {
		t := meta.Topics[s.Name]
		switch {
		case t.Err == nil && slices.Contains(existing, s.Name):
			changes, err := p.existing(s, len(t.Partitions), configs[s.Name])
			if err != nil {
				return nil, err
			}
			out = append(out, changes...)
		case errors.Is(t.Err, kerr.UnknownTopicOrPartition), t.Topic == "":
			if p.replication > len(meta.Brokers) {
				return nil, fmt.Errorf("topic %s needs %d replicas and the cluster has %d brokers: add brokers, or lower kafka.replication", s.Name, p.replication, len(meta.Brokers))
			}
			out = append(out, p.missing(s))
		default:
			return nil, fmt.Errorf("reading topic %s: %w", s.Name, t.Err)
		}
	}
	return out, nil
}

func (p planner) missing(s schema.TopicSpec) provision.Change {
	return provision.Change{
		Server: server, Object: "topic " + s.Name,
		Detail: fmt.Sprintf("create with %d partitions, %d replicas\n%s", s.Partitions, p.replication, settings(s.Configs)),
		Apply:  func(ctx context.Context) error { return create(ctx, p.adm, s, p.replication) },
	}
}

// Create makes a topic unless it is there; one that is there is left as it is.
func Create(ctx context.Context, adm *kadm.Client, spec schema.TopicSpec, replication, minISR int) error {
	return create(ctx, adm, withMinISR(spec, minISR), replication)
}

func create(ctx context.Context, adm *kadm.Client, s schema.TopicSpec, replication int) error {
	values := make(map[string]*string, len(s.Configs))
	for k, v := range s.Configs {
		values[k] = &v
	}
	//nolint:gosec // the schema bounds partitions, and the configuration replicas
	resp, err := adm.CreateTopic(ctx, int32(s.Partitions), int16(replication), values, s.Name)
	if err := errors.Join(err, resp.Err); err != nil && !errors.Is(err, kerr.TopicAlreadyExists) {
		return fmt.Errorf("creating topic %s: %w %s", s.Name, err, resp.ErrMessage)
	}
	return nil
}

func withMinISR(s schema.TopicSpec, minISR int) schema.TopicSpec {
	s.Configs = maps.Clone(s.Configs)
	s.Configs["min.insync.replicas"] = strconv.Itoa(minISR)
	return s
}

// existing lists what to change on a topic that is there.
func (p planner) existing(s schema.TopicSpec, partitions int, have map[string]string) ([]provision.Change, error) {
	var out []provision.Change
	object := "topic " + s.Name
	if partitions > s.Partitions {
		return nil, fmt.Errorf("topic %s has %d partitions and its type asks for %d: Kafka cannot take partitions away; raise topic.partitions in the schema", s.Name, partitions, s.Partitions)
	}
	if partitions < s.Partitions {
		out = append(out, provision.Change{
			Server: server, Object: object,
			Detail: fmt.Sprintf("partitions: %d -> %d (records of a key go to another partition from then on)", partitions, s.Partitions),
			Apply: func(ctx context.Context) error {
				resp, err := p.adm.UpdatePartitions(ctx, s.Partitions, s.Name)
				if err == nil {
					err = resp.Error()
				}
				if err != nil {
					return fmt.Errorf("adding partitions to topic %s: %w", s.Name, err)
				}
				return nil
			},
		})
	}
	differing := map[string]string{}
	var detail []string
	for _, k := range slices.Sorted(maps.Keys(s.Configs)) {
		if have[k] != s.Configs[k] {
			differing[k] = s.Configs[k]
			detail = append(detail, fmt.Sprintf("%s: %s -> %s", k, have[k], s.Configs[k]))
		}
	}
	if len(differing) > 0 {
		out = append(out, provision.Change{
			Server: server, Object: object, Detail: strings.Join(detail, "\n"),
			Apply: func(ctx context.Context) error { return p.alter(ctx, s.Name, differing) },
		})
	}
	return out, nil
}

func (p planner) alter(ctx context.Context, topic string, values map[string]string) error {
	var alters []kadm.AlterConfig
	for k, v := range values {
		alters = append(alters, kadm.AlterConfig{Op: kadm.SetConfig, Name: k, Value: &v})
	}
	responses, err := p.adm.AlterTopicConfigs(ctx, alters, topic)
	for _, r := range responses {
		err = errors.Join(err, r.Err)
	}
	if err != nil {
		return fmt.Errorf("changing the settings of topic %s: %w", topic, err)
	}
	return nil
}

func (p planner) configs(ctx context.Context, topics []string) (map[string]map[string]string, error) {
	out := map[string]map[string]string{}
	if len(topics) == 0 {
		return out, nil
	}
	described, err := p.adm.DescribeTopicConfigs(ctx, topics...)
	if err != nil {
		return nil, fmt.Errorf("reading the topics' settings: %w", err)
	}
	for _, d := range described {
		if d.Err != nil {
			return nil, fmt.Errorf("reading the settings of topic %s: %w", d.Name, d.Err)
		}
		out[d.Name] = map[string]string{}
		for _, c := range d.Configs {
			out[d.Name][c.Key] = c.MaybeValue()
		}
	}
	return out, nil
}

func settings(configs map[string]string) string {
	lines := make([]string, 0, len(configs))
	for _, k := range slices.Sorted(maps.Keys(configs)) {
		lines = append(lines, k+"="+configs[k])
	}
	return strings.Join(lines, "\n")
}
