// Package lakerows reads a table of the lake back through `millrace sql`, value by value, so that what it holds can be
// compared with what was sent. DuckDB reads the files, which is not what wrote them.
package lakerows

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strconv"
	"strings"

	"github.com/millrace/millrace/pkg/codec"
	"github.com/millrace/millrace/pkg/schema"
)

// Scan runs the binary's sql command with the flags, which say which lake it is, and gives the values of each row of
// the type's table by the type's positions. fn's error ends it.
//
// Each column is asked for as text that stands in any format as it is: null is nothing, everything else begins with an
// x; strings are in hexadecimal digits.
func Scan(ctx context.Context, binary string, flags []string, t *schema.Type, fn func(values []codec.Value) error) error {
	columns := make([]string, len(t.Fields))
	for i, f := range t.Fields {
		columns[i] = fmt.Sprintf("coalesce('x' || %s, '') as c%d", columnText(f), i)
	}
	ctx, cancel := context.WithCancel(ctx) // ends the command when fn does
	defer cancel()
	args := append([]string{"sql", "--format", "csv"}, flags...)
	cmd := exec.CommandContext(ctx, binary, append(args, "select "+strings.Join(columns, ", ")+" from "+t.Name)...) //nolint:gosec // the binary under test
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting millrace sql: %w", err)
	}
	if err := read(out, t, fn); err != nil {
		cancel()
		_ = cmd.Wait() // it was ended
		if stderr.Len() > 0 {
			err = fmt.Errorf("%w\n%s", err, stderr.Bytes())
		}
		return fmt.Errorf("reading table %s: %w", t.Name, err)
	}
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("reading table %s by millrace sql: %w\n%s", t.Name, err, stderr.Bytes())
	}
	return nil
}

func read(in io.Reader, t *schema.Type, fn func([]codec.Value) error) error {
	rows := csv.NewReader(in)
	rows.ReuseRecord = true
	if _, err := rows.Read(); err != nil {
		return fmt.Errorf("reading the header: %w", err)
	}
	for {
		row, err := rows.Read()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		values, err := parseRow(t, row)
		if err == nil {
			err = fn(values)
		}
		if err != nil {
			return err
		}
	}
}

func columnText(f schema.Field) string {
	switch f.Kind {
	case schema.String, schema.Bytes:
		return "hex(" + f.Name + ")"
	case schema.Timestamp:
		return "epoch_us(" + f.Name + ")"
	case schema.Map:
		return "if(" + f.Name + " is null, null, coalesce(list_aggregate(list_transform(map_entries(" + f.Name +
			"), lambda e: hex(e.key) || ':' || hex(e.value)), 'string_agg', ' '), ''))"
	default:
		return "cast(" + f.Name + " as varchar)"
	}
}

func parseRow(t *schema.Type, row []string) ([]codec.Value, error) {
	if len(row) != len(t.Fields) {
		return nil, fmt.Errorf("%d columns: %q", len(row), row)
	}
	values := make([]codec.Value, len(row))
	for i, text := range row {
		text, set := strings.CutPrefix(text, "x")
		if !set {
			continue
		}
		var err error
		if values[i], err = parseValue(t.Fields[i].Kind, text); err != nil {
			return nil, fmt.Errorf("%s: %w", t.Fields[i].Name, err)
		}
	}
	return values, nil
}

func parseValue(kind schema.Kind, text string) (codec.Value, error) {
	switch kind {
	case schema.Bool:
		b, err := strconv.ParseBool(text)
		return codec.BoolValue(b), err
	case schema.Int, schema.Long, schema.Timestamp:
		n, err := strconv.ParseInt(text, 10, 64)
		return codec.LongValue(n), err
	case schema.Float, schema.Double:
		f, err := strconv.ParseFloat(text, 64)
		return codec.DoubleValue(f), err
	case schema.Map:
		pairs := map[string]string{}
		for pair := range strings.FieldsSeq(text) {
			k, v, _ := strings.Cut(pair, ":")
			key, err := hex.DecodeString(k)
			value, err2 := hex.DecodeString(v)
			if err = errors.Join(err, err2); err != nil {
				return codec.Value{}, err
			}
			pairs[string(key)] = string(value)
		}
		return codec.MapValue(pairs), nil
	case schema.UUID:
		return codec.StringValue(text), nil
	default:
		data, err := hex.DecodeString(text)
		return codec.BytesValue(data), err
	}
}
