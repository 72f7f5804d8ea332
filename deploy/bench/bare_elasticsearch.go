package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	es "github.com/elastic/go-elasticsearch/v8"
	"github.com/twmb/avro"
	"github.com/twmb/franz-go/pkg/kgo"
)

// The bare loop to Elasticsearch: what a good engineer writes by hand on franz-go, twmb/avro and go-elasticsearch for one
// data type, with the settings that were found to be best. It has no dead letters, no retries, no metrics, and commits
// once, at its end: the limit for a Go consumer with these servers, not a consumer to run.
const (
	bareDocs     = 5000 // per request
	bareInFlight = 4
)

// bareLog is the type log as a struct.
type bareLog struct {
	ID         string            `avro:"id"`
	Time       int64             `avro:"time"`
	Service    string            `avro:"service"`
	Host       string            `avro:"host"`
	Datacenter string            `avro:"datacenter"`
	Tenant     string            `avro:"tenant"`
	Severity   *string           `avro:"severity"`
	Body       string            `avro:"body"`
	Source     *string           `avro:"source"`
	TraceID    *string           `avro:"trace_id"`
	SpanID     *string           `avro:"span_id"`
	Attributes map[string]string `avro:"attributes"`
}

func bareElasticsearchRow(ctx context.Context, b *bench, count int) error {
	prefix := fmt.Sprintf("%s-bare-%d", b.run, b.round)
	if _, err := b.elasticsearch(ctx, prefix); err != nil { // for the same index template
		return err
	}
	urls, err := server("MILLRACE_ELASTICSEARCH")
	if err != nil {
		return err
	}
	client, err := es.NewClient(es.Config{
		Addresses: urls, DisableRetry: true,
		Transport: &http.Transport{MaxIdleConnsPerHost: bareInFlight},
	})
	if err != nil {
		return err
	}
	consumer, group, err := b.bareConsumer("bare-elasticsearch")
	if err != nil {
		return err
	}
	defer consumer.Close()

	idle := make(chan *bareRequest, bareInFlight)
	for range bareInFlight {
		idle <- &bareRequest{es: client, avro: b.typ.Avro, index: prefix + "-" + b.typ.Name + "-"}
	}
	wrong := make(chan error, bareInFlight)
	b.clock.start()
	for n := 0; n < count; {
		fetches := consumer.PollRecords(ctx, bareDocs)
		if err := fetches.Err(); err != nil {
			return err
		}
		n += fetches.NumRecords()
		var q *bareRequest
		select {
		case q = <-idle:
		case err := <-wrong:
			return err
		}
		go func() {
			if err := q.send(ctx, fetches); err != nil {
				wrong <- err
				return
			}
			idle <- q
		}()
	}
	for range bareInFlight {
		select {
		case <-idle:
		case err := <-wrong:
			return err
		}
	}
	if err := consumer.CommitUncommittedOffsets(ctx); err != nil {
		return err
	}
	b.clock.stop()
	return b.committed(ctx, group, count)
}

// bareRequest is one of those in flight. Its buffers are used again.
type bareRequest struct {
	es    *es.Client
	avro  *avro.Schema
	index string
	body  []byte
}

func (q *bareRequest) send(ctx context.Context, fetches kgo.Fetches) error {
	q.body = q.body[:0]
	for it := fetches.RecordIter(); !it.Done(); {
		var l bareLog
		if _, err := q.avro.Decode(it.Next().Value[5:], &l); err != nil {
			return err
		}
		q.add(&l)
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	res, err := q.es.Bulk(bytes.NewReader(q.body), q.es.Bulk.WithContext(ctx), q.es.Bulk.WithFilterPath("errors", "items.*.error"))
	if err != nil {
		return err
	}
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	if err != nil {
		return err
	}
	if res.IsError() {
		return fmt.Errorf("%s: %s", res.Status(), data)
	}
	var answer struct {
		Errors *bool `json:"errors"`
	}
	if err := json.Unmarshal(data, &answer); err != nil {
		return err
	}
	if answer.Errors == nil || *answer.Errors { // every document is new
		return errors.New("not all documents were created: " + string(data[:min(len(data), 1000)]))
	}
	return nil
}

// add writes an action and a document. Built by hand: encoding/json takes three times as long.
func (q *bareRequest) add(l *bareLog) {
	utc := time.UnixMicro(l.Time).UTC()
	dst := q.body
	dst = append(append(dst, `{"create":{"_index":"`...), q.index...)
	dst = utc.AppendFormat(dst, "2006.01.02")
	dst = append(dst, `","_id":`...)
	dst = bareString(dst, l.ID)
	dst = bareString(append(dst, "}}\n{\"id\":"...), l.ID)
	dst = utc.AppendFormat(append(dst, `,"time":"`...), "2006-01-02T15:04:05.000000Z")
	dst = bareString(append(dst, `","service":`...), l.Service)
	dst = bareString(append(dst, `,"host":`...), l.Host)
	dst = bareString(append(dst, `,"datacenter":`...), l.Datacenter)
	dst = bareString(append(dst, `,"tenant":`...), l.Tenant)
	if l.Severity != nil {
		dst = bareString(append(dst, `,"severity":`...), *l.Severity)
	}
	dst = bareString(append(dst, `,"body":`...), l.Body)
	if l.Source != nil {
		dst = bareString(append(dst, `,"source":`...), *l.Source)
	}
	if l.TraceID != nil {
		dst = bareString(append(dst, `,"trace_id":`...), *l.TraceID)
	}
	if l.SpanID != nil {
		dst = bareString(append(dst, `,"span_id":`...), *l.SpanID)
	}
	dst = append(dst, `,"attributes":{`...)
	first := true
	for k, v := range l.Attributes {
		if !first {
			dst = append(dst, ',')
		}
		first = false
		dst = bareString(append(bareString(dst, k), ':'), v)
	}
	dst = append(dst, "}}\n"...)
	q.body = dst
}

// bareString quotes a string: by hand as long as there is nothing to escape.
func bareString(dst []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < 0x20 || c == '"' || c == '\\' {
			quoted, err := json.Marshal(s)
			if err != nil { // cannot be: it is a string
				quoted = []byte(`""`)
			}
			return append(dst, quoted...)
		}
	}
	return append(append(append(dst, '"'), s...), '"')
}
