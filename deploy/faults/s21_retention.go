package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// retention deletes records before the stopped consumers have read them. They go on at what is left, count exactly what is
// gone, and have all of the rest.
func retention(ctx context.Context, e *env) (evidence, error) {
	p, w, err := e.flow(ctx, load{sources: 2, rate: pick(e, 600.0, 3000)}, pick(e, int64(1000), 10_000))
	if err != nil {
		return evidence{}, err
	}
	if err := p.stop(ctx); err != nil {
		return evidence{}, err
	}
	if err := w.awaitAcked(ctx, pick(e, int64(1000), 20_000), time.Minute); err != nil { // those that nobody will have read
		return evidence{}, err
	}
	if err := w.pause(ctx); err != nil {
		return evidence{}, err
	}
	decoder, err := e.codec()
	if err != nil {
		return evidence{}, err
	}
	d := decoder.Decoder(e.typ.Name)
	for _, name := range e.destinations {
		committed, err := e.world.adm.FetchOffsets(ctx, group(name))
		if err != nil {
			return evidence{}, err
		}
		from := kadm.ListedOffsets{e.topic(): {}}
		committed.Each(func(o kadm.OffsetResponse) {
			if o.Topic == e.topic() {
				from[e.topic()][o.Partition] = kadm.ListedOffset{Topic: o.Topic, Partition: o.Partition, Offset: o.At}
			}
		})
		if err := readTopics(ctx, e.world, from, func(r *kgo.Record) error {
			rec, err := d.Decode(ctx, r)
			if err != nil {
				return err
			}
			k, err := idKey(rec.ID())
			e.ledger.lose(k, bitOf(name))
			return err
		}, e.topic()); err != nil {
			return evidence{}, err
		}
	}
	if err := e.expire(ctx); err != nil {
		return evidence{}, err
	}
	want, err := e.behindTheStart(ctx)
	if err != nil {
		return evidence{}, err
	}
	w.resume()
	if err := w.awaitAcked(ctx, pick(e, int64(1000), 20_000), time.Minute); err != nil {
		return evidence{}, err
	}
	p, err = e.consume("consumers-again", "")
	if err != nil {
		return evidence{}, err
	}
	if err := e.awaitCommitted(ctx, "cassandra", 1, time.Minute); err != nil {
		return evidence{}, err
	}
	if err := w.awaitAcked(ctx, 500, time.Minute); err != nil { // in every partition, so that each commits whatever it has done
		return evidence{}, err
	}
	ev := evidence{Bites: map[string]int64{}, Did: fmt.Sprintf("retention deleted records that nobody had read: %v", want)}
	for name, n := range want {
		ev.Bites["records that expired for "+name] = n
	}
	counted := map[string]int64{}
	ev.After = func(ctx context.Context) error {
		for _, name := range e.destinations {
			n, err := p.metric(ctx, "millrace_stream_expired_records_total", `consumer="`+name+`"`)
			if err != nil {
				return err
			}
			counted[name] = int64(n)
		}
		return nil
	}
	ev.Verdict = func(found map[string]*finding) (wrong []violation) {
		for name, n := range want {
			if counted[name] != n || found[name].Gone != n {
				wrong = append(wrong, violation{
					Where: name, What: fmt.Sprintf("records counted as expired; %d offsets are gone, and %d records are not there", n, found[name].Gone), Count: counted[name],
				})
			}
		}
		return wrong
	}
	return ev, nil
}

// expire has Kafka delete all that is in the topic, and then keep again what comes.
func (e *env) expire(ctx context.Context) error {
	set := func(value string) error {
		changed, err := e.world.adm.AlterTopicConfigs(ctx, []kadm.AlterConfig{{Op: kadm.SetConfig, Name: "retention.ms", Value: &value}}, e.topic())
		if err == nil {
			_, err = changed.On(e.topic(), func(r *kadm.AlterConfigsResponse) error { return r.Err })
		}
		if err != nil {
			return fmt.Errorf("setting retention.ms of %s to %s: %w", e.topic(), value, err)
		}
		return nil
	}
	if err := set("1"); err != nil {
		return err
	}
	if err := until(ctx, time.Minute, "an empty topic", func(ctx context.Context) error {
		starts, err := e.world.adm.ListStartOffsets(ctx, e.topic())
		if err != nil {
			return err
		}
		ends, err := e.world.adm.ListEndOffsets(ctx, e.topic())
		if err != nil {
			return err
		}
		var left int64
		ends.Each(func(o kadm.ListedOffset) {
			s, _ := starts.Lookup(o.Topic, o.Partition)
			left += o.Offset - s.Offset
		})
		if left > 0 {
			return fmt.Errorf("%d records are in it", left)
		}
		return errors.Join(starts.Error(), ends.Error())
	}); err != nil {
		return err
	}
	return set("604800000")
}

// behindTheStart gives by how many offsets each destination's commits lie before what is left in the topic.
func (e *env) behindTheStart(ctx context.Context) (map[string]int64, error) {
	starts, err := listed(ctx, e.world.adm.ListStartOffsets, e.topic())
	if err != nil {
		return nil, err
	}
	out := map[string]int64{}
	for _, d := range e.destinations {
		committed, err := e.world.adm.FetchOffsets(ctx, group(d))
		if err != nil {
			return nil, err
		}
		starts.Each(func(s kadm.ListedOffset) {
			if c, ok := committed.Lookup(s.Topic, s.Partition); ok {
				out[d] += max(0, s.Offset-c.At)
			}
		})
	}
	return out, nil
}
