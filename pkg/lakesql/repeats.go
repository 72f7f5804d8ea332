package lakesql

import (
	"context"
	"fmt"
	"strings"
)

// repeats is the schema of the tables that name what the chosen files have more than once.
const repeats = "_repeats"

// eventHash stands for an event. Two events of one hash are held apart by the view; it is slower for them, that is all.
const eventHash = `hash(id, "time")`

// eventMemory is what an event may take while it is counted.
const eventMemory = 64

// findRepeats makes the table of the hashes that the rows of from have more than once, and says whether there are any. It
// reads two columns, and as often as the memory asks for, each time for a share of the hashes. Nearly always there are none,
// or few: then the view need not sort all rows by event.
func (s *session) findRepeats(ctx context.Context, v view, from string) (table string, err error) {
	doing := "looking for events that " + v.name + " has more than once"
	var rows int64
	if err := s.conn.QueryRowContext(ctx, "SELECT count(*) FROM "+from).Scan(&rows); err != nil {
		return "", fmt.Errorf("%s: %w", doing, err)
	}
	passes := rows*s.perEvent/(int64(s.cfg.Memory)/2) + 1
	table = repeats + "." + identifier(v.name)
	err = s.exec(ctx, doing, "CREATE SCHEMA IF NOT EXISTS "+repeats, "CREATE TABLE "+table+" (event UBIGINT)")
	for pass := int64(0); err == nil && pass < passes; pass++ {
		share := ""
		if passes > 1 {
			share = fmt.Sprintf(" WHERE event %% %d = %d", passes, pass)
		}
		err = s.exec(ctx, doing, fmt.Sprintf("INSERT INTO %s SELECT event FROM (SELECT %s AS event FROM %s)%s GROUP BY event HAVING count(*) > 1",
			table, eventHash, from, share))
	}
	if err != nil {
		return "", err
	}
	var some bool
	if err := s.conn.QueryRowContext(ctx, "SELECT count(*) > 0 FROM "+table).Scan(&some); err != nil || !some {
		return "", err
	}
	return table, nil
}

// show is the statement that makes the view over files, of whose repeats it shows the first by append time, partition and
// offset.
func (v view) show(from, repeated string) string {
	plain := v
	plain.deduplicate = false
	if repeated == "" {
		return plain.create(from)
	}
	columns := strings.Join(v.names(), ", ")
	among := func(not string) string {
		return fmt.Sprintf("(SELECT %s FROM %s WHERE %s %sIN (SELECT event FROM %s))", columns, from, eventHash, not, repeated)
	}
	return "CREATE OR REPLACE VIEW " + identifier(v.name) + " AS SELECT " + columns + " FROM " + among("NOT ") +
		" UNION ALL SELECT " + columns + " FROM " + among("") + onlyFirst
}
