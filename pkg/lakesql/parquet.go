package lakesql

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// Parquet is a format of an answer: a file, which has its index at its end.
const Parquet = "parquet"

// ErrCut says that there are more rows than were asked for, and that the format cannot say so.
var ErrCut = errors.New("there are more rows than the limit")

// parquet has DuckDB write the rows to a file in a folder of its own and copies that to w. It is we who write: what the
// statement may do is the same as ever.
func (d *DB) parquet(ctx context.Context, r Request, w io.Writer) (a Answer, err error) {
	folder, err := os.MkdirTemp("", "millrace-sql-")
	if err != nil {
		return a, fmt.Errorf("making a folder for the rows: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(folder)) }()
	file := filepath.Join(folder, "rows.parquet")
	err = d.with(ctx, r, []string{folder}, func(ctx context.Context, s *session, columns []Column) error {
		if columns == nil {
			return fmt.Errorf("%w: a plan is no table", ErrRefused)
		}
		if a.Reads, err = s.show(ctx, r.Statement); err != nil {
			return err
		}
		statement := strings.TrimRight(s.limited(r, columns), "; \t\r\n")
		result, err := s.conn.ExecContext(ctx, fmt.Sprintf("COPY (%s\n) TO %s (FORMAT parquet, COMPRESSION zstd)", statement, literal(file)))
		if err != nil {
			return fmt.Errorf("running query: %w", err)
		}
		rows, err := result.RowsAffected()
		if a.Rows = int(rows); r.Limit > 0 && a.Rows > r.Limit {
			return fmt.Errorf("writing rows: %w, which is %d", ErrCut, r.Limit)
		}
		return err
	})
	if err != nil {
		return a, err
	}
	f, err := os.Open(file) //nolint:gosec // made above
	if err != nil {
		return a, fmt.Errorf("reading the rows: %w", err)
	}
	defer func() { _ = f.Close() }()
	if _, err := io.Copy(w, f); err != nil {
		return a, fmt.Errorf("writing rows: %w", err)
	}
	return a, nil
}
