package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/gocql/gocql"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/pkg/codec"
	"github.com/millrace/millrace/pkg/schema"
)

// clocks has sources and consumers whose clocks are an hour ahead and an hour behind. What is from the future by more than
// the type allows is a dead letter, all else is stored once; no wrong clock makes indices, shortens what a row has to live
// by more than it is wrong itself, or shows a lag of less than nothing.
func clocks(ctx context.Context, e *env) (evidence, error) {
	cdc, err := e.codec()
	if err != nil {
		return evidence{}, err
	}
	var failed [2]error // a source each: they run side by side
	shifted := func(by time.Duration, must uint8, failed *error) load {
		decoder := cdc.Decoder(e.typ.Name)
		return load{sources: 1, rate: pick(e, 250.0, 1000), refusal: func(r *kgo.Record, _ int64) (uint8, uint8) {
			if err := e.change(ctx, cdc, decoder, r, func(v []codec.Value) {
				v[schema.Time] = codec.LongValue(v[schema.Time].Long() + by.Microseconds())
			}); err != nil {
				*failed = err
			}
			return must, 0
		}}
	}
	if err := e.provision(ctx); err != nil {
		return evidence{}, err
	}
	var members []*process
	for name, clock := range map[string]string{"ahead": "1h", "behind": "-1h"} {
		p, err := e.start(name, []string{"MILLRACE_CLOCK=" + clock}, append([]string{"run", "--config", e.config, "--status", "0"}, e.destinations...)...)
		if err != nil {
			return evidence{}, err
		}
		members = append(members, p)
	}
	var works []*workload
	for _, l := range []load{{sources: 1, rate: pick(e, 250.0, 1000)}, shifted(time.Hour, toAll, &failed[0]), shifted(-time.Hour, 0, &failed[1])} {
		w, err := e.produce(ctx, l)
		if err != nil {
			return evidence{}, err
		}
		works = append(works, w)
	}
	if err := works[0].awaitAcked(ctx, pick(e, int64(4000), 60_000), 2*time.Minute); err != nil {
		return evidence{}, err
	}
	negative := 0
	for range 20 { // while there is lag
		n, err := negativeLags(ctx, members)
		if err != nil {
			return evidence{}, err
		}
		negative += n
	}
	for _, w := range works {
		if err := w.stop(ctx); err != nil {
			return evidence{}, err
		}
	}
	if err := errors.Join(failed[:]...); err != nil {
		return evidence{}, err
	}
	if err := e.awaitCaughtUp(ctx); err != nil {
		return evidence{}, err
	}
	indices, err := e.indices(ctx)
	if err != nil {
		return evidence{}, err
	}
	least, most, err := e.timesToLive(ctx)
	if err != nil {
		return evidence{}, err
	}
	var early, late int64
	for _, entry := range e.ledger.entries {
		switch {
		case entry.must == toAll && entry.ok > 0: // what was under way at the end may have failed
			early++
		case entry.source == works[2].sources[0].number:
			late++
		}
	}
	return evidence{
		Did: fmt.Sprintf("%d events from an hour ahead, %d from an hour ago, consumers an hour ahead and behind: %d indices, rows live %s to %s",
			early, late, indices, least.Round(time.Minute), most.Round(time.Minute)),
		Bites: map[string]int64{"events from the future": early, "events from the past": late},
		Verdict: func(found map[string]*finding) (wrong []violation) {
			for where, f := range found {
				if n := f.Letters["record, time_out_of_range"]; n != early || len(f.Letters) != 1 {
					wrong = append(wrong, violation{Where: where, What: fmt.Sprintf("dead letters for their time, want %d, and no others", early), Count: n})
				}
			}
			if negative > 0 {
				wrong = append(wrong, violation{Where: "/api/v1/consumers", What: "lags of less than nothing", Count: int64(negative)})
			}
			if indices > 2 { // around midnight
				wrong = append(wrong, violation{Where: "elasticsearch", What: "indices, want one or two", Count: indices})
			}
			// The event's age, an hour, and the clock's error, another one.
			keep := e.typ.Cassandra.Retention
			if least < keep-2*time.Hour-10*time.Minute || most > keep+time.Hour+time.Minute {
				wrong = append(wrong, violation{Where: "cassandra", What: fmt.Sprintf("rows live %s to %s, want %s within the clocks' error", least, most, keep), Count: 1})
			}
			return wrong
		},
	}, nil
}

// negativeLags counts the lags of less than nothing that members show.
func negativeLags(ctx context.Context, members []*process) (n int, err error) {
	for _, p := range members {
		body, err := p.get(ctx, "/api/v1/consumers")
		if err != nil {
			return 0, err
		}
		var answer struct {
			Rows []struct {
				Records *float64 `json:"lag_records"`
				Seconds *float64 `json:"lag_seconds"`
			} `json:"rows"`
		}
		if err := json.Unmarshal(body, &answer); err != nil {
			return 0, fmt.Errorf("reading /api/v1/consumers: %w", err)
		}
		if len(answer.Rows) == 0 {
			return 0, fmt.Errorf("/api/v1/consumers of %s has no rows: %s", p.name, body)
		}
		for _, r := range answer.Rows {
			if (r.Records != nil && *r.Records < 0) || (r.Seconds != nil && *r.Seconds < 0) {
				n++
			}
		}
	}
	return n, nil
}

// indices counts the play's indices in Elasticsearch.
func (e *env) indices(ctx context.Context) (int64, error) {
	body, err := get(ctx, e.world.servers.elasticsearch+"/_cat/indices/"+e.run+"*?format=json&h=index")
	if err != nil {
		return 0, fmt.Errorf("listing indices: %w", err)
	}
	var all []any
	if err := json.Unmarshal(body, &all); err != nil {
		return 0, fmt.Errorf("listing indices: %w: %s", err, body)
	}
	return int64(len(all)), nil
}

// timesToLive gives the shortest and the longest time that a row in Cassandra has to live.
func (e *env) timesToLive(ctx context.Context) (least, most time.Duration, err error) {
	cluster := gocql.NewCluster(e.world.servers.cassandra)
	cluster.Timeout, cluster.ConnectTimeout, cluster.Keyspace = time.Minute, time.Minute, e.run
	session, err := cluster.CreateSession()
	if err != nil {
		return 0, 0, fmt.Errorf("connecting to Cassandra: %w", err)
	}
	defer session.Close()
	iter := session.Query("SELECT TTL(body) FROM " + e.typ.CQL(e.run).Table).WithContext(ctx).Iter()
	var seconds int
	for iter.Scan(&seconds) {
		d := time.Duration(seconds) * time.Second
		if least == 0 || d < least {
			least = d
		}
		most = max(most, d)
	}
	if err := iter.Close(); err != nil {
		return 0, 0, fmt.Errorf("reading how long rows live: %w", err)
	}
	return least, most, nil
}
