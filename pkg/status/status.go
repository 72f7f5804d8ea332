// Package status prints how far each destination is behind: a table that refreshes in place on a terminal, one line
// per interval elsewhere.
package status

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
)

// Row is one destination's state of one topic.
type Row struct {
	Destination string
	Topic       string
	Produced    int64         // records in the topic: the sum of its end offsets
	Applied     int64         // the sum of the next offsets that the destination has not made durable
	Lag         time.Duration // age of the oldest record that is not applied; 0 when there is none
	LagKnown    bool          // false: records wait, and nobody knows since when
	State       string        // what is wrong, or ""
}

// LagRecords is how many records are produced and not applied. It can be negative, which is shown as it is.
func (r Row) LagRecords() int64 { return r.Produced - r.Applied }

// Table prints rows until its context ends.
type Table struct {
	Out      io.Writer
	Terminal bool // refresh in place
	Every    time.Duration
	Now      func() time.Time
	Rows     func() []Row
	Note     func() string // a line under the table, or ""
}

// Run prints at once and then at every interval.
func (t *Table) Run(ctx context.Context) error {
	tick := time.NewTicker(t.Every)
	defer tick.Stop()
	p := printer{table: t, before: map[string]int64{}}
	for {
		if err := p.print(); err != nil {
			return fmt.Errorf("printing the status: %w", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// printer remembers what was printed last: for the rates, and for how many lines to go back up.
type printer struct {
	table  *Table
	before map[string]int64 // applied, by destination and topic
	at     time.Time
	lines  int
}

func (p *printer) print() error {
	now := p.table.Now()
	elapsed := now.Sub(p.at).Seconds()
	rows := p.table.Rows()
	rates := make([]float64, len(rows))
	for i, r := range rows {
		key := r.Destination + "/" + r.Topic
		if was, ok := p.before[key]; ok && elapsed > 0 && !p.at.IsZero() {
			rates[i] = float64(r.Applied-was) / elapsed
		}
		p.before[key] = r.Applied
	}
	p.at = now
	var out bytes.Buffer
	if p.table.Terminal {
		if p.lines > 0 {
			fmt.Fprintf(&out, "\x1b[%dA\x1b[J", p.lines)
		}
		body := p.full(now, rows, rates)
		p.lines = strings.Count(body, "\n")
		out.WriteString(body)
	} else if len(rows) > 0 {
		out.WriteString(line(now, rows, rates))
	}
	_, err := p.table.Out.Write(out.Bytes())
	return err
}

func (p *printer) full(now time.Time, rows []Row, rates []float64) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n", now.Format("15:04:05"))
	const format = "%-14s %-24s %12s %12s %10s %10s %10s  %s\n"
	fmt.Fprintf(&b, format, "DESTINATION", "TOPIC", "PRODUCED", "APPLIED", "LAG", "LAG (s)", "RECORDS/S", "")
	for i, r := range rows {
		fmt.Fprintf(&b, format, r.Destination, r.Topic, count(r.Produced), count(r.Applied),
			count(r.LagRecords()), r.seconds(), rate(rates[i]), r.State)
	}
	if p.table.Note != nil {
		if note := p.table.Note(); note != "" {
			b.WriteString(note + "\n")
		}
	}
	return b.String()
}

// line sums each destination up over its topics.
func line(now time.Time, rows []Row, rates []float64) string {
	var order []string
	sums := map[string]*Row{}
	speed := map[string]float64{}
	for i, r := range rows {
		s, ok := sums[r.Destination]
		if !ok {
			s = &Row{Destination: r.Destination, LagKnown: true}
			sums[r.Destination] = s
			order = append(order, r.Destination)
		}
		s.Produced += r.Produced
		s.Applied += r.Applied
		s.Lag = max(s.Lag, r.Lag)
		s.LagKnown = s.LagKnown && r.LagKnown
		speed[r.Destination] += rates[i]
		if r.State != "" && !strings.Contains(s.State, r.State) {
			s.State = strings.TrimPrefix(s.State+", "+r.State, ", ")
		}
	}
	var b strings.Builder
	b.WriteString(now.Format("15:04:05"))
	for _, name := range order {
		s := sums[name]
		fmt.Fprintf(&b, "  %s: produced=%d applied=%d lag=%d lag_s=%s rate=%s/s", name, s.Produced, s.Applied,
			s.LagRecords(), s.seconds(), rate(speed[name]))
		if s.State != "" {
			fmt.Fprintf(&b, " (%s)", s.State)
		}
	}
	b.WriteByte('\n')
	return b.String()
}

func (r Row) seconds() string {
	if !r.LagKnown {
		return "unknown"
	}
	return strconv.FormatFloat(r.Lag.Seconds(), 'f', 1, 64)
}

func rate(perSecond float64) string { return strconv.FormatFloat(perSecond, 'f', 0, 64) }

// count writes thousands apart, for reading.
func count(n int64) string {
	s := strconv.FormatInt(n, 10)
	sign := ""
	if n < 0 {
		sign, s = "-", s[1:]
	}
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + " " + s[i:]
	}
	return sign + s
}
