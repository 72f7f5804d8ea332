package cassandra

import (
	"context"
	"fmt"
	"strings"

	"github.com/gocql/gocql"

	"github.com/millrace/millrace/pkg/codec"
	"github.com/millrace/millrace/pkg/schema"
)

const (
	scanPage = 2000
	// scanRanges cuts the ring, so that no single query has to run through all of it within its time-out.
	scanRanges = 16
)

// Scan reads every row of the type, in no order, and gives each one's values by the type's positions. It is how a
// checker proves what arrived; fn's error ends it.
func (s *Store) Scan(ctx context.Context, typeName string, fn func(values []codec.Value) error) error {
	t := s.types.Get(typeName)
	if t == nil {
		return fmt.Errorf("there is no type %q", typeName)
	}
	session, err := s.connect(ctx)
	if err != nil {
		return err
	}
	cql := t.CQL(s.cfg.Keyspace)
	var names []string
	for _, c := range cql.Columns {
		names = append(names, quoted(c.Name))
	}
	key := strings.Join(names[:len(t.Cassandra.Partition)+2], ", ")
	query := fmt.Sprintf("SELECT %s FROM %s WHERE token(%s) > ? AND token(%s) <= ?", strings.Join(names, ", "), cql.Table, key, key)
	const step = 1 << 63 / scanRanges * 2
	from := int64(-1 << 63)
	for i := range scanRanges {
		to := from + step - 1
		if i == scanRanges-1 {
			to = 1<<63 - 1
		}
		iter := session.Query(query, from, to).WithContext(ctx).PageSize(scanPage).Iter()
		if err := scanRows(t, cql.Columns, iter, fn); err != nil {
			return fmt.Errorf("scanning table %s: %w", cql.Table, err)
		}
		from = to
	}
	return nil
}

func scanRows(t *schema.Type, columns []schema.Column, iter *gocql.Iter, fn func([]codec.Value) error) error {
	cells := make([]cell, len(columns))
	dest := make([]any, len(columns))
	var bucket int64
	var shard int
	for i, c := range columns {
		switch c.Field {
		case schema.BucketColumn:
			dest[i] = &millis{&bucket}
		case schema.ShardColumn:
			dest[i] = &shard
		default:
			cells[i].kind = t.Fields[c.Field].Kind
			dest[i] = &cells[i]
		}
	}
	for iter.Scan(dest...) {
		values := make([]codec.Value, len(t.Fields))
		for i, c := range columns {
			if c.Field >= 0 {
				values[c.Field] = cells[i].value
			}
		}
		// A row in another partition than its own would be there twice, or not be found by who reads it by key.
		if at := t.Bucket(values[schema.Time].Long()).UnixMilli(); at != bucket {
			_ = iter.Close()
			return fmt.Errorf("row %s is in the bucket %d and belongs into %d", values[schema.ID], bucket, at)
		}
		if of := schema.Shard(t, values); of != shard {
			_ = iter.Close()
			return fmt.Errorf("row %s is in the shard %d and belongs into %d", values[schema.ID], shard, of)
		}
		if err := fn(values); err != nil {
			_ = iter.Close()
			return err
		}
	}
	return iter.Close()
}

// millis reads a timestamp as the number that it is.
type millis struct{ to *int64 }

// UnmarshalCQL implements gocql.Unmarshaler.
func (m *millis) UnmarshalCQL(info gocql.TypeInfo, data []byte) error {
	c := cell{kind: schema.Long}
	if err := c.decode(info, data); err != nil {
		return err
	}
	*m.to = c.value.Long()
	return nil
}

func quoted(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }
