package cassandra

import (
	"hash/maphash"
	"sync"

	"github.com/millrace/millrace/pkg/schema"
)

// maxPartitions bounds how many partitions are watched. Past it the watch starts anew: a partition that is about to
// pass the bound takes many rows and shows again soon.
const maxPartitions = 200_000

// sizes watches how much has been written to each partition, so that one that grows too large is seen before it hurts.
// It counts what this process wrote, replays among it: it is a warning, not a measurement.
type sizes struct {
	mu    sync.Mutex
	seed  maphash.Seed
	bytes map[uint64]int64
}

// add gives a partition's size before and after.
func (z *sizes) add(typeName, key string, n int) (before, after int64) {
	z.mu.Lock()
	defer z.mu.Unlock()
	if z.bytes == nil {
		z.seed = maphash.MakeSeed()
	}
	if z.bytes == nil || len(z.bytes) >= maxPartitions {
		z.bytes = make(map[uint64]int64)
	}
	var h maphash.Hash
	h.SetSeed(z.seed)
	_, _ = h.WriteString(typeName) // never fails
	_, _ = h.WriteString(key)
	sum := h.Sum64()
	before = z.bytes[sum]
	after = before + int64(n)
	z.bytes[sum] = after
	return before, after
}

// count warns once when a partition passes the bound.
func (s *Store) count(t *schema.Type, key string, n int) {
	bound := int64(s.cfg.PartitionBytes)
	if before, after := s.sizes.add(t.Name, key, n); before < bound && after >= bound {
		s.m.oversized.WithLabelValues(t.Name).Inc()
		s.log.Warn("a partition is larger than it should be: raise cassandra.shards or lower cassandra.bucket in the type's schema",
			"type", t.Name, "bytes", after, "bound", bound)
	}
}
