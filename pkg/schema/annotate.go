package schema

import (
	"fmt"
	"time"
)

const (
	// minRetention keeps a slip such as "7m" for "7d" from emptying a destination at once.
	minRetention = time.Hour
	maxRetention = 36500 * day
	// maxTTL is the longest time to live that Cassandra takes: 20 years.
	maxTTL = 630720000 * time.Second
)

// annotate reads the attributes under "millrace". Each default is what a type of moderate volume that is asked for by
// service and time would choose.
func (p *problems) annotate(t *Type) {
	vals, ok := p.object("millrace", t.attributes)
	if !ok {
		return
	}
	all := &section{p: p, where: "millrace", vals: vals}

	bound := all.section("time_bound")
	t.Past = bound.duration("past", 30*day, 0, maxRetention)
	t.Future = bound.duration("future", 10*time.Minute, 0, day)
	bound.done()

	topic := all.section("topic")
	t.Topic = Topic{
		Name:       t.TopicName(),
		Partitions: topic.integer("partitions", 6, 10000),
		Key:        topic.fields("key", t, []int{Service, Host}, scalar),
		Retention:  topic.duration("retention", 7*day, minRetention, maxRetention),
	}
	topic.done()

	p.annotateCassandra(t, all.section("cassandra"))

	search := all.section("elasticsearch")
	t.Elasticsearch = Elasticsearch{
		Index:     t.IndexPrefix("millrace"),
		Text:      search.fields("text", t, nil, fullText),
		Shards:    search.integer("shards", 1, 1024),
		Retention: search.duration("retention", 7*day, minRetention, maxRetention),
	}
	search.done()

	lake := all.section("lake")
	t.Lake = Lake{
		Table:     t.Name,
		Partition: lake.oneOf("partition", "day(time)", "day(time)", "hour(time)"),
		Sort:      lake.fields("sort", t, []int{Service, Host, Time}, sortable),
		Retention: lake.duration("retention", 365*day, minRetention, maxRetention),
	}
	lake.done()
	all.done()
}

func (p *problems) annotateCassandra(t *Type, s *section) {
	c := Cassandra{
		Table:     t.Name,
		Partition: s.fields("partition", t, []int{Tenant, Service}, partitionKey),
		Bucket:    s.duration("bucket", time.Hour, time.Minute, 366*day),
		Shards:    s.integer("shards", 8, 1024),
		ShardBy:   s.fields("shard_by", t, []int{ID}, anyField),
		RowBytes:  s.integer("row_bytes", 256, 1<<20),
		Retention: s.duration("retention", 7*day, minRetention, maxTTL),
	}
	if c.Bucket > c.Retention {
		p.add(s.at("bucket"), "%s is longer than the retention of %s", formatDuration(c.Bucket), formatDuration(c.Retention))
	}
	if c.Shards > 1 && len(c.ShardBy) == 0 {
		p.add(s.at("shard_by"), "names no field to spread %d shards by", c.Shards)
	}
	s.done()
	t.Cassandra = c
}

func anyField(Field) string { return "" }

func fullText(f Field) string {
	if f.Kind != String && f.Kind != 0 {
		return fmt.Sprintf("is of type %s: only a string can be full text", f.Kind)
	}
	return ""
}

func sortable(f Field) string {
	if f.Kind == Map {
		return "is a map and so cannot be sorted by"
	}
	return ""
}

// partitionKey refuses id and time too: they are clustering columns.
func partitionKey(f Field) string {
	if f.Name == "id" || f.Name == "time" {
		return "is a clustering column and so cannot be part of the partition key"
	}
	return scalar(f)
}
