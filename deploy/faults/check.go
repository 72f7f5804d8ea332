package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/gocql/gocql"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace/millrace/consumers/cassandra"
	"github.com/millrace/millrace/consumers/elasticsearch"
	"github.com/millrace/millrace/deploy/lakerows"
	"github.com/millrace/millrace/pkg/codec"
	"github.com/millrace/millrace/pkg/schema"
	"github.com/millrace/millrace/pkg/stream"
	"github.com/millrace/millrace/pkg/telemetry"
	"github.com/millrace/millrace/producers/loadgen"
)

// check reads every destination, the dead letters and the log of commits in full, and gives what is wrong.
func (e *env) check(ctx context.Context) (map[string]*finding, []violation, error) {
	found := map[string]*finding{}
	var wrong []violation
	for _, d := range e.destinations {
		f := e.ledger.finding(d)
		found[d] = f
		if err := e.scan(ctx, d, func(values []codec.Value) error {
			k, err := idKey([]byte(values[schema.ID].String()))
			if err == nil {
				f.row(k, hashOf(codec.Fingerprint(e.typ, values, loadgen.AttrHash)))
			}
			return err
		}); err != nil {
			return found, wrong, fmt.Errorf("reading %s back: %w", d, err)
		}
	}
	if err := e.readLetters(ctx, found); err != nil {
		return found, wrong, err
	}
	for _, d := range e.destinations {
		wrong = append(wrong, found[d].judge()...)
	}
	back, err := e.backwardCommits(ctx)
	return found, append(wrong, back...), err
}

// scan gives the values of every row of a destination.
func (e *env) scan(ctx context.Context, destination string, fn func([]codec.Value) error) error {
	switch destination {
	case "cassandra":
		cfg := cassandra.Default()
		cfg.Hosts, cfg.Keyspace = []string{e.world.servers.cassandra}, e.run
		cfg.Timeout = time.Minute
		store, err := cassandra.New(cfg, e.types, telemetry.Discard())
		if err != nil {
			return err
		}
		defer store.Close()
		return store.Scan(ctx, e.typ.Name, fn)
	case "elasticsearch":
		cfg := elasticsearch.Default()
		cfg.URLs, cfg.Prefix = []string{e.world.servers.elasticsearch}, e.run
		cfg.Timeout = time.Minute
		store, err := elasticsearch.New(cfg, e.types, telemetry.Discard())
		if err != nil {
			return err
		}
		return store.Scan(ctx, e.typ.Name, fn)
	default:
		return lakerows.Scan(ctx, sound.path(e.world.opts.out), []string{"--config", e.config}, e.typ, fn)
	}
}

// readLetters enters the dead letters into what was found.
func (e *env) readLetters(ctx context.Context, found map[string]*finding) error {
	cdc, err := e.codec()
	if err != nil {
		return err
	}
	decoder := cdc.Decoder(e.typ.Name)
	return readTopics(ctx, e.world, nil, func(r *kgo.Record) error {
		var destination, class, reason string
		var from place
		offsets := int64(1)
		for _, h := range r.Headers {
			switch h.Key {
			case "millrace.resolution":
				return nil // says what became of a letter
			case "millrace.destination":
				destination = string(h.Value)
			case "millrace.class":
				class = string(h.Value)
			case "millrace.reason":
				reason = string(h.Value)
			case "millrace.origin.partition":
				n, _ := strconv.ParseInt(string(h.Value), 10, 32) // what is none is no place that is looked for
				from.partition = int32(n)
			case "millrace.origin.offset":
				from.offset, _ = strconv.ParseInt(string(h.Value), 10, 64)
			case "millrace.origin.offsets":
				offsets, _ = strconv.ParseInt(string(h.Value), 10, 64)
			}
		}
		f := found[destination]
		if f == nil {
			return nil // of a destination that is not judged
		}
		if reason == stream.ReasonOversized {
			for i := range offsets {
				f.letter(e.unread[place{from.partition, from.offset + i}], class, reason)
			}
			return nil
		}
		k := bytesKey(r.Value)
		var bad *codec.BadRecord
		rec, err := decoder.Decode(ctx, r)
		switch {
		case err == nil:
			if k, err = idKey(rec.ID()); err != nil {
				return err
			}
		case !errors.As(err, &bad):
			return fmt.Errorf("decoding a dead letter: %w", err)
		}
		f.letter(k, class, reason)
		return nil
	}, e.typ.DLQName())
}

const commitTopic = "__consumer_offsets"

// backwardCommits reads every commit that the groups have made, in the order in which Kafka took them, and gives those
// that are lower than the one before.
func (e *env) backwardCommits(ctx context.Context) ([]violation, error) {
	type position struct {
		group, topic string
		partition    int32
	}
	last := map[position]int64{}
	v := violation{Where: "commits", What: "went backwards"}
	err := readTopics(ctx, e.world, e.commitsFrom, func(r *kgo.Record) error {
		var k kmsg.OffsetCommitKey
		if err := k.ReadFrom(r.Key); err != nil || k.Version > 1 || k.Topic != e.topic() {
			return nil //nolint:nilerr // it is no commit, but a group's own state
		}
		p := position{k.Group, k.Topic, k.Partition}
		if r.Value == nil { // the group or the topic was deleted
			delete(last, p)
			return nil
		}
		var c kmsg.OffsetCommitValue
		if err := c.ReadFrom(r.Value); err != nil {
			return fmt.Errorf("reading a commit: %w", err)
		}
		if before, ok := last[p]; ok && c.Offset < before {
			v.Count++
			if len(v.Examples) < 5 {
				v.Examples = append(v.Examples, fmt.Sprintf("%s, partition %d: from %d to %d", p.group, p.partition, before, c.Offset))
			}
		}
		last[p] = c.Offset
		return nil
	}, commitTopic)
	if err != nil || v.Count == 0 {
		return nil, err
	}
	return []violation{v}, nil
}

// leave makes members leave a group that they can no longer leave themselves.
func (w *world) leave(ctx context.Context, group string, members []string) error {
	req := kmsg.NewPtrLeaveGroupRequest()
	req.Group = group
	for _, id := range members {
		m := kmsg.NewLeaveGroupRequestMember()
		m.MemberID = id
		req.Members = append(req.Members, m)
	}
	if _, err := req.RequestWith(ctx, w.client); err != nil {
		return fmt.Errorf("sending members away from the group %s: %w", group, err)
	}
	return nil
}

// forget removes a play's keyspace and indices.
func (s *servers) forget(ctx context.Context, run string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	var errs []error
	for _, path := range []string{"/" + run + "*?ignore_unavailable=true", "/_index_template/" + run + "*"} {
		req, err := http.NewRequestWithContext(ctx, http.MethodDelete, s.elasticsearch+path, http.NoBody)
		if err != nil {
			return err
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			return fmt.Errorf("cleaning up Elasticsearch: %w", err)
		}
		body, _ := io.ReadAll(io.LimitReader(res.Body, 1<<16)) // for the error's text
		_ = res.Body.Close()
		if res.StatusCode/100 != 2 && res.StatusCode != http.StatusNotFound {
			errs = append(errs, fmt.Errorf("cleaning up Elasticsearch: %s: %s", res.Status, body))
		}
	}
	cluster := gocql.NewCluster(s.cassandra)
	cluster.Timeout, cluster.ConnectTimeout = time.Minute, time.Minute
	session, err := cluster.CreateSession()
	if err != nil {
		return errors.Join(append(errs, fmt.Errorf("cleaning up Cassandra: %w", err))...)
	}
	defer session.Close()
	if err := session.Query("DROP KEYSPACE IF EXISTS " + run).WithContext(ctx).Exec(); err != nil {
		errs = append(errs, fmt.Errorf("cleaning up Cassandra: %w", err))
	}
	return errors.Join(errs...)
}
