package schema

import (
	"slices"

	"github.com/twmb/avro"
)

// Compatible tells whether newer may follow older, and older newer: each reads what the other writes (FULL, in a
// registry's words), and the keys and partitions that are fixed when the tables are made stay as they are. Called for
// each earlier version it is FULL_TRANSITIVE. Its error holds every reason, one line each.
func Compatible(older, newer *Type) error {
	p := &problems{name: newer.Name}
	if older.Name != newer.Name {
		p.add("name", "is %s in the other version: a type cannot be renamed", older.Name)
		return p.err()
	}
	same := p.sameFields(older, newer)
	p.freshFields(older, newer, same)
	p.samePlaces(older, newer)
	if len(p.errs) == 0 { // Avro gives one reason only, and what was found above would be it
		if err := avro.CheckCompatibility(older.Avro, newer.Avro); err != nil {
			p.add("", "cannot read what the earlier version writes: %v", err)
		}
		if err := avro.CheckCompatibility(newer.Avro, older.Avro); err != nil {
			p.add("", "the earlier version cannot read what this one writes: %v", err)
		}
	}
	return p.err()
}

// sameFields pairs the fields of both versions, by name and by alias either way, and checks that a field is still what
// it was. It gives older's position of each of newer's fields, or -1 for a new one.
func (p *problems) sameFields(older, newer *Type) []int {
	same := make([]int, len(newer.Fields))
	for i, f := range newer.Fields {
		same[i] = counterpart(older, f)
		if same[i] < 0 {
			continue
		}
		was := older.Fields[same[i]]
		if was.Kind != f.Kind {
			p.add(at(f), "was of type %s and cannot become %s: add a new field instead", was.Kind, f.Kind)
		}
		if was.Nullable != f.Nullable {
			p.add(at(f), "cannot change whether it is null: add a new field instead")
		}
		if was.Name != f.Name && (!f.HasDefault || !was.HasDefault) {
			p.add(at(f), "was named %q: only a field with a default in both versions can be renamed", was.Name)
		}
		if was.Column() != f.Column() {
			p.add(at(f), "its first alias must be %q, the name it had first: Cassandra keeps that as its column", was.Column())
		}
	}
	return same
}

// counterpart finds the field that f is in t: by its name, by one of its earlier names, or as an alias there.
func counterpart(t *Type, f Field) int {
	for _, name := range append([]string{f.Name}, f.Aliases...) {
		if i := t.Index(name); i >= 0 {
			return i
		}
	}
	return -1
}

// freshFields checks the fields that only one version has: the other reads its records by the default.
func (p *problems) freshFields(older, newer *Type, same []int) {
	for i, f := range newer.Fields {
		if same[i] < 0 && !f.HasDefault {
			p.add(at(f), "is new and needs a default: earlier records do not have it")
		}
	}
	for i, f := range older.Fields {
		if !slices.Contains(same, i) && !f.HasDefault {
			p.add(at(f), "cannot be left out: it has no default for those who still read it")
		}
	}
}

// samePlaces checks what is fixed when topics and tables are made. Fields are compared by the column they have in
// Cassandra, which a rename leaves alone.
func (p *problems) samePlaces(older, newer *Type) {
	fields := func(where string, was, is []int) {
		if a, b := columnsOf(older, was), columnsOf(newer, is); !slices.Equal(a, b) {
			p.add("millrace."+where, "was %q and cannot become %q", a, b)
		}
	}
	fields("topic.key", older.Topic.Key, newer.Topic.Key)
	fields("cassandra.partition", older.Cassandra.Partition, newer.Cassandra.Partition)
	fields("cassandra.shard_by", older.Cassandra.ShardBy, newer.Cassandra.ShardBy)
	if was, is := older.Cassandra.Bucket, newer.Cassandra.Bucket; was != is {
		p.add("millrace.cassandra.bucket", "was %s and cannot become %s", formatDuration(was), formatDuration(is))
	}
	if was, is := older.Cassandra.Shards, newer.Cassandra.Shards; was != is {
		p.add("millrace.cassandra.shards", "was %d and cannot become %d", was, is)
	}
	if was, is := older.Lake.Partition, newer.Lake.Partition; was != is {
		p.add("millrace.lake.partition", "was %s and cannot become %s", was, is)
	}
	if was, is := older.Topic.Partitions, newer.Topic.Partitions; is < was {
		p.add("millrace.topic.partitions", "was %d and cannot become %d: Kafka cannot take partitions away", was, is)
	}
	text := func(t *Type) []int { return t.Elasticsearch.Text }
	for i, f := range newer.Fields {
		if was := counterpart(older, f); was >= 0 && slices.Contains(text(older), was) != slices.Contains(text(newer), i) {
			p.add("millrace.elasticsearch.text", "field %q cannot change between full text and keyword", f.Name)
		}
	}
}

func columnsOf(t *Type, positions []int) []string {
	names := make([]string, len(positions))
	for i, pos := range positions {
		names[i] = t.Fields[pos].Column()
	}
	return names
}
